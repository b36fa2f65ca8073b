"""A code-search set made on the spot from Python's own standard library, with no download.

Made the way CodeSearchNet was (Husain et al. 2019, section 3): a query is the first sentence of a function's
docstring, its one relevant document the function without that docstring. Tests, dunder methods, short
functions and duplicates are left out. The set is the same for the same Python version.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from deploytool.retrieval.datasets import Dataset

SKIPPED_FOLDERS = {"test", "tests", "site-packages", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
MIN_QUERY_WORDS = 4
MIN_BODY_LINES = 3
MAX_LINES = 100


@functools.cache
def stdlib_code() -> Dataset:
    """Over 1,000 functions of this Python's standard library as queries and documents; read once."""
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    seen_queries: set[str] = set()
    seen_bodies: set[str] = set()
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if SKIPPED_FOLDERS & set(place.parts) or place.name.startswith("test"):
            continue
        for name, query, code in functions(path):
            if query.casefold() in seen_queries or code in seen_bodies:
                continue
            seen_queries.add(query.casefold())
            seen_bodies.add(code)
            key = f"{place.with_suffix('').as_posix()}:{name}"
            if key not in documents:
                queries[key] = query
                documents[key] = code
    version = ".".join(map(str, sys.version_info[:3]))
    return Dataset(
        name=f"stdlib-{version}",
        queries=queries,
        documents=documents,
        relevant={key: {key: 1} for key in queries},
    )


def stdlib_part(most: int) -> Dataset:
    """`most` of the functions, by the hash of their names: the same ones everywhere, from all over the library.

    A smaller set is an easier search, and its intervals are wider: its name says how many there are.
    """
    whole = stdlib_code()
    if most >= len(whole.queries):
        return whole
    kept = sorted(sorted(whole.queries, key=lambda name: hashlib.sha256(name.encode()).digest())[:most])
    return Dataset(
        name=f"{whole.name}:{most}",
        queries={name: whole.queries[name] for name in kept},
        documents={name: whole.documents[name] for name in kept},
        relevant={name: {name: 1} for name in kept},
    )


def functions(path: Path) -> Iterator[tuple[str, str, str]]:
    """(qualified name, first sentence of the docstring, source without it) of a file's functions."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return  # the standard library ships a few files that are bad on purpose
    lines = source.splitlines()
    for prefix, node in _walk(tree, ""):
        docstring = ast.get_docstring(node)
        if not docstring or (node.name.startswith("__") and node.name.endswith("__")):
            continue
        query = first_sentence(docstring)
        code = _without_docstring(node, lines)
        if len(query.split()) >= MIN_QUERY_WORDS and MIN_BODY_LINES <= code.count("\n") + 1 <= MAX_LINES:
            yield prefix + node.name, query, code


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix, child
        elif isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{prefix}{child.name}.")


def first_sentence(docstring: str) -> str:
    """The first paragraph up to its first full stop, on one line."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + stop.strip()


def _without_docstring(node: Function, lines: list[str]) -> str:
    first = node.body[0]
    kept = lines[node.lineno - 1 : first.lineno - 1] + lines[(first.end_lineno or 0) : node.end_lineno]
    return textwrap.dedent("\n".join(kept)).strip("\n")
