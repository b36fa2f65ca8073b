"""Where the texts of a load come from: a file of the user's, or built-in ones made from a seed.

The built-in texts are sentences and code in many scripts, because token counts and so the work differ by
script. The same seed gives the same texts on every machine.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploytool.errors import BadInput, InvalidFile, Problem
from deploytool.loadgen.phrases import CODE, LANGUAGES, NAMES

BUILT_IN = "built in"
MOST_TEXTS = 200_000
SENTENCES = (1, 1, 1, 2, 2, 3, 4)  # sentences in one text, each as likely as another
CODE_SHARE = 0.2
BEIR_FILE = "corpus.jsonl"
TEXT_FIELDS = ("text", "contents", "content", "input", "sentence", "body")


def built_in(seed: int) -> Iterator[str]:
    """Texts without end. Most are short, as queries are; some are paragraphs; a fifth is code."""
    chance = random.Random(f"texts {seed}")  # noqa: S311 - reproducible on purpose
    languages = list(LANGUAGES)
    while True:
        if chance.random() < CODE_SHARE:
            yield _code(chance)
            continue
        language = chance.choice(languages)
        gap = "" if language in ("zh", "ja") else " "
        yield gap.join(_sentence(chance, language) for _ in range(chance.choice(SENTENCES)))


def _sentence(chance: random.Random, language: str) -> str:
    words = LANGUAGES[language]
    text = chance.choice(words.patterns).format(
        a=chance.choice(words.a),
        b=chance.choice(words.b),
        c=chance.choice(words.c),
        n=chance.randrange(2, 1000),
    )
    return text[:1].upper() + text[1:]


def _code(chance: random.Random) -> str:
    x, y = chance.sample(NAMES, 2)
    snippet = chance.choice(CODE)
    return snippet.format(x=x, y=y, X=x.title(), Y=y.title(), n=chance.randrange(2, 1000))


def from_file(path: Path) -> list[str]:
    """The texts of a .txt (one a line) or .jsonl file (strings, or objects with a text field).

    Of a folder as BEIR lays it out: its `corpus.jsonl`. Raises InvalidFile with every bad line, BadInput
    where there is nothing to send.
    """
    if path.is_dir():
        path = path / BEIR_FILE
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(itertools.islice(file, MOST_TEXTS))
    except OSError as error:
        raise BadInput(
            f"cannot read the corpus {path}: {error.strerror}",
            hint="give --corpus a .txt or .jsonl file, or a BEIR folder",
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text ({error})", hint="convert it to UTF-8") from error
    if path.suffix in (".jsonl", ".ndjson"):
        texts = _json_texts(path, lines)
    else:
        texts = [line.strip() for line in lines]
    found = [text for text in texts if text]
    if not found:
        raise BadInput(f"{path} holds no text", hint="one text a line, or JSON lines with a field 'text'")
    return found


def _json_texts(path: Path, lines: list[str]) -> list[str]:
    texts: list[str] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            texts.append(_text_of(json.loads(line)))
        except ValueError as error:
            problems.append(Problem(path, number, "", str(error)))
    if problems:
        shown = problems[:20]
        hint = None if len(shown) == len(problems) else f"and {len(problems) - len(shown)} more lines"
        raise InvalidFile(shown, hint=hint)
    return texts


def _text_of(row: Any) -> str:
    """A row's text; a title is put before it, as retrieval corpora have it."""
    if isinstance(row, str):
        return row.strip()
    if not isinstance(row, dict):
        raise ValueError(f"expected a string or an object, not {type(row).__name__}")
    for field in TEXT_FIELDS:
        if isinstance(row.get(field), str):
            title = row.get("title")
            return f"{title} {row[field]}".strip() if isinstance(title, str) else row[field].strip()
    raise ValueError(f"no text field: expected one of {', '.join(TEXT_FIELDS)}")
