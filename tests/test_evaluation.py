"""Quality of endpoints: real servers on sockets, hosted APIs as stand-ins, faults planted one at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine, Planted, Served
from ports import unused_port
from small_sets import NOTES, write_beir
from stand_ins.faulty_server import FaultyServer, embed, tokens
from stand_ins.hosted_api import KEY, HostedApi, Refusal

from deploytool.errors import BadInput, CheckFailed, DeploytoolError, Unhealthy, UnknownName
from deploytool.evaluation import EvalOptions, EvalRecord, evaluate
from deploytool.evaluation.wire import Busy, retry_after
from deploytool.probes import alive
from deploytool.store import Store
from deploytool.wire.answers import Response


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write_beir(tmp_path / "notes")


class Watcher:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def step(self, what: str, done: int, total: int) -> None:
        self.lines.append(f"{what} {done}/{total}")


def run(
    target: str,
    dataset: Path,
    watcher: Watcher | None = None,
    environ: Mapping[str, str] = {},
    **options: Any,
) -> EvalRecord:
    with Store() as store:
        given = EvalOptions(target=target, dataset=str(dataset), **options)
        return evaluate(given, store, watcher, environ=environ)


def test_a_served_model_is_measured_and_kept(minilm_server: Served, notes: Path, home: Path) -> None:
    found = run(minilm_server.url, notes, model="all-minilm-l6-v2", against=("bm25",))
    assert found.metrics["recall@5"].value == 1.0 and found.n_queries == found.n_docs == len(NOTES)
    low, high = found.metrics["recall@1"].ci95
    assert low <= found.metrics["recall@1"].value <= high
    assert found.margin is not None and found.margin > 0.3
    assert (found.dims, found.truncated, found.cost.cached, found.cost.computed) == (384, 0, 0, 24)
    assert found.prompts == {"query": "", "document": "", "task": None}
    assert found.against[0].target == "bm25" and not found.against[0].differences["recall@10"].real
    assert found.findings == []
    saved = json.loads((home / "data" / "evaluations" / f"{found.id}.json").read_text())
    assert len(saved["per_query"]["mrr@10"]) == len(NOTES)
    again = run(minilm_server.url, notes, model="all-minilm-l6-v2")
    assert (again.cost.cached, again.cost.computed, again.cost.requests) == (24, 0, 2)  # two to recheck
    assert again.metrics == found.metrics


def test_without_a_card_no_prompt_is_sent_and_that_is_said(notes: Path) -> None:
    with FaultyServer() as server:
        found = run(server.url, notes)
    assert any("has no model card" in finding for finding in found.findings)
    assert found.truncated is None and "not known" in found.truncated_how


CARD = """
name: prompted
title: a model of 256 dimensions with prompts
kind: embedding
dimensions: 256
max_tokens: 2000
matryoshka: {sizes: [64, 128, 256]}
pooling: mean
licence: mit
prompts: {query: "Instruct: {task}\\nQuery:", document: "note: ", task: "find it"}
"""
HOSTED = """
name: hosted-NAME
title: hosted
kind: api
api:
  provider: NAME
  base_url: URL
  key_env: STAND_IN_KEY
  model: stand-in-embed
  usd_per_million_tokens: 100.0
