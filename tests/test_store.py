"""The store on real files, with real processes: atomic, versioned, and clear about what is wrong with it."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from stand_ins.deploying import FOREVER, record, spec

from deploytool.errors import DeploytoolError, NotAvailable, Taken, UnknownName
from deploytool.identity import identify, myself
from deploytool.records import RUN_SCHEMA, Deployment, RunRecord, Target
from deploytool.store import Store, now

ROOT = Path(__file__).resolve().parent.parent


def run_record(run_id: str, started_at: str = "2026-01-01T00:00:00Z", **fields: object) -> RunRecord:
    document = {
        "id": run_id,
        "state": "finished",
        "started_at": started_at,
        "target": Target(url="http://127.0.0.1:1", model="m"),
        "request": {},
    }
    return RunRecord.model_validate({**document, **fields})


def test_a_deployment_comes_back_as_it_was(home: Path) -> None:
    deployment = record("one", spec())
    with Store() as store:
        store.reserve(deployment)
    with Store() as store:
        assert store.deployments() == [deployment]
        assert store.deployment("one") == deployment
        assert store.folder == home / "data"


def test_a_name_and_a_port_belong_to_one_deployment() -> None:
    with Store() as store:
        store.reserve(record("one", spec(port=4000)))
        with pytest.raises(Taken, match="the name one"):
            store.reserve(record("one", spec(port=4001)).model_copy(update={"id": "other"}))
        with pytest.raises(Taken, match="port 4000 is taken by the deployment one"):
            store.reserve(record("two", spec(port=4000)))
        assert [one.name for one in store.deployments()] == ["one"]


@pytest.mark.parametrize("state", ["stopped", "died"])
def test_what_does_not_run_frees_its_port_and_takes_it_back_only_if_it_is_free(state: str) -> None:
    first, second = record("one", spec(port=4000)), record("two", spec(port=4000))
    with Store() as store:
        store.reserve(first)
        first.state = state  # type: ignore[assignment]
        store.update(first)
        store.reserve(second)
        first.state = "starting"
        with pytest.raises(Taken, match="port 4000 is taken by the deployment two"):
            store.update(first)
        assert store.deployment("one").state == state


def test_of_many_processes_at_once_one_gets_the_name_and_one_the_port(home: Path) -> None:
    program = (
        "import sys; from stand_ins.deploying import record, spec; from deploytool.store import Store\n"
        "from deploytool.errors import Taken\n"
        "store = Store(); input()\n"
        "one = record(sys.argv[1], spec(port=int(sys.argv[2])))\n"
        "one.id = sys.argv[3]\n"
        "try: store.reserve(one); print('got it')\n"
        "except Taken: print('taken')\n"
    )
    wanted = [("same", 5000 + n) for n in range(4)] + [(f"name-{n}", 6000) for n in range(4)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, name, str(port), f"id-{index}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index, (name, port) in enumerate(wanted)
    ]
    answers = [process.communicate("go\n", timeout=200)[0].strip() for process in processes]
    assert answers[:4].count("got it") == 1
    assert answers[4:].count("got it") == 1
    with Store() as store:
        assert len(store.deployments()) == 2


def test_a_change_sees_what_others_wrote_and_a_forgotten_one_is_told() -> None:
    deployment = record("one", spec())

    def ready(found: Deployment) -> None:
        assert found.reason == "written by another"
        found.state = "ready"

    with Store() as store, Store() as other:
        store.reserve(deployment)
        deployment.reason = "written by another"
        other.update(deployment)
        changed = store.change(deployment.id, ready)
        assert changed is not None and changed.state == "ready"
        other.forget("one")
        assert store.change(deployment.id, ready) is None
        with pytest.raises(UnknownName):
            store.update(deployment)


def test_a_forgotten_name_is_remembered_until_it_is_back() -> None:
    with Store() as store:
        store.reserve(record("one", spec()))
        folder = store.deployment_folder("id-one")
        (folder / "server.log").write_text("x")
        assert store.forgotten_at("one") is None
        store.forget("one", "an earlier one of that name")
        assert store.deployment("one")
        store.forget("one", "id-one")
        assert store.forgotten_at("one") is not None
        assert not folder.exists()
        store.reserve(record("one", spec()))
        assert store.forgotten_at("one") is None


def test_an_unknown_name_brings_the_nearest() -> None:
    with Store() as store:
        store.reserve(record("qwen3-4b", spec()))
        with pytest.raises(UnknownName) as caught:
            store.deployment("qwen3-4")
    assert caught.value.near == ["qwen3-4b"]


def test_runs_are_found_by_id_beginning_and_latest() -> None:
    with Store() as store:
        for number, run_id in enumerate(("abc1", "abd2", "xyz3")):
            store.add_run(run_record(run_id, f"2026-01-0{number + 1}T00:00:00Z"))
        assert [run.id for run in store.runs()] == ["xyz3", "abd2", "abc1"]
        assert store.run("latest").id == "xyz3"
        assert store.run("abc1").id == store.run("abc").id == "abc1"
        with pytest.raises(UnknownName, match="'ab'") as caught:
            store.run("ab")
        assert "abd2" in str(caught.value.hint)
        for nothing in ("", "nope", "%"):
            with pytest.raises(UnknownName):
                store.run(nothing)
        folder = store.run_folder("xyz3")
        assert folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_run_that_cannot_be_read_hides_no_other(home: Path) -> None:
    with Store() as store:
        for run_id in ("good", "newer", "broken"):
            store.add_run(run_record(run_id))
        newer = run_record("newer").model_dump() | {"schema_version": RUN_SCHEMA + 1}
        with sqlite3.connect(home / "data" / "state.sqlite") as database:
            database.execute("UPDATE runs SET document = ? WHERE id = 'newer'", (json.dumps(newer),))
            database.execute("UPDATE runs SET document = '{]' WHERE id = 'broken'")
        database.close()
        readable, unreadable = store.listed_runs()
        assert [run.id for run in readable] == ["good"]
        assert store.runs() == readable
        assert set(unreadable) == {"newer", "broken"}
        assert f"schema {RUN_SCHEMA + 1}" in unreadable["newer"].message
        assert "cannot be read" in unreadable["broken"].message
        with pytest.raises(NotAvailable, match="schema"):
            store.run("newer")


def test_a_run_whose_tool_was_killed_is_told_as_interrupted() -> None:
    process = subprocess.Popen(FOREVER)
    owner = identify(process.pid)
    with Store() as store:
        store.add_run(run_record("mine", state="running", owner=myself()))
        store.add_run(run_record("theirs", state="running", owner=owner))
        assert {run.state for run in store.runs()} == {"running"}
        process.kill()
        process.wait()
        states = {run.id: run.state for run in store.runs()}
        assert states == {"mine": "running", "theirs": "interrupted"}
        assert "killed" in str(store.run("theirs").reason)


def test_everything_is_readable_by_the_user_alone(home: Path) -> None:
    with Store() as store:
        store.reserve(record("one", spec()))
    assert stat.S_IMODE((home / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "data" / "state.sqlite").stat().st_mode) == 0o600


def refused(folder: Path) -> DeploytoolError:
    with pytest.raises(NotAvailable) as caught, Store(folder) as store:
        store.reserve(record("one", spec()))
    assert caught.value.hint
    return caught.value


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    assert "newer deploytool (layout 99" in refused(tmp_path).message


def test_a_newer_record_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.reserve(record("one", spec()).model_copy(update={"schema_version": 99}))
        with pytest.raises(NotAvailable, match="schema 99"):
            store.deployments()


def test_a_record_of_another_version_with_other_fields_stays_readable(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        one = record("one", spec()).model_copy(update={"process": myself()})
        store.reserve(one)
        document = json.loads(one.model_dump_json())
        document["new"] = document["launch"]["new"] = document["launch"]["readiness"]["new"] = 1
        document["process"]["new"] = 1
        with sqlite3.connect(tmp_path / "state.sqlite") as database:
            database.execute("UPDATE deployments SET document = ?", (json.dumps(document),))
        database.close()
        read = store.deployment("one")
        assert (read.launch, read.process) == (one.launch, one.process)
        written = store.change(one.id, lambda _: None)
        assert written is not None and json.loads(written.model_dump_json())["new"] == 1


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.reserve(record("one", spec()))
        with sqlite3.connect(tmp_path / "state.sqlite") as database:
            database.execute("""UPDATE deployments SET document = '{"id": 3}'""")
        database.close()
        with pytest.raises(NotAvailable, match="a stored Deployment cannot be read: id"):
            store.deployments()


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"this is no database at all, but long enough " * 50)
    error = refused(tmp_path)
    assert "damaged" in error.message
    assert "down --all" in str(error.hint)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refused(tmp_path / "file" / "data").message


def on_small_disk(options: str, then: str) -> str:
    """Run the store on a file system of its own (root may mount one), and print the error that it gives."""
    program = (
        "import sys, subprocess; from pathlib import Path\n"
        "from stand_ins.deploying import record, spec; from deploytool.store import Store\n"
        "from deploytool.errors import DeploytoolError\n"
        f"disk = Path(sys.argv[1]); {then}\n"
        "try:\n"
        "    with Store(disk / 'data') as store: store.reserve(record('one', spec()))\n"
        "    print('fine')\n"
        "except DeploytoolError as error: print(type(error).__name__, error.message, '|', error.hint)\n"
    )
    script = f'mount -t tmpfs -o {options} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    folder = os.environ["DEPLOYTOOL_HOME"]
    answer = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", folder, sys.executable, program],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    if "mount" in answer.stderr or "unshare" in answer.stderr:
        pytest.skip(f"no disk of its own can be mounted here: {answer.stderr.strip()}")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_a_full_disk_is_named() -> None:
    fill = "(disk / 'filler').write_bytes(b'x' * 24 * 1024)"
    answer = on_small_disk("size=32k", fill)
    assert answer.startswith("NotAvailable"), answer
    assert "space" in answer


def test_a_read_only_disk_is_named() -> None:
    remount = "subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)"
    answer = on_small_disk("size=1m", remount)
    assert "Read-only file system" in answer
    assert "DEPLOYTOOL_HOME" in answer


def test_a_disk_that_became_read_only_is_named() -> None:
    remount = (
        "Store(disk / 'data').close(); subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)"
    )
    answer = on_small_disk("size=1m", remount)
    assert answer.startswith("NotAvailable"), answer
    assert "DEPLOYTOOL_HOME" in answer


@pytest.mark.parametrize("name", ["a home with blanks", "zuhause-äöü-家", "quote'\"s"])
def test_an_odd_home_works(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    program = "from deploytool.store import Store; s = Store(); print(s.folder)"
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("DEPLOYTOOL", "XDG"))
    }
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith(str(folder))
    assert stat.S_IMODE(Path(answer.stdout.strip()).stat().st_mode) == 0o700


def test_a_moment_is_utc() -> None:
    assert now().endswith("+00:00")
