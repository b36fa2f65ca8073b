"""The server's exported backends: same vectors, no torch, made once, safe against every kind of damage."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import Planted
from tiny_models import make_tiny

from deploytool.st_server import config, exports
from deploytool.st_server.backends import choice, loader, probe
from deploytool.st_server.backends.padding import Arrays, Padding
from deploytool.st_server.errors import BadUsage, LoadFailed
from deploytool.st_server.exports import NotExportable
from deploytool.st_server.tokens import Pair

KINDS = ("onnx", "openvino")
ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.model


def options(model: Path, *flags: str) -> config.Config:
    argv = ["--model", str(model), "--device", "cpu", "--threads", "2", *flags]
    return config.parse(argv, os.environ)


def quiet(_: str) -> None:
    pass


@pytest.fixture
def reference(planted: Planted) -> np.ndarray:
    """What `SentenceTransformer.encode` gives for the probes, one by one, in a process of its own."""
    rows = []
    for text in probe.PROBES:
        answer = httpx.post(f"{planted.url}/right/v1/embeddings", json={"input": text}, timeout=60)
        rows.append(answer.json()["data"][0]["embedding"])
    return np.array(rows, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_vectors_are_those_of_encode_and_torch_stays_away(
    kind: str, minilm_folder: Path, reference: np.ndarray
) -> None:
    backend = loader(kind)(options(minilm_folder), minilm_folder, quiet)
    rows = probe.computed(backend)
    expected = np.concatenate([reference, reference])
    assert probe.cosines(rows, expected).min() >= probe.SAME
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5
    limits = backend.warm_up()
    assert 0 < limits.overhead <= limits.budget
    assert (backend.info.backend, backend.info.dimensions, backend.info.max_length) == (kind, 384, 256)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_lanes_compute_at_once_without_mixing_rows(kind: str, minilm_folder: Path) -> None:
    backend = loader(kind)(options(minilm_folder), minilm_folder, quiet)
    batches = [[[1000 + number] * (5 + number)] * (1 + number % 4) for number in range(24)]
    alone = [backend.embed(batch, alone=False) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: backend.embed(batch, alone=False), batches))
    for left, right in zip(alone, together, strict=True):
        assert np.abs(left - right).max() < 1e-5


@pytest.mark.slow
def test_a_small_graph_is_opened_again_for_what_is_alone(
    minilm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploytool.st_server.backends import exported, onnx_backend

    opened: list[tuple[int, int]] = []
    computed: list[tuple[int, int]] = []

    def watched(graph: Path, lanes: int, threads: int) -> exported.Run:
        opened.append((lanes, threads))
        run = original(graph, lanes, threads)

        def call(features: Arrays) -> exported.Vectors:
            computed.append((lanes, threads))
            return run(features)

        return call

    original = onnx_backend.open_graph
    monkeypatch.setattr(onnx_backend, "open_graph", watched)
    backend = loader("onnx")(options(minilm_folder), minilm_folder, quiet)
    assert opened == [(2, 2), (1, 2)]
    computed.clear()
    together = backend.embed([[2000, 2001]], alone=False)
    assert np.abs(together - backend.embed([[2000, 2001]], alone=True)).max() < 1e-5
    assert computed == [(2, 2), (1, 2)]
    monkeypatch.setattr(exported, "TWICE_MIB", 1)  # stands for a large model
    opened.clear()
    loader("onnx")(options(minilm_folder), minilm_folder, quiet)
    assert opened == [(2, 2)]


@pytest.mark.slow
def test_a_server_on_an_export_never_loads_torch(minilm_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deploytool.st_server import config;"
        "from deploytool.st_server.backends import choice;"
        "model = sys.argv[1];"
        "given = config.parse(['--model', model, '--device', 'cpu', '--backend', 'onnx']);"
        "choice.load(given, Path(model), lambda _: None).warm_up();"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(minilm_folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_auto_takes_one_that_is_right_and_remembers_it(
    minilm_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = options(minilm_folder, "--backend", "auto")
    stages: list[str] = []
    first = choice.load(given, minilm_folder, stages.append)
    (kept,) = [
        json.loads(file.read_bytes()) for file in (given.cache_dir / "exports").glob("choice-*.json")
        if file.name == f"choice-{choice._circumstances(given, minilm_folder, list(KINDS))}.json"
    ]  # fmt: skip
    assert set(kept["scores_ms"]) == {"torch", *KINDS}
    assert kept["backend"] == first.info.backend == choice._best(kept["scores_ms"])
    stages.clear()
    assert choice.load(given, minilm_folder, stages.append).info.backend == first.info.backend
    assert "comparing backends" not in stages


def test_as_good_as_equal_is_the_lighter_one() -> None:
    assert choice._best({"torch": 40.0, "onnx": 10.2, "openvino": 10.0}) == "onnx"
    assert choice._best({"torch": 40.0, "onnx": 12.0, "openvino": 10.0}) == "openvino"
    assert choice._best({"torch": 9.0, "onnx": 12.0, "openvino": 10.0}) == "torch"
    assert choice._best({}) == "torch"


@pytest.mark.parametrize("flags", [["--dtype", "bfloat16"], ["--device", "cuda"]])
def test_auto_is_torch_where_an_export_would_compute_something_else(flags: list[str]) -> None:
    assert choice._candidates(config.parse(["--model", "m", *flags])) == []


def test_a_named_backend_that_cannot_do_it_says_so(minilm_folder: Path) -> None:
    with pytest.raises(BadUsage, match="float32 on the processor"):
        loader("onnx")(options(minilm_folder, "--dtype", "float16"), minilm_folder, quiet)


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_made(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sentence Transformers folder with a one-layer random BERT and the real tokenizer."""
    return make_tiny(minilm_folder, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny(tiny_made: Path, tmp_path: Path) -> Path:
    """Such a folder of a test's own."""
    return Path(shutil.copytree(tiny_made, tmp_path / "tiny"))


@pytest.mark.slow
def test_a_damaged_export_is_made_anew_and_a_wrong_one_is_never_served(tiny: Path, tmp_path: Path) -> None:
    given = options(tiny, "--cache-dir", str(tmp_path / "cache"), "--backend", "onnx")
    backend = loader("onnx")(given, tiny, quiet)
    assert (backend.info.max_length, backend.info.normalized) == (128, False)
    name = exports.key(given, tiny, "onnx")
    folder = tmp_path / "cache" / "exports" / name

    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:5000])
    with pytest.raises(LoadFailed, match="cannot open the exported model"):
        loader("onnx")(given, tiny, quiet)
    assert not folder.exists()
    stages: list[str] = []
    loader("onnx")(given, tiny, stages.append)
    assert stages[0] == "exporting model for onnx"

    kept = dict(np.load(folder / "probes.npz"))
    kept["vectors"][1] = kept["vectors"][2]  # stands for a graph that computes something else
    np.savez(folder / "probes.npz", **kept)
    with pytest.raises(NotExportable, match="not those of torch"):
        loader("onnx")(given, tiny, quiet)
    with pytest.raises(NotExportable, match="not those of torch"):  # remembered: nothing is exported again
        loader("onnx")(given, tiny, lambda stage: pytest.fail(stage) if "export" in stage else None)


