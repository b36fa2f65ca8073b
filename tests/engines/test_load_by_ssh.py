"""`load --workers HOST,...` over a real ssh: two names that both lead to an sshd of the test on this machine."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ports import unused_port

from deploytool.cli.load_hosts import WAIT_S
from deploytool.records import RunRecord

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("others")]

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "stand_ins" / "reference_server.py"
HOSTS = ("first", "second")


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[str]:
    """The words that start `deploytool` on {host}, with nothing of the user's own configuration."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    keygen = shutil.which("ssh-keygen")
    if sshd is None or keygen is None or shutil.which("ssh") is None:
        pytest.skip("no ssh server here (Debian: openssh-server)")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = unused_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\n"
    )
    (folder / "config").write_text(
        f"Host {' '.join(HOSTS)}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile {folder}/known\n  LogLevel ERROR\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # an empty folder that sshd wants, of root
    with subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            first = server.stderr.readline()
            assert "listening" in first, first + server.stderr.read()
            yield f"ssh -F {folder}/config -o BatchMode=yes {{host}} {sys.executable} -m deploytool"
        finally:
            server.terminate()


@pytest.fixture
def target() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, str(REFERENCE), "--answers", "ok@5"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


def load(ssh: str, url: str, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "deploytool", "load", url, "--master", f"127.0.0.1:{unused_port()}",
        "--workers", ",".join(HOSTS), "--worker-shell", ssh, "--batch", "1", "--concurrency", "4", *options,
    ]  # fmt: skip


def workers() -> list[psutil.Process]:
    """What runs on the "hosts"; sshd's children have none of this process's environment."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "--worker-name" in words and words[0] == sys.executable:
            found.append(process)
    return found


def eventually(what: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


def test_workers_are_started_by_ssh_and_go_with_the_run(ssh: str, target: str) -> None:
    command = load(ssh, target, "--duration", "2s", "--warmup", "300ms", "--checks", "4", "--json")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (cell,) = RunRecord.model_validate(json.loads(done.stdout)).cells
    assert sorted(str(client.host) for client in cell.client) == sorted(HOSTS)
    assert cell.requests > 100
    assert cell.errors == {}
    eventually(lambda: not workers())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_early_leaves_no_worker_on_a_host(
    ssh: str, target: str, number: signal.Signals
) -> None:
    command = load(ssh, target, "--duration", "60s", "--no-calibration")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as tool:
        eventually(lambda: len(workers()) == len(HOSTS))
        began = time.monotonic()
        tool.send_signal(number)
        _, told = tool.communicate(timeout=200)
    assert tool.returncode == (130 if number == signal.SIGINT else -number), told
    eventually(lambda: not workers())
    assert time.monotonic() - began < WAIT_S, "they did not only give up waiting for a master"


def test_a_host_without_the_tool_is_named(ssh: str, target: str) -> None:
    command = load(ssh.replace("-m deploytool", "-m no_such_tool"), target)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "the worker on first ended" in done.stderr or "the worker on second ended" in done.stderr
    assert "no_such_tool" in done.stderr
