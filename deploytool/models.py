"""Model cards: what a model is, what it needs, and which engine computes its vectors correctly.

Cards are YAML files (`profiles/models/`). A model without one is read from its own `config.json` and Sentence
Transformers files; nothing of a model is ever executed to learn about it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deploytool.hardware import Dtype
from deploytool.schema import Document

Pooling = Literal["last", "mean", "cls", "max", "weighted-mean", "mean-sqrt-len"]
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
    token_types: int | None = Field(default=None, ge=0, description="config.json's type_vocab_size")
    tied_embeddings: bool = True
    swiglu: bool = Field(default=False, description="gated MLP: three matrices instead of two")

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes of keys and values that one token leaves in a cache, over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * bytes_per_value


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
    model: str | None = Field(default=None, description="what the API calls it, where not by the card's name")
    usd_per_million_tokens: float | None = None
    price_source: str | None = None
    max_texts_per_request: int | None = None
    max_tokens_per_request: int | None = None


class ModelCard(Document):
    """One model. `dimensions` is the full width of a vector, `max_tokens` what the model reads of a text."""

    name: str
    title: str
    kind: Literal["embedding", "reranker", "encoder", "api"]
    hub_id: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = None
    packaged: PackagedWeights | None = None
    sha256: dict[str, str] = Field(default_factory=dict, description="file below the model folder -> digest")
    api: HostedApi | None = None
    parameters: int | None = Field(default=None, gt=0)
    weights_dtype: Dtype | None = Field(default=None, description="dtype of the published files")
    quantization: str | None = Field(
        default=None, description="quant_method of the published files (config.json); None: not quantised"
    )
    architecture: Architecture | None = None
    dimensions: int | None = Field(default=None, gt=0)
    matryoshka: Matryoshka | None = None
    pooling: Pooling | None = None
    normalize: bool = True
    prompts: Prompts = Prompts()
    max_tokens: int | None = Field(default=None, gt=0)
    trained_tokens: int | None = Field(
        default=None, gt=0, description="longest text in training, where that is below max_tokens"
    )
    licence: str
    languages: str | None = Field(default=None, description="as the model's own card says it; None: unknown")
    gated: bool = False
    remote_code: RemoteCode = RemoteCode(required=False)
    engines: dict[str, EngineSupport] = Field(default_factory=dict)
    defaults: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="launch settings that this model wants (model-card layer)"
    )
    scores: dict[str, float] = Field(
        default_factory=dict, description="published benchmark scores, as the sources name them"
    )
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    folder: str | None = Field(
        default=None, description="the model's files, where they lie in a local folder"
    )
    gguf: str | None = Field(default=None, description="a GGUF file of the model: then llama.cpp serves it")
    origin: str = Field(default="card", description="card | folder PATH | hub ID: where this was read from")


DECODERS = ("qwen2", "qwen3", "llama", "mistral")
BERTS = {"bert": 2, "roberta": 1, "xlm-roberta": 1}  # with the rows of the token-type table


def parameter_count(architecture: Architecture, *, head: bool = False) -> int | None:
    """Parameters of a known architecture, exactly; None for one that is not known.

    Counts what the published files of an embedding model hold: a decoder without its language-model head
    (`head` adds it where it is not tied to the embeddings), a BERT with its pooler, a nomic-bert without one.
    Sources: the module definitions of these model types in the transformers library; equal to the published
    counts of every card that names one exactly (by test).
    """
    a = architecture
    attention = a.hidden * a.head_dim * 2 * (a.heads + a.kv_heads)
    if a.model_type in DECODERS:
        biases = a.head_dim * (a.heads + 2 * a.kv_heads) if a.model_type == "qwen2" else 0
        norms = 2 * a.head_dim if a.model_type == "qwen3" else 0
        layer = attention + biases + norms + 3 * a.hidden * a.intermediate + 2 * a.hidden
        tables = a.vocab * a.hidden * (2 if head and not a.tied_embeddings else 1)
        return tables + a.layers * layer + a.hidden
    if a.model_type in BERTS and a.max_positions is not None:
        types = a.token_types if a.token_types is not None else BERTS[a.model_type]
        mlp = 2 * a.hidden * a.intermediate + a.intermediate + a.hidden
        layer = attention + 4 * a.hidden + mlp + 4 * a.hidden
        pooler = a.hidden * a.hidden + a.hidden
        return (a.vocab + a.max_positions + types + 2) * a.hidden + a.layers * layer + pooler
    if a.model_type == "nomic_bert":
        types = a.token_types if a.token_types is not None else 2
        layer = attention + 3 * a.hidden * a.intermediate + 4 * a.hidden
        return (a.vocab + types + 2) * a.hidden + a.layers * layer
    return None


def linear_parameters(architecture: Architecture) -> int | None:
    """Parameters in the matrices of a decoder's layers: what quantisation packs, tables and norms are not."""
    a = architecture
    if a.model_type not in DECODERS:
        return None
    return a.layers * (a.hidden * a.head_dim * 2 * (a.heads + a.kv_heads) + 3 * a.hidden * a.intermediate)


def computed_parameters(card: ModelCard) -> int | None:
    """The count that the card's architecture adds up to; None where its code is not a known one."""
    if card.architecture is None or (card.remote_code is not None and card.remote_code.required):
        return None
    return parameter_count(card.architecture, head=card.kind == "reranker")
