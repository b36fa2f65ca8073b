"""Every verb has help and stands in the README; the lines of the root's help are those of the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deploytool.cli.root import load
from deploytool.cli.verbs import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent


def verbs() -> Iterator[tuple[str, Any]]:
    """Every command and subcommand as (words, command)."""
    for name in COMMANDS:
        command: Any = load(name)
        children = getattr(command, "commands", None)
        if not children:
            yield name, command
        for child_name, child in (children or {}).items():
            yield f"{name} {child_name}", child


@pytest.mark.parametrize(
    ("words", "command"), list(verbs()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_verb_is_documented(words: str, command: Any) -> None:
    assert (command.help or "").strip(), f"{words} has no help text"
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert (getattr(parameter, "help", "") or "").strip(), f"{words} {parameter.opts} has no help"
    assert f"deploytool {words}" in (ROOT / "README.md").read_text(encoding="utf-8"), (
        f"README lacks `deploytool {words}`"
    )


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_root_help_is_the_beginning_of_the_verbs(name: str) -> None:
    command: Any = load(name)
    first = (command.help or "").strip().split("\n\n")[0].replace("\n", " ")
    assert first.startswith(COMMANDS[name].help.removesuffix("."))


def test_the_readme_names_every_profile_and_model() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [
        path.stem for kind in ("hardware", "models") for path in (ROOT / "profiles" / kind).glob("*.yaml")
    ]
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in text] == []


def test_exit_codes_are_documented() -> None:
    from deploytool import errors

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DeploytoolError)
    ]
    assert len(kinds) > 9
    for code in sorted({kind.exit_code for kind in kinds}):
        assert f"| {code} |" in text, f"exit code {code} is not in the README's table"
