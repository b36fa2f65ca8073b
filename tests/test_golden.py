"""Golden vectors: made by the real reference; right servers pass, each planted mistake is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPTS, Planted, Served
from shared_process import made_once

from deploytool.catalog import Catalog
from deploytool.endpoint import Client
from deploytool.errors import InvalidFile
from deploytool.golden import Found, Golden, find, pack, read, unpack
from deploytool.golden.document import prompts_of
from deploytool.models import Matryoshka, ModelCard, Prompts
from deploytool.probes import Check, prove, smoke
from deploytool.probes.causes import explain
from deploytool.probes.golden import ask, compare, texts_of, tokens_of

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
TESTS = Path(__file__).parent
PACKAGED = TESTS.parent / "profiles" / "golden" / "all-minilm-l6-v2.json"

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def mini() -> ModelCard:
    return Catalog().model("all-minilm-l6-v2")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read(PACKAGED)


@pytest.fixture(scope="module")
def prompted_folder(minilm_folder: Path, run_folder: Path) -> Path:
    """MiniLM as a local folder without a card, with prompts that its files name."""

    def make(folder: Path) -> None:
        shutil.copytree(minilm_folder, folder / "prompted")
        path = folder / "prompted" / "config_sentence_transformers.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": PROMPTS}))

    return made_once(run_folder, "prompted-model", make) / "prompted"


@pytest.fixture(scope="module")
def prompted(prompted_folder: Path, run_folder: Path) -> Path:
    """Its golden vectors, made by the real command: the file below a --profiles-dir."""

    def make(profiles: Path) -> None:
        profiles.mkdir()
        made = subprocess.run(
            [sys.executable, "-m", "deploytool", "golden", "make", str(prompted_folder), "--json",
             "--profiles-dir", str(profiles)],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        document = json.loads(made.stdout)
        assert (document["model"], document["dimensions"]) == ("prompted", 384)
        assert Path(document["path"]).parent == profiles / "golden"

    (path,) = (made_once(run_folder, "prompted-profiles", make) / "golden").glob("*.json")
    return path


@pytest.fixture(scope="module")
def mistaken(planted: Planted) -> str:
    """Servers with the real weights and planted mistakes; see stand_ins/wrong_model_server.py."""
    return planted.url


def proof(
    url: str, card: ModelCard, golden: Golden, dtype: str | None = "float32", model: str = "a-model"
) -> dict[str, Check]:
    with Client(url, model=model) as client:
        checks = prove(client, card, golden=Found(golden, PACKAGED), dtype=dtype)
    return {check.name: check for check in checks}


def cause(url: str, golden: Golden) -> str:
    """The cause that a comparison names."""
    with Client(url, model="a-model") as client:
        answers = ask(client, texts_of(golden), tokens=tokens_of(golden))
    found = compare(answers.vectors, golden, "float32")
    assert found.cause is not None
    assert found.verdict == "fail"
    return found.cause.name


# The file


def test_the_packaged_one_is_found_and_is_of_the_packaged_weights(mini: ModelCard, golden: Golden) -> None:
    found = find(mini)
    assert found.path == PACKAGED
    assert found.golden == golden
    assert golden.weights[0].sha256 == mini.sha256["model.safetensors"]
    assert (golden.pooling, golden.normalized, golden.dimensions) == ("mean", True, 384)
    assert golden.libraries.keys() >= {"torch", "transformers", "sentence-transformers", "deploytool"}
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-5 for vector in golden.vectors().values())
    assert PACKAGED.stat().st_size < 128 * 1024


def test_packing_is_exact() -> None:
    numbers = (0.0, -1.5, 2.0**-149, 1 / 3)
    stored = unpack(pack(numbers))
    assert stored[:3] == numbers[:3]
    assert stored[3] == pytest.approx(1 / 3, rel=1e-7)
    assert unpack(pack(stored)) == stored
    for broken in ("?", "", pack(numbers)[:-4]):
        with pytest.raises(ValueError, match="expected"):
            unpack(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "deploytool-golden/9"}, "deploytool-golden/1"),
        ({"dimensions": 383}, "dimensions says 383"),
        ({"texts": []}, "at least 3"),
        ({"unknown_field": 1}, "Extra inputs"),
    ],
)
def test_a_broken_file_is_said_and_not_used(
    change: dict[str, Any], words: str, golden: Golden, mini: ModelCard, tmp_path: Path
) -> None:
    path = tmp_path / "golden" / "all-minilm-l6-v2.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**golden.model_dump(mode="json"), **change}))
    with pytest.raises(InvalidFile) as raised:
        read(path)
    assert words in "\n".join(raised.value.details)
    # The next one on the search path is still right.
    assert find(mini, tmp_path).path == PACKAGED


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": Prompts(query="query: ")}, "the card's query prompt is another"),
        ({"pooling": "cls"}, "the card says cls"),
        ({"sha256": {"model.safetensors": "0" * 64}}, "the card names other weights"),
        ({"hub_id": "someone/else"}, "it is of sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_vectors_of_another_model_are_not_used(change: dict[str, Any], words: str, mini: ModelCard) -> None:
    found = find(mini.model_copy(update=change))
    assert found.golden is None
    assert words in found.reason
    assert "deploytool golden make all-minilm-l6-v2" in found.mend


@pytest.mark.slow
def test_a_folder_of_the_same_name_with_other_weights_is_not_judged(
    prompted: Path, prompted_folder: Path, tmp_path: Path
) -> None:
    profiles = prompted.parent.parent
    assert find(Catalog().model(str(prompted_folder)), profiles).path == prompted
    other = tmp_path / "prompted"
    shutil.copytree(prompted_folder, other)
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\x01")
    found = find(Catalog().model(str(other)), profiles)
    assert found.golden is None
    assert "other weights" in found.reason


def test_a_prompt_is_taken_up_to_where_the_query_stands() -> None:
    prompts = Prompts(query="Instruct: {task}\nQuery:{query}", task="find it")
    card = ModelCard(name="a", title="a", kind="embedding", licence="mit", prompts=prompts)
    assert prompts_of(card) == {"query": "Instruct: find it\nQuery:", "document": ""}


# Right servers


def test_the_real_server_has_the_reference_vectors(
    minilm_server: Served, mini: ModelCard, golden: Golden
) -> None:
    check = proof(minilm_server.url, mini, golden, model=minilm_server.model)["golden"]
    assert check.passed, check.saw
    assert "17 texts" in check.saw and "lowest cosine 1.000" in check.saw


def test_half_precision_passes_its_own_gate(mistaken: str, mini: ModelCard, golden: Golden) -> None:
    check = proof(f"{mistaken}/bfloat16", mini, golden, dtype="bfloat16")["golden"]
    assert check.passed, check.saw
    assert "0.999 to the float32 reference" in check.expected


def test_texts_that_a_server_refuses_are_left_out(mistaken: str, mini: ModelCard, golden: Golden) -> None:
    check = proof(f"{mistaken}/short", mini, golden)["golden"]
    assert check.passed, check.saw
    assert "16 texts" in check.saw and "1 left out (long: refused: " in check.saw


def test_a_server_told_to_read_less_is_compared_on_what_it_reads(
    mistaken: str, mini: ModelCard, golden: Golden
) -> None:
    with Client(f"{mistaken}/cut64", model="a-model") as client:
        checks = prove(client, mini, golden=Found(golden, PACKAGED), dtype="float32", max_length=64)
    assert checks[-1].passed, checks[-1].saw
    assert "long: 187 tokens, the server reads 64" in checks[-1].saw


def test_without_golden_vectors_the_proof_is_as_before(minilm_server: Served, mini: ModelCard) -> None:
    with Client(minilm_server.url, model=minilm_server.model) as client:
        missing = Found(None, reason="none here", mend="make them")
        assert "golden" not in [check.name for check in prove(client, mini, golden=missing)]
        checks = {c.name: c for c in smoke(client, mini, ours=True, key_enforced=False, golden=missing)}
    assert (checks["golden"].passed, checks["golden"].saw) == (None, "none here; make them")


# Planted mistakes

NAMED = {
    "cls": "pooling:cls",
    "last": "pooling:last",
    "max": "pooling:max",
    "cut32": "cut:32",
    "cut64": "cut:64",
    "cut100": "long-texts",
    "no-special": "tokens:no-special",
    "permuted": "dimension-order",
    "reversed": "dimension-order",
    "unnormalised": "not-normalised",
    "overflow": "overflow",
    "shuffled": "shuffled",
    "constant": "constant",
    "first-256": "dimensions:256",
    "prompted": "prompt:added query: ",
    "coarse": "blurred",
    "other": "unknown",
}


@pytest.mark.parametrize("mistake", NAMED)
def test_a_mistake_is_named(mistake: str, mistaken: str, golden: Golden) -> None:
    assert cause(f"{mistaken}/{mistake}", golden) == NAMED[mistake]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "name"),
    [("unprompted", "prompt:missing"), ("doubled", "prompt:doubled"), ("cls", "pooling:cls")],
)
def test_a_prompt_that_is_lost_or_doubled_is_named(
    mistake: str, name: str, mistaken: str, prompted: Path
) -> None:
    golden = read(prompted)
    assert golden.texts[0].sent.startswith(PROMPTS["document"])
    assert cause(f"{mistaken}/{mistake}", golden) == name


def test_readiness_says_the_cause(mistaken: str, mini: ModelCard, golden: Golden) -> None:
    check = proof(f"{mistaken}/cls", mini, golden)["golden"]
    assert check.passed is False
    assert "wrong pooling: the server takes the first token (CLS), the model needs mean" in (check.hint or "")


def test_a_loss_of_precision_is_a_warning_or_a_failure(
    mistaken: str, golden: Golden, mini: ModelCard
) -> None:
    right = golden.vectors()
    nearly = {name: [x + 0.003 * (-1) ** i for i, x in enumerate(v)] for name, v in right.items()}
    assert compare(right, golden, "float32").verdict == "pass"
    assert compare(nearly, golden, "bfloat16").verdict == "warn"
    assert compare(nearly, golden, None).verdict == "warn"
    assert compare(nearly, golden, "float32").verdict == "fail"
    check = proof(f"{mistaken}/coarse", mini, golden, dtype="bfloat16")["golden"]
    assert check.passed is False
    assert "quantised weights" in (check.hint or "")


def test_a_matryoshka_size_as_default_is_told_from_another_model() -> None:
    right = {name: [1.0, float(place), 2.0, 0.01, 0.01] for place, name in enumerate("abc")}
    cut = {name: vector[:3] for name, vector in right.items()}
    assert explain(cut, right).name == "dimensions:3"
    other = {name: [9.0, -5.0, 0.1] for name in right}
    assert explain(other, right).name == "dimensions"


# Similarity without a card


def test_meaning_is_only_advised_for_a_model_without_a_card() -> None:
    from stand_ins.faulty_server import MODEL, WIDTH, FaultyServer

    card = ModelCard(
        name=MODEL, title="a", kind="embedding", dimensions=WIDTH, licence="none", matryoshka=Matryoshka()
    )
    with FaultyServer("meaningless") as server, Client(server.url, model=MODEL) as client:
        for known, passed in (
            (card, False),
            (card.model_copy(update={"origin": "folder /x"}), None),
            (None, None),
        ):
            checks = {c.name: c for c in smoke(client, known, ours=False, key_enforced=False)}
            assert checks["similarity"].passed is passed
            assert "comparisons right" in checks["similarity"].saw


# verify


def test_verify_against_golden(cli: CommandLine, minilm_server: Served, mistaken: str) -> None:
    right = cli("verify", minilm_server.url, "--model", "all-minilm-l6-v2", "--against", "golden", "--json")
    assert right.returncode == 0, right.stderr
    document = json.loads(right.stdout)
    assert document["verdict"] == "pass" and document["min"] > 0.9999 and len(document["texts"]) == 17
    wrong = cli("verify", f"{mistaken}/cls", "--golden", str(PACKAGED))
    assert wrong.returncode == 1
    assert "wrong pooling" in wrong.stdout and "likely cause: wrong pooling" in wrong.stderr
    assert "<- worst" in wrong.stdout


def test_verify_says_which_of_two_is_wrong(cli: CommandLine, minilm_server: Served, mistaken: str) -> None:
    wrong = cli(
        "verify", minilm_server.url, "--against", f"{mistaken}/cut64", "--golden", str(PACKAGED), "--json"
    )
    assert wrong.returncode == 1
    document = json.loads(wrong.stdout)
    assert (document["verdict"], document["worst"]) == ("fail", "long")
    assert [(found["target"], found["name"]) for found in document["causes"]] == [
        (f"{mistaken}/cut64", "cut:64")
    ]


def test_verify_two_endpoints_without_a_reference(
    cli: CommandLine, minilm_server: Served, mistaken: str
) -> None:
    same = cli("verify", minilm_server.url, "--against", f"{mistaken}/right", "--json")
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["golden"] is None
    other = cli("verify", minilm_server.url, "--against", f"{mistaken}/permuted")
    assert other.returncode == 1
    assert "dimension-order: against the other one" in other.stdout
    unlike = cli("verify", minilm_server.url, "--against", f"{mistaken}/other")
    assert "nothing says which of the two is right" in unlike.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("http://127.0.0.1:9", "--golden", str(PACKAGED)), 6, "nothing answers"),
        (("{mistaken}/right",), 8, "no model card"),
        (("{mistaken}/none-taken", "--golden", str(PACKAGED)), 6, "gives no vector of any text"),
        (("no-such-deployment",), 2, "no deployment is named"),
        (("{mistaken}/right", "--golden", "/no/such/file.json"), 2, "No such file"),
        (("{mistaken}/right", "--against-key-file", "/dev/null"), 2, "for a second endpoint"),
    ],
)
def test_verify_says_what_is_missing(
    cli: CommandLine, mistaken: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    answer = cli("verify", *(word.format(mistaken=mistaken) for word in arguments))
    assert answer.returncode == code, answer.stderr
    assert words in answer.stderr


# golden make and list


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("voyage-code-3", 4, "has no vectors to compute here"),
        ("qwen3-reranker-0.6b", 4, "of kind reranker"),
        ("jina-code-v2", 4, "needs code of its repository"),
        ("laser", 4, "does not compute laser"),
        ("no-such-model", 2, "no model is named"),
    ],
)
def test_what_cannot_be_made_is_said(cli: CommandLine, model: str, code: int, words: str) -> None:
    answer = cli("golden", "make", model)
    assert answer.returncode == code, answer.stderr
    assert words in answer.stderr


def test_files_that_are_not_here(cli: CommandLine, tmp_path: Path) -> None:
    answer = cli("golden", "make", "bge-m3", env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert answer.returncode == 8
    assert "not in the cache" in answer.stderr


def test_a_computation_that_fails_is_told(cli: CommandLine) -> None:
    answer = cli("golden", "make", "all-minilm-l6-v2", "--device", "toaster")
    assert answer.returncode == 2
    assert "--device" in answer.stderr and "Traceback" not in answer.stderr


def test_list(cli: CommandLine) -> None:
    listed = json.loads(cli("golden", "list", "--json").stdout)
    assert [entry["model"] for entry in listed] == ["all-minilm-l6-v2"]
