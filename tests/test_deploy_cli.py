"""The commands themselves, with the real server and model: what a person does, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine
from stand_ins.deploying import FOREVER, ours, until

from deploytool.identity import identify
from deploytool.runtimes import marks
from deploytool.store import Store

ROOT = Path(__file__).resolve().parent.parent
NAME = "all-minilm-l6-v2"
UP = ("up", NAME, "--profile", "cpu", "--port", "auto")
KEY = "sesame-open-the-door-42"
pytestmark = pytest.mark.usefixtures("nothing_left")


def document(answer: subprocess.CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploytool", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.model
def test_a_deployment_from_up_to_down(cli: CommandLine, home: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    up = cli(*UP, "--api-key-file", str(key_file), "--json")
    ready = document(up)
    assert ready["state"] == "ready" and ready["ready_s"] > 0
    assert {"name", "url", "engine", "runtime", "profile", "model", "pid", "memory"} <= set(ready)
    assert ready["memory"]["rss_mib"] > 100 and ready["memory"]["vram_reason"]
    assert "checks passed" in up.stderr and "loading model" in up.stderr
    assert document(cli("ps", "--json")) == [ready]
    assert NAME in cli("ps").stdout

    status = document(cli("status", NAME, "--json"))
    assert status["health"] == "/ready answered 200"
    assert status["key"] == f"file {key_file}" and status["dimensions"] == 384
    assert Path(status["log"]).is_file() and "deploytool.st_server" in status["command"]
    assert status["command"] in cli("status", NAME).stdout
    assert "stage: ready" in cli("logs", NAME).stdout
    assert len(cli("logs", "-n", "2", NAME).stdout.splitlines()) == 2
    refuse = cli(*UP)
    assert refuse.returncode == 7 and "--name" in refuse.stderr and f"down {NAME}" in refuse.stderr
    assert document(cli("smoke", NAME, "--json"))["passed"]

    os.kill(ready["pid"], signal.SIGKILL)
    until(lambda: identify(ready["pid"]) is None)
    (dead,) = document(cli("ps", "--json"))
    assert dead["state"] == "died" and "SIGKILL" in dead["reason"]
    again = document(cli("restart", NAME, "--json"))
    assert again["state"] == "ready" and again["pid"] != ready["pid"] and again["url"] == ready["url"]

    follower = started("logs", "-f", NAME)
    stopped = document(cli("stop", NAME, "--json"))
    assert stopped["state"] == "stopped"
    assert "stage: ready" in follower.communicate(timeout=200)[0] and follower.returncode == 0
    assert "was stopped already" in cli("stop", NAME).stdout
    assert cli("down", NAME).returncode == 0
    assert "is down already" in cli("down", NAME).stdout
    assert document(cli("ps", "--json")) == []
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert KEY.encode() not in written


@pytest.mark.slow
@pytest.mark.model
def test_a_tool_killed_while_the_real_server_loads_leaves_it_to_be_adopted(
    cli: CommandLine, home: Path
) -> None:
    tool = started(*UP)
    with Store() as store:
        until(lambda: any(one.process for one in store.deployments()))
    tool.kill()
    tool.communicate()
    (seen,) = document(cli("ps", "--json"))
    assert seen["state"] == "starting" and "`up` was killed" in seen["reason"]
    until(lambda: document(cli("ps", "--json"))[0]["state"] == "ready", 300)
    assert cli("down", "--all").stdout == f"{NAME}: down\n"
    assert ours(home) == []


@pytest.mark.model
def test_an_interrupt_while_the_real_server_loads_cleans_up(cli: CommandLine, home: Path) -> None:
    tool = started(*UP, "--json")
    with Store() as store:
        until(lambda: any(one.process for one in store.deployments()))
    tool.send_signal(signal.SIGINT)
    out, err = tool.communicate(timeout=200)
    assert tool.returncode == 130 and "nothing was left running" in err
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert ours(home) == []
    assert document(cli("ps", "--json")) == []


def test_nothing_is_there_yet(cli: CommandLine) -> None:
    assert "nothing is deployed" in cli("ps").stdout
    assert document(cli("ps", "--json")) == []
    assert cli("down", "--all").stdout == "nothing was there to take down\n"
    for verb in ("status", "logs", "stop", "restart", "down"):
        answer = cli(verb, "no-such")
        assert answer.returncode == 2 and "no deployment is named 'no-such'" in answer.stderr
    assert cli("down").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((NAME, "--profile", "cpu", "--gpu", "0"), 2, "uses no card"),
        ((NAME, "--profile", "a10g", "--gpu", "0,0"), 2, "no list of GPUs"),
        ((NAME, "--profile", "a10g", "--gpu", "first"), 2, "no list of GPUs"),
        ((NAME, "--profile", "cpu", "--name", "Not This"), 2, "cannot be a deployment's name"),
        ((NAME, "--profile", "cpu", "--host", "192.0.2.7"), 2, "no API key is set"),
        ((NAME, "--profile", "cpu", "--api-key-file", "/no/such/key"), 2, "cannot read the API key"),
        ((NAME, "--profile", "cpu", "--engine", "sglang"), 4, "sglang"),
        (("all-minilm-l6", "--profile", "cpu"), 2, NAME),
        ((NAME, "--profile", "cpux"), 2, "cpu"),
    ],
)
def test_what_cannot_be_started_is_said_and_nothing_is(
    cli: CommandLine, home: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    answer = cli("up", *arguments)
    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr
    with Store() as store:
        assert store.deployments() == []
    assert ours(home) == []


def test_a_missing_card_is_said_unless_it_is_not_looked_for(cli: CommandLine) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    answer = cli("up", NAME, "--profile", "a10g")
    assert answer.returncode == 8 and "A10G" in answer.stderr


def test_a_dry_run_is_the_plan(cli: CommandLine, home: Path) -> None:
    arguments = (NAME, "--profile", "cpu", "--seq-len", "128", "--json")
    dry, plan = document(cli("up", *arguments, "--dry-run")), document(cli("plan", *arguments))
    for one in (dry, plan):
        # Free memory of this machine moves between the two.
        one["memory"] = {key: one["memory"][key] for key in ("weights_mib", "expected_mib", "verdict")}
    assert dry == plan
    assert ours(home) == []


def test_an_engine_that_is_not_on_the_path_is_told(cli: CommandLine) -> None:
    if (Path(sys.executable).parent / "sglang").exists():
        pytest.skip("sglang is installed here")
    answer = cli("up", "qwen3-4b", "--profile", "a10g", "--skip-preflight", env={"PATH": "/usr/bin:/bin"})
    assert answer.returncode == 5
    assert "sglang: No such file or directory" in answer.stderr
    assert "pip install 'deploytool[sglang]'" in answer.stderr


def test_what_has_no_record_is_named_and_ended(cli: CommandLine, home: Path) -> None:
    environment = {**os.environ, **marks.environment("lost-one", home / "data")}
    process = subprocess.Popen(FOREVER, env=environment)
    try:
        until(lambda: ours(home) == [process.pid])
        told = cli("ps")
        assert f"pid {process.pid}" in told.stderr and "down --all" in told.stderr
        assert "(no record) lost-one: ended" in cli("down", "--all").stdout
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["a home with blanks", "zuhause-äöü-家"])
def test_it_works_in_an_odd_home(cli: CommandLine, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    assert cli("ps", env={"HOME": str(folder), "DEPLOYTOOL_HOME": "", "XDG_DATA_HOME": ""}).returncode == 0
    (data,) = folder.rglob("deploytool")
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_written_is_said(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = cli("ps", env={"DEPLOYTOOL_HOME": str(tmp_path / "file")})
    assert answer.returncode == 8
    assert "Not a directory" in answer.stderr and "DEPLOYTOOL_HOME" in answer.stderr


def test_ps_loads_nothing_heavy() -> None:
    code = (
        "import sys; from deploytool.cli.deploy import ps; ps(as_json=True)\n"
        "heavy = ('httpx', 'rich', 'torch', 'numpy', 'psutil', 'deploytool.engines', 'deploytool.plans')\n"
        "sys.stderr.write(repr([name for name in heavy if name in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stderr == "[]"
