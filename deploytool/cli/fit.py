"""`fit`: which models run on which cards, and how."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import plan_options as options
from deploytool.cli.output import emit, note, say, table
from deploytool.errors import BadInput
from deploytool.planning import AUTO

if TYPE_CHECKING:
    from deploytool.catalog import Catalog
    from deploytool.fitting import Fit
    from deploytool.hardware import HardwareProfile
    from deploytool.models import ModelCard

COLUMNS = ("card", "verdict", "engine", "dtype", "cards", "texts x tokens", "expected", "free", "note")
RIGHT = ("cards", "texts x tokens", "expected", "free")
LEGEND = (
    "fits: at the upper estimate; tight: at the expected one; xN: shared by N cards; no: not even by 8;"
    " -: no engine serves it right there; ?: its memory is not known"
)


class Format(StrEnum):
    """How the matrix is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def fit(
    model: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Names, folders or hub ids (default: all cards)."),
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", metavar="A,B", help="The same, in one word.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="P,...", help="Only these hardware profiles (default: all)."),
    ] = None,
    engine: options.EngineName = AUTO,
    seq_len: options.SeqLen = None,
    dtype: options.DtypeName = None,
    cards: Annotated[
        int, typer.Option("--cards", metavar="N", min=1, max=8, help="Cards that may share a model.")
    ] = 8,
    assignments: options.Assignments = None,
    profiles_dir: options.ProfilesDir = None,
    output: Annotated[
        Format, typer.Option("--format", help="table, json or markdown.", case_sensitive=False)
    ] = Format.TABLE,
    json: options.Json = False,
) -> None:
    """Show which models fit which cards, and how: engine, dtype, cards, length, what stays free.

    It is planned for idle cards and needs none; `plan` looks at what is free now. What was measured of a
    model on a card corrects its estimate.
    """
    from deploytool.catalog import Catalog
    from deploytool.fitting import fits
    from deploytool.plans import known_here

    catalog = Catalog(profiles_dir, ask_hub=True)
    chosen = _models([*(model or ()), *_listed(models)], catalog)
    hardware = _profiles(_listed(profile), catalog)
    known, warnings = known_here()
    for warning in warnings:
        note(f"warning: {warning}")
    given = options.flags(seq_len=seq_len, dtype=dtype, assignments=assignments)
    found = fits(chosen, hardware, known, engine=engine, flags=given, cards=cards)
    if json or output is Format.JSON:
        emit([entry.model_dump(mode="json") for entry in found])
    elif not found:
        note("nothing to compare: hosted APIs need no card, an alias stands for other profiles")
    elif len({entry.model for entry in found}) == 1 or len({entry.profile for entry in found}) == 1:
        _show_list(found, markdown=output is Format.MARKDOWN)
    else:
        _show_matrix(found, markdown=output is Format.MARKDOWN)


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [word for part in text.split(",") if (word := part.strip())]


def _models(names: Sequence[str], catalog: Catalog) -> list[ModelCard]:
    if not names:
        return catalog.model_cards()
    return [catalog.model(name) for name in dict.fromkeys(names)]


def _profiles(names: Sequence[str], catalog: Catalog) -> list[HardwareProfile]:
    if not names:
        return catalog.hardware_profiles()
    from deploytool.plans import resolve_alias

    found = [resolve_alias(catalog.hardware(name), catalog) for name in dict.fromkeys(names)]
    if not found:
        raise BadInput("--profile names none", hint="--profile a10g,t4; `deploytool profiles list` shows all")
    return found


def _show_list(found: Sequence[Fit], *, markdown: bool) -> None:
    """One model on several cards, or several models on one card."""
    one_model = len({entry.model for entry in found}) == 1
    columns = ("card" if one_model else "model", *COLUMNS[1:])
    say(f"{found[0].model} on each card" if one_model else f"what fits {found[0].profile}")
    say()
    rows = [(entry.profile if one_model else entry.model, *_cells(entry)) for entry in found]
    if markdown:
        _markdown(columns, rows)
    else:
        table(columns, rows, right=RIGHT)
    say()
    say("expected and free: MiB on each card; texts x tokens: the most that is computed at once")


def _cells(entry: Fit) -> tuple[object, ...]:
    remark = entry.reason if entry.verdict != "fits" else entry.calibration
    if entry.verdict == "not_served":
        return "not served", None, None, None, None, None, None, remark
    batch = f"{entry.texts:,} x {entry.max_length:,}" if entry.texts and entry.max_length else None
    free = None if entry.left_free_mib is None or entry.left_free_mib < 0 else f"{entry.left_free_mib:,.0f}"
    verdict = entry.verdict.replace("_", " ")
    expected = f"{entry.expected_mib:,.0f}"
    return verdict, entry.engine, entry.dtype, entry.tensor_parallel, batch, expected, free, remark


def _show_matrix(found: Sequence[Fit], *, markdown: bool) -> None:
    """Cards down, models across; on a terminal in as many blocks as its width asks for."""
    models = list(dict.fromkeys(entry.model for entry in found))
    profiles = list(dict.fromkeys(entry.profile for entry in found))
    cells = {(entry.model, entry.profile): _word(entry) for entry in found}
    blocks = [models] if markdown else _blocks(models, max(map(len, profiles)))
    for number, block in enumerate(blocks):
        if number:
            say()
        rows = [(profile, *(cells[model, profile] for model in block)) for profile in profiles]
        (_markdown if markdown else table)(("card", *block), rows)
    say()
    say(LEGEND)
    say("one of them in full: deploytool fit MODEL, or deploytool fit --profile P")


def _word(entry: Fit) -> str:
    if entry.verdict == "not_served":
        return "-"
    word = {"fits": "fits", "tight": "tight", "does_not_fit": "no", "unknown": "?"}[entry.verdict]
    shared = (entry.tensor_parallel or 1) > 1 and entry.verdict in ("fits", "tight")
    return f"{word} x{entry.tensor_parallel}" if shared else word


def _blocks(models: Sequence[str], first: int) -> list[list[str]]:
    width = shutil.get_terminal_size().columns
    blocks: list[list[str]] = [[]]
    used = first
    for model in models:
        if blocks[-1] and used + 2 + len(model) > width:
            blocks.append([])
            used = first
        blocks[-1].append(model)
        used += 2 + max(len(model), len("tight x8"))
    return blocks


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    say("| " + " | ".join(columns) + " |")
    say("|" + "|".join("---:" if column in RIGHT else "---" for column in columns) + "|")
    for row in rows:
        texts = ["-" if value is None else str(value).replace("|", "\\|") for value in row]
        say("| " + " | ".join(texts) + " |")
