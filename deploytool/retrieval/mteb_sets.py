"""Retrieval tasks of MTEB (https://github.com/embeddings-benchmark/mteb) as data sets, through its package.

The package downloads a task's data from the Hugging Face hub on first use. Only the data come from it: texts
are embedded and scored as any other set's, so that figures carry intervals and no prompt is added unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploytool.errors import BadInput, NotAvailable, UnknownName, missing_extra
from deploytool.retrieval.datasets import Dataset


def mteb_dataset(name: str, split: str) -> Dataset:
    """The task's data. NAME may end in :SUBSET for a task of several. UnknownName, BadInput, NotAvailable."""
    try:
        import mteb
    except ImportError as error:
        raise missing_extra("mteb", "mteb", f"mteb:{name}") from error
    title, _, subset = name.partition(":")
    try:
        task = mteb.get_task(title)
    except KeyError as error:
        known = [found.metadata.name for found in mteb.get_tasks(task_types=["Retrieval"])]
        raise UnknownName("MTEB task", title, known) from error
    try:
        task.load_data()
    except Exception as error:
        raise NotAvailable(
            f"the data of {title} cannot be loaded: {type(error).__name__}: {str(error)[:300]}",
            hint="they are downloaded from the Hugging Face hub: is it reachable (HF_HUB_OFFLINE unset)?",
        ) from error
    return task_dataset(task, title, subset, split)


def task_dataset(task: Any, title: str, subset: str, split: str) -> Dataset:
    """A loaded task's split as a Dataset."""
    found: Mapping[str, Any] = getattr(task, "dataset", None) or {}
    if "Retrieval" not in str(task.metadata.type):
        raise BadInput(
            f"{title} is a task of the kind {task.metadata.type}, not of retrieval",
            hint="eval measures retrieval; `mteb` itself measures other kinds",
        )
    subset = subset or ("default" if "default" in found else next(iter(found), ""))
    if subset not in found:
        raise UnknownName(f"subset of {title}", subset, found)
    if split not in found[subset]:
        raise UnknownName(f"split of {title}", split, found[subset])
    data = found[subset][split]
    documents = {str(row["id"]): _text(row) for row in data["corpus"]}
    queries = {str(row["id"]): str(row["text"]) for row in data["queries"]}
    relevant = relevant_of(data["relevant_docs"], queries, documents)
    if not documents or not relevant:
        raise BadInput(f"{title} has no {'documents' if not documents else 'judged queries'} in {split}")
    return Dataset(
        name=f"mteb:{title}" + (f":{subset}" if subset != "default" else ""),
        queries={key: text for key, text in queries.items() if key in relevant},
        documents=documents,
        relevant=relevant,
        unjudged=len(queries) - len(relevant),
    )


def relevant_of(
    judged: Mapping[str, Mapping[str, int]], queries: Iterable[str], documents: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """Grades above 0 of known queries and documents."""
    relevant = {}
    for query in queries:
        grades = {
            str(document): int(grade)
            for document, grade in judged.get(query, {}).items()
            if grade > 0 and str(document) in documents
        }
        if grades:
            relevant[query] = grades
    return relevant


def _text(row: Mapping[str, Any]) -> str:
    title = row.get("title")
    return f"{title} {row['text']}".strip() if title else str(row["text"])
