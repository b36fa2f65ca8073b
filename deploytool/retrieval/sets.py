"""Data sets by the name that a person gives: a BEIR folder, `stdlib`, `stdlib:N`, or `mteb:NAME`."""

from __future__ import annotations

from pathlib import Path

from deploytool.errors import BadInput
from deploytool.retrieval.datasets import Dataset, read_beir

STDLIB = "stdlib"
MTEB = "mteb:"


def is_folder(name: str) -> bool:
    """Whether the name is a folder's, and not one of a set that is made or fetched."""
    return name != STDLIB and not name.startswith((f"{STDLIB}:", MTEB))


def open_dataset(name: str, split: str = "test") -> Dataset:
    """InvalidFile with every problem, BadInput, UnknownName of a split, NotAvailable."""
    if name == STDLIB:
        from deploytool.retrieval.stdlib_code import stdlib_code

        return stdlib_code()
    if name.startswith(f"{STDLIB}:"):
        return _stdlib_part(name.removeprefix(f"{STDLIB}:"))
    if name.startswith(MTEB):
        from deploytool.retrieval.mteb_sets import mteb_dataset

        return mteb_dataset(name.removeprefix(MTEB), split)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise BadInput(
            f"there is no data set {name}: no such folder",
            hint="give a folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), `stdlib`, "
            "stdlib:N, or mteb:NAME",
        )
    return read_beir(folder.resolve(), split)


def _stdlib_part(number: str) -> Dataset:
    from deploytool.retrieval.stdlib_code import stdlib_part

    if not number.isdecimal() or not int(number):
        raise BadInput(f"stdlib:{number} is no part of stdlib", hint="say how many functions: stdlib:1000")
    return stdlib_part(int(number))
