"""The way to a ranking: a search, then perhaps an index, a finer embedder, fusion, a reranker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploytool.evaluation.options import DEPTH, INDEX_DEPTH, EvalOptions, Progress
from deploytool.evaluation.record import Cost, IndexFigures, Metric, Stage
from deploytool.evaluation.reranking import Reranker
from deploytool.retrieval.datasets import Dataset
from deploytool.retrieval.fusion import fuse
from deploytool.retrieval.intervals import bootstrap, bootstrap_all
from deploytool.retrieval.lexical import rank_lexical, words_for
from deploytool.retrieval.metrics import score_all
from deploytool.retrieval.search import Ranking, rank, rescore

if TYPE_CHECKING:
    from deploytool.retrieval.search import Matrix


@dataclass(frozen=True)
class Task:
    """A data set in the order in which everything is computed."""

    dataset: Dataset
    query_ids: list[str] = field(repr=False)
    queries: list[str] = field(repr=False)
    document_ids: list[str] = field(repr=False)
    documents: list[str] = field(repr=False)

    @classmethod
    def of(cls, dataset: Dataset) -> Task:
        query_ids, document_ids = sorted(dataset.queries), sorted(dataset.documents)
        return cls(
            dataset,
            query_ids,
            [dataset.queries[name] for name in query_ids],
            document_ids,
            [dataset.documents[name] for name in document_ids],
        )

    @property
    def grades(self) -> list[Mapping[str, int]]:
        return [self.dataset.relevant[name] for name in self.query_ids]

    def values(self, ranking: Ranking) -> dict[str, list[float]]:
        """Every metric of every query."""
        return score_all((ranking.row(place) for place in range(len(ranking))), self.grades)


@dataclass(frozen=True)
class Vectors:
    """One system's vectors of the task, of length 1."""

    queries: Matrix
    documents: Matrix


def with_intervals(values: Mapping[str, Sequence[float]]) -> dict[str, Metric]:
    return {
        name: Metric(value=found.value, ci95=(found.low, found.high))
        for name, found in bootstrap_all(values).items()
    }


@dataclass
class Pipeline:
    """Collects stages; `ranking` is the one so far."""

    task: Task
    options: EvalOptions
    progress: Progress
    stages: list[Stage] = field(default_factory=list)
    ranking: Ranking | None = None
    values: dict[str, list[float]] = field(default_factory=dict)
    index: IndexFigures | None = None

    def add(self, name: str, system: str, ranking: Ranking, cost: Cost, *, ceiling: bool = False) -> None:
        self.ranking = ranking
        self.values = self.task.values(ranking)
        self.stages.append(
            Stage(
                name=name,
                system=system,
                metrics=with_intervals(self.values),
                cost=cost,
                found_at_candidates=self._ceiling(ranking) if ceiling else None,
            )
        )

    def _ceiling(self, ranking: Ranking) -> Metric:
        shares = [
            len(set(ranking.row(place, self.options.candidates)) & set(grades)) / len(grades)
            for place, grades in enumerate(self.task.grades)
        ]
        found = bootstrap(shares)
        return Metric(value=found.value, ci95=(found.low, found.high))

    def search(self, name: str, system: str, vectors: Vectors, cost: Cost, *, ceiling: bool) -> None:
        """Exact search over all documents."""
        ranking = rank(vectors.queries, vectors.documents, self.task.document_ids, DEPTH)
        self.add(name, system, ranking, cost, ceiling=ceiling)

    def lexical(self, method: str, *, ceiling: bool) -> None:
        ranking, cost = self.word_ranking(method)
        self.add("search", method, ranking, cost, ceiling=ceiling)

    def word_ranking(self, method: str) -> tuple[Ranking, Cost]:
        started = time.perf_counter()
        words = words_for(self.task.documents, self.options.language)
        self.progress.note(f"{method}: words cut as {words.language}")
        ranking = rank_lexical(method, self.task.queries, self.task.dataset.documents, words, DEPTH)
        return ranking, Cost(seconds=time.perf_counter() - started)

    def refine(self, system: str, vectors: Vectors, cost: Cost) -> None:
        """The candidates of the ranking so far, in the order of another embedder's cosines."""
        before = self._so_far()
        place = {name: index for index, name in enumerate(self.task.document_ids)}

        def score(query: int, names: list[str]) -> Sequence[float]:
            rows = vectors.documents[[place[name] for name in names]]
            cosines: list[float] = (rows @ vectors.queries[query]).tolist()
            return cosines

        ranking = rescore(before, self.options.candidates, score)
        self.add(f"best {self.options.candidates} again", system, ranking, cost)

    def approximate(self, system: str, vectors: Vectors) -> None:
        """The same vectors in a Milvus index, beside exact search."""
        from deploytool.retrieval.milvus import search

        wanted = self.options.index
        if wanted is None:
            return
        exact = self._so_far()
        self.progress.note(f"building a Milvus index ({wanted.kind})")
        found = search(
            vectors.queries, vectors.documents, self.task.document_ids, INDEX_DEPTH, wanted.kind, wanted.uri
        )
        shares = [
            len(set(exact.row(place, 10)) & set(found.ranking.row(place, 10)))
            / max(1, len(exact.row(place, 10)))
            for place in range(len(exact))
        ]
        self.index = IndexFigures(
            kind=wanted.kind,
            place=found.place,
            version=found.version,
            parameters=found.parameters,
            recall_at_10=sum(shares) / len(shares),
            build_seconds=found.build_seconds,
            query_ms_p50=found.query_ms_p50,
            query_ms_p95=found.query_ms_p95,
            bytes_on_disk=found.bytes_on_disk,
        )
        cost = Cost(seconds=found.build_seconds)
        self.add(f"index {wanted.kind}", system, found.ranking, cost)

    def fused(self, method: str) -> None:
        """Reciprocal rank fusion with a word-matching ranking."""
        words, cost = self.word_ranking(method)
        before = self._so_far()
        self.add("search", method, words, cost)
        both = fuse([before, words], DEPTH)
        self.add(
            "fused", f"{self.stages[-2].system} + {method}", both, Cost(), ceiling=bool(self.options.rerank)
        )

    def reranked(self, reranker: Reranker) -> None:
        """The candidates in the order of a reranker's scores."""
        ranking = self._so_far()
        scores = reranker.scores(self.task, ranking.top(self.options.candidates))
        again = rescore(ranking, self.options.candidates, lambda query, _: scores[query])
        self.add(f"best {self.options.candidates} reranked", reranker.system.target, again, reranker.cost)

    def _so_far(self) -> Ranking:
        if self.ranking is None:
            raise RuntimeError("a later stage without a first one")
        return self.ranking
