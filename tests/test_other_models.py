"""Models that are no transformers, served: word vectors from a text file, and LASER2 on random weights."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import NOTES

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.errors import BadInput
from deploytool.model_files import locate
from deploytool.planning import PlanRequest
from deploytool.st_server.config import parse
from deploytool.st_server.convert_laser2 import convert
from deploytool.st_server.errors import BadUsage, LoadFailed, NotServable, RequestError
from deploytool.st_server.words import UNKNOWN, WordTokenizer, read_words

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed (extra: serve)")
ST = ENGINES["sentence-transformers"]
VOCABULARY = sorted(
    {word for pair in NOTES.values() for word in re.findall(r"\w+|[^\w\s]", " ".join(pair).lower())}
)


def write_words(path: Path, *, header: bool = False) -> dict[str, np.ndarray]:
    """Random vectors of 16 dimensions for every word of the notes."""
    random = np.random.default_rng(5)
    vectors = {word: random.normal(size=16).round(4).astype(np.float32) for word in VOCABULARY}
    lines = [f"{word} {' '.join(map(str, row.tolist()))}" for word, row in vectors.items()]
    lines = [f"{len(lines)} 16", *lines] if header else lines
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return vectors


def config(model: Path, *more: str) -> Any:
    return parse(
        ["--model", str(model), "--dtype", "float32", "--device", "cpu", "--threads", "1", *more], {}
    )


def loaded(model: Path, *more: str) -> Any:
    from deploytool.st_server import model_folder
    from deploytool.st_server.backends import choice

    given = config(model, *more)
    return choice.load(given, model_folder.locate(given, lambda _: None), lambda _: None)


def vectors(backend: Any, texts: list[str]) -> np.ndarray:
    found: np.ndarray = backend.embed(backend.tokenizer.encode(texts), alone=True)
    return found


@pytest.mark.parametrize("name", ["glove.txt", "w2v.vec", "glove.txt.gz"])
def test_a_file_of_word_vectors_is_a_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    words = write_words(path, header=name == "w2v.vec")
    card = Catalog().model(str(path))
    assert (card.name, card.dimensions, card.pooling) == (name.split(".", maxsplit=1)[0], 16, "mean")
    files = locate(card)
    hardware = Catalog().hardware("cpu")
    plan = ST.plan(card, hardware, PlanRequest(model_path=files.argument, free_mib=8000))
    assert plan.memory.verdict == "fits" and str(path) in plan.launch.argv
    assert ENGINES["sglang"].support(card).verdict == "unsupported"

    backend = loaded(path)
    found = vectors(backend, ["The old Bridge, zzz?", "zzz qqq", ""])
    mean = np.mean([words[word] for word in ("the", "old", "bridge", ",", "?")], axis=0)
    assert np.allclose(found[0], mean / np.linalg.norm(mean), atol=1e-6)
    everything = np.mean(list(words.values()), axis=0)
    assert np.allclose(found[1], everything / np.linalg.norm(everything), atol=1e-5)
    assert np.array_equal(found[1], found[2])
    assert (backend.info.dimensions, backend.info.normalized) == (16, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a 1 2 3\nb 1 2\n", "line 2: expected a word and 3 finite numbers"),
        ("a 1 2 3\nb 1 nan 2\n", "line 2"),
        ("a 1 2 3\nb 1 two 2\n", "line 2"),
        ("", "holds no word vectors"),
    ],
)
def test_a_bad_line_of_word_vectors_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(LoadFailed, match=said):
        read_words(path)


def test_other_files_are_no_word_vectors(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("The harbour freezes every January.\n")
    with pytest.raises(BadInput, match="is no text file of word vectors"):
        Catalog().model(str(path))
    path.write_bytes(b"3000000 300\n</s> \x00\xff\xfe\x80")
    with pytest.raises(BadInput, match="cannot be read as text"):
        Catalog().model(str(path))


def test_words_with_blanks_capitals_and_twice(tmp_path: Path) -> None:
    path = tmp_path / "cased.txt"
    path.write_text("Paris 1 0\n. . . 0 1\nParis 5 5\n")
    words, matrix = read_words(path)
    assert words == ["Paris", ". . .", UNKNOWN] and matrix.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]
    tokenizer = WordTokenizer(words, max_length=2)
    assert tokenizer.encode(["Paris paris"]) == [[0]]
    with pytest.raises(RequestError, match="has 3 tokens"):
        tokenizer.encode(["Paris Paris Paris"])
    assert tokenizer.encode(["Paris Paris Paris"], truncate=True) == [[0, 0]]


def test_flags_for_transformers_are_refused(tmp_path: Path) -> None:
    write_words(tmp_path / "glove.txt")
    with pytest.raises(NotServable, match="pooling of its own"):
        loaded(tmp_path / "glove.txt", "--pooling", "cls")
    with pytest.raises(NotServable, match="computed by torch"):
        loaded(tmp_path / "glove.txt", "--backend", "onnx")


HIDDEN, EMBED, LAYERS = 6, 5, 3


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """laser2.pt as it is published, with few and random weights, and a SentencePiece model of its own."""
    import torch

    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("sacremoses")
    folder = tmp_path_factory.mktemp("laser")
    text = folder / "text.txt"
    text.write_text("\n".join(sentence.lower() for pair in NOTES.values() for sentence in pair))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "laser2"), vocab_size=120, minloglevel=2
    )
    (folder / "laser2.model").rename(folder / "laser2.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "laser2.spm"))
    # Its own dictionary has another order than SentencePiece, and lacks some pieces.
    names = [pieces.id_to_piece(number) for number in range(3, pieces.get_piece_size())][::-1][:-5]
    words = {name: place + 4 for place, name in enumerate(names)}
    torch.manual_seed(11)
    lstm = torch.nn.LSTM(EMBED, HIDDEN, LAYERS, bidirectional=True)
    state = {f"lstm.{name}": tensor.detach() for name, tensor in lstm.state_dict().items()}
    state["embed_tokens.weight"] = torch.randn(len(words) + 4, EMBED)
    params = {
        "num_embeddings": len(words) + 4, "padding_idx": 1, "embed_dim": EMBED, "hidden_size": HIDDEN,
        "num_layers": LAYERS, "bidirectional": True, "left_pad": True, "padding_value": 0.0,
    }  # fmt: skip
    torch.save({"params": params, "model": state, "dictionary": words}, folder / "laser2.pt")
    return folder


def by_hand(state: dict[str, Any], ids: list[int]) -> Any:
    """The maximum over a bidirectional LSTM's outputs, gate by gate in numpy float64, one text."""
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in state.items()}
    rows = weights["embed_tokens.weight"][ids]

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    for layer in range(LAYERS):
        sides = []
        for suffix, order in (("", 1), ("_reverse", -1)):
            w, u, b, c = (
                weights[f"lstm.{kind}_l{layer}{suffix}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            state_h, state_c, out = np.zeros(HIDDEN), np.zeros(HIDDEN), []
            for row in rows[::order]:
                i, f, g, o = np.split(w @ row + b + u @ state_h + c, 4)
                state_c = sigmoid(f) * state_c + sigmoid(i) * np.tanh(g)
                state_h = sigmoid(o) * np.tanh(state_c)
                out.append(state_h)
            sides.append(np.array(out[::order]))
        rows = np.concatenate(sides, axis=1)
    return rows.max(axis=0)


def test_laser2_is_what_its_equations_say(published: Path, tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "laser2"
    convert(published / "laser2.pt", published / "laser2.spm", folder)
    assert not list(folder.glob("*.pt")) and (folder / "model.safetensors").is_file()
    card = Catalog().model(str(folder))
    assert (card.kind, card.pooling, card.dimensions, card.normalize) == (
        "embedding",
        "max",
        2 * HIDDEN,
        False,
    )
    plan = ST.plan(card, Catalog().hardware("cpu"), PlanRequest(model_path=str(folder), free_mib=8000))
    assert plan.memory.verdict == "fits" and "--pooling" not in plan.launch.argv

    backend = loaded(folder)
    texts = ["The harbour freezes.", "a", "Ω unknown pieces, “quoted” — and a much longer text about bees"]
    ids = backend.tokenizer.encode(texts)
    assert all(row[-1] == 2 for row in ids) and 3 in ids[2]
    state = torch.load(published / "laser2.pt", weights_only=True)["model"]
    assert np.allclose(vectors(backend, texts), [by_hand(state, row) for row in ids], atol=1e-5)


def test_laser2_reads_texts_as_it_was_trained(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "laser2"
    convert(published / "laser2.pt", published / "laser2.spm", folder)
    tokenizer = loaded(folder, "--max-length", "6").tokenizer
    assert tokenizer.encode(["The Bee’s"], truncate=True) == tokenizer.encode(["the bee's"], truncate=True)
    with pytest.raises(RequestError, match="the model reads 6"):
        tokenizer.encode(["the harbour freezes every january"])
    cut = tokenizer.encode(["the harbour freezes every january"], truncate=True)[0]
    assert len(cut) == 6 and cut[-1] == 2
    with pytest.raises(RequestError, match="lone surrogate"):
        tokenizer.encode(["\ud800"])


class Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return (exec, ("open('owned', 'w')",))


def test_a_pickle_that_would_run_code_is_refused(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"params": {}, "model": {}, "dictionary": Runs()}, tmp_path / "evil.pt")
    with pytest.raises(LoadFailed, match="holds more than tensors"):
        convert(tmp_path / "evil.pt", published / "laser2.spm", tmp_path / "out")
    assert not (tmp_path / "owned").exists() and not (tmp_path / "out").exists()


def test_other_files_are_not_converted(published: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"cfg": {"model": 1}, "model": {}}, tmp_path / "laser3.pt")
    with pytest.raises(LoadFailed, match="is not LASER2"):
        convert(tmp_path / "laser3.pt", published / "laser2.spm", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(BadUsage, match="is there already"):
        convert(published / "laser2.pt", published / "laser2.spm", tmp_path / "full")
    command = [
        sys.executable,
        "-m",
        "deploytool.st_server.convert_laser2",
        "gone.pt",
        "gone.spm",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 8 and "there is no file gone.pt" in done.stderr


def test_the_weights_of_another_model_are_named(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "laser2"
    convert(published / "laser2.pt", published / "laser2.spm", folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "num_layers": 1}))
    with pytest.raises(LoadFailed, match="does not hold LASER2's weights"):
        loaded(folder)
