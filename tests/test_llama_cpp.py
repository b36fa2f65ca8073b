"""llama.cpp: cards from GGUF headers, the command line against the server's documented flags, keys, causes."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine

from deploytool import model_files
from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.errors import BadInput, DeploytoolError, Incompatible
from deploytool.launch import SECRET_FILE
from deploytool.plans import Prepared, prepare
from deploytool.runtimes.process_launch import server_argv

LLAMA = ENGINES["llama-cpp"]
# Flags that tools/server/README.md of build 11434 lists.
FLAGS = (Path(__file__).parent / "golden" / "llama_cpp" / "flags-11434.txt").read_text().split()
MINILM = {
    "general.architecture": "bert", "general.name": "MiniLM", "general.file_type": 7,
    "bert.embedding_length": 384, "bert.feed_forward_length": 1536, "bert.block_count": 6,
    "bert.context_length": 512, "bert.attention.head_count": 12, "bert.pooling_type": 1,
    "tokenizer.ggml.tokens": ["[PAD]", "[UNK]", "hello"], "tokenizer.ggml.scores": [0.5, 1.5],
    "bert.attention.causal": False,
}  # fmt: skip


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(given: Any) -> bytes:
    if isinstance(given, bool):
        return struct.pack("<I?", 7, given)
    if isinstance(given, int):
        return struct.pack("<II", 4, given)
    if isinstance(given, str):
        return struct.pack("<I", 8) + text(given)
    if isinstance(given[0], float):
        return struct.pack("<IIQ", 9, 6, len(given)) + b"".join(struct.pack("<f", one) for one in given)
    return struct.pack("<IIQ", 9, 8, len(given)) + b"".join(map(text, given))


def write_gguf(path: Path, changed: Mapping[str, Any] = {}) -> Path:
    """A GGUF file's header with one tensor of 3 x 384 values, and no weights. None leaves an entry out."""
    facts = {name: entry for name, entry in {**MINILM, **changed}.items() if entry is not None}
    data = b"GGUF" + struct.pack("<IQQ", 3, 1, len(facts))
    data += b"".join(text(name) + value(entry) for name, entry in facts.items())
    data += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 384, 3, 8, 0)
    path.write_bytes(data)
    return path


def ready(model: str | Path, **options: Any) -> Prepared:
    asked: dict[str, Any] = {"flags": {}, "environ": {}, "verify": False, **options}
    return prepare(str(model), "cpu", catalog=Catalog(), **asked)


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "minilm-q8_0.gguf")
    card = Catalog().model(str(path))
    assert (card.kind, card.pooling, card.dimensions, card.max_tokens) == ("embedding", "mean", 384, 512)
    assert card.parameters == 3 * 384 and card.architecture is not None and card.architecture.vocab == 3
    assert Catalog().model(str(tmp_path)) == card  # its folder
    assert model_files.locate(card).argument == str(path)
    plan = ready(path).plan
    assert (plan.engine, plan.dtype, plan.memory.verdict) == ("llama-cpp", "q8_0", "fits")
    argv = plan.launch.argv
    assert argv[:5] == ("llama-server", "--model", str(path), "--alias", "minilm-q8_0")
    assert after(argv, "--pooling") == "mean" and "--embedding" in argv
    assert plan.launch.readiness.path == "/health"


def test_the_longest_text_fits_into_a_pass_and_every_slot(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"bert.context_length": 8192})
    argv = ready(path, flags={"batch": 3}).plan.launch.argv
    assert after(argv, "--ubatch-size") == after(argv, "--batch-size") == "8192"
    assert (after(argv, "--parallel"), after(argv, "--ctx-size")) == ("3", str(3 * 8192))
    assert after(ready(path, flags={"max_length": 256}).plan.launch.argv, "--ubatch-size") == "2048"


def test_every_flag_is_one_that_the_server_documents(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    argv = ready(path, flags={"threads": 2}, with_key=True).plan.launch.argv
    assert {word for word in argv if word.startswith("--")} <= set(FLAGS)


@pytest.mark.engines
def test_every_flag_is_one_that_the_installed_server_knows(tmp_path: Path) -> None:
    if LLAMA.installed() is None:
        pytest.skip("llama-server is not on PATH")
    done = subprocess.run(["llama-server", "--help"], capture_output=True, text=True, check=True)
    argv = ready(write_gguf(tmp_path / "m.gguf"), with_key=True).plan.launch.argv
    known = set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))
    assert {word for word in argv if word.startswith("--")} <= known


