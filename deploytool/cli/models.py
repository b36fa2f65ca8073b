"""`models`: the model cards there are, what one says, whether files are right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.catalog import Catalog, catalog_files
from deploytool.cli.checking import as_document, facts, known_engines, validate, warn_of_broken
from deploytool.cli.output import emit, say, table
from deploytool.errors import BadInput
from deploytool.models import ModelCard, computed_parameters

app = typer.Typer(
    help="Model cards: list, show, validate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ProfilesDir = Annotated[
    Path | None, typer.Option("--profiles-dir", metavar="DIR", help="Look for model cards here first.")
]


@app.command("list")
def list_models(as_json: Json = False, profiles_dir: ProfilesDir = None) -> None:
    """List the model cards on the search path."""
    entries = Catalog(profiles_dir).model_entries()
    if as_json:
        emit([as_document(entry) for entry in entries])
        return
    rows = [_row(entry.name, entry.document) for entry in entries]
    columns = ("model", "kind", "parameters", "dimensions", "tokens", "pooling", "served by", "licence")
    table(columns, rows, right=("parameters", "dimensions", "tokens"))
    warn_of_broken(entries, "models")


def _row(name: str, card: ModelCard | None) -> tuple[object, ...]:
    if card is None:
        return (name, "INVALID", None, None, None, None, None, None)
    return (
        name,
        card.kind,
        _short(card.parameters),
        card.dimensions,
        card.max_tokens,
        card.pooling,
        _served_by(card),
        card.licence,
    )


def _served_by(card: ModelCard) -> str | None:
    if card.api is not None:
        return f"{card.api.provider} (hosted)"
    return ", ".join(name for name, support in card.engines.items() if support.verdict == "ok") or None


def _short(parameters: int | None) -> str | None:
    if parameters is None:
        return None
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A card's name, a folder with a model's files, or a hub id.")],
    as_json: Json = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the file, to start one of your own.")
    ] = False,
    profiles_dir: ProfilesDir = None,
) -> None:
    """Show what is known of a model and where it is from."""
    catalog = Catalog(profiles_dir, ask_hub=True)
    card = catalog.model(name)
    path = catalog.files("models").get(card.name) if card.origin == "card" else None
    if as_yaml:
        if path is None:
            raise BadInput(f"{name} has no card: it is read from its own files", hint="take --json")
        say(path.read_text(encoding="utf-8").rstrip())
    elif as_json:
        emit({"path": str(path) if path else None, **card.model_dump(mode="json")})
    else:
        _print(card, path)


def _print(card: ModelCard, path: Path | None) -> None:
    facts(
        [
            (card.name, card.title),
            ("kind", card.kind),
            (
                "hub id",
                f"{card.hub_id}{f' @ {card.revision}' if card.revision else ''}" if card.hub_id else None,
            ),
            ("package", card.packaged.package if card.packaged else None),
            ("sha256", tuple(f"{digest}  {file}" for file, digest in card.sha256.items())),
            ("API", f"{card.api.base_url} (key in {card.api.key_env})" if card.api else None),
            ("price", _price(card)),
            ("parameters", _parameters(card)),
            ("weights", card.weights_dtype),
            ("architecture", _architecture(card)),
            ("dimensions", card.dimensions),
            ("matryoshka", _matryoshka(card)),
            ("pooling", card.pooling or ("none shipped" if card.kind == "encoder" else None)),
            ("normalised", "yes" if card.normalize else "no"),
            ("query prompt", repr(card.prompts.query) if card.prompts.query else None),
            ("document prompt", repr(card.prompts.document) if card.prompts.document else None),
            ("default task", card.prompts.task),
            ("context", f"{card.max_tokens} tokens" if card.max_tokens else "unknown"),
            ("trained on up to", f"{card.trained_tokens} tokens" if card.trained_tokens else None),
            ("licence", f"{card.licence}{' (gated: its terms are accepted first)' if card.gated else ''}"),
            ("languages", card.languages),
            ("remote code", _remote_code(card)),
            *_engines(card),
            ("scores", ", ".join(f"{name} {score:g}" for name, score in card.scores.items())),
            ("notes", card.notes),
            ("sources", card.sources),
            ("file", path or card.origin),
        ]
    )


def _parameters(card: ModelCard) -> str | None:
    computed = computed_parameters(card)
    if card.parameters is None:
        return f"{computed:,} (computed from config.json)" if computed else None
    exact = " (the architecture adds up to exactly that)" if computed == card.parameters else ""
    return f"{card.parameters:,}{exact}"


def _architecture(card: ModelCard) -> str | None:
    a = card.architecture
    if a is None:
        return None
    return (
        f"{a.class_name}: {a.layers} layers, hidden {a.hidden}, intermediate {a.intermediate},"
        f" {a.heads} heads ({a.kv_heads} KV) of {a.head_dim}, vocabulary {a.vocab:,}"
    )


def _matryoshka(card: ModelCard) -> str | None:
    m = card.matryoshka
    if m is None:
        return None
    return ", ".join(map(str, m.sizes)) if m.sizes else f"any size from {m.minimum} to {m.maximum}"


def _price(card: ModelCard) -> str | None:
    if card.api is None or card.api.usd_per_million_tokens is None:
        return None
    return f"{card.api.usd_per_million_tokens:g} USD per 1M tokens; {card.api.price_source or 'no source'}"


def _remote_code(card: ModelCard) -> str:
    code = card.remote_code
    if not code.required:
        return f"not needed{f': {code.reason}' if code.reason else ''}"
    where = f" from {code.repository}" if code.repository else ""
    return f"REQUIRED{where}: {code.reason}"


def _engines(card: ModelCard) -> list[tuple[str, str]]:
    return [
        (f"on {name}", f"{support.verdict}{f': {support.reason}' if support.reason else ''}")
        for name, support in card.engines.items()
    ]


@app.command("validate")
def validate_models(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders; none: everything on the search path.")
    ] = None,
    as_json: Json = False,
    profiles_dir: ProfilesDir = None,
) -> int:
    """Report every problem of card files: file, line, field, and what was expected."""
    from deploytool.engines import ENGINES

    catalog = Catalog(profiles_dir)

    def read(path: Path) -> object:
        return catalog.read_model(path, [known_engines("engines", ENGINES)])

    return validate(catalog_files("models", profiles_dir, paths or ()), read, as_json)