dimensions: 256
matryoshka: {sizes: [64, 128, 256]}
max_tokens: 8192
licence: proprietary
prompts: {query: "find: ", document: "keep: "}
"""
ENVIRON = {"STAND_IN_KEY": KEY}


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "prompted.yaml").write_text(CARD)
    return folder


def hosted_card(cards: Path, server: HostedApi) -> str:
    name = f"hosted-{server.provider}"
    text = HOSTED.replace("NAME", server.provider).replace("URL", f"{server.url}/v1")
    (cards / "models" / f"{name}.yaml").write_text(text)
    return name


def texts_sent(server: FaultyServer) -> list[str]:
    found: list[str] = []
    for _, path, body in server.requests:
        given = json.loads(body)["input"] if path == "/v1/embeddings" else []
        found += [given] if isinstance(given, str) else given
    return found


def test_the_prompts_of_the_card_are_sent_and_can_be_changed(notes: Path, cards: Path) -> None:
    with FaultyServer() as server:
        found = run(server.url, notes, model="prompted", profiles_dir=cards, task="find the note")
        prompt = "Instruct: find the note\nQuery:"
        assert found.prompts == {"query": prompt, "document": "note: ", "task": "find the note"}
        for note, question in NOTES.values():
            assert prompt + question in texts_sent(server)
            assert f"note: {note}" in texts_sent(server)
        changed = run(
            server.url, notes, model="prompted", profiles_dir=cards, query_prompt="q: ", document_prompt=""
        )
        assert changed.prompts == {"query": "q: ", "document": "", "task": None}
        assert "q: " + NOTES["kiln"][1] in texts_sent(server) and NOTES["kiln"][0] in texts_sent(server)


def test_the_pooling_of_an_encoder_is_doubted_where_nothing_tells_it(notes: Path, cards: Path) -> None:
    encoder = CARD.replace("pooling: mean\n", "").replace("kind: embedding", "kind: encoder")
    (cards / "models" / "bare.yaml").write_text(encoder.replace("name: prompted", "name: bare"))
    with FaultyServer() as server:
        found = run(server.url, notes, model="bare", profiles_dir=cards)
    assert found.pooling is None
    assert any("bare ships no pooling, and" in finding for finding in found.findings)


def test_smaller_sizes_are_cut_here_and_compared(notes: Path, cards: Path) -> None:
    with FaultyServer() as server:
        found = run(server.url, notes, model="prompted", profiles_dir=cards, dims=(256, 64, 8))
        assert (found.dims, found.dims_by) == (256, None)
        assert list(found.by_dims) == ["256", "64", "8"] and found.by_dims["256"].change == {}
        assert found.by_dims["256"].metrics == found.metrics
        assert found.by_dims["8"].change["ndcg@10"].value < 0
        assert any("was not trained for vectors of 8 dimensions" in finding for finding in found.findings)
        one = run(server.url, notes, model="prompted", profiles_dir=cards, dims=(64,))
        assert (one.dims, one.dims_by) == (64, "client, renormalised")
        assert one.metrics == found.by_dims["64"].metrics
        with pytest.raises(BadInput, match="cannot be cut to 512"):
            run(server.url, notes, model="prompted", profiles_dir=cards, dims=(512,))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("shuffled_index", "order"),
        ("sorted_by_length", "order"),
        ("nan", "finite"),
        ("constant", "distinct"),
        ("last_narrower", "batch"),
    ],
)
def test_a_wrong_endpoint_is_named_before_it_is_measured(fault: str, said: str, notes: Path) -> None:
    with FaultyServer(fault) as server, pytest.raises(Unhealthy) as caught:
        run(server.url, notes)
    assert f"nothing was measured: {said}: " in caught.value.message


def test_vectors_that_are_not_normalised_are_measured_and_reported(notes: Path) -> None:
    with FaultyServer() as server:
        right = run(server.url, notes)
    with FaultyServer("not_normalised") as server:
        scaled = run(server.url, notes)
    assert scaled.metrics == right.metrics


def test_a_server_that_drops_the_prompt_is_named(notes: Path, cards: Path) -> None:
    with Stripping("Instruct: find it\nQuery:") as server:
        found = run(server.url, notes, model="prompted", profiles_dir=cards)
    assert any("changes nothing: the server drops it" in finding for finding in found.findings)


class Stripping(HostedApi):
    """Takes a prompt off every text before it is embedded."""

    def __init__(self, prompt: str) -> None:
        super().__init__()
        self.prompt = prompt

    def answer(self, path: str, headers: Any, body: bytes) -> Any:  # noqa: ARG002 - as in the stand-in
        given = json.loads(body)["input"]
        texts = [given] if isinstance(given, str) else given
        return answered([text.removeprefix(self.prompt) for text in texts])


def answered(texts: list[str]) -> Any:
    """The texts' vectors as an endpoint answers them."""
    data = [
        {"object": "embedding", "index": place, "embedding": embed(text)} for place, text in enumerate(texts)
    ]
    used = sum(map(tokens, texts))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return {"object": "list", "data": data, "model": "x", "usage": usage}


