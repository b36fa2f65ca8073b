"""The stand-in for NVIDIA's driver library: builds it with gcc, writes its state, runs programs against it.

A test names its cards, runs a real program (the real nvidia-ml-py in it) and may change the cards meanwhile:

    def test_something(nvml: Nvml) -> None:
        nvml.write(Device(name="NVIDIA A10G", total=23028, used=512))
        result = nvml.python("...")
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from fork_server import ForkServers

SOURCE = Path(__file__).with_name("nvml.c")
ROOT = Path(__file__).resolve().parents[3]
LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Process:
    """A process on a card; mib None where the driver keeps no count (WDDM, WSL2)."""

    pid: int
    mib: int | None
    path: str = ""
    kind: Literal["process", "graphics"] = "process"


@dataclass(frozen=True)
class Device:
    """A card. Memory in MiB, power in milliwatt; None: the card does not support the figure."""

    name: str = "NVIDIA A10G"
    uuid: str = "GPU-00000000-0000-0000-0000-00000000000a"
    total: int | None = 23028
    used: int | None = 0
    reserved: int = 0
    cc: str = "8.6"
    utilisation: int | None = 0
    power: int | None = 30000
    energy: int | None = 0
    mig: int | None = None
    inclusive: int = 0
    processes: tuple[Process, ...] = ()
    fail: dict[str, int] = field(default_factory=dict)

    def but(self, **changes: Any) -> Device:
        """The same card with other figures."""
        return replace(self, **changes)

    def lines(self) -> list[str]:
        figures = ("total", "used", "reserved", "utilisation", "power", "energy", "mig", "inclusive")
        return [
            "device",
            f"name {self.name}",
            f"uuid {self.uuid}",
            f"cc {self.cc}",
            *(f"{key} {_figure(getattr(self, key))}" for key in figures),
            *(
                f"{process.kind} {process.pid} {_figure(process.mib)} {process.path}"
                for process in self.processes
            ),
            *(f"fail {function} {code}" for function, code in self.fail.items()),
        ]


def _figure(value: int | None) -> str:
    return "-" if value is None else str(value)


@dataclass(frozen=True)
class Nvml:
    """A stand-in driver. `env` makes a program load it; it must be set when the program starts."""

    folder: Path
    state: Path
    servers: ForkServers

    @property
    def env(self) -> dict[str, str]:
        inherited = os.environ.get("LD_LIBRARY_PATH")
        paths = [str(self.folder), *([inherited] if inherited else [])]
        return {"LD_LIBRARY_PATH": os.pathsep.join(paths), "NVML_STAND_IN_STATE": str(self.state)}

    def write(
        self,
        *devices: Device,
        init: int = 0,
        driver: str = "570.86.15",
        cuda: int = 12080,
        fail: dict[str, int] | None = None,
        slow: dict[str, int] | None = None,
    ) -> None:
        """Set the cards at once and wholly: a call of the program sees the old state or the new one."""
        lines = [f"init {init}", f"driver {driver}", f"cuda {cuda}"]
        lines += [f"fail {function} {code}" for function, code in (fail or {}).items()]
        lines += [f"slow {function} {milliseconds}" for function, milliseconds in (slow or {}).items()]
        for device in devices:
            lines += device.lines()
        partial = self.state.with_suffix(".part")
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(self.state)

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program against this driver; the caller reads its output and waits for it."""
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def python(self, code: str, *arguments: str) -> Any:
        """Run a Python program against this driver; what it prints is read as JSON."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **self.env}
        done = self.servers.run(["-c", code, *arguments], environ, Path.cwd(), 200)
        assert done.returncode == 0, f"the program failed with {done.returncode}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)


def build(folder: Path, *, old_driver: bool = False) -> Path:
    """Compile the library into `folder` (under 0.2 s); returns the folder. Skips without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the NVML stand-in needs gcc, which is not installed")
    options = ["-DOLD_DRIVER"] if old_driver else []
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}",
         *options, "-o", str(folder / LIBRARY), str(SOURCE)],
        check=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("old-nvml"), old_driver=True)


@pytest.fixture
def nvml(nvml_folder: Path, tmp_path: Path, fork_servers: ForkServers) -> Nvml:
    """A stand-in driver with one idle A10G."""
    driver = Nvml(nvml_folder, tmp_path / "nvml-state", fork_servers)
    driver.write(Device())
    return driver


@pytest.fixture
def old_nvml(old_nvml_folder: Path, tmp_path: Path, fork_servers: ForkServers) -> Nvml:
    """The same with an old driver: no memory v2, no process list v3."""
    driver = Nvml(old_nvml_folder, tmp_path / "nvml-state", fork_servers)
    driver.write(Device())
    return driver
