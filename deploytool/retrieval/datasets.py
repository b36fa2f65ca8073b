"""Retrieval data sets: a folder in BEIR's layout, read whole and checked whole.

BEIR's layout: `corpus.jsonl` and `queries.jsonl` with `_id`, `text` (a document may have a `title`), and
`qrels/SPLIT.tsv` with the columns query-id, corpus-id, score under one heading line.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploytool.errors import BadInput, InvalidFile, Problem, UnknownName

MAX_PROBLEMS = 50


@dataclass(frozen=True)
class Dataset:
    """Queries and documents by id, and for each query the grades (> 0) of its relevant documents.

    `unjudged` counts the queries without a relevant document: they cannot be scored and are left out.
    """

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    relevant: dict[str, dict[str, int]]
    language: dict[str, str] = field(default_factory=dict)
    unjudged: int = 0

    def fingerprint(self) -> str:
        """Hash of everything that a score depends on: equal fingerprints are the same task."""
        digest = hashlib.sha256()
        for part in (self.queries, self.documents, self.relevant):
            digest.update(json.dumps(part, sort_keys=True, ensure_ascii=False).encode())
        return digest.hexdigest()[:16]


def read_beir(folder: Path, split: str = "test") -> Dataset:
    """Read a BEIR folder. InvalidFile names every problem, BadInput an empty set, UnknownName a split."""
    problems: list[Problem] = []
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (folder / name).is_file():
            problems.append(Problem(folder / name, None, "", "there is no such file"))
    if problems:
        raise InvalidFile(
            problems, hint="a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv"
        )
    documents, _ = _texts(folder / "corpus.jsonl", problems)
    queries, languages = _texts(folder / "queries.jsonl", problems)
    if not problems and not (documents and queries):
        raise _empty(folder, "queries" if documents else "documents")
    relevant = _qrels(folder / "qrels" / f"{split}.tsv", queries, documents, problems)
    if problems:
        raise InvalidFile(problems[:MAX_PROBLEMS], hint=_more(problems))
    judged = {key: text for key, text in queries.items() if key in relevant}
    if not judged:
        raise _empty(folder, "queries with a relevant document")
    return Dataset(
        name=folder.name,
        queries=judged,
        documents=documents,
        relevant=relevant,
        language={key: value for key, value in languages.items() if key in judged},
        unjudged=len(queries) - len(judged),
    )


def _empty(folder: Path, what: str) -> BadInput:
    return BadInput(f"{folder} has no {what}", hint="nothing can be measured on an empty set")


def _more(problems: list[Problem]) -> str | None:
    hidden = len(problems) - MAX_PROBLEMS
    return f"and {hidden} more problems; mend these first" if hidden > 0 else None


def _lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    """Numbered non-blank lines; one that is not UTF-8 is a problem and is passed over."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                problems.append(Problem(path, number, "", "the file is UTF-16: save it as UTF-8"))
                return
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                problems.append(Problem(path, number, "", f"not UTF-8 at byte {error.start} of the line"))
                continue
            if line.strip():
                yield number, line


def _texts(path: Path, problems: list[Problem]) -> tuple[dict[str, str], dict[str, str]]:
    texts: dict[str, str] = {}
    languages: dict[str, str] = {}
    for number, line in _lines(path, problems):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(Problem(path, number, "", f"not JSON: {error.msg} at column {error.colno}"))
            continue
        key = row.get("_id") if isinstance(row, dict) else None
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(key, str) or not isinstance(text, str):
            problems.append(Problem(path, number, "_id, text", 'expected {"_id": "...", "text": "..."}'))
        elif not _encodes(key + text):
            problems.append(
                Problem(path, number, "text", "half a surrogate pair: a cut or mixed-up encoding")
            )
        elif key in texts:
            problems.append(Problem(path, number, "_id", f"{key!r} stands in the file twice"))
        else:
            title = row.get("title")
            titled = isinstance(title, str) and title and _encodes(title)
            texts[key] = f"{title} {text}".strip() if titled else text
            language = row.get("language", row.get("lang"))
            if isinstance(language, str):
                languages[key] = language
    return texts, languages


def _qrels(
    path: Path, queries: dict[str, str], documents: dict[str, str], problems: list[Problem]
) -> dict[str, dict[str, int]]:
    if not path.is_file():
        splits = [found.stem for found in path.parent.glob("*.tsv")]
        raise UnknownName("split", path.stem, splits)
    # Ids of lines that could not be read would all be missed here.
    complete = not problems
    relevant: dict[str, dict[str, int]] = {}
    for number, line in _lines(path, problems):
        cells = line.split("\t")
        if number == 1 and len(cells) == 3 and not _is_integer(cells[2]):
            continue
        if len(cells) != 3 or not _is_integer(cells[2]):
            problems.append(Problem(path, number, "", "expected query-id<TAB>corpus-id<TAB>integer score"))
            continue
        query, document, grade = cells[0], cells[1], int(cells[2])
        if not complete:
            continue
        if query not in queries:
            problems.append(Problem(path, number, "query-id", f"{query!r} is not in queries.jsonl"))
        elif document not in documents:
            problems.append(Problem(path, number, "corpus-id", f"{document!r} is not in corpus.jsonl"))
        elif grade > 0:
            relevant.setdefault(query, {})[document] = grade
    return relevant


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_integer(text: str) -> bool:
    return text.strip().removeprefix("-").isdigit()