def test_the_key_is_in_a_file_alone(tmp_path: Path) -> None:
    launch = ready(write_gguf(tmp_path / "m.gguf"), with_key=True).plan.launch
    assert after(launch.argv, "--api-key-file") == SECRET_FILE and launch.secret is not None
    argv = server_argv(launch, tmp_path, "sk-key-of-mine")
    named = Path(argv[argv.index("--api-key-file") + 1])
    assert named.read_text() == "sk-key-of-mine\n" and named.stat().st_mode & 0o777 == 0o600
    assert not any("sk-key" in word for word in argv)
    with pytest.raises(BadInput, match="'#'"):
        launch.secret.content("#comment")  # the server would read it as a comment, and serve without a key
    assert "--api-key-file" not in ready(tmp_path / "m.gguf").plan.launch.argv


def test_an_encoder_is_asked_for_its_pooling(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "codebert.gguf", {"bert.pooling_type": None})
    with pytest.raises(BadInput, match="ships no pooling"):
        ready(path)
    assert after(ready(path, flags={"pooling": "cls"}).plan.launch.argv, "--pooling") == "cls"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bert.embedding_length": 768}, "dimensions: the card says 384, the file 768"),
        ({"bert.block_count": 12}, "layers: the card says 6, the file 12"),
        ({"bert.pooling_type": 2}, "pooling: the card says mean, the file cls"),
    ],
)
def test_the_file_of_another_model_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", changed)
    with pytest.raises(Incompatible, match="is not all-minilm-l6-v2") as caught:
        ready("all-minilm-l6-v2", flags={"gguf": str(path)})
    assert said in caught.value.details


def test_a_card_with_its_file_keeps_prompts_and_pooling(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"bert.pooling_type": None})
    prepared = ready("all-minilm-l6-v2", flags={"gguf": str(path)})
    argv = prepared.plan.launch.argv
    assert prepared.plan.engine == "llama-cpp" and after(argv, "--pooling") == "mean"
    assert after(argv, "--alias") == "all-minilm-l6-v2" and prepared.plan.value("gguf") == str(path)
    with pytest.raises(Incompatible, match="needs mean pooling"):
        ready("all-minilm-l6-v2", flags={"gguf": str(path), "pooling": "cls"})


def test_what_would_give_wrong_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="it serves GGUF files"):
        ready("all-minilm-l6-v2", engine="llama-cpp")
    path = write_gguf(tmp_path / "m.gguf")
    card = Catalog().model(str(path))
    assert LLAMA.support(card.model_copy(update={"pooling": "max"})).verdict == "wrong-vectors"
    assert (
        LLAMA.support(Catalog().model("jina-code-v2").model_copy(update={"gguf": "x"})).verdict
        == "wrong-vectors"
    )
    for name in ("sglang", "sentence-transformers"):
        with pytest.raises(Incompatible, match="served by llama-cpp"):
            ready(path, engine=name)
    reranker = write_gguf(tmp_path / "rank.gguf", {"bert.pooling_type": 4})
    with pytest.raises(Incompatible):
        ready(reranker)
    with pytest.raises(BadInput, match="dtype cannot be chosen"):
        ready(path, flags={"dtype": "float16"})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04 a zip", "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 5), "requires a buffer"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 5), "not plausible"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**50), "not plausible"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "its header lacks"),
        (b"", "not a GGUF file"),
    ],
)
def test_a_broken_file_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=said):
        Catalog().model(str(path))


def test_several_files_in_a_folder_are_a_question(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf")
    with pytest.raises(BadInput, match="holds 2 GGUF files"):
        Catalog().model(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("srv  start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8081", "port"),
        ("error: invalid argument: --no-slots", "bad_flag"),
        ("llama_model_load: error loading model: unknown model architecture: 'x'", "unknown"),
        ("gguf_init_from_file_impl: failed to read magic", "missing_model"),
    ],
)
def test_the_cause_of_a_failed_start_is_named(line: str, cause: str) -> None:
    found = LLAMA.diagnose(f"build: 11434\n{line}\nexiting\n")
    assert found is not None and found.name == cause


def test_the_program_is_found_on_the_path(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_gguf(tmp_path / "m.gguf")
    monkeypatch.setenv("PATH", "/nowhere")
    assert LLAMA.installed() is None
    missing = cli("up", str(model), "--profile", "cpu", "--port", "auto")
    assert missing.returncode == 8 and "llama-server is on PATH" in missing.stderr
    program = tmp_path / "llama-server"
    program.touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin:/usr/bin")
    for said in ("version: 9876 (abc)", "version: 0.5.0-dev (build 9876, commit abc)"):
        program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        assert LLAMA.installed() == "9876"
    assert any("9876 is installed; its flags" in warning for warning in ready(model).plan.warnings)


def test_it_is_planned_on_processors_only(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    with pytest.raises(DeploytoolError, match="no engine serves m on a10g"):
        prepare(str(path), "a10g", catalog=Catalog(), flags={}, environ={}, verify=False)
