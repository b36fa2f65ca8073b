"""A real SGLang on the CPU, brought up by the tool: proven, loaded, taken down; wrong pooling is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from shared_process import made_once

from deploytool.endpoint import Client
from deploytool.paths import packaged
from deploytool.probes import alive

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
TEXTS = ["hello world", "a tiny corpus for the test", "def add(a, b): return a + b", "x", "vectors " * 40]

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("others"), pytest.mark.timeout(1200)]


@cache
def reference(folder: Path) -> list[list[float]]:
    """The same weights in fp32 by Sentence Transformers, in a process of its own."""
    code = (
        "import json, sys, torch; from sentence_transformers import SentenceTransformer as Model;"
        "model = Model(sys.argv[1], device='cpu', model_kwargs={'dtype': torch.float32});"
        "print(json.dumps(model.encode(json.loads(sys.argv[2])).tolist()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder), json.dumps(TEXTS)],
        check=True, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    vectors: list[list[float]] = json.loads(answer.stdout.splitlines()[-1])
    return vectors


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


@pytest.fixture
def up(cli: CommandLine, sglang_path: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """Bring a folder up with SGLang and return its document; everything is taken down at the end."""

    def start(folder: Path, *options: str) -> dict[str, Any]:
        answer = cli(
            "up", str(folder), "--engine", "sglang", "--profile", "cpu", "--port", "auto", "--json", *options,
            env={"PATH": sglang_path}, timeout=800,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        document: dict[str, Any] = json.loads(answer.stdout)
        return document

    yield start
    answer = cli("down", "--all")
    assert answer.returncode == 0, answer.stderr


def test_qwen3_from_up_to_down(cli: CommandLine, up: Callable[..., Any], tiny_models: Path) -> None:
    document = up(tiny_models / "qwen3", "--name", "tiny")
    assert document["state"] == "ready"
    with Client(document["url"], model=document["model"]) as client:
        served = client.embed(TEXTS).vectors
    for ours, theirs in zip(served, reference(tiny_models / "qwen3"), strict=True):
        assert cosine(ours, theirs) > 0.999

    smoke = cli("smoke", "tiny", "--json")
    assert smoke.returncode == 0, smoke.stdout
    load = cli(
        "load",
        "tiny",
        "--batch",
        "1,4",
        "--concurrency",
        "2",
        "--duration",
        "3s",
        "--warmup",
        "1s",
        "--text-tokens",
        "fixed:16",
        "--json",
    )
    assert load.returncode == 0, load.stderr
    cells = json.loads(load.stdout)["cells"]
    assert [cell["batch"] for cell in cells] == [1, 4]
    assert all(cell["requests"] > 0 and not any(cell["errors"].values()) for cell in cells)

    tree = [
        document["pid"],
        *(child.pid for child in psutil.Process(document["pid"]).children(recursive=True)),
    ]
    assert len(tree) > 1  # SGLang's scheduler and detokenizer are processes of their own
    assert cli("down", "tiny").returncode == 0
    assert [pid for pid in tree if psutil.pid_exists(pid)] == []


def test_cls_pooling_with_the_radix_cache_off(
    cli: CommandLine, up: Callable[..., Any], tiny_models: Path, run_folder: Path
) -> None:
    folder = tiny_models / "bert-cls"
    profiles = golden(cli, folder, run_folder)
    document = up(folder, "--name", "cls", "--profiles-dir", str(profiles))
    expected = reference(folder)
    with Client(document["url"], model=document["model"]) as client:
        for _ in range(2):  # the second time, a radix cache would have the prefixes
            for ours, theirs in zip(client.embed(TEXTS).vectors, expected, strict=True):
                assert cosine(ours, theirs) > 0.999
    smoke = json.loads(cli("smoke", "cls", "--profiles-dir", str(profiles), "--json").stdout)
    assert {check["name"]: check["passed"] for check in smoke["checks"]}["golden"] is True


def golden(cli: CommandLine, folder: Path, run_folder: Path) -> Path:
    """A folder of profiles with the model's golden vectors in it, made once."""

    def make(profiles: Path) -> None:
        profiles.mkdir()
        made = cli("golden", "make", str(folder), "--profiles-dir", str(profiles), timeout=800)
        assert made.returncode == 0, made.stderr

    return made_once(run_folder, f"golden-of-{folder.name}", make)


