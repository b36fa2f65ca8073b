"""Contract: SGLang's real parser takes every command line that the planner makes, and reads what it shows.

The whole matrix hardware profile × model card × tensor parallel 1, 2, 4, with or without an API key, and on
every card each setting that changes the command: copies, quantisation, dtype, sizes. No GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploytool.catalog import Catalog
from deploytool.engines import ENGINES
from deploytool.errors import BadInput, Incompatible
from deploytool.hardware import HardwareProfile, Scalar
from deploytool.launch import SECRET_FILE
from deploytool.memory import sglang_chunk_default, sglang_fraction, sglang_reserve_mib
from deploytool.models import Architecture, ModelCard
from deploytool.planning import Plan, PlanRequest

HERE = Path(__file__).resolve().parent
KEY = "0123: #'tis a key"
SHOWN = {
    "tensor_parallel": "tp_size",
    "data_parallel": "dp_size",
    "quantization": "quantization",
    "chat_template": "chat_template",
    "max_running_requests": "max_running_requests",
    "dtype": "dtype",
    "host": "host",
    "port": "port",
    "served_model_name": "served_model_name",
    "chunked_prefill_size": "chunked_prefill_size",
    "max_prefill_tokens": "max_prefill_tokens",
    "max_total_tokens": "max_total_tokens",
    "mem_fraction_static": "mem_fraction_static",
    "disable_radix_cache": "disable_radix_cache",
    "allow_auto_truncate": "allow_auto_truncate",
    "enable_metrics": "enable_metrics",
}

# SGLang puts a value of its own where the plan gives none.
LEFT_TO_SGLANG = ("max_running_requests", "max_total_tokens")

# Each is planned for every card and model; what cannot be there is refused by the planner, with exit code 4.
SETTINGS: tuple[dict[str, Scalar], ...] = (
    {"data_parallel": 2},
    {"quantization": "fp8"},
    {"dtype": "float32", "max_length": 256},
    {"dtype": "float16", "max_running_requests": 64, "allow_auto_truncate": "yes"},
    {"mem_fraction_static": 0.5, "enable_metrics": "no", "matryoshka": "64,128"},
    {"max_total_tokens": 20000, "max_length": 512, "max_prefill_tokens": 4096},
    {"attention_backend": "flashinfer", "revision": "0123abc", "trust_remote_code": "yes"},
)

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("others"), pytest.mark.timeout(900)]


def config(arch: Architecture) -> dict[str, Any]:
    """A config.json as the model's own, from its card."""
    return {
        "architectures": [arch.class_name],
        "model_type": arch.model_type,
        "hidden_size": arch.hidden,
        "intermediate_size": arch.intermediate,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "vocab_size": arch.vocab,
        "max_position_embeddings": arch.max_positions or 32768,
        "tie_word_embeddings": arch.tied_embeddings,
    }


def plans() -> list[tuple[ModelCard, HardwareProfile, Plan]]:
    catalog, engine, made = Catalog(), ENGINES["sglang"], []
    for hardware in catalog.hardware_profiles():
        for card in catalog.model_cards():
            served = hardware.kind != "alias" and engine.refuses(hardware) is None
            if not served or engine.support(card).verdict != "ok":
                continue
            for request in requests(on_cpu=hardware.kind == "cpu"):
                try:
                    made.append((card, hardware, engine.plan(card, hardware, request)))
                except (Incompatible, BadInput):
                    continue
    return made


def requests(*, on_cpu: bool) -> list[PlanRequest]:
    """What is asked of every card and model."""
    found = [
        PlanRequest(
            flags={"tensor_parallel": cards}, with_key=with_key, free_mib=16000 if cards == 1 else None
        )
        for cards, with_key in ((1, False), (1, True), (2, False), (4, True))
        if cards == 1 or not on_cpu
    ]
    return found + [PlanRequest(flags=flags, free_mib=16000) for flags in SETTINGS]


