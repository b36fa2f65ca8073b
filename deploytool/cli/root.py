"""The root command: knows every verb by name and loads its module when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from deploytool import __version__
from deploytool.cli.verbs import ABOUT, COMMANDS, OPTIONS, help_text
from deploytool.errors import nearest

if TYPE_CHECKING:
    from typer._click.core import Command, Context
    from typer._click.formatting import HelpFormatter


def load(name: str) -> Command:
    """The real command behind a verb; imports its module."""
    verb = COMMANDS[name]
    target = getattr(importlib.import_module(f"deploytool.cli.{verb.module}"), verb.attribute)
    if isinstance(target, typer.Typer):
        return named(typer.main.get_command(target), name)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, no_args_is_help=False)(target)
    return named(typer.main.get_command(app), name)


def named(command: Command, name: str) -> Command:
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """Lists verbs from the table; resolves one by importing its module."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002 - click's signature
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        formatter.write(f"{help_text()}\n")

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name = args[0]
        if name in COMMANDS:
            return name, load(name), args[1:]
        near = nearest(name, COMMANDS)
        if near and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}. Did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)


def root(
    version: bool = typer.Option(False, "--version", help=OPTIONS["--version"], is_eager=True),
) -> None:
    if version:
        typer.echo(f"deploytool {__version__}")
        raise typer.Exit


def build() -> Command:
    app = typer.Typer(
        cls=LazyGroup,
        name="deploytool",
        no_args_is_help=True,
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    app.callback(help=ABOUT)(root)
    return named(typer.main.get_command(app), "deploytool")
