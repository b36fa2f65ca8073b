"""The process runtime with real processes: what is started is found, told truly, and ended with its forks."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins.deploying import FOREVER, ours, record, spec, until

from deploytool.errors import NotAvailable
from deploytool.identity import ProcessIdentity, identify, is_alive, is_reused, myself, send_signal
from deploytool.launch import SECRET_FILE, LaunchSpec, SecretUse
from deploytool.records import Deployment
from deploytool.runtimes import Running, Runtime, marks, runtime, supervisor
from deploytool.runtimes.endings import how_it_ended
from deploytool.runtimes.log_files import LOST, FileLog

KEY = "sesame-open-the-door-42"


class Started:
    """A deployment on the process runtime, without store or use case."""

    def __init__(self, home: Path, name: str, launch: LaunchSpec, key: str | None = None) -> None:
        self.home = home
        self.deployment: Deployment = record(name, launch)
        self.folder = home / "data" / "deployments" / self.deployment.id
        self.folder.mkdir(parents=True)
        self.runtime: Runtime = runtime("process")
        self.running: Running = self.runtime.start(self.deployment, self.folder, key)

    @property
    def pid(self) -> int:
        assert self.running.process is not None
        return self.running.process.pid

    @property
    def supervisor(self) -> int:
        assert self.running.supervisor is not None
        return self.running.supervisor.pid

    def alive(self) -> bool:
        return self.runtime.observe(self.deployment, self.folder).alive

    def reason(self) -> str:
        return str(self.runtime.observe(self.deployment, self.folder).reason)

    def log(self) -> str:
        return "\n".join(self.runtime.open_log(self.deployment, self.folder, None).rest())

    def says(self, text: str) -> None:
        until(lambda: text in self.log())

    def stop(self, grace_s: float = 5.0) -> None:
        self.runtime.stop(self.deployment, self.folder, grace_s)


@pytest.fixture(autouse=True)
def nothing_left(home: Path) -> Iterator[None]:
    """No test leaves a process behind, whatever it did to the supervisor."""
    yield
    left = ours(home)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def processes_with(text: str) -> list[int]:
    """Processes whose command line holds `text`, seen without any mark."""
    found = []
    for pid in marks.pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in line and identify(pid):
            found.append(pid)
    return found


def test_it_runs_in_a_group_and_session_of_its_own_and_outlives_nothing(home: Path) -> None:
    it = Started(home, "one", spec())
    it.says("serving")
    assert it.alive()
    assert os.getpgid(it.pid) == it.pid
    assert os.getsid(it.pid) == os.getsid(it.supervisor) == it.supervisor != os.getsid(0)
    assert Path(f"/proc/{it.pid}/cwd").readlink() == it.folder
    it.stop()
    assert not it.alive()
    assert not is_alive(it.running.supervisor)
    assert "SIGTERM" in it.reason()


def test_an_exit_code_is_told(home: Path) -> None:
    it = Started(home, "one", spec("--fail", "3", "--say", "no good"))
    until(lambda: not it.alive())
    seen = it.runtime.observe(it.deployment, it.folder)
    assert seen.exit_status == 3
    assert it.reason().startswith("exited with 3")
    assert it.log() == "no good"


def test_a_kill_is_told_though_nobody_watched(home: Path) -> None:
    it = Started(home, "one", spec())
    os.kill(it.pid, signal.SIGKILL)
    until(lambda: not it.alive())
    seen = it.runtime.observe(it.deployment, it.folder)
    assert seen.exit_status == -signal.SIGKILL
    assert it.reason().startswith("killed by SIGKILL at ")
    assert "memory" in it.reason()


def test_a_program_that_cannot_be_started_is_told(home: Path) -> None:
    launch = spec().model_copy(update={"argv": ("no-such-program-here", "--port", "1")})
    it = Started(home, "one", launch)
    until(lambda: not it.alive())
    assert "no-such-program-here: No such file or directory" in it.reason()


def test_a_killed_supervisor_takes_the_server_with_it(home: Path) -> None:
    it = Started(home, "one", spec())
    it.says("serving")
    os.kill(it.supervisor, signal.SIGKILL)
    until(lambda: not it.alive())
    assert "its supervisor was killed" in it.reason()
    assert identify(it.pid) is None


@pytest.mark.parametrize("habit", ["--child", "--orphan", "--bare-child"])
def test_what_it_forked_is_ended_too(home: Path, habit: str) -> None:
    it = Started(home, "one", spec(habit))
    it.says("serving")
    found = marks.members(
        it.deployment.id, home / "data", it.folder, it.running.supervisor, it.running.process
    )
    assert len(found) == 3
    it.stop()
    assert not [who for who in found if is_alive(who)]


@pytest.mark.parametrize("habit", ["--child", "--orphan", "--bare-child"])
def test_what_it_forked_is_ended_when_it_dies(home: Path, habit: str) -> None:
    it = Started(home, "one", spec(habit))
    it.says("serving")
    found = marks.members(
        it.deployment.id, home / "data", it.folder, it.running.supervisor, it.running.process
    )
    os.kill(it.pid, signal.SIGKILL)
    until(lambda: not [who for who in found if is_alive(who)])


@pytest.mark.parametrize("habit", ["--child", "--orphan", "--bare-child"])
def test_what_it_forked_is_named_and_ended_though_its_supervisor_was_killed(home: Path, habit: str) -> None:
    it = Started(home, "one", spec(habit))
    it.says("serving")
    os.kill(it.supervisor, signal.SIGKILL)
    until(lambda: not it.alive())
    left = it.runtime.observe(it.deployment, it.folder).leftovers
    assert len(left) == 1
    assert identify(left[0]) is not None
    it.stop()
    assert identify(left[0]) is None


def test_one_that_ignores_sigterm_is_killed_and_that_is_told(home: Path) -> None:
    it = Started(home, "one", spec("--ignore-term"))
    it.says("serving")
    it.stop(grace_s=0.3)
    assert it.reason().startswith("killed by SIGKILL")


def test_the_supervisor_ends_the_server_although_the_tool_is_gone(home: Path) -> None:
    """The tool is killed right after its first signal of a `down`: what it began is finished."""
    it = Started(home, "one", spec("--child"))
    it.says("serving")
    os.kill(it.supervisor, signal.SIGTERM)
    until(lambda: not ours(home))
    assert "SIGTERM" in it.reason()


def test_nothing_else_is_ended(home: Path) -> None:
    it = Started(home, "one", spec())
    neighbour = Started(home, "two", spec())
    environments = [
        {**os.environ, marks.DEPLOYMENT: "id-one", marks.STATE: "/another/home"},
        {**os.environ, marks.DEPLOYMENT: "id-other", marks.STATE: str(home / "data")},
        dict(os.environ),
    ]
    strangers = [subprocess.Popen(FOREVER, env=env, cwd=it.folder) for env in environments]
    try:
        until(lambda: all(marks.read_mark(who.pid) for who in strangers[:2]))
        it.stop()
        assert [who.poll() for who in strangers] == [None, None, None]
        assert neighbour.alive()
    finally:
        for who in strangers:
            who.kill()
            who.wait()
        neighbour.stop()


def test_a_reused_pid_is_told_and_left_alone(home: Path) -> None:
    it = Started(home, "one", spec())
    it.stop()
    stranger = subprocess.Popen(FOREVER)
    try:
        now = identify(stranger.pid)
        assert now is not None
        earlier = replace(now, start_ticks=1)
        assert is_reused(earlier) and not is_alive(earlier)
        assert not send_signal(earlier, signal.SIGKILL)
        (it.folder / "server.json").unlink()
        (it.folder / "exit.json").unlink()
        it.deployment.process = earlier
        assert f"pid {stranger.pid} is another program's now" in it.reason()
        it.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_identity_without_ticks_goes_by_its_start_time() -> None:
    me = myself()
    plain = ProcessIdentity(pid=me.pid, started_at=me.started_at)
    assert is_alive(plain)
    assert not is_alive(replace(plain, started_at=me.started_at - 60))
    assert not is_alive(replace(me, boot_id="another boot"))


def test_a_hundred_mebibytes_of_log_stay_bounded_and_end_with_the_last_line(home: Path) -> None:
    it = Started(home, "one", spec("--print-mib", "100"))
    it.says("serving")
    size = sum(file.stat().st_size for file in it.folder.glob("server.log*"))
    assert size <= 2 * (16 << 20)
    lines = it.runtime.open_log(it.deployment, it.folder, 2).rest()
    assert lines[0].startswith("99 ") and lines[1] == "serving"
    it.stop()


def test_the_log_is_followed_through_rotation(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    reader = FileLog(path)
    assert reader.read() == []
    path.write_text("one\ntwo\nthr")
    assert reader.read() == ["one", "two"]
    with path.open("a") as file:
        file.write("ee\n")
    path.rename(tmp_path / "server.log.1")
    path.write_text("four\nfi")
    assert reader.read() == ["three", "four"]
    assert reader.rest() == ["fi"]


def test_lines_lost_between_two_rotations_are_told(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("one\n")
    reader = FileLog(path)
    assert reader.read() == ["one"]
    path.rename(tmp_path / "kept-elsewhere")
    (tmp_path / "server.log.1").write_text("two\n")
    path.write_text("three\n")
    assert reader.rest() == [LOST, "three"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, ["d"]), (2, ["c", "d"]), (3, ["b", "c", "d"]), (9, ["a", "b", "c", "d"])],
)
def test_the_last_lines_reach_into_the_older_half(tmp_path: Path, count: int, expected: list[str]) -> None:
    (tmp_path / "server.log.1").write_text("a\nb\n")
    (tmp_path / "server.log").write_text("c\nd\n")
    assert FileLog(tmp_path / "server.log", count).rest() == expected


def test_a_progress_bar_is_read_as_a_terminal_shows_it(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_bytes(b"load 10%\rload 20%\rload 100%\n\xff\n")
    assert FileLog(tmp_path / "server.log", 5).rest() == ["load 100%", "\ufffd"]


def everything_written(home: Path) -> bytes:
    return b"\n".join(file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_a_key_by_environment_is_in_no_file_and_no_command_line(home: Path) -> None:
    secret = SecretUse(kind="env", name="STAND_IN_KEY")
    it = Started(home, "one", spec("--key-variable", "STAND_IN_KEY", secret=secret), KEY)
    it.says("serving")
    assert it.log().splitlines()[:2] == ["a careless server prints its key *** here", "***"]
    assert KEY.encode() not in everything_written(home)
    assert not processes_with(KEY)
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in (it.pid, it.supervisor)}
    assert KEY.encode() in environments[it.pid]
    assert KEY.encode() not in environments[it.supervisor]
    it.stop()


def test_a_key_by_file_is_the_users_alone_and_removed_at_the_end(home: Path) -> None:
    launch = spec("--key-file", SECRET_FILE, secret=SecretUse(kind="file"))
    it = Started(home, "one", launch, KEY)
    it.says("serving")
    (file,) = it.folder.glob("secret*")
    assert file.read_text() == KEY
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not processes_with(KEY)
    it.stop()
    assert KEY.encode() not in everything_written(home)


def test_the_users_key_does_not_reach_a_server_that_was_given_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYTOOL_API_KEY", KEY)
    it = Started(home, "one", spec())
    it.says("serving")
    for pid in (it.pid, it.supervisor):
        assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    it.stop()


def test_a_full_disk_does_not_stop_a_server_that_answers(home: Path) -> None:
    folder = home / "data" / "deployments" / "id-one"
    folder.mkdir(parents=True)
    (folder / "server.log").symlink_to("/dev/full")
    folder.rename(folder.with_name("prepared"))
    it = StartedOnFullDisk(home, "one", spec("--say", "this line is lost", "--load-s", "0.1"))
    until(lambda: answers(it.deployment.launch.url))
    assert it.alive()
    it.stop()


class StartedOnFullDisk(Started):
    """The same with a log on a device that is always full."""

    def __init__(self, home: Path, name: str, launch: LaunchSpec) -> None:
        prepared = home / "data" / "deployments" / "prepared"
        self.home = home
        self.deployment = record(name, launch)
        self.folder = prepared.rename(prepared.with_name(self.deployment.id))
        self.runtime = runtime("process")
        self.running = self.runtime.start(self.deployment, self.folder, None)


def answers(url: str) -> bool:
    from deploytool.probes import alive

    return alive(url, "/ready", 2).ok


def test_cards_are_chosen_by_their_numbers_in_nvml(home: Path) -> None:
    launch = spec().model_copy(update={"devices": (1, 3)})
    it = Started(home, "one", launch)
    it.says("serving")
    environment = Path(f"/proc/{it.pid}/environ").read_bytes().split(b"\0")
    assert {b"CUDA_VISIBLE_DEVICES=1,3", b"CUDA_DEVICE_ORDER=PCI_BUS_ID"} <= set(environment)
    assert it.runtime.command(it.deployment).startswith(
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1,3 "
    )
    it.stop()


def test_processes_without_a_record_are_named_and_ended(home: Path) -> None:
    it = Started(home, "one", spec("--child"))
    it.says("serving")
    assert it.runtime.strays(home / "data", ["id-one"]) == []
    assert it.runtime.strays(home / "elsewhere", []) == []
    (stray,) = it.runtime.strays(home / "data", [])
    assert stray.id == "id-one"
    assert f"pid {it.pid} (" in stray.what
    it.runtime.end_stray(stray, home / "data", 5.0)
    assert not it.alive()
    assert ours(home) == []


@pytest.mark.parametrize(
    ("ending", "rebooted", "expected"),
    [
        (None, False, "its supervisor was killed"),
        (None, True, "the machine was restarted"),
        ({"status": 0, "ended_at": 0}, False, "exited with 0"),
        ({"status": -11, "ended_at": 0}, False, "killed by SIGSEGV"),
        ({"status": -9, "ended_at": 0, "oom_kills": {"its cgroup": 1}}, False, "out of memory in its cgroup"),
        ({"status": -9, "ended_at": 0, "oom_kills": {"its cgroup": 0}}, False, "no out-of-memory kill"),
        ({"status": -9, "ended_at": 0, "oom_kills": {}}, False, "or by the kernel for want of memory"),
        ({"status": 127, "ended_at": 0, "error": "sglang: No such file"}, False, "sglang: No such file"),
    ],
)  # fmt: skip
def test_an_ending_in_words(ending: dict[str, object] | None, rebooted: bool, expected: str) -> None:
    assert expected in how_it_ended(ending, rebooted=rebooted)


def test_elsewhere_than_linux_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotAvailable, match="needs Linux"):
        runtime("process").check(record("one", spec()))


def test_a_stop_that_comes_before_the_server_is_executed_wins(home: Path) -> None:
    """The tool was killed after it handed the order over, and `down` was faster than the supervisor."""
    folder = home / "data" / "deployments" / "id-one"
    folder.mkdir(parents=True)
    (folder / "stop-asked").touch()
    order = {
        "argv": ["touch", str(home / "executed")],
        "env": dict(os.environ),
        "log": str(folder / "server.log"),
        "max_log_bytes": 1000,
        "grace_s": 1,
        "secrets": [],
    }
    subprocess.run(
        [sys.executable, "-I", "-S", str(supervisor.__file__), str(folder)],
        input=json.dumps(order).encode(),
        capture_output=True,
        check=True,
    )
    until((folder / "exit.json").exists)
    assert "before it was executed" in json.loads((folder / "exit.json").read_text())["error"]
    assert not (home / "executed").exists()


def test_a_supervisor_that_gets_no_order_starts_nothing(home: Path) -> None:
    """The tool was killed while it handed the order over."""
    answer = subprocess.run(
        [sys.executable, "-I", "-S", str(supervisor.__file__), str(home)],
        input=b'{"argv": ["touch", "started"], "env": {',
        capture_output=True,
        check=False,
    )
    assert answer.returncode != 0
    time.sleep(0.1)
    assert list(home.iterdir()) == []
