"""What an evaluation is asked to do, and its events for whoever watches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from deploytool.errors import BadInput
from deploytool.schema import Document

DEFAULT_TASK = "Given a search query, retrieve passages that answer it"
DEPTH = 1000  # documents ranked for each query: MAP is over these, as trec_eval's usual
INDEX_DEPTH = 100  # documents that an approximate index is asked for
HOSTED_MAX_USD = 1.0

IndexKind = Literal["FLAT", "IVF_FLAT", "HNSW"]
INDEX_KINDS: tuple[IndexKind, ...] = ("FLAT", "IVF_FLAT", "HNSW")


class IndexOptions(Document):
    """An approximate index beside exact search. `uri`: a Milvus server; None: Milvus Lite, embedded."""

    kind: IndexKind = "HNSW"
    uri: str | None = None


class EvalOptions(Document):
    """One evaluation. TARGETs are deployments, URLs, hosted cards, `bm25` or `tfidf`.

    Prompts: None takes the model card's. `dims`: sizes to cut the vectors to; empty: their full width.
    """

    target: str
    dataset: str
    split: str = "test"
    against: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    task: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    language: str | None = Field(default=None, description="of words, for bm25 and tfidf")
    model: str | None = Field(default=None, description="card of a URL")
    api_key_file: Path | None = None
    index: IndexOptions | None = None
    first: str | None = None
    rerank: str | None = None
    fuse: Literal["bm25", "tfidf"] | None = None
    candidates: int = Field(default=100, gt=0)
    batch: int = Field(default=32, gt=0)
    concurrency: int = Field(default=4, gt=0)
    timeout_s: float = Field(default=120.0, gt=0)
    max_usd: float | None = Field(default=None, gt=0)
    use_cache: bool = True
    profiles_dir: Path | None = None

    @property
    def staged(self) -> bool:
        return bool(self.first or self.rerank or self.fuse or self.index)

    def check(self) -> None:
        """BadInput for what cannot go together."""
        if any(size < 1 for size in self.dims) or len(set(self.dims)) != len(self.dims):
            raise BadInput(
                f"--dims {self.dims} are no different sizes", hint="for example --dims 1024,512,256"
            )
        if len(self.dims) > 1 and self.staged:
            raise BadInput(
                "several --dims go with one stage of exact search alone",
                hint="give one size with --index, --first, --rerank or --fuse",
            )
        if self.fuse is not None and self.fuse in (self.target, self.first):
            raise BadInput(f"{self.fuse} cannot be fused with itself", hint="leave --fuse out")


class Progress(Protocol):
    """Who watches an evaluation."""

    def note(self, line: str) -> None: ...

    def step(self, what: str, done: int, total: int) -> None: ...


class Silent:
    """Nobody watches."""

    def note(self, line: str) -> None:
        pass

    def step(self, what: str, done: int, total: int) -> None:
        pass