def test_without_the_flag_cls_vectors_are_wrong_and_the_checks_say_so(
    cli: CommandLine, by_hand: Callable[..., str], tiny_models: Path, run_folder: Path
) -> None:
    """The planner never starts this; a server that someone else started so is caught."""
    folder = tiny_models / "bert-cls"
    url = by_hand(folder, without="--disable-radix-cache")
    expected = reference(folder)
    with Client(url, model="bert-cls") as client:
        client.embed(TEXTS)
        again = client.embed(TEXTS).vectors  # now the prefixes are in the cache
    assert min(map(cosine, again, expected)) < 0.9

    profiles = golden(cli, folder, run_folder)
    smoke = cli("smoke", url, "--model", str(folder), "--profiles-dir", str(profiles), "--json")
    assert smoke.returncode == 6, smoke.stdout
    failed = [check["name"] for check in json.loads(smoke.stdout)["checks"] if check["passed"] is False]
    assert {"golden", "batch_invariance", "deterministic", "order"} & set(failed), failed
    assert "--disable-radix-cache" in smoke.stdout


@pytest.fixture
def by_hand(
    cli: CommandLine, sglang_path: str, free_port: Callable[[], int], tmp_path: Path
) -> Iterator[Any]:
    """Start SGLang with the planned command, less one flag, as no command of the tool would."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, *, without: str) -> str:
        port = free_port()
        planned = cli(
            "plan", str(folder), "--engine", "sglang", "--profile", "cpu", "--port", str(port), "--json"
        )
        assert planned.returncode == 0, planned.stderr
        document = json.loads(planned.stdout)
        words = [word for word in document["argv"] if word != without]
        assert len(words) == len(document["argv"]) - 1
        with (tmp_path / "sglang.log").open("wb") as log:
            process = subprocess.Popen(
                words, env={**os.environ, "PATH": sglang_path, **document["env"]}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 800
        while not alive(url, "/ready", 5).ok:
            assert started[-1].poll() is None and time.monotonic() < deadline, (
                tmp_path / "sglang.log"
            ).read_text()
            time.sleep(0.5)
        return url

    yield start
    for process in started:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in tree:
            member.kill()
        psutil.wait_procs(tree, timeout=20)
        process.wait(20)


def test_a_reranker_scores_as_transformers_does(
    cli: CommandLine, up: Callable[..., Any], tiny_models: Path
) -> None:
    folder = tiny_models / "reranker"
    document = up(folder, "--name", "judge", "--no-smoke")  # proven; random weights know nothing of relevance
    with Client(document["url"], model=document["model"]) as client:
        body = {"model": document["model"], "query": "hello world", "documents": TEXTS}
        rows = client.request("POST", "/v1/rerank", json=body).json()
    scores = {row["index"]: row["score"] for row in rows}
    for place, expected in enumerate(pair_scores(folder, "hello world", TEXTS)):
        assert scores[place] == pytest.approx(expected, abs=0.02)
    checks = {
        check["name"]: check["passed"]
        for check in json.loads(cli("smoke", "judge", "--json").stdout)["checks"]
    }
    assert [checks[name] for name in ("rerank", "finite", "alone", "order")] == [True] * 4


def pair_scores(folder: Path, query: str, documents: list[str]) -> list[float]:
    """yes against no at the last token of the prompt, by transformers, in a process of its own."""
    code = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, template, query, documents = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no"))
scores = []
for document in documents:
    messages = [{"role": "user", "content": query}, {"role": "user", "content": document}]
    text = open(template).read().strip("\\n")
    prompt = tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False)
    with torch.no_grad():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    scores.append(torch.softmax(logits[[yes, no]], 0)[0].item())
print(json.dumps(scores))
"""
    template = packaged("profiles") / "templates" / "qwen3-reranker.jinja"
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(template), query, json.dumps(documents)],
        check=True, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    scores: list[float] = json.loads(answer.stdout.splitlines()[-1])
    return scores


def test_mean_pooling_is_refused(cli: CommandLine, sglang_path: str, tiny_models: Path) -> None:
    answer = cli(
        "up", str(tiny_models / "bert-mean"), "--engine", "sglang", "--profile", "cpu",
        env={"PATH": sglang_path},
    )  # fmt: skip
    assert answer.returncode == 4
    assert "mean" in answer.stderr
    assert "sentence-transformers" in answer.stderr
    assert json.loads(cli("ps", "--json").stdout) == []
