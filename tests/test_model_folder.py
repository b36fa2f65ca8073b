"""Cards read off a model's own files, in the styles that real models have; never executed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import Planted

from deploytool.errors import BadInput
from deploytool.model_folder import read_folder
from deploytool.models import ModelCard

BERT: dict[str, Any] = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 32,
    "type_vocab_size": 2,
}  # fmt: skip
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
POOLING = "1_Pooling/config.json"


def model(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def card(folder: Path, files: dict[str, Any]) -> ModelCard:
    return read_folder(model(folder, files), name="m", origin="folder m")


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """A safetensors file of zeros: name -> (type, shape, bytes)."""
    header, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"word_embedding_dimension": 64, "pooling_mode_cls_token": True}, "cls"),
        ({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}, "mean"),
        ({"word_embedding_dimension": 64, "pooling_mode_max_tokens": True}, "max"),
        ({"word_embedding_dimension": 64, "pooling_mode_lasttoken": True}, "last"),
        ({"word_embedding_dimension": 64, "pooling_mode_weightedmean_tokens": True}, "weighted-mean"),
        ({"word_embedding_dimension": 64, "pooling_mode_mean_sqrt_len_tokens": True}, "mean-sqrt-len"),
        ({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False}, "mean"),  # its default
        ({"embedding_dimension": 64, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"embedding_dimension": 64, "pooling_mode": "lasttoken"}, "last"),
        ({"embedding_dimension": 64, "pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_poolings_of_both_styles(tmp_path: Path, pooling: dict[str, Any], expected: str) -> None:
    found = card(tmp_path, {"config.json": BERT, "modules.json": MODULES, POOLING: pooling})
    assert (found.kind, found.pooling, found.dimensions, found.normalize) == (
        "embedding",
        expected,
        64,
        False,
    )


@pytest.mark.parametrize(
    "pooling",
    [
        {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
        {"embedding_dimension": 64, "pooling_mode": ["cls", "max"]},
    ],
)
def test_several_poolings_side_by_side(tmp_path: Path, pooling: dict[str, Any]) -> None:
    found = card(tmp_path, {"config.json": BERT, "modules.json": MODULES, POOLING: pooling})
    assert (found.pooling, found.dimensions) == (None, 128)
    assert found.notes == ("pools by cls + max, which only Sentence Transformers computes",)


@pytest.mark.model
def test_what_this_sentence_transformers_writes_is_read(minilm_folder: Path, planted: Planted) -> None:
    """The files of the installed version, made by it from the packaged model."""
    old = read_folder(minilm_folder, name="m", origin="o")
    new = read_folder(planted.saved, name="m", origin="o")
    assert (planted.saved / POOLING).read_text() != (minilm_folder / POOLING).read_text()
    same = {"folder", "sources"}
    assert new.model_dump(exclude=same) == old.model_dump(exclude=same)


def test_a_projection_sets_the_width(tmp_path: Path) -> None:
    modules = [
        *MODULES,
        {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        NORMALIZE,
    ]
    files = {
        "config.json": BERT, "modules.json": modules, POOLING: {"word_embedding_dimension": 64},
        "2_Dense/config.json": {"in_features": 64, "out_features": 16},
    }  # fmt: skip
    found = card(tmp_path, files)
    assert (found.dimensions, found.normalize) == (16, True)


def test_a_transformer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    modules = [MODULES[0] | {"path": "0_Transformer"}, MODULES[1]]
    files = {
        "modules.json": modules, POOLING: {"word_embedding_dimension": 64}, "0_Transformer/config.json": BERT,
        "0_Transformer/sentence_bert_config.json": {"max_seq_length": 24},
    }  # fmt: skip
    safetensors(model(tmp_path, files) / "0_Transformer" / "model.safetensors", {"w": ("F16", [5], 10)})
    found = read_folder(tmp_path, name="m", origin="o")
    assert (found.max_tokens, found.parameters, found.weights_dtype) == (24, 5, "float16")


@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 24}, "tokenizer_config.json": {}}, 24),
        ({"tokenizer_config.json": {"model_max_length": 30}}, 30),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 32),
        ({}, 32),
        ({"config.json": BERT | {"model_type": "roberta", "max_position_embeddings": 34}}, 32),
        ({"config.json": BERT | {"max_position_embeddings": None}}, None),
    ],
)  # fmt: skip
def test_how_much_of_a_text_is_read(tmp_path: Path, files: dict[str, Any], tokens: int | None) -> None:
    assert card(tmp_path, {"config.json": BERT} | files).max_tokens == tokens


@pytest.mark.parametrize(
    ("front", "languages"),
    [
        ("language: en", "en"),
        ("language: [en, zh-CN]", "en, zh-CN"),
        ("language:\n- en\n  - de\ntags: [x]", "en, de"),
        ("tags: [x]", None),
        ("language: []", None),
    ],
)
def test_languages_are_those_of_the_readme(tmp_path: Path, front: str, languages: str | None) -> None:
    text = f"---\n{front}\n---\nlanguage: fr\n"
    assert card(tmp_path, {"config.json": BERT, "README.md": text}).languages == languages


def test_prompts_licence_and_matryoshka(tmp_path: Path) -> None:
    files = {
        "config.json": BERT | {"is_matryoshka": True, "matryoshka_dimensions": [16, 32]},
        "config_sentence_transformers.json": {"prompts": {"query": "Q: ", "passage": "P: "}},
        "README.md": "---\ntags: [x]\nlicense: mit\n---\n# A model\nlicense: not this\n",
    }
    found = card(tmp_path, files)
    assert (found.prompts.query, found.prompts.document, found.licence) == ("Q: ", "P: ", "mit")
    assert found.matryoshka is not None and found.matryoshka.sizes == (16, 32)


def test_weights_are_counted_from_their_headers(tmp_path: Path) -> None:
    model(tmp_path, {"config.json": BERT})
    safetensors(
        tmp_path / "model.safetensors",
        {"a": ("BF16", [3, 4], 24), "b": ("F32", [2], 8), "embeddings.position_ids": ("I64", [1, 32], 256)},
    )
    found = read_folder(tmp_path, name="m", origin="o")
    assert (found.parameters, found.weights_dtype) == (14, "bfloat16")


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    model(tmp_path, {"config.json": BERT, "model.safetensors.index.json": index})
    safetensors(tmp_path / "model-1.safetensors", {"a": ("F32", [3], 12)})
    assert read_folder(tmp_path, name="m", origin="o").parameters is None  # one shard is missing
    safetensors(tmp_path / "model-2.safetensors", {"b": ("F32", [4], 16)})
    safetensors(tmp_path / "other.safetensors", {"c": ("F32", [9], 36)})
    assert read_folder(tmp_path, name="m", origin="o").parameters == 7


def test_quantised_weights_are_not_counted(tmp_path: Path) -> None:
    model(tmp_path, {"config.json": BERT})
    safetensors(tmp_path / "model.safetensors", {"q": ("I32", [3], 12), "scale": ("F16", [3], 6)})
    assert read_folder(tmp_path, name="m", origin="o").parameters is None
    found = card(tmp_path, {"config.json": BERT | {"quantization_config": {"bits": 4}}})
    assert found.parameters is None and "quantised" in found.notes[1]


def test_code_of_its_own_is_named_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    files = {
        "config.json": BERT | {"auto_map": {"AutoModel": "org/code--modeling.Model"}},
        "modeling.py": f"open({str(marker)!r}, 'w')",
    }
    found = card(tmp_path, files)
    assert found.remote_code.required and found.remote_code.repository == "org/code"
    own = card(
        tmp_path, {"config.json": BERT, "modules.json": [MODULES[0] | {"type": "custom_st.Transformer"}]}
    )
    assert own.remote_code.required and "custom_st.Transformer" in own.notes[0]
    assert not marker.exists()


@pytest.mark.parametrize(
    ("config", "settings", "kind"),
    [
        (BERT, {}, "encoder"),
        (BERT | {"architectures": ["BertForSequenceClassification"]}, {}, "reranker"),
        (BERT, {"model_type": "CrossEncoder"}, "reranker"),
    ],
)
def test_kinds_without_pooling(tmp_path: Path, config: Any, settings: Any, kind: str) -> None:
    found = card(tmp_path, {"config.json": config, "config_sentence_transformers.json": settings})
    assert (found.kind, found.pooling) == (kind, None)


def test_a_decoders_figures(tmp_path: Path) -> None:
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "head_dim": 32,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 100, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    found = card(tmp_path, {"config.json": config})
    architecture = found.architecture
    assert architecture is not None
    assert (architecture.head_dim, architecture.kv_heads, architecture.swiglu) == (32, 2, True)
    assert not architecture.tied_embeddings
    assert found.weights_dtype == "bfloat16"


def test_the_names_of_nomics_config(tmp_path: Path) -> None:
    config = {
        "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "n_embd": 64, "n_inner": None,
        "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 128, "activation_function": "swiglu",
    }  # fmt: skip
    architecture = card(tmp_path, {"config.json": config}).architecture
    assert architecture is not None
    assert (architecture.hidden, architecture.intermediate, architecture.layers) == (64, 256, 2)
    assert (architecture.max_positions, architecture.swiglu) == (128, True)


def test_static_embeddings_have_no_architecture(tmp_path: Path) -> None:
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    found = card(tmp_path, {"modules.json": modules})
    assert (found.kind, found.architecture) == ("embedding", None)


def test_missing_figures_are_named(tmp_path: Path) -> None:
    found = card(tmp_path, {"config.json": {"model_type": "t5", "d_model": 64, "num_layers": 2}})
    assert found.architecture is None
    assert any("lacks intermediate_size, num_attention_heads, vocab_size" in note for note in found.notes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no config.json"),
        ({"config.json": "{"}, "config.json cannot be used: line 1"),
        ({"config.json": "[]"}, "expected an object"),
        ({"config.json": BERT | {"hidden_size": "wide"}}, "not numbers"),
        ({"config.json": BERT | {"num_attention_heads": 0}}, "not numbers"),
        ({"config.json": BERT | {"vocab_size": -5}}, "vocab_size: Input should be greater than 0"),
        ({"config.json": BERT, "modules.json": {}}, "expected a list of modules"),
        ({"config.json": BERT, "modules.json": [{"type": "x.Y", "path": "../../etc"}]}, "outside the model"),
        (
            {"config.json": BERT, "config_sentence_transformers.json": {"model_type": "SparseEncoder"}},
            "sparse",
        ),
        ({"config.json": BERT, "model.safetensors": "not one"}, "not a safetensors file"),
        ({"config.json": BERT, "model.safetensors.index.json": "{}"}, "index.json cannot be read"),
    ],
)
def test_broken_folders_are_clear(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        card(tmp_path, files)
    assert caught.value.hint


def test_a_cut_off_download_is_seen(tmp_path: Path) -> None:
    model(tmp_path, {"config.json": BERT})
    path = tmp_path / "model.safetensors"
    safetensors(path, {"a": ("F32", [100], 400)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="cut off"):
        read_folder(tmp_path, name="m", origin="o")