def ask(sglang_venv: Path, folder: Path, orders: list[str]) -> list[dict[str, Any]]:
    """What SGLang's own environment answers to each order."""
    answer = subprocess.run(
        [str(sglang_venv / "bin" / "python"), str(HERE / "read_command_lines.py"), str(folder)],
        input="\n".join(orders),
        env={
            **os.environ,
            "PYTHONPATH": str(HERE / "sglang"),
            "SGLANG_USE_CPU_ENGINE": "1",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]


def test_every_command_line_is_read_as_it_is_shown(sglang_venv: Path, tmp_path: Path) -> None:
    matrix = plans()
    assert len(matrix) > 900
    settings = [(plan.value("quantization"), plan.value("data_parallel")) for _, _, plan in matrix]
    assert settings.count(("fp8", 1)) > 80 and settings.count((None, 2)) > 100
    secret = tmp_path / "secret.yaml"
    orders = []
    for card, _, plan in matrix:
        if plan.launch.secret is not None:
            secret.write_text(plan.launch.secret.content(KEY), encoding="utf-8")
        argv = [word.replace(SECRET_FILE, str(secret)) for word in plan.launch.argv[2:]]
        assert card.architecture is not None
        orders.append(json.dumps({"argv": argv, "config": config(card.architecture)}))
    different = list(dict.fromkeys(orders))  # many cards are given the same command line: it is read once
    answers = dict(zip(different, ask(sglang_venv, tmp_path, different), strict=True))
    assert len(answers) > 500
    for (card, hardware, plan), order in zip(matrix, orders, strict=True):
        read = answers[order]
        where = f"{card.name} on {hardware.name}, {plan.tensor_parallel} cards: {plan.launch.command()}"
        assert "refused" not in read, f"{where}\n{read['refused']}"
        check(plan, read["values"], where)
    print(f"{len(matrix)} command lines of SGLang read as shown")


def check(plan: Plan, read: dict[str, Any], where: str) -> None:
    for shown, name in SHOWN.items():
        value = next((entry.value for entry in plan.values if entry.name == shown), None)
        if value is not None or shown not in LEFT_TO_SGLANG:
            assert read[name] == value, f"{where}\n{shown}: shown {value}, read {read[name]}"
    reranker = "reranker" in plan.model
    assert read["is_embedding"] is not reranker, where
    assert bool(read["chat_template"]) is reranker, where
    if plan.value("attention_backend") is not None:
        assert read["attention_backend"] == plan.value("attention_backend"), where
    assert read["model_path"] == plan.launch.model_path, where
    assert read["load_format"] == "safetensors", where
    assert read["api_key"] == (KEY if plan.launch.secret else None), where
    sizes = plan.value("matryoshka")
    override = json.loads(read["json_model_override_args"])
    assert override.get("matryoshka_dimensions", None) == (
        [int(size) for size in str(sizes).split(",")] if sizes else None
    ), where


def test_the_memory_formula_is_sglangs(sglang_venv: Path, tmp_path: Path) -> None:
    """What SGLang resolves by itself for a card, here with its prefill graphs off (there is no GPU)."""
    card = Catalog().model("qwen3-0.6b")
    assert card.architecture is not None
    argv = ["--model-path", "m", "--is-embedding", "--device", "cuda", "--attention-backend", "triton"]
    cards = [hardware.memory_mib for hardware in Catalog().hardware_profiles() if hardware.memory_mib]
    orders = [
        json.dumps({"argv": argv, "config": config(card.architecture), "total_mib": total}) for total in cards
    ]
    for total, found in zip(cards, ask(sglang_venv, tmp_path, orders), strict=True):
        chunk = sglang_chunk_default(total)
        fraction = sglang_fraction(total, sglang_reserve_mib(total, chunk, prefill_graphs=False))
        values = found["values"]
        assert (values["chunked_prefill_size"], values["mem_fraction_static"]) == (chunk, fraction), total
