"""How the SentenceTransformers server starts and stops, and what it says where it cannot start."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from st_serving import KEY, MODEL, WAIT_S, Process, Small, call, in_flight

pytestmark = pytest.mark.model


def test_what_is_not_finished_within_the_grace_is_answered_503(small: Small) -> None:
    thread, answers = in_flight(small, small.long_texts)
    small.process.process.send_signal(signal.SIGINT)
    thread.join(WAIT_S)
    assert (answers[0].status, answers[0].error["code"]) == (503, "stopping")
    assert small.process.exit_code() == 0
    assert small.process.wait_line("note: 1 requests were not finished")


@pytest.mark.slow
def test_it_listens_at_once_loads_behind_and_finishes_what_it_has_on_sigterm(
    start: Callable[..., Process], minilm_folder: Path
) -> None:
    server = start(
        "--model", str(minilm_folder), "--served-model-name", MODEL, "--threads", "1", "--backend", "torch",
        env={"DEPLOYTOOL_API_KEY": KEY},
    )  # fmt: skip
    url = server.url
    assert call(url, "/health").status == 200
    loading = call(url, "/ready")
    assert (loading.status, loading.document["status"]) == (503, "loading")
    early = call(url, body={"model": MODEL, "input": "a"}, key=KEY)
    assert (early.status, early.error["code"]) == (503, "loading")
    assert call(url, "/v1/models", key=KEY).status == 503
    server.wait_line("stage: ready")
    assert call(url, "/ready").status == 200

    thread, answers = in_flight(Small(url, server), Small(url, server).long_texts)
    server.process.send_signal(signal.SIGTERM)
    server.wait_line("stage: stopping (SIGTERM)")
    stopping = call(url, "/ready")
    assert (stopping.status, stopping.document["status"]) == (503, "stopping")
    late = call(url, body={"model": MODEL, "input": "a"}, key=KEY)
    assert (late.status, late.error["code"]) == (503, "stopping")
    assert late.headers["retry-after"]
    thread.join(WAIT_S)
    assert answers[0].status == 200
    assert len(answers[0].document["data"]) == 32
    assert server.exit_code() == 0
    assert server.process.stdout is not None and server.process.stdout.read() == ""


def test_a_stop_while_loading_ends_it(start: Callable[..., Process], minilm_folder: Path) -> None:
    server = start("--model", str(minilm_folder), "--backend", "torch")
    server.wait_line("stage: importing torch")
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code() == 0


def test_a_port_in_use_is_code_7(start: Callable[..., Process], minilm_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start("--model", str(minilm_folder), "--port", str(port))
        assert server.exit_code() == 7
        assert server.wait_line("fatal: ") == f"fatal: port {port} on 127.0.0.1 is in use"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--model"),
        (["--model", "m", "--port", "70000"], "0 to 65535"),
        (["--model", "m", "--port", "x"], "0 to 65535"),
        (["--model", "m", "--max-length", "0"], "at least 1"),
        (["--model", "m", "--max-queue", "many"], "at least 1"),
        (["--model", "m", "--dtype", "int8"], "invalid choice"),
        (["--model", "m", "--device", "tpu"], "cuda:N"),
        (["--model", "m", "--pooling", "max"], "invalid choice"),
        (["--model", "m", "--matryoshka", "64,x"], "32-1024"),
        (["--model", "m", "--matryoshka", "128-64"], "32-1024"),
        (["--model", "m", "--matryoshka", "0,64"], "32-1024"),
        (["--model", "m", "--grace", "-1"], "0 to 3600"),
        (["--model", "m", "--threads", "1", "--lanes", "2"], "--lanes 2"),
        (["--model", "org/m", "--trust-remote-code"], "--revision"),
        (["--model", "m", "--api-key-file", "/no/such/file"], "No such file"),
        (["--model", "m", "--api-key", "sk-1"], "unrecognized"),
        (["--model", " "], "folder or a hub id"),
    ],
)
def test_a_bad_flag_is_one_clear_line(flags: list[str], says: str) -> None:
    from deploytool.st_server import config
    from deploytool.st_server.errors import BadUsage

    with pytest.raises(BadUsage) as bad:
        config.parse(flags, {})
    assert says in bad.value.message
    assert "\n" not in bad.value.message
    assert bad.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "says"), [("", "is empty"), (" \n", "is empty"), ("a b", "printable"), ("ü", "printable")]
)
def test_a_bad_key_is_refused(key: str, says: str, tmp_path: Path) -> None:
    from deploytool.st_server import config
    from deploytool.st_server.errors import BadUsage

    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    for flags, environ in (
        (["--api-key-file", str(file)], {}),
        ([], {"DEPLOYTOOL_API_KEY": key}),
    ):
        with pytest.raises(BadUsage) as bad:
            config.parse(["--model", "m", *flags], environ)
        assert says in bad.value.message


def broken_folders(source: Path, target: Path) -> dict[str, tuple[Path, int, str]]:
    """Folders that cannot be served: (folder, exit code, what is said)."""
    made: dict[str, tuple[Path, int, str]] = {}

    def make(name: str, code: int, says: str, *, drop: tuple[str, ...] = ()) -> Path:
        folder = target / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("README.md", "data_config.json", *drop))
        made[name] = (folder, code, says)
        return folder

    (target / "empty").mkdir()
    made["empty"] = (target / "empty", 8, "holds no model")
    make("no weights", 8, "holds no *.safetensors", drop=("*.safetensors",))
    pickled = make("pickled", 8, "pytorch_model.bin only", drop=("*.safetensors",))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    broken = make("cut weights", 8, "the download is incomplete", drop=("*.safetensors",))
    (broken / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:100_000])
    make("no pooling", 4, "without a pooling of its own", drop=("modules.json",))
    wrong = make("other architecture", 4, "lacks weights", drop=("*.safetensors",))
    from safetensors.numpy import load_file, save_file

    weights = load_file(source / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.3" not in name}
    save_file(kept, wrong / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.mark.slow
def test_what_cannot_be_served_ends_with_a_cause(
    start: Callable[..., Process], minilm_folder: Path, tmp_path: Path
) -> None:
    cases = broken_folders(minilm_folder, tmp_path)
    for name, (folder, code, says) in cases.items():
        server = start("--model", str(folder), "--backend", "torch")
        assert server.exit_code() == code, (name, server.lines)
        assert says in server.wait_line("fatal: "), name
        assert not any(line.startswith("Traceback") for line in server.lines), server.lines


def test_a_model_that_is_not_there_is_code_8(start: Callable[..., Process]) -> None:
    server = start("--model", "/no/such/folder")
    assert server.exit_code() == 8
    assert server.wait_line("fatal: ") == "fatal: there is no folder /no/such/folder"
    server = start("--model", "no-such-org/no-such-model", env={"HF_HUB_OFFLINE": "1"})
    assert server.exit_code() == 8
    assert "not in the Hugging Face cache" in server.wait_line("fatal: ")