def test_cached_vectors_of_a_server_that_changed_are_not_used(
    notes: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    with FaultyServer(port=port) as server:
        right = run(server.url, notes)
    with FaultyServer("meaningless", port=port) as server:
        wrong = run(server.url, notes)
    assert wrong.metrics["recall@1"].value < right.metrics["recall@1"].value
    assert any("are not this server's any more" in finding for finding in wrong.findings)


def test_another_server_of_the_same_model_is_compared(notes: Path, cards: Path) -> None:
    with FaultyServer() as server:
        run(server.url, notes, model="prompted", profiles_dir=cards)
    with FaultyServer("meaningless") as server:
        found = run(server.url, notes, model="prompted", profiles_dir=cards)
    assert any("gave other vectors for the same" in finding for finding in found.findings)


def test_a_target_that_dies_ends_clearly_and_the_run_goes_on_later(notes: Path, cards: Path) -> None:
    with HostedApi(dies_after=2) as server:
        name = hosted_card(cards, server)
        watcher = Watcher()
        with pytest.raises(Unhealthy, match="broke the connection") as caught:
            run(name, notes, watcher, ENVIRON, profiles_dir=cards, batch=4, concurrency=1, timeout_s=30)
        assert any("trying again in" in line for line in watcher.lines)
        assert "8 of 12 documents are kept: the same command goes on" in (caught.value.hint or "")
        server.dies_after = None
        before = len(server.texts)
        found = run(name, notes, environ=ENVIRON, profiles_dir=cards, batch=4, concurrency=1)
        assert len(server.texts) - before == 24 - 8
    assert (found.cost.cached, found.cost.computed) == (8, 16)


def test_openai_is_spoken_to_as_it_wants(notes: Path, cards: Path) -> None:
    with HostedApi("openai") as server:
        name = hosted_card(cards, server)
        watcher = Watcher()
        found = run(name, notes, watcher, ENVIRON, profiles_dir=cards, dims=(128, 64))
        assert {request["dimensions"] for request in server.requests} == {128}
        assert {request["model"] for request in server.requests} == {"stand-in-embed"}
        assert (found.dims, found.dims_by) == (128, "server (128 asked for)")
        assert found.cost.tokens and found.cost.usd == pytest.approx(found.cost.tokens * 100 / 1e6)
        assert any("24 texts to embed, about $" in line for line in watcher.lines)
        again = run(name, notes, environ=ENVIRON, profiles_dir=cards, dims=(128, 64))
        assert again.cost.usd == 0 and again.cost.requests == 0 and again.metrics == found.metrics


def test_voyage_is_told_the_role_and_gets_no_prompt(notes: Path, cards: Path) -> None:
    with HostedApi("voyage") as server:
        name = hosted_card(cards, server)
        found = run(name, notes, environ=ENVIRON, profiles_dir=cards, dims=(64,))
        assert {request["input_type"] for request in server.requests} == {"query", "document"}
        assert {request["output_dimension"] for request in server.requests} == {64}
        assert not any(text.startswith(("find: ", "keep: ")) for text in server.texts)
        assert found.prompts["query"] == "input_type: query"
        run(name, notes, environ=ENVIRON, profiles_dir=cards, query_prompt="mine: ", document_prompt="")
        assert "mine: " + NOTES["kiln"][1] in server.texts
        assert "input_type" not in server.requests[-1]


def test_a_busy_api_is_waited_for(notes: Path, cards: Path) -> None:
    with HostedApi(busy=3, retry_after="0.2") as server:
        watcher = Watcher()
        run(hosted_card(cards, server), notes, watcher, ENVIRON, profiles_dir=cards, concurrency=1)
        assert server.refused == 3
    assert any("Rate limit reached; trying again in 0.2 s" in line for line in watcher.lines)


def test_a_wait_that_is_too_long_is_not_waited(notes: Path, cards: Path) -> None:
    with HostedApi(busy=1, retry_after="7200") as server, pytest.raises(Busy, match="429") as caught:
        run(hosted_card(cards, server), notes, None, ENVIRON, profiles_dir=cards, concurrency=1)
    assert caught.value.wait_s == 7200


@pytest.mark.parametrize(("text", "seconds"), [("3", 3.0), ("1.5", 1.5), ("soon", None), ("nan", None)])
def test_retry_after_is_read(text: str, seconds: float | None) -> None:
    assert retry_after(Response(429, {"Retry-After": text}, b"", 1.0)) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = formatdate(time.time() + 60, usegmt=True)
    seconds = retry_after(Response(429, {"retry-after": date}, b"", 1.0))
    assert seconds is not None and 50 < seconds <= 60


def test_money_is_not_spent_above_the_cap(notes: Path, cards: Path) -> None:
    with HostedApi() as server:
        name = hosted_card(cards, server)
        with pytest.raises(CheckFailed, match=r"more than --max-usd 0.01") as caught:
            run(name, notes, None, ENVIRON, profiles_dir=cards, max_usd=0.01)
        assert server.requests == [] and "--max-usd 0.0" in (caught.value.hint or "")
        card = cards / "models" / f"{name}.yaml"
        card.write_text(card.read_text().replace("  usd_per_million_tokens: 100.0\n", ""))
        with pytest.raises(BadInput, match="has no price"):
            run(name, notes, None, ENVIRON, profiles_dir=cards, max_usd=0.01)


def test_a_key_is_needed_and_never_recorded(notes: Path, cards: Path, home: Path) -> None:
    with HostedApi() as server:
        name = hosted_card(cards, server)
        with pytest.raises(BadInput, match="wants an API key"):
            run(name, notes, profiles_dir=cards)
        with pytest.raises(DeploytoolError, match="401") as caught:
            run(name, notes, None, {"STAND_IN_KEY": "sk-wrong-key-12345"}, profiles_dir=cards)
        assert "sk-wrong" not in str(caught.value.document())
        run(name, notes, None, ENVIRON, profiles_dir=cards)
    for path in home.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_text_beyond_the_limit_is_cut_and_counted(notes: Path, cards: Path) -> None:
    long = "the harbour and the kiln " * 20_000  # 125,000 tokens of the stand-in
    with (notes / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "d-long", "text": long}) + "\n")
    with HostedApi() as server:
        found = run(hosted_card(cards, server), notes, None, ENVIRON, profiles_dir=cards, max_usd=100)
        sent = [text.removeprefix("keep: ") for text in server.texts]
        assert any(long.startswith(text) and len(text) > 15_000 for text in sent)
    assert (found.truncated, found.refused) == (1, 0)