def test_the_key_changes_with_whatever_shapes_the_vectors(tiny: Path) -> None:
    keys = {
        exports.key(options(tiny), tiny, "onnx"),
        exports.key(options(tiny), tiny, "openvino"),
        exports.key(options(tiny, "--normalize"), tiny, "onnx"),
    }
    assert exports.key(options(tiny, "--max-length", "9", "--port", "1"), tiny, "onnx") in keys
    (tiny / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "cls"}')
    keys.add(exports.key(options(tiny), tiny, "onnx"))
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    keys.add(exports.key(options(tiny), tiny, "onnx"))
    assert len(keys) == 5


@pytest.mark.slow
def test_an_architecture_that_cannot_be_exported_is_computed_by_torch(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = options(tiny, "--cache-dir", str(tmp_path / "cache"), "--backend", "auto")
    folder = tmp_path / "cache" / "exports"
    folder.mkdir(parents=True)
    for kind in KINDS:  # what an earlier start found out
        (folder / f"{exports.key(given, tiny, kind)}.failed").write_text("an operator is not known")
    assert choice.load(given, tiny, quiet).info.backend == "torch"
    assert "note: no onnx: an operator is not known" in capfd.readouterr().err
    with pytest.raises(NotExportable, match="an operator is not known"):
        loader("onnx")(given, tiny, quiet)


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_ends_in_torch(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    given = options(tiny, "--cache-dir", str(tmp_path / "file"), "--backend", "auto")
    assert choice.load(given, tiny, quiet).info.backend == "torch"
    assert "cannot be written" in capfd.readouterr().err


@pytest.mark.slow
def test_two_servers_make_one_export(tiny: Path, tmp_path: Path) -> None:
    given = options(tiny, "--cache-dir", str(tmp_path / "cache"))
    stages: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: exports.get(given, tiny, ["onnx"], stages.append), range(2)))
    assert found[0] == found[1]
    assert sorted(stages) == ["exporting model for onnx", "waiting for another server's export"]


