"""The root command: fast help, near names, one place for errors."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploytool import __version__
from deploytool.cli.root import build
from deploytool.cli.verbs import COMMANDS, OPTIONS, WIDEST
from deploytool.errors import UnknownName, nearest

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


def test_help_lists_every_verb(cli: CommandLine) -> None:
    answer = cli("--help")
    assert answer.returncode == 0
    for name in COMMANDS:
        assert f" {name} " in answer.stdout


def test_help_loads_neither_a_verb_nor_typer() -> None:
    code = (
        "import sys; from deploytool.cli.main import run; run(['--help']); "
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(answer.stderr))
    own = {"", ".cli", ".cli.main", ".cli.output", ".cli.verbs"}
    assert {name for name in loaded if name.startswith("deploytool")} == {f"deploytool{name}" for name in own}
    assert not loaded & {"typer", "pydantic", "rich", "json", "inspect"}


def test_help_is_the_same_whoever_prints_it_and_lists_every_option(cli: CommandLine) -> None:
    bare = cli()
    assert (bare.returncode, bare.stdout) == (2, "")
    assert cli("--help").stdout.strip() == bare.stderr.strip()
    root: Any = build()
    options = [word for parameter in root.params for word in parameter.opts] + ["--help"]
    assert sorted(OPTIONS) == sorted(options)


@pytest.mark.parametrize("width", ["20", "60", "400"])
def test_help_keeps_to_the_width_of_the_terminal(cli: CommandLine, width: str) -> None:
    lines = cli("--help", env={"COLUMNS": width}).stdout.splitlines()
    assert max(map(len, lines)) <= max(60, min(int(width), WIDEST))
    assert len(lines) > len(COMMANDS)


def test_version(cli: CommandLine) -> None:
    assert cli("--version").stdout.strip() == f"deploytool {__version__}"


def test_a_slip_in_a_verb_is_answered_with_the_nearest(cli: CommandLine) -> None:
    answer = cli("profile", "list")
    assert answer.returncode == 2
    assert "profiles" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unknown_option_is_a_usage_error(cli: CommandLine) -> None:
    answer = cli("ps", "--nonsense")
    assert answer.returncode == 2
    assert "--nonsense" in answer.stderr


def test_an_error_is_a_document_where_json_is_asked_for(cli: CommandLine) -> None:
    answer = cli("plan", "all-minilm-l6-v2", "--profile", "a10gg", "--json")
    assert answer.returncode == 2
    document = json.loads(answer.stdout)["error"]
    assert document["exit_code"] == 2
    assert "a10g" in document["hint"]
    assert document["message"] in answer.stderr


def test_a_fault_of_ours_is_named_and_kept(home: Path) -> None:
    code = (
        "import sys; from deploytool.cli import main; "
        "main.COMMANDS['fit'] = main.Verb('nowhere', 'fit', 'x', 'Plan'); sys.exit(main.run(['fit']))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "fault of deploytool" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "ModuleNotFoundError" in (home / "data" / "last-error.txt").read_text()


def test_a_closed_pipe_is_no_error() -> None:
    script = '"$0" -m deploytool profiles list | head -1; exit "${PIPESTATUS[0]}"'
    answer = subprocess.run(
        ["bash", "-c", script, sys.executable], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr


def to_nobody() -> int:
    """A pipe that nobody reads, as `| head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("plan qwen3-4b --profile a10g", 0),  # a result and a warning
        ("plan qwen3-4b --profile a10gg --json", 2),
        ("ps --nonsense", 2),
    ],
)
def test_a_pipe_that_nobody_reads_ends_nothing(words: str, code: int, closed: tuple[str, ...]) -> None:
    pipe = to_nobody()
    streams: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    answer = subprocess.run(
        [sys.executable, "-m", "deploytool", *words.split()],
        **(streams | dict.fromkeys(closed, pipe)),  # type: ignore[call-overload]
        check=False,
        text=True,
    )
    os.close(pipe)
    assert answer.returncode == code
    told = f"{answer.stdout or ''}{answer.stderr or ''}"
    assert "Traceback" not in told and "BrokenPipe" not in told and "interrupted" not in told


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_descriptors_closed_before_the_start_are_no_error(home: Path, closed: str) -> None:
    for words, code in (("ps", 0), ("plan qwen3-4b --profile a10gg", 2)):
        script = f'"$0" -m deploytool {words} {closed}'
        answer = subprocess.run(
            ["bash", "-c", script, sys.executable], capture_output=True, text=True, check=False
        )
        assert answer.returncode == code
        assert "Traceback" not in answer.stderr
    # What is told must not have gone into a file that was opened under the closed descriptor's number.
    assert not [
        path for path in home.rglob("*") if path.is_file() and b"nothing is deployed" in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("name", "known", "first"),
    [
        ("A10-G", ["a10", "a10g", "a100-40"], "a10g"),
        ("qwen34b", ["qwen3-4b", "qwen3-8b"], "qwen3-4b"),
        ("minilm", ["all-minilm-l6-v2", "bge-m3"], "all-minilm-l6-v2"),
        ("rtx 4090", ["rtx3090", "rtx4090"], "rtx4090"),
    ],
)
def test_nearest(name: str, known: list[str], first: str) -> None:
    assert nearest(name, known)[0] == first


def test_an_unknown_name_lists_what_is_known_where_nothing_is_near() -> None:
    error = UnknownName("engine", "zzz", ["sglang", "vllm"])
    assert error.hint == "known: sglang, vllm"