def test_a_text_that_nobody_takes_is_counted_and_ranked_last(notes: Path, cards: Path) -> None:
    with (notes / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "d-empty", "text": ""}) + "\n")
    with HostedApi() as server:
        name = hosted_card(cards, server)
        found = run(name, notes, None, ENVIRON, profiles_dir=cards, document_prompt="")
    assert found.refused == 1
    assert any("the server refused 1 texts" in finding for finding in found.findings)


def test_a_reranker_orders_the_candidates(notes: Path, cards: Path) -> None:
    for shape in ("jina", "sglang"):
        with HostedApi(rerank_shape=shape) as server:
            name = hosted_card(cards, server)
            found = run("tfidf", notes, None, ENVIRON, profiles_dir=cards, rerank=name, candidates=5)
            assert len(server.requests) == len(NOTES)
            assert [stage.name for stage in found.stages] == ["search", "best 5 reranked"]
            assert found.metrics == found.stages[1].metrics
            assert found.stages[0].found_at_candidates is not None
            cached = run("tfidf", notes, None, ENVIRON, profiles_dir=cards, rerank=name, candidates=5)
            assert len(server.requests) == len(NOTES) and cached.metrics == found.metrics


def test_a_server_without_rerank_and_half_an_answer_are_named(notes: Path, cards: Path) -> None:
    with FaultyServer() as server, pytest.raises(Unhealthy, match="has no /v1/rerank"):
        run("bm25", notes, rerank=server.url)
    with HostedApi(rerank_shape="short") as server, pytest.raises(Unhealthy, match="scored 1 of"):
        run("bm25", notes, None, ENVIRON, profiles_dir=cards, rerank=hosted_card(cards, server))


