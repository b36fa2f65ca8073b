"""What a load sends, and how its samples become figures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from deploytool.errors import BadInput, InvalidFile
from deploytool.loadgen import corpus, lengths, work
from deploytool.loadgen.measured import COARSE_NOTE, cell_of, phase_of, read_samples
from deploytool.loadgen.plan import CellPlan, Outcome
from deploytool.records import PhaseMemory


def take(texts: Iterator[str], count: int) -> list[str]:
    return list(itertools.islice(texts, count))


def test_built_in_texts_repeat_by_seed_and_cover_scripts() -> None:
    first, again, other = (take(corpus.built_in(seed), 400) for seed in (1, 1, 2))
    assert first == again != other
    whole = "".join(first)
    for sample in ("the ", "ß", "é", "ñ", "н", "的", "は", "ال", "क", "SELECT", "def "):
        assert sample in whole, sample
    assert all(text.strip() for text in first)
    assert len(set(first)) > 350


def test_a_text_file_gives_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one\n\n  two  \n", encoding="utf-8")
    assert corpus.from_file(path) == ["one", "two"]


def test_json_lines_give_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('"plain"\n{"text": "a"}\n{"title": "T", "text": "b"}\n\n{"contents": "c"}\n')
    assert corpus.from_file(path) == ["plain", "a", "T b", "c"]


def test_a_beir_folder_gives_the_texts_of_its_corpus(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "A", "text": "b"}\n', encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "c"}\n', encoding="utf-8")
    assert corpus.from_file(tmp_path) == ["A b"]


def test_every_bad_line_of_a_corpus_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "fine"}\n{broken\n{"id": 3}\n[1]\n')
    with pytest.raises(InvalidFile) as caught:
        corpus.from_file(path)
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_corpus_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        corpus.from_file(path)


def test_a_missing_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the corpus"):
        corpus.from_file(tmp_path / "nothing.txt")


@pytest.mark.parametrize(
    "spec",
    ["fixed", "fixed:0", "fixed:x", "uniform:9-3", "uniform:5", "lognormal:4", "lognormal:-1,1", "zipf:2",
     "histogram:/no/such/file", "", "fixed:99999999"],
)  # fmt: skip
def test_a_wrong_distribution_is_refused_with_the_forms(spec: str) -> None:
    with pytest.raises(BadInput) as caught:
        lengths.parse(spec)
    assert caught.value.hint is not None
    assert "uniform:A-B" in caught.value.hint


def test_a_histogram_is_drawn_from(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("# tokens count\n16 3\n64,1\n")
    drawn = lengths.parse(f"histogram:{path}")
    counts = [drawn.draw(Random(seed)) for seed in range(400)]  # noqa: S311
    assert set(counts) == {16, 64}
    assert counts.count(16) > counts.count(64)
    assert drawn.mean == 28
    path.write_text("16 3\nten 4\n")
    with pytest.raises(BadInput, match=":2: expected"):
        lengths.parse(f"histogram:{path}")


@pytest.mark.parametrize(("spec", "low", "high"), [("uniform:8-100", 8, 100), ("fixed:600", 600, 600)])
def test_texts_have_the_tokens_asked_for_by_the_models_tokenizer(
    minilm_folder: Path, spec: str, low: int, high: int
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = minilm_folder / "tokenizer.json"
    made = work.prepare(file=None, text_tokens=spec, tokenizer=path, encoding="float", seed=3, batches=[1])
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = [len(tokenizer.encode(text).ids) for text in made.texts[:200]]
    assert low <= min(counts) and max(counts) <= high
    assert made.unit == "counted by the model's tokenizer.json"


def test_without_a_tokenizer_lengths_are_estimated_and_said_so() -> None:
    short, long = (
        work.prepare(file=None, text_tokens=spec, tokenizer=None, encoding="float", seed=3, batches=[1])
        for spec in ("fixed:16", "fixed:200")
    )
    assert short.unit == long.unit == lengths.ESTIMATED
    assert sum(map(len, long.texts[:100])) > 5 * sum(map(len, short.texts[:100]))


def test_a_corpus_without_tokens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\u200b\n\u2060\n", encoding="utf-8")
    found = prepared(file=path).texts
    assert len(found) == 2
    chance = Random(1)  # noqa: S311
    made = lengths.fitted(itertools.cycle([""]), lengths.parse("fixed:9"), lengths.WordCounter(), chance)
    with pytest.raises(BadInput, match="no tokens"):
        next(made)


def prepared(**changes: object) -> work.Work:
    values: dict[str, object] = {
        "file": None, "text_tokens": None, "tokenizer": None, "encoding": "float", "seed": 1,
        "batches": [1, 8],
    }  # fmt: skip
    return work.prepare(**{**values, **changes})  # type: ignore[arg-type]


def test_the_manifest_names_the_work(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one\ntwo\n")
    names = {
        prepared().manifest,
        prepared(seed=2).manifest,
        prepared(encoding="base64").manifest,
        prepared(batches=[1]).manifest,
        prepared(text_tokens="fixed:9").manifest,
        prepared(file=path).manifest,
    }
    assert len(names) == 6
    assert prepared().manifest == prepared(batches=[8, 1]).manifest in names


def test_bodies_are_serialised_requests(tmp_path: Path) -> None:
    made = prepared(encoding="base64")
    made.write_bodies(tmp_path / "bodies", 8, "some-model")
    lines = (tmp_path / "bodies").read_bytes().splitlines()
    assert len(lines) == work.MOST_BODIES
    requests = [json.loads(line) for line in lines]
    assert {request["model"] for request in requests} == {"some-model"}
    assert {request["encoding_format"] for request in requests} == {"base64"}
    assert {len(request["input"]) for request in requests} == {8}
    assert [text for request in requests[:100] for text in request["input"]] == list(made.texts[:800])


def test_a_small_corpus_is_reused_in_new_orders(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(f"text {number}" for number in range(10)))
    batches = list(prepared(file=path).batches(5))
    assert len(batches) == work.LEAST_BODIES
    assert len({tuple(batch) for batch in batches}) > 20


PLAN = CellPlan(2, 1, "http://127.0.0.1:1", "/v1/embeddings", 0.0, 1.0, 1.0, Path("bodies"), Path("cell"))
NO_MEMORY = PhaseMemory(phase="load b2 c1", vram_reason="no card")
HEADER = "start_ns,latency_ns,status,error,tokens,response_bytes,service_ns\n"


def test_half_a_line_at_the_end_of_samples_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(HEADER + "10,5000000,200,,14,99,\n20,6000000,0,reset,,0,\n30,70000")
    found = read_samples([path])
    assert (found.start_ns, found.error, found.tokens) == ([10, 20], ["", "reset"], [14, -1])
    assert len(read_samples([tmp_path / "none.csv"])) == 0


def test_only_requests_that_start_in_the_window_count(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    rows = [
        "99000000,1000000,200,,14,50,",
        "100000000,2000000,200,,14,52,",
        "150000000,9000000,429,429,,9,",
        "199000000,4000000,200,,14,54,",
        "200000000,8000000,200,,14,50,",
    ]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    outcome = Outcome("done", None, (100_000_000, 200_000_000))
    cell = cell_of(PLAN, outcome, read_samples([path]), NO_MEMORY)
    assert (cell.requests, cell.errors, cell.state) == (2, {"429": 1}, "done")
    assert (cell.latency_ms.p50, cell.latency_ms.max) == (2.0, 4.0)
    assert cell.qps == pytest.approx(1.25 / 0.1)  # the last one counts with the quarter that lies in it
    assert cell.texts_per_s == pytest.approx(2 * cell.qps)
    assert cell.tokens_per_s == pytest.approx(14 * cell.qps)
    assert cell.response_bytes == 52
    phases = [row["phase"] for row in read_samples([path]).rows(PLAN, outcome.window)]
    assert phases == ["warmup", "measure", "measure", "measure", "after"]
    assert phase_of(5, None) == "warmup"


def test_a_cell_without_success_has_no_latency_and_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(HEADER + "100,2000000,500,5xx,,9,\n101,2000000,0,timeout,,0,\n102,2000000,500,5xx,,9,\n")
    cell = cell_of(PLAN, Outcome("done", None, (100, 200)), read_samples([path]), NO_MEMORY)
    assert cell.state == "failed"
    assert cell.reason == "no request succeeded (5xx 2, timeout 1)"
    assert set(cell.latency_ms.model_dump().values()) == {None}
    assert cell.tokens_per_s is None
    assert (cell.vram_peak_mib, cell.vram_reason) == (None, "no card")


def test_tokens_are_unknown_without_usage(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(HEADER + "100,2000000,200,,,9,\n")
    cell = cell_of(PLAN, Outcome("done", None, (100, 200)), read_samples([path]), NO_MEMORY)
    assert cell.tokens_per_s is None
    assert any("no usage" in note for note in cell.notes)


def test_few_requests_count_by_their_share_of_the_window(tmp_path: Path) -> None:
    """Four clients in step, 40 ns an answer: 10 answers in 100 ns, where 8 or 12 requests start."""
    plan = replace(PLAN, concurrency=4)
    path = tmp_path / "samples.csv"
    lines = [f"{start},40,200,,14,50," for start in range(10, 400, 40) for _ in range(4)]
    path.write_text(HEADER + "\n".join(lines) + "\n")
    for window in ((100, 200), (120, 220), (135, 235)):
        cell = cell_of(plan, Outcome("done", None, window), read_samples([path]), NO_MEMORY)
        assert cell.requests in (8, 12)
        assert cell.qps * 100e-9 == pytest.approx(10)
        assert COARSE_NOTE in cell.notes
