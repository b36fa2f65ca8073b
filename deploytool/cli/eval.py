"""`eval`: retrieval quality of an endpoint, a hosted API or a word-matching baseline."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli.output import emit, note
from deploytool.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from deploytool.evaluation import EvalOptions, IndexOptions
    from deploytool.store import Store


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            help="A deployment, any base URL, a hosted API's card (voyage-code-3), bm25 or tfidf."
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="D",
            help="A folder in BEIR's layout, stdlib (made from Python's own), stdlib:N, or mteb:NAME.",
        ),
    ],
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Of the set's qrels.")] = "test",
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="TARGET", help="Compare on the same queries. Repeatable."),
    ] = None,
    dims: Annotated[
        str | None,
        typer.Option("--dims", metavar="N,...", help="Cut vectors to these sizes; the first counts."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TEXT", help="What {task} of the model's prompt is.")
    ] = None,
    query_prompt: Annotated[
        str | None,
        typer.Option("--query-prompt", metavar="TEXT", help="Before queries. [default: the card's]"),
    ] = None,
    document_prompt: Annotated[
        str | None,
        typer.Option("--document-prompt", metavar="TEXT", help="Before documents. [default: the card's]"),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="milvus[:KIND[@URI]]",
            help="Also search an index: milvus:HNSW, milvus:IVF_FLAT, milvus:FLAT.",
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--first", metavar="TARGET", help="Finds the candidates that TARGET puts in order."),
    ] = None,
    rerank: Annotated[
        str | None, typer.Option("--rerank", metavar="TARGET", help="A served reranker for the candidates.")
    ] = None,
    fuse: Annotated[
        str | None,
        typer.Option("--fuse", metavar="bm25|tfidf", help="Fuse with a word-matching ranking (RRF)."),
    ] = None,
    candidates: Annotated[
        int, typer.Option("--candidates", metavar="N", min=1, help="Documents that a second stage orders.")
    ] = 100,
    language: Annotated[
        str | None,
        typer.Option(
            "--language", metavar="NAME", help="Of the words, for bm25 and tfidf. [default: by script]"
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Texts in one request.")] = 32,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, max=64, help="Requests in flight.")
    ] = 4,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="For each request.")
    ] = 120.0,
    max_usd: Annotated[
        float | None,
        typer.Option("--max-usd", metavar="USD", help="Spend no more on a hosted API. [default: 1]"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="CARD", help="The model card of a URL: prompts, length.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="The file that holds TARGET's API key."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor keep embeddings on disk.")
    ] = False,
    profiles_dir: Annotated[
        Path | None, typer.Option("--profiles-dir", metavar="DIR", help="Look for model cards here first.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Measure retrieval quality on a data set, with intervals.

    Embeddings are kept: a second run is instant, a killed one goes on. Recall@k, HitRate@k, MRR@10, nDCG@10
    and MAP with 95 % bootstrap intervals; --against tests a difference on the same queries.
    """
    from deploytool.evaluation import EvalOptions

    options = EvalOptions(
        target=target,
        dataset=dataset,
        split=split,
        against=tuple(against or ()),
        dims=_sizes(dims),
        task=task,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        language=language,
        model=model,
        api_key_file=api_key_file,
        index=_index(index),
        first=first,
        rerank=rerank,
        fuse=_fuse(fuse),
        candidates=candidates,
        batch=batch,
        concurrency=concurrency,
        timeout_s=timeout,
        max_usd=_positive(max_usd),
        use_cache=not no_cache,
        profiles_dir=profiles_dir,
    )
    return _measured(options, as_json)


def _measured(options: EvalOptions, as_json: bool) -> int:
    from deploytool.cli import eval_view
    from deploytool.evaluation import evaluate as run
    from deploytool.store import Store

    with Store() as store:
        _refresh(store, [options.target, options.first, options.rerank, *options.against])
        with eval_view.watching() as progress:
            record = run(options, store, progress)
    if as_json:
        emit(record.public())
    else:
        eval_view.show(record)
    for finding in record.findings:
        note(f"warning: {finding}")
    return 0


def _refresh(store: Store, targets: list[str | None]) -> None:
    """The true state of the deployments among the targets."""
    from deploytool.deployment import refresh_one

    for name in {target for target in targets if target}:
        if any(deployment.name == name for deployment in store.deployments()):
            with suppress(UnknownName):
                refresh_one(name, store)


def _sizes(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise BadInput(
            f"--dims {text!r} is no list of whole numbers", hint="for example --dims 1024,512,256"
        ) from error


def _index(text: str | None) -> IndexOptions | None:
    """`milvus`, `milvus:HNSW`, `milvus:IVF_FLAT@http://host:19530`."""
    from deploytool.evaluation.options import INDEX_KINDS, IndexOptions

    if text is None:
        return None
    system, _, rest = text.partition(":")
    kind, _, uri = rest.partition("@")
    kind = kind.upper() or "HNSW"
    for known in INDEX_KINDS:
        if system.lower() == "milvus" and kind == known:
            return IndexOptions(kind=known, uri=uri or None)
    raise BadInput(
        f"--index {text!r} is no index",
        hint=f"give milvus:{'|'.join(INDEX_KINDS)}, and @URI for a Milvus server",
    )


def _fuse(text: str | None) -> str | None:
    if text not in (None, "bm25", "tfidf"):
        raise BadInput(f"--fuse {text!r} is no word-matching baseline", hint="give bm25 or tfidf")
    return text


def _positive(usd: float | None) -> float | None:
    if usd is not None and not usd > 0:
        raise BadInput(f"--max-usd {usd:g} leaves nothing to spend", hint="give more than 0")
    return usd
