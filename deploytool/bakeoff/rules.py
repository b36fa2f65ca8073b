"""What fields cannot say alone: rules of a bake-off's file over its plain data, heard all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from deploytool.catalog import Catalog
from deploytool.documents import Fault
from deploytool.errors import BadInput, InvalidFile, NotAvailable
from deploytool.retrieval.sets import is_folder
from deploytool.thresholds import parse_slo
from deploytool.weighing import weight_problems
from deploytool.wire.addresses import BaseUrl

Kind = Literal["model", "deployment", "url", "hosted", "baseline"]
KINDS: tuple[Kind, ...] = ("model", "deployment", "url", "hosted", "baseline")
# Fields of one kind of system -> the kinds that they mean something for.
FIELDS_OF: Mapping[str, tuple[Kind, ...]] = {
    "profile": ("model",),
    "engine": ("model",),
    "settings": ("model",),
    "wait_s": ("model",),
    "card": ("url",),
    "api_key_file": ("url", "hosted", "deployment"),
    "dims": ("model", "deployment", "url", "hosted"),
    "task": ("model", "deployment", "url", "hosted"),
    "query_prompt": ("model", "deployment", "url", "hosted"),
    "document_prompt": ("model", "deployment", "url", "hosted"),
    "load": ("model", "deployment", "url"),
    "language": ("baseline",),
}


def faults(data: Mapping[str, Any], catalog: Catalog, folder: Path) -> Iterator[Fault]:
    """All of them. `folder`: the file's own, which relative paths are taken from."""
    yield from _system_faults(data, catalog)
    yield from _dataset_faults(data, folder)
    yield from _figure_faults(data)


def from_folder(folder: Path, name: str) -> Path:
    return folder / Path(name).expanduser()


def _system_faults(data: Mapping[str, Any], catalog: Catalog) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for place, system in _items(data, "systems"):
        if not isinstance(system, Mapping):
            continue
        name = system.get("name")
        if isinstance(name, str) and name in seen:
            yield Fault((*place, "name"), f"{name!r} names the system {seen[name] + 1} already")
        elif isinstance(name, str):
            seen[name] = int(place[-1])
        kinds = [kind for kind in KINDS if system.get(kind) is not None]
        if len(kinds) != 1:
            got = " and ".join(kinds) or "none"
            yield Fault(place, f"expected exactly one of {', '.join(KINDS)}; got {got}")
            continue
        yield from _kind_faults(place, system, kinds[0], catalog)


def _kind_faults(
    place: tuple[str | int, ...], system: Mapping[str, Any], kind: Kind, catalog: Catalog
) -> Iterator[Fault]:
    for field, kinds in FIELDS_OF.items():
        if field in system and kind not in kinds:
            yield Fault((*place, field), f"means nothing for a {kind}; only for {' or '.join(kinds)}")
    if kind == "model" and "profile" not in system:
        yield Fault((*place, "profile"), "is required with model (cpu, for this machine's processors)")
    if kind in ("model", "hosted") and isinstance(system[kind], str):
        yield from _card_faults((*place, kind), system[kind], kind, catalog)
    if isinstance(system.get("profile"), str) and kind == "model":
        try:
            catalog.hardware(system["profile"])
        except BadInput as error:
            yield Fault((*place, "profile"), _told(error))
    if kind == "url" and isinstance(system["url"], str):
        try:
            BaseUrl.parse(system["url"])
        except BadInput as error:
            yield Fault((*place, "url"), error.message)


def _card_faults(place: tuple[str | int, ...], name: str, kind: Kind, catalog: Catalog) -> Iterator[Fault]:
    try:
        card = catalog.model(name)
    except NotAvailable:
        return  # a model whose files are not here is skipped, with the reason, when its turn comes
    except InvalidFile as error:
        yield Fault(place, str(error.problems[0]))
        return
    except BadInput as error:
        yield Fault(place, _told(error))
        return
    if kind == "hosted" and card.api is None:
        yield Fault(place, f"{name} is no hosted API: give it as model, with a profile")
    elif kind == "model" and card.api is not None:
        yield Fault(place, f"{name} is a hosted API: give it as hosted")
    elif card.kind == "reranker":
        yield Fault(place, f"{name} is a reranker: it has no vectors to compare")


def _dataset_faults(data: Mapping[str, Any], folder: Path) -> Iterator[Fault]:
    for place, given in _items(data, "datasets"):
        field = (*place, "name") if isinstance(given, Mapping) else place
        name = given.get("name") if isinstance(given, Mapping) else given
        if isinstance(name, str) and is_folder(name):
            where = from_folder(folder, name)
            if not where.is_dir():
                yield Fault(field, f"there is no folder {where}; or give stdlib, stdlib:N, or mteb:NAME")


def _figure_faults(data: Mapping[str, Any]) -> Iterator[Fault]:
    capacity = data.get("capacity")
    slo = capacity.get("slo") if isinstance(capacity, Mapping) else None
    if isinstance(slo, str):
        try:
            parse_slo(slo, option="slo")
        except BadInput as error:
            yield Fault(("capacity", "slo"), f"{error.message} ({error.hint})")
    load = data.get("load")
    for field in ("rate", "scenario", "profile"):
        if isinstance(load, Mapping) and field in load:
            yield Fault(("load", field), "the table is of a closed loop: give batch and concurrency")
    weights = data.get("weights")
    if isinstance(weights, Mapping):
        for name, problem in weight_problems(weights):
            yield Fault(("weights", name) if name else ("weights",), problem)
    evaluation = data.get("evaluation")
    dims = evaluation.get("dims") if isinstance(evaluation, Mapping) else None
    sizes = dims if isinstance(dims, list) else []
    for index, size in enumerate(sizes):
        if isinstance(size, int) and (size < 1 or sizes.index(size) != index):
            yield Fault(("evaluation", "dims", index), f"expected different sizes above 0, got {size}")


def _items(data: Mapping[str, Any], field: str) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    given = data.get(field)
    for index, value in enumerate(given if isinstance(given, list) else []):
        yield (field, index), value


def _told(error: BadInput) -> str:
    return error.message + (f"; {error.hint}" if error.hint else "")
