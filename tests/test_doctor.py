"""The doctor says what is here and what is missing, with the mend; its exit code is that of `up`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stand_ins.nvml import Device, Nvml, Process

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
Findings = dict[str, dict[str, Any]]


@pytest.fixture
def look(cli: CommandLine, tmp_path: Path) -> Callable[..., tuple[int, Findings]]:
    """Run `deploytool doctor --json`; its exit code and its findings by "area name"."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, Findings]:
        nowhere = {"HF_HOME": str(tmp_path / "hf"), "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
        answer = cli("doctor", "--json", *arguments, env={**nowhere, **(env or {})})
        assert "Traceback" not in answer.stderr, answer.stderr
        report = json.loads(answer.stdout)
        assert report["exit_code"] == answer.returncode
        assert (report["verdict"] == "fail") == (answer.returncode != 0)
        for one in report["findings"]:
            assert one["saw"]
            assert one["verdict"] != "fail" or (one["mend"] and one["exit_code"])
        return answer.returncode, {f"{one['area']} {one['name']}": one for one in report["findings"]}

    return run


Look = Callable[..., tuple[int, Findings]]


def failed(findings: Findings) -> set[str]:
    return {name for name, one in findings.items() if one["verdict"] == "fail"}


@contextmanager
def docker_answering(path: Path, answer: bytes) -> Iterator[None]:
    """A stand-in for the Docker engine's socket: it gives every request one answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)


def told(info: object, status: str = "200 OK") -> bytes:
    body = json.dumps(info).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_the_profile_of_this_machine_can_run(look: Look) -> None:
    code, findings = look("--profile", "cpu", "--model", "all-minilm-l6-v2")
    assert code == 0
    assert failed(findings) == set()
    assert findings["gpu card"]["saw"] == "none is needed for the profile cpu"
    assert "(sha256)" in findings["model all-minilm-l6-v2 files"]["saw"]
    assert findings["model all-minilm-l6-v2 golden vectors"]["verdict"] == "pass"
    assert "float32" in findings["model all-minilm-l6-v2 on cpu"]["saw"]
    assert "all-minilm-l6-v2" in findings["model on the disk"]["saw"]


def test_without_a_driver_a_card_cannot_run_but_nothing_else_is_hurt(look: Look, nvml: Nvml) -> None:
    nvml.state.unlink()
    code, findings = look("--profile", "a10g", env=nvml.env)
    assert code == 8
    assert failed(findings) == {"gpu driver"}
    assert "modprobe" in findings["gpu driver"]["mend"]
    code, findings = look(env=nvml.env)
    assert (code, findings["gpu driver"]["verdict"]) == (0, "warn")
    assert "--profile cpu" in findings["gpu driver"]["mend"]


def test_a_card_with_who_holds_its_memory(look: Look, nvml: Nvml) -> None:
    nvml.write(Device(used=2000, processes=(Process(4242, 1500, "/usr/bin/python3 --secret"),)))
    _, findings = look(env=nvml.env)
    card = findings["gpu card 0"]
    assert card["verdict"] == "warn"
    assert "21,028 MiB free" in card["saw"] and "compute capability 8.6, profile a10g" in card["saw"]
    assert "python3 (pid 4242) holds 1,500 MiB" in card["saw"] and "secret" not in card["saw"]
    assert findings["gpu driver"]["saw"] == "570.86.15; NVML shows 1 card"
    assert "up to 12.8" in findings["gpu cuda"]["saw"]
    assert "cu129" in findings["gpu sglang image"]["mend"]


def test_torch_without_cuda_serves_no_card(look: Look, nvml: Nvml) -> None:
    """Here torch is the CPU build and SGLang is not installed: nothing could use the card."""
    import importlib.metadata

    if "+cpu" not in importlib.metadata.version("torch"):
        pytest.skip("the torch of this environment is not the CPU build")
    nvml.write(Device(), cuda=13000)
    code, findings = look("--profile", "a10g", env={**nvml.env, "PATH": "/nowhere"})
    assert (code, failed(findings)) == (8, {"gpu torch"})
    assert "gpu sglang image" not in findings
    assert findings["gpu profile a10g"]["verdict"] == "pass"
    assert findings["gpu card 0"]["verdict"] == "pass"


def test_another_card_than_asked_for_is_named(look: Look, nvml: Nvml) -> None:
    nvml.write(Device(name="NVIDIA L4", total=23034, cc="8.9"), Device(name="NVIDIA Nothing", total=1000))
    code, findings = look("--profile", "a10g", env=nvml.env)
    assert code == 8
    assert "gpu profile a10g" in failed(findings)
    assert "take --profile l4" in findings["gpu profile a10g"]["mend"]
    assert "no profile is this card's" in findings["gpu card 1"]["saw"]


def test_a_lower_compute_capability_than_the_profile_says(look: Look, nvml: Nvml) -> None:
    nvml.write(Device(cc="7.5"))
    _, findings = look("--profile", "a10g", env=nvml.env)
    found = findings["gpu profile a10g"]
    assert (found["verdict"], found["exit_code"]) == ("fail", 4)
    assert "7.5" in found["saw"] and "8.6" in found["saw"]


def test_an_alias_is_the_card_that_is_here(look: Look, nvml: Nvml) -> None:
    nvml.write(Device(name="NVIDIA GeForce RTX 4090", total=24564, cc="8.9"))
    _, findings = look("--profile", "consumer", env=nvml.env)
    assert findings["gpu profile consumer"]["saw"] == "is rtx4090 here"
    nvml.write(Device())
    code, findings = look("--profile", "consumer", env=nvml.env)
    assert code == 8
    assert findings["gpu profile consumer"]["verdict"] == "fail"


def test_figures_that_the_driver_does_not_give(look: Look, nvml: Nvml) -> None:
    nvml.write(
        Device(used=None, mig=1, fail={"nvmlDeviceGetComputeRunningProcesses_v3": 4}),
        fail={"nvmlSystemGetDriverVersion": 999, "nvmlSystemGetCudaDriverVersion": 13},
    )
    _, findings = look(env={**nvml.env, "CUDA_VISIBLE_DEVICES": "1"})
    assert "driver's version is unknown" in findings["gpu driver"]["saw"]
    assert "unknown" in findings["gpu cuda"]["saw"]
    nvml.write(Device(mig=1))
    _, findings = look(env={**nvml.env, "CUDA_VISIBLE_DEVICES": "1"})
    assert "MIG is on" in findings["gpu card 0"]["saw"]
    assert "'1'" in findings["gpu visible cards"]["saw"]


def test_a_model_that_cannot_run_is_said_as_up_would(look: Look, nvml: Nvml) -> None:
    code, findings = look("--profile", "a10g", "--model", "qwen3-8b", env={**nvml.env, "PATH": "/nowhere"})
    assert code == 8
    found = findings["model qwen3-8b on a10g"]
    assert found["verdict"] == "fail" and "sglang is not installed" in found["saw"]
    code, findings = look("--profile", "cpu", "--model", "qwen3-9b")
    assert (code, failed(findings)) == (2, {"model qwen3-9b"})
    assert "qwen3-8b" in findings["model qwen3-9b"]["mend"]
    code, findings = look("--model", "voyage-code-3")
    assert code != 0
    assert "model voyage-code-3 engines" in failed(findings)


def test_a_model_that_does_not_fit(look: Look, nvml: Nvml) -> None:
    nvml.write(Device(name="NVIDIA GeForce RTX 3060", total=12288, cc="8.6"))
    _, findings = look("--profile", "rtx3060-12gb", "--model", "qwen3-8b", env=nvml.env)
    assert findings["model qwen3-8b on rtx3060-12gb"]["exit_code"] == 3


@pytest.mark.parametrize(
    ("environ", "words", "verdict"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set", "pass"),
        ({"HF_HUB_OFFLINE": "", "HF_TOKEN": "hf_very_secret"}, "an access token is there", "pass"),
        ({"HF_HUB_OFFLINE": "", "HF_ENDPOINT": "http://127.0.0.1:9"}, "was not reached", "warn"),
        ({"HF_HUB_OFFLINE": "", "HF_ENDPOINT": "nonsense://"}, "was not reached", "warn"),
    ],
)
def test_the_hub(look: Look, environ: dict[str, str], words: str, verdict: str) -> None:
    arguments = ("--online",) if "HF_ENDPOINT" in environ else ()
    _, findings = look(*arguments, env=environ)
    assert findings["hub access"]["verdict"] == verdict
    assert words in findings["hub access"]["saw"]
    assert "hf_very_secret" not in json.dumps(findings)


@pytest.mark.parametrize(
    ("answer", "name", "words"),
    [
        (
            told({"ServerVersion": "27.1", "Runtimes": {"nvidia": {}, "runc": {}}}),
            "gpu runtime",
            "nvidia, runc",
        ),
        (told({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}), "gpu runtime", "none"),
        (told({"ServerVersion": "27.1", "Runtimes": {"runc": {}}}), "gpu runtime", "containers get no card"),
        (told({}, "500 Oops"), "engine", "HTTP 500"),
        (told([]), "engine", "no object"),
        (b"SSH-2.0-OpenSSH\r\n", "engine", "does not answer as Docker"),
    ],
)
def test_docker(look: Look, tmp_path: Path, answer: bytes, name: str, words: str) -> None:
    path = tmp_path / "docker.sock"
    with docker_answering(path, answer):
        code, findings = look(env={"DOCKER_HOST": f"unix://{path}"})
    assert code == 0  # the process runtime needs no Docker
    found = findings[f"docker {name}"]
    assert words in found["saw"]
    right = "nvidia" in words or words == "none"
    assert found["verdict"] == ("pass" if right else "warn")


def test_docker_on_another_host_is_not_asked(look: Look) -> None:
    _, findings = look(env={"DOCKER_HOST": "tcp://user:secret@192.0.2.1:2375", "PATH": "/nowhere"})
    assert "another host, which is not asked" in findings["docker engine"]["saw"]
    assert "secret" not in json.dumps(findings)
    assert "not installed" in findings["docker programs"]["saw"]


def test_a_port_that_is_taken_and_limits(look: Look, cli: CommandLine) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
        except OSError:
            pass  # somebody else has it: that will do
        else:
            taken.listen()
        code, findings = look()
    assert code == 0
    assert findings["machine port 8080"]["verdict"] == "warn"
    assert findings["machine port 8080"]["mend"] == "--port auto finds a free one"
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -n 256; exec "$@"', "-", sys.executable, "-m", "deploytool", "doctor"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "256 (ulimit -n; hard limit 256)" in limited.stdout
    assert "warn  machine: open files" in limited.stdout


def test_people_read_a_table(cli: CommandLine) -> None:
    answer = cli("doctor", "--profile", "cpu")
    assert answer.returncode == 0
    assert "pass  machine: python" in answer.stdout
    assert "0 failed" in answer.stderr
    unknown = cli("doctor", "--profile", "cpuu")
    assert unknown.returncode == 2 and "did you mean cpu" in unknown.stderr
