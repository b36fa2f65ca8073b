"""One evaluation, from TARGET and data set to its record: systems, stages, comparisons."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploytool import paths
from deploytool.catalog import Catalog
from deploytool.errors import BadInput, missing_extra
from deploytool.evaluation.assembling import cuts, differences, record_of
from deploytool.evaluation.measuring import Measured, Surroundings, measure_vectors
from deploytool.evaluation.options import EvalOptions, Progress, Silent
from deploytool.evaluation.pipeline import Pipeline, Task
from deploytool.evaluation.record import Comparison, EvalRecord
from deploytool.evaluation.reranking import Reranker
from deploytool.evaluation.retrying import Retries
from deploytool.evaluation.systems import Lexical, Served, System, find_system
from deploytool.retrieval import milvus
from deploytool.retrieval.cache import EmbeddingCache
from deploytool.retrieval.lexical import PACKAGES
from deploytool.retrieval.sets import open_dataset
from deploytool.store import Store

FOLDER = "evaluations"


def evaluate(
    options: EvalOptions,
    store: Store,
    progress: Progress | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> EvalRecord:
    """Measure TARGET on a data set, and each of `against` on the same queries. The record is also saved.

    Raises BadInput, InvalidFile, UnknownName, NotAvailable, Unhealthy (EndpointError), OverBudget. Vectors
    that were computed until then are kept: the same command goes on.
    """
    options.check()
    _check_packages(options)
    started = time.perf_counter()
    evaluation = Evaluation(options, store, progress or Silent(), environ)
    systems = {target: evaluation.system(target) for target in evaluation.targets()}
    with evaluation.told_when_interrupted(), evaluation.opened() as around:
        record = evaluation.measure(systems[options.target], around, systems)
        for target in options.against:
            evaluation.progress.note(f"against {target}:")
            other = evaluation.measure(systems[target], around, systems)
            record.findings += [f"{target}: {finding}" for finding in other.findings]
            changes = differences(record.per_query, other.per_query)
            record.against.append(Comparison(target=target, metrics=other.metrics, differences=changes))
    record.seconds = time.perf_counter() - started
    _save(record)
    return record


class Evaluation:
    """One command's set, systems and watcher."""

    def __init__(
        self, options: EvalOptions, store: Store, progress: Progress, environ: Mapping[str, str]
    ) -> None:
        self.options = options
        self.store = store
        self.progress = progress
        self.environ = environ
        self.catalog = Catalog(options.profiles_dir)
        self.task = Task.of(open_dataset(options.dataset, options.split))

    def targets(self) -> list[str]:
        named = (self.options.target, self.options.first, self.options.rerank, *self.options.against)
        return list(dict.fromkeys(target for target in named if target))

    def system(self, target: str) -> System:
        """What TARGET names. A model and a key file on the command line are for the evaluated one."""
        own = target == self.options.target
        return find_system(
            target,
            self.store,
            self.catalog,
            model=self.options.model if own else None,
            api_key_file=self.options.api_key_file if own else None,
            environ=self.environ,
        )

    @contextmanager
    def told_when_interrupted(self) -> Iterator[None]:
        """Says what is kept; what is on the way is waited for."""
        try:
            yield
        except KeyboardInterrupt:
            if self.options.use_cache:
                self.progress.note("interrupted; what was embedded is kept: the same command goes on")
            raise

    @contextmanager
    def opened(self) -> Iterator[Surroundings]:
        dataset = self.task.dataset
        self.progress.note(
            f"{dataset.name}: {len(dataset.queries)} queries, {len(dataset.documents)} documents"
        )
        if dataset.unjudged:
            self.progress.note(f"{dataset.unjudged} queries without a relevant document are left out")
        with ExitStack() as stack:
            cache = None
            if self.options.use_cache:
                cache = stack.enter_context(EmbeddingCache(paths.cache_dir()))
            if cache is not None and cache.note:
                self.progress.note(cache.note)
            yield Surroundings(self.task, cache, self.progress, stack)

    def measure(self, system: System, around: Surroundings, systems: Mapping[str, System]) -> EvalRecord:
        """One system through its stages; those of the options are TARGET's alone."""
        started = time.perf_counter()
        own = system.target == self.options.target
        options = self.options if own else self.options.model_copy(update=_ALONE)
        pipeline = Pipeline(self.task, options, self.progress)
        ceiling = options.rerank is not None and options.fuse is None
        measured: Measured | None = None
        doubts: list[str] = []
        if options.first is not None:
            doubts = self._coarse(systems[options.first], around, pipeline)
        if isinstance(system, Lexical):
            _refuse_vectors(system, options)
            pipeline.lexical(system.target, ceiling=ceiling)
        else:
            measured = measure_vectors(system, options, around, own=own)
            if options.first is not None:
                pipeline.refine(system.target, measured.vectors, measured.cost)
            else:
                pipeline.search("search", system.target, measured.vectors, measured.cost, ceiling=ceiling)
                pipeline.approximate(system.target, measured.vectors)
        if options.fuse is not None:
            pipeline.fused(options.fuse)
        if options.rerank is not None:
            self._rerank(systems[options.rerank], around, pipeline)
        record = record_of(system, options, pipeline, measured, time.perf_counter() - started)
        record.findings += doubts
        if measured is not None and len(options.dims) > 1:
            cuts(record, self.task, measured, options.dims)
        return record

    def _coarse(self, system: System, around: Surroundings, pipeline: Pipeline) -> list[str]:
        """The first stage of two; returns what was found wrong with its system."""
        if isinstance(system, Lexical):
            pipeline.lexical(system.target, ceiling=True)
            return []
        measured = measure_vectors(system, pipeline.options, around, own=False)
        pipeline.search("search", system.target, measured.vectors, measured.cost, ceiling=True)
        return [f"{system.target}: {finding}" for finding in measured.findings]

    def _rerank(self, system: System, around: Surroundings, pipeline: Pipeline) -> None:
        if not isinstance(system, Served):
            raise BadInput(f"{system.target} is no reranker", hint="give a served one, or use --fuse")
        client = around.client(system, self.options.timeout_s)
        retries = Retries(watch=self.progress.note)
        pipeline.reranked(
            Reranker(system, client, around.cache, self.progress, self.options.concurrency, retries)
        )


def _check_packages(options: EvalOptions) -> None:
    """NotAvailable, before anything is embedded, where a package that is needed in the end is missing."""
    if importlib.util.find_spec("numpy") is None:
        raise missing_extra("numpy", "eval", "eval")
    if options.index is not None:
        milvus.check_installed(options.index.uri)
    named = {options.target, options.first, options.fuse, *options.against}
    for method, (package, module) in PACKAGES.items():
        if method in named and importlib.util.find_spec(module) is None:
            raise missing_extra(package, "eval", method)


_ALONE = {"first": None, "rerank": None, "fuse": None, "index": None, "dims": ()}


def _refuse_vectors(system: Lexical, options: EvalOptions) -> None:
    if options.first or options.index or options.dims:
        raise BadInput(
            f"{system.target} has no vectors: --first, --index and --dims are for embedders",
            hint=f"use {system.target} as --first, --fuse or --against of one",
        )


def _save(record: EvalRecord) -> Path:
    """The whole record, values of every query included, in one atomic write."""
    folder = paths.data_dir() / FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"{record.id}.json"
    part = path.with_suffix(".part")
    part.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    part.replace(path)
    return path
