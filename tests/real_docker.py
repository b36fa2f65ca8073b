"""A real Docker engine for tests: the one that answers, or Debian's, started in a folder of its own.

No registry is asked: the server's image is made of this machine's Python and the installed packages that
`docker/requirements.txt` names, which shows that the list is complete.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from deploytool.errors import NotAvailable
from deploytool.runtimes.docker_api import engine_host, get
from deploytool.runtimes.docker_build import context
from docker import APIClient

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "deploytool-test/st-server:this-machine"
READY_S = 30.0
LEFT_OUT = ("/include/", "/tests/", "/test/", "/share/")
STDLIB_LEFT_OUT = (
    "site-packages",
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "config-",
)
# Wheels bring their libraries with them; torch leaves the compiler's to the system.
LINKED = ("/lib-dynload/", "/torch/lib/")
ENVIRONMENT = ("PATH=/opt/python/bin", "LD_LIBRARY_PATH=/opt/lib", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp")


class NoEngine(Exception):
    """No Docker engine can be had here; says why."""


@contextmanager
def engine(folder: Path) -> Iterator[str]:
    """The address of an engine. One that was started here is ended, with all that it left behind."""
    host = engine_host()
    if answers(host):
        yield host
        return
    if os.environ.get("DOCKER_HOST"):
        raise NoEngine(f"no engine answers at DOCKER_HOST ({host})")
    dockerd = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/sbin")
    if dockerd is None or os.getuid() != 0:
        raise NoEngine("no Docker engine answers, and only root could start one, where dockerd is installed")
    bridge = Path("/sys/class/net/docker0")
    had_bridge = bridge.exists()
    process = start(dockerd, folder)
    try:
        yield f"unix://{folder}/s"
    finally:
        stop(process)
        if not had_bridge and bridge.exists():
            subprocess.run(["ip", "link", "delete", "docker0"], check=True, capture_output=True)
        for mount in left_mounts(folder):  # dockerd leaves a network namespace mounted
            subprocess.run(["umount", mount], check=True, capture_output=True)
        shutil.rmtree(folder)


def start(dockerd: str, folder: Path) -> subprocess.Popen[bytes]:
    """Debian's engine with everything that it writes in `folder`, and no rule in the machine's firewall."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                dockerd, "--host", f"unix://{folder}/s", "--data-root", str(folder / "data"),
                "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid"), "--iptables=false",
            ],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        if answers(f"unix://{folder}/s"):
            return process
        time.sleep(0.1)
    stop(process)
    last = (folder / "log").read_text(errors="replace").splitlines()[-3:]
    raise NoEngine(f"dockerd does not start here: {' | '.join(last)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM lets it end its containers and its containerd; what still lives in its session is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(host: str) -> bool:
    try:
        get(host, "/version")
    except NotAvailable:
        return False
    return True


def left_mounts(folder: Path) -> list[str]:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [point for point in reversed(points) if point.startswith(f"{folder}/")]


def left_in(folder: Path) -> list[str]:
    """Mounts and processes of an engine that was started in `folder`; files of it are gone with it."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return left_mounts(folder) + [line for line in lines if f"{folder}/" in line]


def remove_images(host: str) -> None:
    """Every image that these tests made."""
    with closing(APIClient(base_url=host, version="auto", timeout=120)) as api:
        for entry in api.images():
            for tag in entry.get("RepoTags") or ():
                if tag.startswith("deploytool-test/"):
                    api.remove_image(tag, force=True)


def server_image(host: str, folder: Path) -> str:
    """Make the server's image and return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "image.tar"
    shared = tarfile.TarInfo("tmp")
    shared.type, shared.mode = tarfile.DIRTYPE, 0o1777  # as every image has it
    with tarfile.open(path, "w", dereference=True) as tar:
        tar.addfile(shared)
        for source, target in sorted(files().items(), key=lambda pair: pair[1]):
            tar.add(source, target, recursive=False, filter=_readable)
        with tarfile.open(fileobj=context()) as built:
            for member in built.getmembers():
                if member.name.startswith("deploytool/"):
                    member.name = f"{_site()}/{member.name}"
                    tar.addfile(member, built.extractfile(member))
    changes = [f"ENV {' '.join(ENVIRONMENT)}"]
    return imported(host, path, IMAGE, changes)


def imported(host: str, tar: Path, image: str, changes: list[str]) -> str:
    """Import a tar as an image; returns its name."""
    repository, _, tag = image.partition(":")
    with closing(APIClient(base_url=host, version="auto", timeout=300)) as api:
        answer = api.import_image_from_file(str(tar), repository=repository, tag=tag, changes=changes)
    tar.unlink()
    for line in answer.splitlines():
        document: dict[str, Any] = json.loads(line)
        assert "error" not in document, document
    return image


def foreign_image(host: str, architecture: str) -> str:
    """Load an image without a file in it that says it is for another kind of processor; returns its name."""
    name = f"deploytool-test/foreign:{architecture}"
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    digest = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    parts = {
        "layer.tar": layer.getvalue(),
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for part, data in parts.items():
            entry = tarfile.TarInfo(part)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with closing(APIClient(base_url=host, version="auto", timeout=60)) as api:
        api.load_image(archive.getvalue())  # type: ignore[no-untyped-call]
        assert api.images(name, quiet=True)
    return name


def files() -> dict[Path, str]:
    """Every file of the image: where it is here, and where it is to be."""
    found: dict[Path, str] = {}
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in stdlib.rglob("*"):
        part = path.relative_to(stdlib)
        if path.is_file() and not part.parts[0].startswith(STDLIB_LEFT_OUT):
            found[path] = f"opt/python/lib/{stdlib.name}/{part}"
    for path, name in packages():
        found[path] = f"{_site()}/{name}"
    python = Path(sys.executable).resolve()
    found[python] = "opt/python/bin/python3"
    linked = [path for path in found if ".so" in path.name and any(part in str(path) for part in LINKED)]
    for library in libraries([python, *linked]):
        interpreter = library.name.startswith("ld-linux")
        found[library] = str(library).lstrip("/") if interpreter else f"opt/lib/{library.name}"
    return found


def packages() -> Iterator[tuple[Path, str]]:
    """The installed files of what `docker/requirements.txt` names."""
    for line in (ROOT / "docker" / "requirements.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, version = line.partition("==")
        distribution = importlib.metadata.distribution(name)
        assert distribution.version.partition("+")[0] == version, (
            f"{name} {distribution.version} is installed"
        )
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            left_out = any(part in f"/{file}" for part in LEFT_OUT) or str(file).startswith("..")
            if not left_out and path.is_file():
                yield path, str(file)


def libraries(programs: list[Path]) -> set[Path]:
    """The shared libraries of the system that these need, by the dynamic linker's own answer."""
    answer = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False, timeout=120
    ).stdout
    words = {word for line in answer.splitlines() for word in line.split() if word.startswith("/")}
    return {Path(word) for word in words if not word.endswith(":") and "site-packages" not in word}


def _site() -> str:
    return f"opt/python/lib/{Path(sysconfig.get_path('stdlib')).name}/site-packages"


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Links as files, readable by everyone, owned by root."""
    entry.uid = entry.gid = 0
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    return entry