@pytest.mark.slow
def test_an_export_ends_with_its_server(minilm_folder: Path, tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "deploytool.st_server", "--model", str(minilm_folder), "--port", "0",
         "--backend", "onnx", "--cache-dir", str(tmp_path / "cache")],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if line.startswith("stage: exporting"):
                break
        child = wait_for_child(server.pid)
        server.send_signal(signal.SIGKILL)
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
    deadline = time.monotonic() + 300
    while running(child):
        assert time.monotonic() < deadline, "the export outlives its server"
        time.sleep(0.05)
    assert not list((tmp_path / "cache" / "exports").glob("*/facts.json"))


def wait_for_child(pid: int) -> int:
    deadline = time.monotonic() + 300
    while True:
        children = Path(f"/proc/{pid}/task")
        found = [int(word) for task in children.iterdir() for word in (task / "children").read_text().split()]
        if found:
            return found[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False


# --- padding --------------------------------------------------------------------------------------


def test_padding_on_either_side_and_the_types_of_a_pair() -> None:
    right = Padding(9, left=False, type_ids=True).arrays([[1, 2, 3], Pair([4, 5], 1)])
    assert right["input_ids"].tolist() == [[1, 2, 3], [4, 5, 9]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert right["token_type_ids"].tolist() == [[0, 0, 0], [0, 1, 0]]
    left = Padding(9, left=True, type_ids=False).arrays([[1, 2, 3], [4]])
    assert left["input_ids"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert "token_type_ids" not in left


def test_openvino_reports_to_nobody() -> None:
    code = (
        "from deploytool.st_server.backends.quiet_openvino import openvino;"
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.slow
def test_a_decoder_keeps_no_keys_and_values_and_gives_the_same_vectors(tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
import numpy as np, torch
from benchmarks.random_model import TINY, make
from sentence_transformers import SentenceTransformer
from deploytool.st_server import config
from deploytool.st_server.backends import torch_backend
folder = Path(sys.argv[1])
make(TINY, folder, "cpu")
given = config.parse(["--model", str(folder), "--device", "cpu", "--dtype", "float32"])
backend = torch_backend.load(given, folder, lambda _: None)
plain = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
kept = []
def watched(forward):
    def call(*args, **named):
        found = forward(*args, **named)
        kept.append(found.past_key_values is not None)
        return found
    return call
for model in (plain, backend._model):
    model.transformers_model.forward = watched(model.transformers_model.forward)
texts = ["a text", "another, longer text of some tokens"]
expected = plain.encode(texts)
ours = backend.embed(backend.tokenizer.encode(texts), alone=False)
print(json.dumps([kept, float(np.abs(expected - ours).max())]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")], capture_output=True, text=True, check=True,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    kept, difference = json.loads(done.stdout.splitlines()[-1])
    assert kept[-1] is False  # what Sentence Transformers itself does hangs on its version
    assert difference < 1e-5
