"""Model cards: what a model is, what it needs, and which engine computes its vectors correctly.

Cards are YAML files (`profiles/models/`). A model without one is read from its own `config.json` and Sentence
Transformers files; nothing of a model is ever executed to learn about it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deploytool.hardware import Dtype
from deploytool.schema import Document

Pooling = Literal["last", "mean", "cls", "max"]
Verdict = Literal["ok", "wrong-vectors", "unsupported"]


class Architecture(Document):
    """The figures that memory estimates need, as named in the model's config.json."""

    class_name: str = Field(description="config.json's architectures[0], e.g. Qwen3ForCausalLM")
    model_type: str = Field(description="config.json's model_type, e.g. qwen3, bert, xlm-roberta")
    hidden: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab: int = Field(gt=0)
    max_positions: int | None = Field(default=None, gt=0)
    tied_embeddings: bool = True
    swiglu: bool = Field(default=False, description="gated MLP: three matrices instead of two")


class Matryoshka(Document):
    """Sizes an embedding may be cut to: an explicit list, or every size of a range."""

    sizes: tuple[int, ...] = ()
    minimum: int | None = Field(default=None, gt=0)
    maximum: int | None = Field(default=None, gt=0)

    def allows(self, dimensions: int) -> bool:
        if self.sizes:
            return dimensions in self.sizes
        return (
            self.minimum is not None
            and self.maximum is not None
            and (self.minimum <= dimensions <= self.maximum)
        )


class Prompts(Document):
    """Text put before a query or a document; `{task}` stands for the retrieval instruction."""

    query: str = ""
    document: str = ""
    task: str | None = Field(default=None, description="what {task} is where the user says nothing")


class EngineSupport(Document):
    verdict: Verdict
    reason: str = ""


class PackagedWeights(Document):
    """A Python package that carries the model: no hub is asked."""

    package: str
    module: str
    folder: str


class RemoteCode(Document):
    """Whether the model needs code of its repository to be executed."""

    required: bool
    repository: str | None = None
    reason: str = ""


class HostedApi(Document):
    """A hosted API that serves this model; the key comes from `key_env` or a file."""

    provider: Literal["openai", "voyage"]
    base_url: str
    key_env: str
    usd_per_million_tokens: float | None = None
    price_source: str | None = None
    max_texts_per_request: int | None = None
    max_tokens_per_request: int | None = None


class ModelCard(Document):
    """One model. `dimensions` is the full width of a vector, `max_tokens` what the model reads of a text."""

    name: str
    title: str
    kind: Literal["embedding", "reranker", "encoder", "api"]
    hub_id: str | None = None
    revision: str | None = None
    packaged: PackagedWeights | None = None
    sha256: dict[str, str] = Field(default_factory=dict, description="file below the model folder -> digest")
    api: HostedApi | None = None
    parameters: int | None = Field(default=None, gt=0)
    weights_dtype: Dtype | None = Field(default=None, description="dtype of the published files")
    architecture: Architecture | None = None
    dimensions: int | None = Field(default=None, gt=0)
    matryoshka: Matryoshka | None = None
    pooling: Pooling | None = None
    normalize: bool = True
    prompts: Prompts = Prompts()
    max_tokens: int | None = Field(default=None, gt=0)
    licence: str
    gated: bool = False
    remote_code: RemoteCode = RemoteCode(required=False)
    engines: dict[str, EngineSupport] = Field(default_factory=dict)
    defaults: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="launch settings that this model wants (model-card layer)"
    )
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    origin: str = Field(default="card", description="card | folder PATH | hub ID: where this was read from")
