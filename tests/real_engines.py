"""Fixtures: the real SGLang on a CPU with tiny models for it, and a real Docker engine (`make test-engines`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_process import made_once

HERE = Path(__file__).resolve().parent / "engines"
KINDS = ("qwen3", "reranker", "bert-cls", "bert-mean")


@pytest.fixture(scope="session")
def sglang_venv() -> Path:
    """The environment that has SGLang in it; `DEPLOYTOOL_SGLANG_VENV` names it."""
    folder = os.environ.get("DEPLOYTOOL_SGLANG_VENV")
    if not folder or not (Path(folder) / "bin" / "sglang").exists():
        pytest.skip("no SGLang environment: run `make test-engines` (DEPLOYTOOL_SGLANG_VENV names it)")
    return Path(folder)


@pytest.fixture(scope="session")
def sglang_path(sglang_venv: Path) -> str:
    """A PATH on which `sglang` is found, as on a machine where it is installed."""
    return os.pathsep.join([str(sglang_venv / "bin"), os.environ["PATH"]])


@pytest.fixture(scope="session")
def tiny_models(run_folder: Path) -> Path:
    """A folder with qwen3, reranker, bert-cls and bert-mean in it: random weights, their authors' layout."""

    def make(folder: Path) -> None:
        subprocess.run(
            [sys.executable, str(HERE / "make_models.py"), str(folder), *KINDS],
            check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    return made_once(run_folder, "tiny", make)


@pytest.fixture(scope="session")
def docker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The engine for all these tests; skipped, saying why, where there is none to be had."""
    import real_docker

    folder = tmp_path_factory.mktemp("dockerd")
    try:
        with real_docker.engine(folder) as host:
            yield host
    except real_docker.NoEngine as error:
        pytest.skip(str(error))
    assert not real_docker.left_in(folder)


@pytest.fixture(scope="session")
def image(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's image, made of this machine's Python."""
    import real_docker

    yield real_docker.server_image(docker_host, tmp_path_factory.mktemp("image"))
    real_docker.remove_images(docker_host)
