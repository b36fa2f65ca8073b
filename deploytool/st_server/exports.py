"""Models exported for another runtime, kept in a cache: found, made once, never half there. No torch.

An export is a folder named by the hash of all that shapes it: the model's files, the flags that change its
vectors, the versions of the libraries that write it. It holds the graph, the tokenizer, the facts that a
server needs (so that it starts without torch), and what float32 torch gives for the probe texts.

A child process makes it in a folder of its own, which is then renamed; a lock file lets a second server wait
for the first one's export. A model that cannot be exported is remembered with the reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploytool.st_server.backends.base import Stage
from deploytool.st_server.config import Config
from deploytool.st_server.errors import LoadFailed, NotServable

FORMAT = 1  # of the folder; part of the key
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml"}
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers")
SHAPING = ("*.json", "*.safetensors", "*.txt", "*.model", "*.py")
REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Facts:
    """What a server must know of a model beside its graph; `torch_score`: ms, see backends/probe.py."""

    dimensions: int
    own_length: int | None
    positions: int | None
    vocabulary: int
    normalized: bool
    prompt: str
    pad: int
    left: bool
    truncation_side: str
    inputs: list[str]
    torch_score: float


@dataclass(frozen=True)
class Export:
    """A finished export."""

    folder: Path
    graph: Path
    facts: Facts


class NotExportable(NotServable):
    """This architecture's graph cannot be written, or it gives other vectors."""


def installed(kind: str) -> bool:
    """Whether all that `kind` (onnx, openvino) needs can be imported."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES[kind])


def key(config: Config, folder: Path, kind: str) -> str:
    """Names an export by everything that shapes it."""
    versions = {name: _version(name) for name in (*LIBRARIES, *PACKAGES[kind])}
    shaping = [FORMAT, kind, versions, config.pooling, config.normalize, config.trust_remote_code]
    digest = hashlib.sha256(json.dumps(shaping).encode())
    for file in sorted({file for pattern in SHAPING for file in folder.rglob(pattern)}):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"\n{file.relative_to(folder)} {content}".encode())
    return digest.hexdigest()[:32]


def get(config: Config, folder: Path, kinds: Sequence[str], stage: Stage) -> dict[str, Export | str]:
    """The export of each kind, made where it is not there; or why there is none. Raises StartError."""
    found: dict[str, Export | str] = {}
    with _cache(config) as cache:
        names = {kind: key(config, folder, kind) for kind in kinds}
        with contextlib.ExitStack() as locks:
            for kind in sorted(kinds):  # in one order everywhere: two servers never wait for each other
                if (ready := _finished(cache, names[kind], kind)) is None:
                    locks.enter_context(_locked(cache / f"{names[kind]}.lock", stage))
                    ready = _finished(cache, names[kind], kind)
                if ready is not None:
                    found[kind] = ready
            missing = [kind for kind in kinds if kind not in found]
            if missing:
                stage(f"exporting model for {' and '.join(missing)}")
                found |= _make(config, folder, cache, {kind: names[kind] for kind in missing})
    return found


def refuse(export: Export, reason: str) -> None:
    """Remember that this export gives wrong vectors, so that no later start tries it again."""
    _write(export.folder.with_suffix(".failed"), reason)
    discard(export)


def discard(export: Export) -> None:
    """Made anew at the next start."""
    shutil.rmtree(export.folder, ignore_errors=True)


def recall(config: Config, name: str) -> Any:
    """A small remembered document; None where there is none."""
    try:
        return json.loads((_folder(config) / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return None


def remember(config: Config, name: str, document: Any) -> None:
    """Kept for the next start; a cache that cannot be written only costs that start some time."""
    with contextlib.suppress(OSError):
        _folder(config).mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(_folder(config) / f"{name}.json", json.dumps(document, indent=1))


def write_facts(folder: Path, facts: Facts) -> None:
    _write(folder / "facts.json", json.dumps(asdict(facts), indent=1))


def child_flags(config: Config, folder: Path) -> list[str]:
    """The server's own flags for a child that loads this model on the processor in float32."""
    argv = ["--model", str(folder), "--device", "cpu", "--dtype", "float32"]
    argv += ["--threads", str(config.threads), "--max-batch-tokens", str(config.max_batch_tokens)]
    argv += ["--cache-dir", str(config.cache_dir)]
    if config.lanes:
        argv += ["--lanes", str(config.lanes)]
    if config.pooling:
        argv += ["--pooling", config.pooling]
    if config.max_length:
        argv += ["--max-length", str(config.max_length)]
    if config.normalize:
        argv.append("--normalize")
    if config.trust_remote_code:
        argv += ["--trust-remote-code", "--revision", config.revision or "main"]
    return argv


def run_child(module: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A child of this server; it ends by itself where the server dies (its stdin closes).

    Its output goes to files and it is the leader of a group: whatever it may leave behind neither holds this
    server up nor stays.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", f"deploytool.st_server.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdin is not None:
                child.stdin.close()
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return subprocess.CompletedProcess(child.args, child.returncode, *texts)


def _make(config: Config, folder: Path, cache: Path, names: dict[str, str]) -> dict[str, Export | str]:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as making:
        arguments = [*child_flags(config, folder), "--", making, *names]
        done = run_child("backends.exporter", arguments)
        if done.returncode != 0:
            raise LoadFailed(f"the model could not be exported: {reason(done)}", hint="--backend torch")
        found: dict[str, Export | str] = {}
        for kind, name in names.items():
            made = Path(making) / kind
            failed = Path(making) / f"{kind}.failed"
            if failed.is_file():
                failed.replace(cache / f"{name}.failed")
            elif (made / "facts.json").is_file():
                made.rename(cache / name)
            ready = _finished(cache, name, kind)
            found[kind] = ready if ready is not None else "the export wrote nothing"
        return found


def _finished(cache: Path, name: str, kind: str) -> Export | str | None:
    with contextlib.suppress(OSError):
        return (cache / f"{name}.failed").read_text(encoding="utf-8")
    folder = cache / name
    try:
        facts = Facts(**json.loads((folder / "facts.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return Export(folder, folder / GRAPHS[kind], facts)


@contextlib.contextmanager
def _cache(config: Config) -> Iterator[Path]:
    """The folder of exports. Raises LoadFailed where it cannot be written."""
    folder = _folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LoadFailed(
            f"{folder} cannot be written ({error.strerror}): the exported model is kept there",
            hint="--cache-dir DIR, or --backend torch",
        ) from error
    yield folder


def _folder(config: Config) -> Path:
    return config.cache_dir / "exports"


@contextlib.contextmanager
def _locked(path: Path, stage: Stage) -> Iterator[None]:
    """Alone among all servers of this machine; the system lets go where a holder dies."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stage("waiting for another server's export")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.removeprefix("fatal: ") for line in done.stderr.strip().splitlines() if line.strip()]
    fatal = [line.removeprefix("fatal: ") for line in done.stderr.splitlines() if line.startswith("fatal: ")]
    return (fatal or lines or [f"exit code {done.returncode}"])[-1][:REASON_CHARACTERS]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
