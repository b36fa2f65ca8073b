"""`watch` and its service: what dies or hangs comes back, what was stopped does not, and there is an end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, CommandLine
from stand_ins.deploying import kill_server, ours, prepared, spec, until

from deploytool.deployment import UpOptions, down, refresh_one, restart, stop, up
from deploytool.deployment.keeping import Keeper, Patience, kept
from deploytool.deployment.service import unit
from deploytool.errors import Unhealthy
from deploytool.records import Deployment
from deploytool.store import Store

pytestmark = pytest.mark.usefixtures("nothing_left")

HASTE = Patience(most_restarts=2, first_pause_s=0.05, stable_s=600, hanging_s=0.3, look_s=0.05)


def bring_up(
    store: Store, name: str, *habits: str, probe_timeout_s: float = 20, **options: object
) -> Deployment:
    wanted = UpOptions.model_validate({"name": name, "smoke": False, **options})
    launch = spec(*habits, port=0, probe_timeout_s=probe_timeout_s)
    return up(prepared(launch), wanted, store, lambda _: None)


@contextmanager
def watching(store: Store, patience: Patience = HASTE, *names: str) -> Iterator[list[str]]:
    """A keeper at work in a thread; yields what it says."""
    said: list[str] = []
    end = threading.Event()

    def work() -> None:
        with Store(store.folder) as own:
            Keeper(own, said.append, patience, names).run(end)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield said
    finally:
        end.set()
        thread.join()


def pid_of(store: Store, name: str) -> int | None:
    one = store.deployment(name)
    return one.process.pid if one.state == "ready" and one.process else None


def came_back(store: Store, before: Deployment) -> None:
    """Wait until it is ready as another process."""
    assert before.process is not None
    old = before.process.pid
    until(lambda: pid_of(store, before.name) not in (None, old))


def test_what_dies_is_restarted_and_what_was_stopped_is_not(store: Store, home: Path) -> None:
    first, second = bring_up(store, "first"), bring_up(store, "second")
    stop("second", store)
    with watching(store) as said:
        kill_server(first)
        came_back(store, first)
        until(lambda: any("ready again" in line for line in said))
    assert "first died: killed by SIGKILL" in said[0] and "restarted in 0.05 s" in said[0]
    assert "restart 1 of at most 2" in said[-1]
    assert store.deployment("first").restarts == 1
    assert store.deployment("second").state == "stopped" and second.id == store.deployment("second").id
    assert down(["first", "second"], store, lambda _: None) and ours(home) == []


def test_it_gives_up_with_the_reason_until_it_is_asked_for_again(store: Store, tmp_path: Path) -> None:
    """From its second start on the server exits at once."""
    seen = tmp_path / "was-here"
    one = bring_up(store, "one", "--once", str(seen))
    with watching(store) as said:
        kill_server(one)
        until(lambda: any("gave up" in line for line in said))
        died = store.deployment("one")
    assert (died.state, died.restarts, kept(died)) == ("died", 2, False)
    assert "restarted 2 times" in str(died.gave_up) and "exited with 9" in str(died.reason)
    assert [line.split("restarted in ")[1] for line in said if "restarted in" in line] == ["0.05 s", "0.1 s"]
    assert refresh_one("one", store).reason == died.reason
    anew: list[str] = []
    watcher = Keeper(store, anew.append, HASTE)
    for _ in range(3):
        watcher.look()
    assert anew == [] and store.deployment("one").state == "died"
    seen.unlink()
    back = restart("one", store, lambda _: None, smoke=False)
    assert (back.state, back.restarts, back.gave_up, kept(back)) == ("ready", 0, None, True)


@pytest.mark.slow
def test_what_hangs_is_restarted(store: Store) -> None:
    """Alive, its port open, no answer: as a stuck engine is."""
    one = bring_up(store, "one", "--hangs", probe_timeout_s=2)
    assert one.process is not None
    with watching(store) as said:
        os.kill(one.process.pid, signal.SIGUSR1)
        came_back(store, one)
    assert said[0].startswith("one hangs: /ready: no answer within 2 s")


def test_what_stays_up_is_forgiven(store: Store) -> None:
    one = bring_up(store, "one")
    with watching(store, HASTE.model_copy(update={"stable_s": 0.2})) as said:
        kill_server(one)
        until(lambda: any("ready again" in line for line in said))
        until(lambda: store.deployment("one").state == "ready" and not store.deployment("one").restarts)
    assert "restart 1 of at most 2" in said[-1]


def test_a_start_that_never_was_ready_is_not_kept_up(store: Store) -> None:
    with pytest.raises(Unhealthy):
        bring_up(store, "one", "--fault", "nan", keep_failed=True)
    assert not kept(store.deployment("one"))


def test_a_stop_wins_over_a_restart_that_is_due(store: Store) -> None:
    one = bring_up(store, "one")
    keeper = Keeper(store, lambda _: None, HASTE)
    kill_server(one)
    dead = refresh_one("one", store)
    stop("one", store)
    keeper._restart(dead)
    assert store.deployment("one").state == "stopped"


def test_only_the_named_are_watched(store: Store) -> None:
    one, other = bring_up(store, "one"), bring_up(store, "other")
    with watching(store, HASTE, "other"):
        kill_server(one)
        kill_server(other)
        until(lambda: pid_of(store, "other"))
    assert refresh_one("one", store).state == "died"


def test_pauses_grow_up_to_a_bound() -> None:
    assert [Patience().pause_s(count) for count in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.slow
def test_the_command_watches_until_it_is_told_to_end(store: Store) -> None:
    one = bring_up(store, "one")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool", "watch", "--first-pause", "0.1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "watching all deployments" in process.stderr.readline()
    kill_server(one)
    came_back(store, one)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0 and "what runs goes on" in told
    assert refresh_one("one", store).state == "ready"


@pytest.mark.slow
def test_a_watcher_that_is_killed_in_a_restart_leaves_one_to_adopt(store: Store, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    one = bring_up(store, "one", "--gate", str(gate))
    gate.unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploytool", "watch", "one", "--first-pause", "0.1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    kill_server(one)
    until(lambda: store.deployment("one").state == "starting" and store.deployment("one").process)
    process.kill()
    process.wait()
    gate.touch()
    with watching(store):
        until(lambda: refresh_one("one", store).state == "ready")
    assert store.deployment("one").owner is None


def test_a_name_that_is_not_there_is_told(cli: CommandLine) -> None:
    told = cli("watch", "nobody")
    assert told.returncode == 2 and "nobody" in told.stderr


# The service


def verified(text: str, folder: Path) -> str:
    """What systemd itself says of a unit; nothing where it is right."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    place = folder / "deploytool-watch.service"
    place.write_text(text)
    answer = subprocess.run(
        [program, "verify", "--user", "--recursive-errors=no", str(place)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout + answer.stderr if answer.returncode else ""


@pytest.mark.parametrize("odd", ["plain", 'a b%h$x"q'])
def test_systemd_takes_the_unit(tmp_path: Path, odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYTOOL_HOME", str(tmp_path / odd))
    text = unit(sys.executable, tmp_path / odd / "data")
    assert verified(text, tmp_path) == ""
    assert "KillMode=process" in text and f'ExecStart="{sys.executable}" -m deploytool watch' in text


def test_install_writes_the_unit_and_says_what_to_do(
    cli: CommandLine, tmp_path: Path, home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = cli("service", "install", env={"XDG_CONFIG_HOME": str(tmp_path)})
    place = tmp_path / "systemd" / "user" / "deploytool-watch.service"
    assert told.returncode == 0 and str(place) in told.stdout
    assert "systemctl --user daemon-reload" in told.stdout
    assert "systemctl --user enable --now deploytool-watch.service" in told.stdout
    assert f'"DEPLOYTOOL_HOME={home}"' in place.read_text()
    shown = cli("service", "install", "--print", env={"XDG_CONFIG_HOME": str(tmp_path / "elsewhere")})
    assert shown.stdout == place.read_text() and not (tmp_path / "elsewhere").exists()


def test_a_unit_that_cannot_be_written_is_told(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = cli("service", "install", env={"XDG_CONFIG_HOME": str(tmp_path / "file")})
    assert told.returncode == 8 and "--print" in told.stderr