def test_coarse_then_fine_and_fusion_show_each_stage(notes: Path) -> None:
    with FaultyServer() as coarse, FaultyServer() as fine:
        found = run(fine.url, notes, first=coarse.url, candidates=4, fuse="bm25")
    assert [(stage.name, stage.system) for stage in found.stages] == [
        ("search", coarse.url),
        ("best 4 again", fine.url),
        ("search", "bm25"),
        ("fused", f"{fine.url} + bm25"),
    ]
    assert found.stages[0].metrics == found.stages[1].metrics  # the same vectors twice


def test_what_does_not_go_together_is_refused(notes: Path) -> None:
    with pytest.raises(BadInput, match="has no vectors"):
        run("bm25", notes, dims=(64,))
    with pytest.raises(BadInput, match="cannot be fused with itself"):
        run("bm25", notes, fuse="bm25")
    with pytest.raises(BadInput, match="several --dims"):
        run("bm25", notes, dims=(64, 32), fuse="tfidf")
    with pytest.raises(UnknownName, match="bm26"):
        run("bm26", notes)
    with pytest.raises(BadInput, match="no deployment has it"):
        run("qwen3-4b", notes)
    with pytest.raises(BadInput, match="there is no data set"):
        run("bm25", notes / "nowhere")


def test_figures_by_language(tmp_path: Path) -> None:
    found = run("bm25", write_beir(tmp_path / "two", languages=True))
    assert {name: group.n_queries for name, group in found.by_language.items()} == {"en": 6, "xx": 6}
    values = [group.metrics["mrr@10"].value for group in found.by_language.values()]
    assert sum(values) / 2 == pytest.approx(found.metrics["mrr@10"].value)


def test_the_command_prints_tables_and_one_document(cli: CommandLine, notes: Path) -> None:
    table = cli("eval", "bm25", "--dataset", str(notes), "--against", "tfidf")
    assert table.returncode == 0, table.stderr
    assert "bm25 minus tfidf, the same 12 queries" in table.stdout
    assert "no difference that this set can show" in table.stdout
    answer = cli("eval", "bm25", "--dataset", str(notes), "--json")
    document = json.loads(answer.stdout)
    wanted = {
        "target",
        "dataset",
        "n_queries",
        "n_docs",
        "metrics",
        "margin",
        "prompts",
        "truncated",
        "seconds",
    }
    assert wanted <= set(document) and "per_query" not in document
    assert set(document["metrics"]["recall@1"]) == {"value", "ci95"}
    wrong = cli("eval", "bm25", "--dataset", str(notes), "--dims", "many")
    assert (wrong.returncode, wrong.stdout) == (2, "") and "is no list of whole numbers" in wrong.stderr


