"""The file of a bake-off: which systems, on which data sets, under which load. All its problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from deploytool import documents
from deploytool.benchmark import LoadOptions
from deploytool.capacity import CapacityOptions
from deploytool.catalog import Catalog
from deploytool.documents import Fault
from deploytool.errors import BadInput, InvalidFile, NotAvailable
from deploytool.hardware import Scalar
from deploytool.retrieval.sets import is_folder
from deploytool.schema import Document
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


class System(Document):
    """One row of the table: exactly one of KINDS says what it is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    model: str | None = Field(default=None, description="brought up: a card's name, a folder, a hub id")
    deployment: str | None = Field(default=None, description="one that runs already")
    url: str | None = Field(default=None, description="any OpenAI-compatible base URL")
    hosted: str | None = Field(default=None, description="a hosted API, by its card's name")
    baseline: Literal["bm25", "tfidf"] | None = None
    profile: str | None = None
    engine: str = "auto"
    settings: dict[str, Scalar] = Field(default_factory=dict, description="as `up --set`")
    wait_s: float | None = Field(default=None, gt=0)
    card: str | None = Field(default=None, description="the model card of a URL: prompts, length")
    api_key_file: Path | None = None
    dims: int | None = Field(default=None, gt=0, description="size to cut the vectors to")
    task: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    language: str | None = Field(default=None, description="of the words of a baseline")
    load: bool = True

    @property
    def kind(self) -> Kind:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def subject(self) -> str:
        """What it is, as the file says it."""
        return str(getattr(self, self.kind))


class DatasetChoice(Document):
    """A data set as `eval --dataset` takes it, and the split of its qrels."""

    name: str
    split: str = "test"


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Evaluating(Document):
    """How texts are sent; `dims`: smaller sizes to see quality by."""

    dims: tuple[int, ...] = ()
    batch: int = Field(default=32, gt=0)
    concurrency: int = Field(default=4, gt=0, le=64)
    timeout_s: float = Field(default=120.0, gt=0)
    max_usd: float | None = Field(default=None, gt=0)


class Bakeoff(Document):
    """The whole file."""

    datasets: tuple[Annotated[DatasetChoice, BeforeValidator(_named)], ...] = Field(min_length=1)
    systems: tuple[System, ...] = Field(min_length=1)
    load: LoadOptions = LoadOptions(
        batch=(1, 16), concurrency=(1, 4), duration_s=5, warmup_s=1, min_samples=400
    )
    capacity: CapacityOptions | None = None
    evaluation: Evaluating = Evaluating()
    weights: dict[str, float] = Field(default_factory=dict)


def example() -> str:
    """The commented file that `--init` writes."""
    return resources.files("deploytool.bakeoff").joinpath("example.yaml").read_text(encoding="utf-8")


def read(path: Path, catalog: Catalog) -> Bakeoff:
    """The file, its paths taken from its own folder. InvalidFile with every problem."""
    folder = path.expanduser().absolute().parent

    def names(data: Mapping[str, Any]) -> Iterator[Fault]:
        yield from _system_faults(data, catalog)
        yield from _dataset_faults(data, folder)
        yield from _figure_faults(data)

    found = documents.load(path, Bakeoff, plain=[names])
    return found.model_copy(
        update={
            "datasets": tuple(
                one.model_copy(update={"name": _from(folder, one.name)}) for one in found.datasets
            ),
            "systems": tuple(_with_paths(one, folder) for one in found.systems),
            "load": _with_corpus(found.load, folder),
        }
    )


def _from(folder: Path, name: str) -> str:
    """A data set's folder from the file's own; the names of sets stay."""
    return str(folder / Path(name).expanduser()) if is_folder(name) else name


def _with_paths(system: System, folder: Path) -> System:
    key = system.api_key_file
    model = system.model
    update: dict[str, Any] = {"api_key_file": folder / key.expanduser()} if key else {}
    if model is not None and model.startswith((".", "~")):
        update["model"] = str(folder / Path(model).expanduser())
    return system.model_copy(update=update)


def _with_corpus(load: LoadOptions, folder: Path) -> LoadOptions:
    if load.corpus is None:
        return load
    return load.model_copy(update={"corpus": folder / load.corpus.expanduser()})


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
            where = Path(_from(folder, name))
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
