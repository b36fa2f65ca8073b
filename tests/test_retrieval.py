"""Data sets, search, metrics, intervals, word matching and the cache, each by itself."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG
from small_sets import NOTES, write_beir

from deploytool.errors import BadInput, InvalidFile, UnknownName
from deploytool.retrieval.cache import EmbeddingCache, Kept, Space, pack, unpack
from deploytool.retrieval.datasets import read_beir
from deploytool.retrieval.fusion import fuse
from deploytool.retrieval.intervals import bootstrap, bootstrap_all, paired
from deploytool.retrieval.lexical import guess_language, rank_lexical, words_for
from deploytool.retrieval.metrics import METRICS, score
from deploytool.retrieval.search import Ranking, from_lists, rank, rescore
from deploytool.retrieval.sets import open_dataset
from deploytool.retrieval.stdlib_code import stdlib_code
from deploytool.retrieval.vectors import cut, normalised, similarity

ROUND = 1e-9
MEASURES = {
    "recall@1": R @ 1, "recall@5": R @ 5, "recall@10": R @ 10,
    "hit_rate@1": Success @ 1, "hit_rate@5": Success @ 5, "hit_rate@10": Success @ 10,
    "mrr@10": RR @ 10, "ndcg@10": nDCG @ 10, "map": AP,
}  # fmt: skip


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, int]]:
    """Scores of documents, with many ties, and grades of some of them and of some that were not found."""
    names = [f"d{number:02}" for number in range(draw(st.integers(1, 30)))]
    scores = {name: draw(st.integers(0, 6)) / 2 for name in names}
    judged = draw(st.lists(st.sampled_from([*names, "missing1", "missing2"]), min_size=1, unique=True))
    return scores, {name: draw(st.integers(1, 3)) for name in judged}


@settings(max_examples=100, deadline=None)
@given(runs())
def test_metrics_equal_ir_measures(drawn: tuple[dict[str, float], dict[str, int]]) -> None:
    scores, grades = drawn
    ranking = from_lists([scores], scores, 1000).row(0)
    # trec_eval breaks ties its own way: the ranks of our tie rule are given to it as scores without ties.
    run = {"q": {name: float(len(ranking) - place) for place, name in enumerate(ranking)}}
    expected = ir_measures.calc_aggregate(MEASURES.values(), {"q": grades}, run)
    ours = score(ranking, grades)
    assert set(ours) == set(METRICS) == set(MEASURES)
    for name, measure in MEASURES.items():
        assert ours[name] == pytest.approx(expected[measure], abs=ROUND), name


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 50), st.randoms(use_true_random=False))
def test_exact_search_is_the_sorted_list_with_ties_by_id(m: int, n: int, k: int, random) -> None:  # type: ignore[no-untyped-def]
    documents = np.array([[random.randint(-2, 2) for _ in range(3)] for _ in range(m)], dtype=np.float32)
    queries = np.array([[random.randint(-2, 2) for _ in range(3)] for _ in range(n)], dtype=np.float32)
    ids = [f"d{number}" for number in range(m)]
    random.shuffle(ids)
    found = rank(queries, documents, ids, k)
    for place in range(n):
        scores = documents @ queries[place]
        expected = sorted(range(m), key=lambda row: (-scores[row], ids[row]))[:k]
        assert found.row(place) == [ids[row] for row in expected]


def test_search_in_blocks_is_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    queries, documents = generator.normal(size=(20, 4)), generator.normal(size=(30, 4))
    ids = [f"{number}" for number in range(30)]
    whole = rank(queries.astype(np.float32), documents.astype(np.float32), ids, 5)
    monkeypatch.setattr("deploytool.retrieval.search.BLOCK_SCORES", 60)
    parts = rank(queries.astype(np.float32), documents.astype(np.float32), ids, 5)
    assert np.array_equal(whole.order, parts.order)


def lists(*rows: str) -> Ranking:
    return from_lists([{name: float(-place) for place, name in enumerate(row)} for row in rows], "abcdef", 6)


def test_fusion_sums_reciprocal_ranks() -> None:
    fused = fuse([lists("abc"), lists("cad")], 6)
    expected = {"a": 1 / 61 + 1 / 62, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 63}
    assert fused.row(0) == ["a", "c", "b", "d"]
    assert fused.scores[0][:4].tolist() == pytest.approx([expected[name] for name in "acbd"])


def test_rescoring_moves_only_the_candidates() -> None:
    again = rescore(lists("abcdef"), 3, lambda *_: [1.0, 2.0, 2.0])
    assert again.row(0) == ["b", "c", "a", "d", "e", "f"]


def test_vectors_are_renormalised_after_the_cut() -> None:
    matrix = normalised(np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]], dtype=np.float32))
    assert np.linalg.norm(matrix, axis=1).tolist() == pytest.approx([1.0, 0.0])
    assert cut(matrix, 2).tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]


def test_similarity_equals_the_mean_over_all_pairs() -> None:
    generator = np.random.default_rng(2)
    queries = normalised(generator.normal(size=(7, 5)).astype(np.float32))
    documents = normalised(generator.normal(size=(9, 5)).astype(np.float32))
    relevant = {"q1": {"d3": 1}, "q4": {"d0": 2, "d8": 1}}
    names = [f"q{number}" for number in range(7)], [f"d{number}" for number in range(9)]
    found = similarity(queries, documents, *names, relevant)
    every = (queries @ documents.T).ravel()
    assert found.all_pairs == pytest.approx(every.mean(), abs=1e-6)
    assert found.all_pairs_sd == pytest.approx(every.std(), abs=1e-6)
    positives = [queries[1] @ documents[3], queries[4] @ documents[0], queries[4] @ documents[8]]
    assert found.positives == pytest.approx(np.mean(positives), abs=1e-6)


def test_a_bootstrap_interval_is_that_of_the_binomial() -> None:
    found = bootstrap([1.0] * 140 + [0.0] * 60)
    half = 1.96 * (0.7 * 0.3 / 200) ** 0.5
    assert found.value == pytest.approx(0.7) and found.n == 200
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    both = bootstrap_all({"a": [1.0, 0.0], "b": [0.5, 0.5]})
    assert both["b"].low == both["b"].high == 0.5
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_a_real_difference_is_told_from_chance() -> None:
    generator = np.random.default_rng(3)
    base = generator.random(300)
    better = paired((base + 0.1 + generator.normal(0, 0.1, 300)).tolist(), base.tolist())
    assert better.real and better.interval.low > 0
    alike = paired((base + generator.normal(0, 0.1, 300)).tolist(), base.tolist())
    assert not alike.real and alike.interval.low < 0 < alike.interval.high
    assert paired([1.0, 0.0], [1.0, 0.0]).p_value == 1.0


@pytest.mark.parametrize("method", ["bm25", "tfidf"])
def test_word_matching_finds_the_notes(method: str) -> None:
    documents = {name: note for name, (note, _) in NOTES.items()}
    words = words_for(list(documents.values()))
    assert words.language == "english"
    found = rank_lexical(method, [question for _, question in NOTES.values()], documents, words, 10)
    assert [found.row(place, 1) for place in range(len(found))] == [[name] for name in NOTES]
    assert found.row(0) == found.row(0, 12) and len(found.row(0)) < 12  # what shares no word is not found


def test_chinese_is_cut_into_words() -> None:
    documents = {"tea": "龙井茶产于杭州西湖一带。", "train": "高速铁路连接北京与上海。"}
    assert guess_language(list(documents.values())) == "chinese"
    words = words_for(list(documents.values()))
    found = rank_lexical("bm25", ["西湖的茶产于哪里？", "北京的铁路"], documents, words, 2)
    assert [found.row(place, 1) for place in range(2)] == [["tea"], ["train"]]


def test_words_in_other_languages_and_in_none() -> None:
    assert words_for(["x"], "german").analyze("Häuser Haus") == ["haus", "haus"]
    assert words_for(["x"], "none").analyze("Houses House") == ["houses", "house"]
    with pytest.raises(UnknownName, match="germna"):
        words_for(["x"], "germna")
    with pytest.raises(BadInput, match="no document has a word"):
        rank_lexical("bm25", ["a"], {"d": "?"}, words_for(["?"]), 1)


def test_a_beir_folder_is_read(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "notes", languages=True)
    with (folder / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "q-nobody", "text": "Who?"}) + "\n")
    found = read_beir(folder)
    assert (len(found.queries), len(found.documents), found.unjudged) == (12, 12, 1)
    assert set(found.language.values()) == {"en", "xx"}
    assert found.fingerprint() == read_beir(folder).fingerprint()


PLANTED: dict[str, tuple[str, str | bytes, str]] = {
    "a qrels line of two cells": ("qrels/test.tsv", "q-kiln\td-kiln\n", "expected query-id"),
    "a grade that is no number": ("qrels/test.tsv", "q-kiln\td-kiln\tgood\n", "expected query-id"),
    "a query that is not there": ("qrels/test.tsv", "q-x\td-kiln\t1\n", "'q-x' is not in queries.jsonl"),
    "a document that is not there": ("qrels/test.tsv", "q-kiln\td-x\t1\n", "'d-x' is not in corpus.jsonl"),
    "a document twice": ("corpus.jsonl", '{"_id": "d-kiln", "text": "again"}\n', "stands in the file twice"),
    "a query twice": ("queries.jsonl", '{"_id": "q-kiln", "text": "again"}\n', "stands in the file twice"),
    "no JSON": ("corpus.jsonl", "{oops\n", "not JSON"),
    "a number as id": ("corpus.jsonl", '{"_id": 7, "text": "x"}\n', 'expected {"_id"'),
    "a document without text": ("corpus.jsonl", '{"_id": "n"}\n', 'expected {"_id"'),
    "another encoding": ("corpus.jsonl", b'{"_id": "l", "text": "caf\xe9"}\n', "not UTF-8 at byte"),
    "half a surrogate pair": ("corpus.jsonl", '{"_id": "s", "text": "\\ud83d"}\n', "half a surrogate pair"),
}


def test_one_fault_is_not_said_for_every_line_of_the_qrels(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "notes")
    corpus = (folder / "corpus.jsonl").read_text()
    (folder / "corpus.jsonl").write_text("")
    with pytest.raises(BadInput, match="has no documents"):
        read_beir(folder)
    (folder / "corpus.jsonl").write_bytes(corpus.encode("utf-16"))
    with pytest.raises(InvalidFile) as caught:
        read_beir(folder)
    assert len(caught.value.details) == 1 and "UTF-16: save it as UTF-8" in caught.value.details[0]
    (folder / "corpus.jsonl").write_bytes(corpus.replace("kiln", "k\u00eeln").encode("latin-1"))
    with pytest.raises(InvalidFile) as caught:
        read_beir(folder)
    assert len(caught.value.details) == 1 and "not UTF-8" in caught.value.details[0]


@pytest.mark.parametrize("fault", PLANTED)
def test_a_bad_line_is_named_with_its_place(fault: str, tmp_path: Path) -> None:
    name, line, message = PLANTED[fault]
    folder = write_beir(tmp_path / "notes")
    with (folder / name).open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(InvalidFile) as caught:
        read_beir(folder)
    last = (folder / name).read_bytes().count(b"\n")
    assert [f"{Path(name).name}:{last}" in line and message in line for line in caught.value.details] == [
        True
    ]


def test_empty_and_missing_sets_are_named(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "notes")
    with pytest.raises(UnknownName, match="no split is named 'dev'"):
        read_beir(folder, "dev")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(BadInput, match="has no queries with a relevant document"):
        read_beir(folder)
    (folder / "corpus.jsonl").write_text("")
    with pytest.raises(BadInput, match="has no documents"):
        read_beir(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InvalidFile, match=r"1 problem in .*corpus.jsonl"):
        read_beir(folder)


def test_bytes_before_and_after_lines_do_no_harm(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "notes")
    expected = read_beir(folder)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        text = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert read_beir(folder) == expected


@pytest.mark.slow
def test_the_standard_library_is_a_set() -> None:
    first = stdlib_code()
    assert len(first.queries) == len(first.documents) > 1000
    assert first.fingerprint() == stdlib_code.__wrapped__().fingerprint()
    assert '"""' not in first.documents["textwrap:dedent"].split("\n")[1]
    assert first.queries["textwrap:dedent"].startswith("Remove any common leading whitespace")
    part, smaller = open_dataset("stdlib:200"), open_dataset("stdlib:100")
    assert len(part.queries) == len(part.documents) == 200 and part.name == f"{first.name}:200"
    assert smaller.queries.items() < part.queries.items() < first.queries.items()
    assert open_dataset("stdlib:99999") is first
    with pytest.raises(BadInput, match="no part of stdlib"):
        open_dataset("stdlib:many")


