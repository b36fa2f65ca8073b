"""YAML to documents: every problem at once, each with its line, its field, and what was expected."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from pydantic import Field

from deploytool.documents import Fault, load
from deploytool.errors import InvalidFile
from deploytool.schema import Document


class Inner(Document):
    size: int = Field(gt=0)
    unit: str = "MiB"


class Outer(Document):
    name: str
    version: str | None = None
    inner: Inner | None = None
    by_name: dict[str, Inner] = Field(default_factory=dict)
    words: tuple[str, ...] = ()
    day: date | None = None


def problems(folder: Path, text: str | bytes) -> list[tuple[int | None, str, str]]:
    """(line, field, message) of every problem of a text, read as an Outer with a rule."""
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidFile) as caught:
        load(path, Outer, [no_long_words])
    assert all(problem.file == path for problem in caught.value.problems)
    return [(problem.line, problem.field, problem.message) for problem in caught.value.problems]


def no_long_words(document: Outer) -> Iterator[Fault]:
    for index, word in enumerate(document.words):
        if len(word) > 5:
            yield Fault(("words", index), f"expected a short word, got {word}")
    if document.inner is not None and document.inner.size > 100:
        yield Fault(("inner", "size"), "expected at most 100")


def test_a_right_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("name: a\nversion: '7.5'\ninner: {size: 3}\nwords: [x, 好]\nday: 2026-08-17\n", "utf-8")
    assert load(path, Outer, [no_long_words]) == Outer(
        name="a", version="7.5", inner=Inner(size=3), words=("x", "好"), day=date(2026, 8, 17)
    )


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(b"\xef\xbb\xbfname: a\n")
    assert load(tmp_path / "file.yaml", Outer).name == "a"


def test_all_problems_come_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = """\
version: 7.5
inner:
  size: many
  unti: GB
words:
  - short
  - far too long
wrods: [a]
day: soon
"""
    assert problems(tmp_path, text) == [
        (1, "name", "this field is required"),
        (1, "version", 'expected text, got 7.5 (write "7.5" in quotes)'),
        (3, "inner.size", "expected a whole number, got 'many'"),
        (4, "inner.unti", "unknown field; did you mean unit?"),
        (7, "words[1]", "expected a short word, got far too long"),
        (8, "wrods", "unknown field; did you mean words?"),
        (9, "day", "expected a date (YYYY-MM-DD), got 'soon'"),
    ]


def test_rules_do_not_complain_about_what_could_not_be_read(tmp_path: Path) -> None:
    text = "name: a\ninner: {size: 500, unit: [1]}\nwords: [far too long]\n"
    assert [field for _, field, _ in problems(tmp_path, text)] == ["inner.unit", "words[0]"]


def test_fields_below_a_name_of_the_users_are_known_too(tmp_path: Path) -> None:
    found = problems(tmp_path, "name: a\nby_name:\n  first: {size: 0}\n  second: {sise: 1}\n")
    assert found == [
        (3, "by_name.first.size", "expected a number greater than 0, got 0"),
        (4, "by_name.second.size", "this field is required"),
        (4, "by_name.second.sise", "unknown field; did you mean size?"),
    ]


def test_a_field_unlike_any_other_lists_the_known_ones(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: a\ninner: {size: 1, q: 1}\n") == [
        (2, "inner.q", "unknown field; known here: size, unit")
    ]


def test_a_duplicate_key_names_both_lines(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: a\ninner:\n  size: 1\n  size: 2\nname: b\n") == [
        (4, "inner.size", "given twice; first in line 3"),
        (5, "name", "given twice; first in line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("name: a\nwords: [x\nday: 1\n", 3, "not valid YAML"),
        ("name: 'a\n", 2, "not valid YAML"),
        ("name: a\n\tversion: b\n", 2, "not valid YAML"),
        ("name: *nowhere\n", 1, "undefined alias"),
        ("name: a\n---\nname: b\n", 2, "another document"),
        (b"name: a\nversion: \xff\n", 2, "expected UTF-8 text, got the byte 0xff"),
        (b"name: \x07\n", None, "expected YAML"),
        ("", None, "the file is empty"),
        ("# nothing but a comment\n", None, "the file is empty"),
        ("- a\n- b\n", 1, "expected fields (`name: value`), got a list"),
        ("just text\n", 1, "expected fields (`name: value`), got 'just text'"),
        ("null\n", 1, "expected fields (`name: value`), got nothing"),
    ],
)
def test_text_that_is_no_document(tmp_path: Path, text: str | bytes, line: int | None, message: str) -> None:
    [(found_line, field, found)] = problems(tmp_path, text)
    assert (found_line, field) == (line, "")
    assert message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nday: 2026-13-45\n", "expected a plain value"),
        ("name: a\nversion: !!bool perhaps\n", "expected a plain value"),
        ("name: a\nversion: !!python/name:os.system x\n", "expected a plain value"),
        ("name: a\ninner: !!python/object/apply:os.system {size: 1}\n", "expected plain fields or a list"),
        ("name: a\n7: b\n", "expected a field name"),
        ("name: a\n[x]: b\n", "expected a field name"),
        ("name: a\nby_name: &b {x: *b}\n", "refers to itself"),
    ],
)
def test_values_that_are_no_plain_data_are_named_once(tmp_path: Path, text: str, message: str) -> None:
    told = [found for line, _, found in problems(tmp_path, text) if message in found and line == 2]
    assert len(told) == 1


def test_aliases_of_aliases_do_not_grow_without_end(tmp_path: Path) -> None:
    lines = ["name: a", "words:", "  - &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  - &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    found = problems(tmp_path, "\n".join(lines))
    assert any("far too large" in message for _, _, message in found)


def test_anchors_are_plain_yaml(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("name: a\ninner: &i {size: 4}\nby_name: {x: *i}\n")
    assert load(path, Outer).by_name == {"x": Inner(size=4)}


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        load(tmp_path / "none.yaml", Outer)
    assert "No such file" in caught.value.problems[0].message
    with pytest.raises(InvalidFile) as caught:
        load(tmp_path, Outer)
    assert "Is a directory" in caught.value.problems[0].message
