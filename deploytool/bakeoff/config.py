"""The file of a bake-off: which systems, on which data sets, under which load. All its problems at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from deploytool import documents
from deploytool.bakeoff import rules
from deploytool.bakeoff.rules import KINDS, Kind
from deploytool.benchmark import LoadOptions
from deploytool.capacity import CapacityOptions
from deploytool.catalog import Catalog
from deploytool.hardware import Scalar
from deploytool.retrieval.sets import is_folder
from deploytool.schema import Document


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

    found = documents.load(path, Bakeoff, plain=[lambda data: rules.faults(data, catalog, folder)])
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
    return str(rules.from_folder(folder, name)) if is_folder(name) else name


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