SPACE = Space("model", "revision", "engine", "query: ", 0)


def test_the_cache_keeps_float32_exactly(tmp_path: Path) -> None:
    vector = [0.1, -1e-30, 3.4e38]
    with EmbeddingCache(tmp_path) as cache:
        cache.put(cache.space(SPACE), {"a": Kept(pack(vector), True), "b": Kept(pack([1, 2, 3]))})
    with EmbeddingCache(tmp_path) as cache:
        found = cache.get(cache.space(SPACE), ["a", "b", "c"])
        assert sorted(found) == ["a", "b"] and (found["a"].cut, found["b"].cut) == (True, None)
        assert unpack([found["a"].vector]).tolist()[0] == np.array(vector, dtype=np.float32).tolist()
        other = Space(SPACE.model, SPACE.revision, "another engine", SPACE.prompt)
        assert cache.get(cache.space(other), ["a"]) == {}
        assert cache.others(other) == [(cache.space(SPACE), "engine")]
        cache.forget(cache.space(SPACE))
        assert cache.get(cache.space(SPACE), ["a"]) == {}
    with pytest.raises(ValueError, match="different widths"):
        unpack([pack([1]), pack([1, 2])])


@pytest.mark.parametrize("field", ["model", "revision", "computed_by", "prompt", "dimensions"])
def test_whatever_a_vector_hangs_on_is_in_its_key(field: str, tmp_path: Path) -> None:
    changed = {**vars(SPACE), field: 64 if field == "dimensions" else "other"}
    with EmbeddingCache(tmp_path) as cache:
        assert cache.space(Space(**changed)) != cache.space(SPACE) == cache.space(SPACE)


