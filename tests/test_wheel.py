"""The wheel, installed into a fresh environment as a user would, has profiles and locustfiles in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=220, env=ENVIRONMENT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    answer = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return next(folder.glob("deploytool-*.whl"))


def test_the_wheel_carries_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kind in ("hardware", "models"):
        expected = {path.name for path in (ROOT / "profiles" / kind).glob("*.yaml")}
        packed = {Path(name).name for name in names if f"_data/profiles/{kind}/" in name}
        assert packed == expected
        assert len(expected) > 15
    assert "deploytool/_data/loadtests/embeddings.py" in names
    assert "deploytool/_data/profiles/golden/all-minilm-l6-v2.json" in names
    assert "deploytool/_data/docker/st-server.Dockerfile" in names
    assert "deploytool/_data/docker/requirements.txt" in names
    assert "deploytool/py.typed" in names
    assert {"deploytool/reports/page.css", "deploytool/bakeoff/example.yaml"} <= set(names)
    assert not [name for name in names if "tests/" in name and "loadtests/" not in name]


@pytest.mark.slow
def test_a_fresh_environment_lists_and_plans(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    assert run(sys.executable, "-m", "venv", venv, cwd=tmp_path).returncode == 0
    python = venv / "bin" / "python"
    installed = run(
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c",
        ROOT / "constraints.txt", wheel, cwd=tmp_path,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    tool = venv / "bin" / "deploytool"

    profiles = run(tool, "profiles", "list", cwd=tmp_path)
    assert profiles.returncode == 0, profiles.stderr
    assert "a10g" in profiles.stdout
    assert "cpu" in profiles.stdout

    plan = run(tool, "plan", "qwen3-4b", "--profile", "a10g", "--json", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert '"--is-embedding"' in plan.stdout

    # The bare install is small: what an extra brings is named when it is missed.
    up = run(tool, "up", "all-minilm-l6-v2", "--profile", "cpu", cwd=tmp_path)
    assert up.returncode == 8
    assert "deploytool[" in up.stderr
    assert "Traceback" not in up.stderr
    size_mib = sum(path.stat().st_size for path in venv.rglob("*") if path.is_file()) / 2**20
    assert size_mib < 150, "the bare install has grown: a heavy package belongs into an extra"
