"""What telemetry and preflight must not do: keep other people's command lines, or run anything by a shell."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from stand_ins.nvml import Device, Nvml, Process

PACKAGE = Path(__file__).resolve().parent.parent / "deploytool"
MODULES = [*sorted((PACKAGE / "telemetry").glob("*.py")), PACKAGE / "preflight.py"]
SECRET = "sk-live-0123456789"
SHOW = """
import json
from deploytool import preflight
from deploytool.catalog import Catalog
from deploytool.telemetry.nvml import detect
hardware = Catalog().hardware("a10g")
live = preflight.live(hardware)
cards = [str(gpu) for gpu in live.gpus]
print(json.dumps([detect().model_dump(), preflight.holders(live), cards, repr(live)]))
"""


def test_arguments_of_other_processes_are_never_kept(nvml: Nvml) -> None:
    path = f"/opt/tools/serve.sh --api-key {SECRET} --config /home/{SECRET}/x"
    nvml.write(Device(used=900, processes=(Process(31337, 900, path),)))
    said = json.dumps(nvml.python(SHOW))
    assert "serve.sh" in said and "31337" in said
    assert SECRET not in said


def test_a_name_of_control_characters_cannot_write_on_the_terminal(nvml: Nvml) -> None:
    nvml.write(Device(used=900, processes=(Process(31337, 900, "/bin/\x1b[2Jevil\x07"),)))
    found, lines, *_ = nvml.python(SHOW)
    assert found["gpus"][0]["processes"][0]["name"] == "?[2Jevil?"
    assert "\x1b" not in lines[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_nothing_is_started_or_evaluated(path: Path) -> None:
    """Reading cards and processes needs neither a program nor code from outside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not imported & {"subprocess", "socket", "httpx", "pickle", "ctypes", "urllib.request"}
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}