def test_a_killed_command_goes_on_where_it_was(notes: Path, cards: Path, tmp_path: Path) -> None:
    """Killed with SIGKILL while the server holds its third answer back."""
    release = threading.Event()
    with Holding(2, release) as server:
        name = hosted_card(cards, server)
        command = [sys.executable, "-m", "deploytool", "eval", name, "--dataset", str(notes)]
        command += ["--profiles-dir", str(cards), "--batch", "4", "--concurrency", "1", "--json"]
        environ = {**os.environ, **ENVIRON}
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert server.held.wait(60)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        release.set()
        sent = len(server.texts)
        done = subprocess.run(command, env=environ, capture_output=True, check=True)
        assert len(server.texts) - sent == 24 - 8
    assert json.loads(done.stdout)["cost"]["cached"] == 8


class Holding(HostedApi):
    """Answers so many requests, then holds back until it is released."""

    def __init__(self, answers: int, release: threading.Event) -> None:
        super().__init__()
        self.answers, self.release, self.held = answers, release, threading.Event()

    def embedded(self, request: dict[str, Any]) -> Any:
        if len(self.requests) > self.answers:
            self.held.set()
            self.release.wait(60)
        return super().embedded(request)


def test_a_vector_of_nothing_but_nan_is_named_and_not_kept(notes: Path) -> None:
    with (notes / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "d-blank", "text": " "}) + "\n")
    with FaultyServer("blank_nan") as server, pytest.raises(Unhealthy, match="hold NaN") as caught:
        run(server.url, notes)
    assert "float16" in (caught.value.hint or "")


def test_servers_that_cut_and_servers_that_do_not_know_the_word(notes: Path, cards: Path) -> None:
    """A text beyond the limit: cut by the server that is asked to, else here; short ones are left alone."""
    long = "the harbour and the kiln " * 800
    with (notes / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "d-long", "text": long}) + "\n")
    for server in (Cutting(True), Cutting(False)):
        with server:
            found = run(server.url, notes, model="prompted", profiles_dir=cards, use_cache=False)
        assert (found.truncated, found.refused) == (1, 0)
        asked = [request for request in server.requests if request.get("truncate")]
        assert asked and all(len(request["input"]) == 1 for request in asked)


class Cutting(HostedApi):
    """Reads 2000 tokens; cuts what is longer if it is asked to and knows the word, else refuses it."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows = knows

    def answer(self, path: str, headers: Any, body: bytes) -> Any:  # noqa: ARG002 - as in the stand-in
        request = json.loads(body)
        given = request["input"]
        texts = [given] if isinstance(given, str) else given
        self.requests.append({**request, "input": texts})
        counts = [tokens(text) for text in texts]
        if max(counts) > 2000 and not (self.knows and request.get("truncate")):
            raise Refusal(400, f"a text has {max(counts)} tokens; the model reads 2000")
        return answered([text[:8000] for text in texts])


@pytest.mark.model
def test_a_wrong_pooling_is_named(planted: Planted, notes: Path) -> None:
    found = run(f"{planted.url}/cls", notes, model="all-minilm-l6-v2")
    assert [finding for finding in found.findings if "golden: " in finding]


@pytest.mark.slow
@pytest.mark.model
def test_a_wrong_length_is_named(minilm_folder: Path, tmp_path: Path, notes: Path) -> None:
    with served(minilm_folder, tmp_path / "server.log", "--max-length", "128") as url:
        found = run(url, notes, model="all-minilm-l6-v2")
    said = "the server reads 128 tokens of a text, the model 256"
    assert [finding for finding in found.findings if said in finding]


@contextlib.contextmanager
def served(folder: Path, log: Path, *more: str) -> Iterator[str]:
    """The real server with a model's folder, until it is no longer needed."""
    port = unused_port()
    command = [
        sys.executable,
        "-m",
        "deploytool.st_server",
        "--model",
        str(folder),
        *more,
    ]
    command += ["--served-model-name", "all-minilm-l6-v2", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while not alive(f"http://127.0.0.1:{port}", "/ready", 2.0).ok:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
