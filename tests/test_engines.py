"""What each engine says of models, plans for them, and reads in logs. Plans are pure: no GPU, no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES, engine
from deploytool.errors import BadInput, Incompatible, UnknownName
from deploytool.hardware import Scalar
from deploytool.launch import FREE_PORT, SECRET_FILE
from deploytool.models import Architecture, ModelCard, Pooling
from deploytool.planning import Plan, PlanRequest
from deploytool.plans import any_pooling

CATALOG = Catalog()
SGLANG, ST = ENGINES["sglang"], ENGINES["sentence-transformers"]


OF_CARDS = [name for name in ENGINES if name != "llama-cpp"]  # that one serves GGUF files: test_llama_cpp


def plan(
    model: str | ModelCard,
    profile: str,
    name: str = "sglang",
    *,
    with_key: bool = False,
    free_mib: float | None = None,
    gpus: int | None = None,
    model_path: str | None = None,
    **flags: Scalar,
) -> Plan:
    card = CATALOG.model(model) if isinstance(model, str) else model
    request = PlanRequest(flags=flags, with_key=with_key, free_mib=free_mib, gpus=gpus, model_path=model_path)
    return ENGINES[name].plan(card, CATALOG.hardware(profile), request)


def flag(made: Plan, name: str) -> str:
    argv = made.launch.argv
    return argv[argv.index(name) + 1]


def card(class_name: str, pooling: Pooling | None, kind: str = "embedding") -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "some",
            "title": "",
            "kind": kind,
            "licence": "x",
            "pooling": pooling,
            "hub_id": "org/some",
            "max_tokens": 512,
            "dimensions": 64,
            "architecture": {
                "class_name": class_name,
                "model_type": "bert",
                "hidden": 64,
                "intermediate": 128,
                "layers": 2,
                "heads": 4,
                "kv_heads": 4,
                "head_dim": 16,
                "vocab": 500,
                "max_positions": 512,
            },
        }
    )


def test_engines_are_found_by_name() -> None:
    assert engine("sglang").name == "sglang"
    with pytest.raises(UnknownName) as caught:
        engine("sentence-transformer")
    assert "sentence-transformers" in str(caught.value.hint)
    assert all(name == entry.name for name, entry in ENGINES.items())


@pytest.mark.parametrize(
    ("class_name", "pooling", "kind", "verdict"),
    [
        ("Qwen3ForCausalLM", "last", "embedding", "ok"),
        ("Qwen3Model", "last", "embedding", "ok"),
        ("BertModel", "cls", "embedding", "ok"),
        ("XLMRobertaModel", "cls", "embedding", "ok"),
        ("BertModel", "mean", "embedding", "wrong-vectors"),
        ("Qwen3ForCausalLM", "mean", "embedding", "wrong-vectors"),
        ("BertModel", "last", "embedding", "wrong-vectors"),
        ("RobertaModel", "cls", "embedding", "unsupported"),
        ("BertModel", None, "encoder", "unsupported"),
        ("Qwen3ForCausalLM", None, "reranker", "ok"),
        ("BertForSequenceClassification", None, "reranker", "unsupported"),
    ],
)
def test_sglang_is_right_by_architecture_and_pooling(
    class_name: str, pooling: Pooling | None, kind: str, verdict: str
) -> None:
    support = SGLANG.support(card(class_name, pooling, kind))
    assert support.verdict == verdict and support.reason


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_model_card_knows_better(name: str) -> None:
    for model in CATALOG.model_cards():
        if name in model.engines:
            assert ENGINES[name].support(model) == model.engines[name]


def test_the_line_that_everyone_types() -> None:
    made = plan("qwen3-4b", "a10g")
    assert made.launch.argv[:2] == ("sglang", "serve")
    assert "--is-embedding" in made.launch.argv
    assert made.launch.readiness.path == "/ready"
    document = made.document()
    assert {
        "weights_mib",
        "pool_mib",
        "activations_mib",
        "context_mib",
        "lower_mib",
        "expected_mib",
        "upper_mib",
        "available_mib",
        "verdict",
    } <= set(document["memory"])
    assert all({"name", "value", "origin"} <= set(value) for value in document["values"])


def test_a_small_model_does_not_take_the_whole_card() -> None:
    memory = plan("qwen3-0.6b", "a10g").memory
    assert memory.expected_mib < 5500
    assert memory.left_free_mib is not None and memory.left_free_mib > 16_000


def test_the_eight_billion_model_fits_24_gb_cards() -> None:
    for profile in ("a10g", "a10", "l4", "rtx3090", "rtx4090"):
        made = plan("qwen3-8b", profile)
        assert made.memory.verdict in ("fits", "tight"), profile
        assert made.value("max_length") == 8192
        card_mib = CATALOG.hardware(profile).usable_mib
        assert card_mib is not None
        fraction = made.value("mem_fraction_static")
        assert isinstance(fraction, float)
        # What SGLang may take covers weights and pool, and leaves what the forward pass needs.
        static = fraction * (card_mib - made.memory.context_mib)
        assert static >= made.memory.weights_mib + (made.memory.pool_mib or 0)
        assert static + made.memory.activations_mib + made.memory.context_mib <= card_mib


def test_chunked_prefill_and_fraction_are_always_explicit() -> None:
    for model in CATALOG.model_cards():
        for hardware in CATALOG.hardware_profiles():
            if SGLANG.support(model).verdict != "ok" or SGLANG.refuses(hardware) or hardware.kind == "alias":
                continue
            made = SGLANG.plan(model, hardware, PlanRequest())
            assert (
                int(flag(made, "--chunked-prefill-size")) == -1 or made.value("disable_radix_cache") is False
            )
            assert 0 < float(flag(made, "--mem-fraction-static")) < 1
            assert "--max-total-tokens" in made.launch.argv
            if made.memory.verdict != "does_not_fit":
                assert int(flag(made, "--max-total-tokens")) >= int(flag(made, "--context-length"))


def test_cls_pooling_needs_whole_texts_and_no_radix_cache() -> None:
    made = plan("bge-m3", "a10g")
    assert "--disable-radix-cache" in made.launch.argv
    assert flag(made, "--chunked-prefill-size") == "-1"
    assert int(flag(made, "--max-prefill-tokens")) >= 8192
    with pytest.raises(Incompatible, match="radix cache"):
        plan("bge-m3", "a10g", disable_radix_cache="false")
    with pytest.raises(Incompatible, match="both ways"):
        plan("bge-m3", "a10g", chunked_prefill_size="2048")


def test_the_models_own_positions_bound_the_context() -> None:
    made = plan("bge-small-zh", "a10g")
    assert flag(made, "--context-length") == "512"
    assert made.value("max_length") == 511
    assert any("511 of the model's 512" in warning for warning in made.warnings)
    assert flag(plan("bge-m3", "a10g"), "--context-length") == "8193"


def test_auto_truncation_cuts_at_the_length_that_is_shown() -> None:
    # SGLang cuts at six tokens less than its context (managers/tp_worker.py).
    made = plan("qwen3-4b", "a10g", allow_auto_truncate="yes", max_length="1000")
    assert flag(made, "--context-length") == "1006"


def test_matryoshka_sizes_of_the_card() -> None:
    override = json.loads(flag(plan("qwen3-0.6b", "a10g"), "--json-model-override-args"))
    assert override["is_matryoshka"] is True
    sizes = override["matryoshka_dimensions"]
    assert sizes[0] == 32 and sizes[-1] == 1024 and 768 in sizes and sizes == sorted(sizes)
    chosen = plan("qwen3-0.6b", "a10g", matryoshka="100,200")
    assert json.loads(flag(chosen, "--json-model-override-args"))["matryoshka_dimensions"] == [100, 200]
    any_size = plan("qwen3-0.6b", "a10g", matryoshka="any")
    assert json.loads(flag(any_size, "--json-model-override-args")) == {"is_matryoshka": True}
    assert "--json-model-override-args" not in plan("bge-m3", "a10g").launch.argv
    with pytest.raises(BadInput, match="matryoshka"):
        plan("qwen3-0.6b", "a10g", matryoshka="a lot")
    assert flag(plan("qwen3-0.6b", "cpu", ST.name), "--matryoshka") == "32-1024"
    assert flag(plan("nomic-v1.5", "cpu", ST.name), "--matryoshka") == "64,128,256,512,768"


def test_a_fraction_of_the_users_is_not_capped() -> None:
    made = plan("qwen3-0.6b", "a10g", mem_fraction_static="0.5")
    assert "--max-total-tokens" not in made.launch.argv
    assert made.memory.pool_mib == pytest.approx(0.5 * (22541 - 666) - made.memory.weights_mib, abs=2)
    both = plan("qwen3-0.6b", "a10g", mem_fraction_static="0.5", max_total_tokens="20000")
    assert flag(both, "--max-total-tokens") == "20000" and flag(both, "--mem-fraction-static") == "0.5"


def test_a_pool_that_is_too_small_shortens_texts_or_is_refused() -> None:
    assert plan("qwen3-4b", "a10g", max_total_tokens="3000").value("max_length") == 2048
    with pytest.raises(BadInput, match="cannot hold a text of 4096"):
        plan("qwen3-4b", "a10g", max_total_tokens="3000", max_length="4096")


def test_the_fewest_cards_that_fit() -> None:
    assert plan("qwen3-8b", "rtx3060-12gb", gpus=4).tensor_parallel == 2
    assert plan("qwen3-8b", "a10g", gpus=4).tensor_parallel == 1
    assert plan("qwen3-8b", "rtx3060-12gb", gpus=4).launch.devices == (0, 1)
    alone = plan("qwen3-8b", "rtx3060-12gb", gpus=1)
    assert alone.memory.verdict == "does_not_fit"
    assert flag(plan("qwen3-4b", "a10g", tensor_parallel="2"), "--tensor-parallel-size") == "2"
    with pytest.raises(Incompatible, match="32 attention heads"):
        plan("qwen3-4b", "a10g", tensor_parallel="3")
    with pytest.raises(BadInput, match="there are 2"):
        plan("qwen3-4b", "a10g", tensor_parallel="4", gpus=2)
    with pytest.raises(BadInput, match="no cards"):
        plan("qwen3-4b", "cpu", tensor_parallel="2")
    with pytest.raises(BadInput, match="one card"):
        plan("qwen3-4b", "a10g", ST.name, tensor_parallel="2")


def test_free_memory_now_counts_not_the_total() -> None:
    assert plan("qwen3-8b", "a10g").memory.verdict == "fits"
    made = plan("qwen3-8b", "a10g", free_mib=12_000)
    assert made.memory.verdict == "does_not_fit"
    assert made.memory.available_mib == 12_000 and made.memory.profile_mib == 22_541


def test_less_memory_makes_texts_shorter_and_says_so() -> None:
    made = plan("qwen3-8b", "a10g", free_mib=18_700)
    length = made.value("max_length")
    assert isinstance(length, int) and length < 8192
    assert made.memory.verdict in ("fits", "tight")
    assert any("because more does not fit" in warning for warning in made.warnings)


def test_a_length_is_checked_against_the_model() -> None:
    with pytest.raises(BadInput, match="reads 256 tokens"):
        plan("all-minilm-l6-v2", "cpu", ST.name, max_length=512)


@pytest.mark.parametrize("name", OF_CARDS)
def test_loopback_by_default_and_a_key_for_more(name: str) -> None:
    assert flag(plan("qwen3-0.6b", "a10g", name), "--host") == "127.0.0.1"
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(BadInput, match="no API key") as caught:
            plan("qwen3-0.6b", "a10g", name, host=host)
        assert "--api-key-file" in str(caught.value.hint)
        assert flag(plan("qwen3-0.6b", "a10g", name, host=host, with_key=True), "--host") == host
    for host in ("localhost", "127.0.0.2", "::1"):
        assert flag(plan("qwen3-0.6b", "a10g", name, host=host), "--host") == host


def test_where_the_key_goes() -> None:
    made = plan("qwen3-0.6b", "a10g", with_key=True)
    assert flag(made, "--config") == SECRET_FILE
    assert made.launch.secret is not None and made.launch.secret.kind == "file"
    served = plan("qwen3-0.6b", "a10g", ST.name, with_key=True)
    assert served.launch.secret is not None
    assert (served.launch.secret.kind, served.launch.secret.name) == ("env", "DEPLOYTOOL_API_KEY")
    assert plan("qwen3-0.6b", "a10g").launch.secret is None


@pytest.mark.parametrize("name", OF_CARDS)
def test_port_auto_is_left_open(name: str) -> None:
    made = plan("qwen3-0.6b", "a10g", name, port="auto")
    assert made.launch.port == 0 and flag(made, "--port") == FREE_PORT
    assert any("free port" in warning for warning in made.warnings)
    assert flag(made.model_copy(update={"launch": made.launch.with_port(4711)}), "--port") == "4711"


def test_batch_and_length_bound_the_forward_pass() -> None:
    small = plan("qwen3-0.6b", "a10g", ST.name, batch=4, max_length=512)
    large = plan("qwen3-0.6b", "a10g", ST.name, batch=64, max_length=512)
    assert flag(small, "--max-batch-tokens") == "2048" and flag(large, "--max-batch-tokens") == "32768"
    assert flag(small, "--max-length") == "512"
    assert small.memory.expected_mib < large.memory.expected_mib


def test_an_encoder_is_asked_for_its_pooling() -> None:
    with pytest.raises(BadInput, match="codebert is an encoder that ships no pooling") as caught:
        plan("codebert", "cpu", ST.name)
    assert "--pooling mean" in (caught.value.hint or "")
    made = plan("codebert", "cpu", ST.name, pooling="mean")
    assert flag(made, "--pooling") == "mean" and made.value("pooling") == "mean"
    assert any("not an embedding model" in warning for warning in made.warnings)
    assert flag(plan("codebert", "cpu", ST.name, pooling="cls"), "--pooling") == "cls"
    assert "--pooling" not in plan("bge-m3", "cpu", ST.name).launch.argv
    with pytest.raises(Incompatible, match="needs cls pooling"):
        plan("bge-m3", "cpu", ST.name, pooling="mean")


def test_remote_code_needs_asking_and_a_pinned_revision() -> None:
    with pytest.raises(Incompatible, match="needs code of its repository"):
        plan("jina-code-v2", "cpu", ST.name)
    with pytest.raises(BadInput, match="pinned revision"):
        plan("jina-code-v2", "cpu", ST.name, trust_remote_code="true")
    made = plan("jina-code-v2", "cpu", ST.name, trust_remote_code="true", revision="0123abc")
    assert "--trust-remote-code" in made.launch.argv and flag(made, "--revision") == "0123abc"
    assert any("will be executed" in warning for warning in made.warnings)
    for name in OF_CARDS:
        assert "--trust-remote-code" not in plan("qwen3-0.6b", "a10g", name).launch.argv


@pytest.mark.parametrize("name", OF_CARDS)
def test_a_local_folder_asks_no_hub(name: str) -> None:
    made = plan("qwen3-0.6b", "a10g", name, model_path="/models/q")
    assert made.launch.env["HF_HUB_OFFLINE"] == "1" and "/models/q" in made.launch.argv
    assert "HF_HUB_OFFLINE" not in plan("qwen3-0.6b", "a10g", name).launch.env


def test_processors() -> None:
    made = plan("qwen3-0.6b", "cpu", free_mib=20_000)
    assert flag(made, "--device") == "cpu" and flag(made, "--attention-backend") == "torch_native"
    assert made.launch.env["SGLANG_USE_CPU_ENGINE"] == "1" and made.launch.devices == ()
    request = PlanRequest(cpus=3)
    served = ST.plan(CATALOG.model("all-minilm-l6-v2"), CATALOG.hardware("cpu"), request)
    assert flag(served, "--threads") == "3" and flag(served, "--device") == "cpu"
    assert served.memory.verdict == "unknown" and served.memory.available_mib is None


def test_a_size_that_nothing_tells_is_refused() -> None:
    bare = ModelCard(name="bare", title="", kind="embedding", licence="x", hub_id="org/bare")
    with pytest.raises(Incompatible, match="no architecture"):
        plan(bare, "a10g", ST.name)
    odd = Architecture(
        class_name="Odd",
        model_type="odd",
        hidden=64,
        intermediate=64,
        layers=1,
        heads=1,
        kv_heads=1,
        head_dim=64,
        vocab=10,
    )
    with pytest.raises(Incompatible, match="how many parameters"):
        plan(bare.model_copy(update={"architecture": odd}), "a10g", ST.name)
    request = PlanRequest(weights_bytes=4_000_000)
    made = ST.plan(bare.model_copy(update={"architecture": odd}), CATALOG.hardware("a10g"), request)
    assert made.memory.weights_mib == pytest.approx(1_000_000 * 2 / 2**20, abs=0.1)


def test_an_untied_output_layer_counts_for_sglang_only() -> None:
    model = CATALOG.model("qwen3-8b")
    assert model.architecture is not None
    untied = model.model_copy(
        update={"architecture": model.architecture.model_copy(update={"tied_embeddings": False})}
    )
    tied = model.model_copy(
        update={"architecture": model.architecture.model_copy(update={"tied_embeddings": True})}
    )
    extra = plan(untied, "h100").memory.weights_mib - plan(tied, "h100").memory.weights_mib
    assert extra / 1024 == pytest.approx(1.16, abs=0.01)
    assert plan(untied, "h100", ST.name).memory.weights_mib == plan(tied, "h100", ST.name).memory.weights_mib


LOGS = Path(__file__).parent / "golden" / "logs"


def test_stages_of_a_real_sglang_start() -> None:
    lines = (LOGS / "sglang-0.5.23-cpu.txt").read_text(encoding="utf-8").splitlines()
    stages = [stage for stage in map(SGLANG.stage, lines) if stage]
    assert stages[0] == "loading weights" and stages[-1] == "ready"
    assert "loading weights 100%" in stages and "token pool allocated" in stages


def test_stages_of_our_own_server() -> None:
    assert ST.stage("stage: loading model\n") == "loading model"
    assert ST.stage("note: 384 dimensions") is None


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_healthy_log_has_no_cause(name: str) -> None:
    assert ENGINES[name].diagnose((LOGS / "sglang-0.5.23-cpu.txt").read_text(encoding="utf-8")) is None
    assert ENGINES[name].diagnose("") is None


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("AttributeError: 'BertConfig' object has no attribute 'position_embedding_type'", "unknown"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out_of_memory"),
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", "out_of_memory"),
        ("ERROR: [Errno 98] error while attempting to bind on address: address already in use", "port"),
        ("ValueError: Port is already in use. dist_init_port=1", "port"),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 12020).", "driver"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "driver"),
        ("RuntimeError: SGLang only supports sm75 and above.", "compute_capability"),
        ("CUDA error: no kernel image is available for execution on the device", "compute_capability"),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", "gated_model"),
        ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.", "missing_model"),
        ("OSError: org/none is not a local folder and is not a valid model identifier", "missing_model"),
        ("huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate snapshot", "offline"),
        ("ModuleNotFoundError: No module named 'flashinfer'", "missing_package"),
        ("sglang serve: error: unrecognized arguments: --pooling mean", "bad_flag"),
        ("ValueError: The repository contains custom code which must be executed", "remote_code"),
    ],
)
def test_the_cause_of_a_failed_start_is_named(line: str, cause: str) -> None:
    found = SGLANG.diagnose(f"INFO: some line\n{line}\nmore\n")
    assert found is not None and found.name == cause
    assert found.message and found.hint


def test_a_missing_package_is_named() -> None:
    found = SGLANG.diagnose("ModuleNotFoundError: No module named 'flashinfer'")
    assert found is not None and "flashinfer" in found.message
    ours = ST.diagnose("ModuleNotFoundError: No module named 'sentence_transformers'")
    assert ours is not None and "deploytool[serve]" in ours.hint


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("out of memory while loading /m on cuda: x", "out_of_memory"),
        ("org/x is gated: its terms", "gated_model"),
        ("there is no folder /m", "missing_model"),
        ("the server needs the package torch, which", "missing_package"),
        ("org/x needs code of its repository", "remote_code"),
        ("--device cuda: it is odd", "unknown"),
    ],
)
def test_our_own_server_says_its_cause_itself(line: str, cause: str) -> None:
    found = ST.diagnose(f"stage: loading model\nfatal: {line}\nhint: do this\n")
    assert found is not None
    assert (found.name, found.message, found.hint) == (cause, line, "do this")


def test_our_server_takes_the_lines_that_are_planned() -> None:
    from deploytool.st_server.config import parse

    for model in CATALOG.model_cards():
        if ST.support(model).verdict != "ok":
            continue
        pinned: dict[str, Any] = (
            {"trust_remote_code": "yes", "revision": "0" * 40} if model.remote_code.required else {}
        )
        for profile in ("cpu", "a10g"):
            flags: dict[str, Any] = {**pinned, **any_pooling(model)}
            made = plan(model, profile, ST.name, **flags)
            config = parse(made.launch.argv[3:], {"DEPLOYTOOL_API_KEY": "k"})
            assert config.max_batch_tokens == made.value("max_batch_tokens")
            assert config.max_length == made.value("max_length")
            assert (config.host, config.port) == (made.launch.host, made.launch.port)
            assert config.served_name == made.launch.model
