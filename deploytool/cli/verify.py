"""`verify`: the same texts through two endpoints, or against golden vectors: cosines and a verdict."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli.output import emit, note, say, table
from deploytool.errors import BadInput, CheckFailed, UnknownName

if TYPE_CHECKING:
    from deploytool.catalog import Catalog
    from deploytool.store import Store
    from deploytool.targets import Resolved
    from deploytool.verification import Verification

GOLDEN = "golden"


def verify(
    target: Annotated[str, typer.Argument(help="A deployment's name, or any base URL.")],
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="TARGET2|golden", help="Another endpoint, or the model's golden vectors."
        ),
    ] = GOLDEN,
    model: Annotated[
        str | None, typer.Option("--model", metavar="CARD", help="The model card of endpoints that are URLs.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="The file with TARGET's API key.")
    ] = None,
    against_key_file: Annotated[
        Path | None,
        typer.Option("--against-key-file", metavar="FILE", help="The file with TARGET2's API key."),
    ] = None,
    golden_file: Annotated[
        Path | None,
        typer.Option("--golden", metavar="FILE", help="Take these golden vectors, whatever they are of."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="For each request.")
    ] = 60.0,
    profiles_dir: Annotated[
        Path | None,
        typer.Option("--profiles-dir", metavar="DIR", help="Look for cards and golden vectors here first."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Compare an endpoint's vectors with another's, or with golden ones.

    Exit code 1: they differ; 6: an endpoint does not answer as one should; 8: there are no golden vectors.
    """
    from deploytool.catalog import Catalog
    from deploytool.golden import Found, find, read
    from deploytool.store import Store
    from deploytool.verification import against_golden, against_target

    if against == GOLDEN and against_key_file is not None:
        raise BadInput("--against-key-file is for a second endpoint", hint="golden vectors need no key")
    catalog = Catalog(profiles_dir)
    with Store() as store:
        first = _resolved(target, model, api_key_file, catalog, store, timeout)
        second = (
            None
            if against == GOLDEN
            else _resolved(against, model, against_key_file, catalog, store, timeout)
        )
    for line in [*first.notes, *(second.notes if second else ())]:
        note(f"note: {line}")
    card = first.card or (second.card if second else None)
    found = Found(read(golden_file), golden_file) if golden_file else find(card, profiles_dir)
    note("comparing ...")
    if second is None:
        result = against_golden(first, found, timeout)
    else:
        result = against_target(first, second, found, timeout)
    if json:
        emit(result.model_dump(mode="json"))
    else:
        _print(result)
    return _verdict(result)


def _resolved(
    target: str, model: str | None, key: Path | None, catalog: Catalog, store: Store, timeout_s: float
) -> Resolved:
    from deploytool.targets import LISTING_TIMEOUT_S, is_url, resolve

    if not is_url(target):
        from deploytool.deployment import refresh_one

        model = None  # a deployment has its own card
        with suppress(UnknownName):  # resolve() says it with more hints
            refresh_one(target, store)
    return resolve(
        target,
        store,
        api_key_file=key,
        model=model,
        catalog=catalog,
        timeout_s=min(timeout_s, LISTING_TIMEOUT_S),
    )


def _print(result: Verification) -> None:
    rows = [
        (
            entry.text,
            entry.kind,
            entry.tokens,
            "not a number" if entry.cosine is None else f"{entry.cosine:.6f}",
            "<- worst" if entry.text == result.worst and result.verdict != "pass" else "",
        )
        for entry in result.texts
    ]
    table(("text", "kind", "tokens", "cosine", ""), rows, right=("tokens", "cosine"))
    for name, why in result.left_out.items():
        say(f"{name}: left out ({why})")
    say()
    say(f"min {_shown(result.min)} ({result.worst}), mean {_shown(result.mean)}; {result.gate}")
    for cause in result.causes:
        say(f"{cause.target}: {cause.name}: {cause.message}")


def _shown(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.6f}"


def _verdict(result: Verification) -> int:
    """The exit code; one line on stderr for people."""
    count = len(result.texts)
    if result.verdict == "fail":
        note(f"error: the vectors of {result.target} are not those of {result.against} ({count} texts)")
        if result.causes:
            note(f"likely cause: {result.causes[0].message}")
        return CheckFailed.exit_code
    word = "warning" if result.verdict == "warn" else "pass"
    note(f"{word}: {result.target} against {result.against}, {count} texts")
    return 0