def test_a_broken_cache_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "embeddings.sqlite3").write_bytes(b"no database at all, but long enough to be read" * 100)
    with EmbeddingCache(tmp_path) as cache:
        assert cache.note is not None and "set aside" in cache.note
        cache.put(cache.space(SPACE), {"a": Kept(pack([1.0]))})
    assert (tmp_path / "embeddings.broken").exists()
    with sqlite3.connect(tmp_path / "embeddings.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM vectors").fetchone() == (1,)
    database.close()


@pytest.mark.parametrize("kind", ["FLAT", "IVF_FLAT", "HNSW"])
def test_an_embedded_milvus_index_finds_what_exact_search_finds(kind: str) -> None:
    pytest.importorskip("milvus_lite", reason="the extra milvus is not installed")
    from deploytool.retrieval.milvus import search

    generator = np.random.default_rng(4)
    documents = normalised(generator.normal(size=(400, 16)).astype(np.float32))
    queries = documents[:20]
    ids = [f"d{number}" for number in range(400)]
    found = search(queries, documents, ids, 10, kind)
    assert [found.ranking.row(place, 1) for place in range(20)] == [[name] for name in ids[:20]]
    assert found.build_seconds > 0 and 0 < found.query_ms_p50 <= found.query_ms_p95


def test_a_task_of_mteb_becomes_a_set() -> None:
    mocks = pytest.importorskip("mteb.mocks.mock_tasks", reason="the extra mteb is not installed")
    from deploytool.retrieval.mteb_sets import task_dataset

    task = mocks.MockMultilingualRetrievalTask()
    task.load_data()
    found = task_dataset(task, "Mock", "fra", "test")
    assert found.name == "mteb:Mock:fra" and found.relevant == {"q1": {"d1": 1}, "q2": {"d2": 1}}
    assert found.documents["d2"] == "Title of d1 This is a positive sentence"
    with pytest.raises(UnknownName, match="no split of Mock is named 'dev'"):
        task_dataset(task, "Mock", "fra", "dev")
    with pytest.raises(BadInput, match="not of retrieval"):
        task_dataset(mocks.MockClassificationTask(), "Mock", "", "test")
