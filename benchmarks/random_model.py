"""A model folder of a card's real shape with random weights: what memory and speed need, without a download.

`python benchmarks/random_model.py qwen3-0.6b FOLDER --device cuda`. Weights are drawn on the device, scaled so
that no dtype overflows, and written straight to safetensors; names and shapes are those that transformers
builds from the configuration, so that the parameter count is the published one (checked against the card).
The tokenizer knows bytes only. Vectors mean nothing; memory, shapes and work are the model's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from deploytool.catalog import Catalog
from deploytool.models import Architecture, ModelCard, parameter_count

SCALE = 0.02
SHARD_BYTES = 4 * 2**30
# Small enough for any machine: to try a benchmark before it is run on a card.
TINY = ModelCard(
    name="tiny",
    title="A tiny Qwen3, for trying a benchmark",
    kind="embedding",
    architecture=Architecture(
        class_name="Qwen3ForCausalLM", model_type="qwen3", hidden=64, intermediate=128, layers=2, heads=4,
        kv_heads=2, head_dim=16, vocab=512, swiglu=True,
    ),
    parameters=None,
    weights_dtype="bfloat16",
    dimensions=64,
    pooling="last",
    max_tokens=512,
    licence="none",
)  # fmt: skip
FAMILIES = {"qwen3": "causal", "bert": "encoder", "xlm-roberta": "encoder"}


def card_of(name: str) -> ModelCard:
    """A packaged card, or `tiny`. Raises NotAvailable for an unknown name, SystemExit for another family."""
    card = TINY if name == TINY.name else Catalog().model(name)
    if _architecture(card).model_type not in FAMILIES:
        raise SystemExit(f"{name}: random weights are made for {', '.join(FAMILIES)}")
    return card


def _architecture(card: ModelCard) -> Architecture:
    if card.architecture is None:
        raise SystemExit(f"{card.name}: nothing says how it is built")
    return card.architecture


def make(card: ModelCard, folder: Path, device: str) -> int:
    """Write the folder; returns the number of parameters."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(card, folder)
    stated = _config(card)
    config = AutoConfig.for_model(**stated)
    (folder / "config.json").write_text(json.dumps(stated, indent=1), encoding="utf-8")
    _sentence_transformers(card, folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in AutoModel.from_config(config).state_dict().items()}
    dtype = getattr(torch, card.weights_dtype or "float32")
    count = sum(shape.numel() for shape in shapes.values())
    published = card.parameters or parameter_count(_architecture(card))
    if count != published:
        raise SystemExit(f"{card.name}: {count:,} parameters were made, {published:,} are published")
    _weights(shapes, folder, dtype, device)
    return int(count)


def _weights(shapes: dict[str, Any], folder: Path, dtype: Any, device: str) -> None:
    """Matrices normal with deviation SCALE, scales of norms one, biases zero; in shards of 4 GiB."""
    import torch
    from safetensors.torch import save_file

    drawn = torch.Generator(device).manual_seed(0)
    shards: list[dict[str, Any]] = [{}]
    size = 0
    for name, shape in shapes.items():
        bytes_here = shape.numel() * dtype.itemsize
        if size and size + bytes_here > SHARD_BYTES:
            shards.append({})
            size = 0
        size += bytes_here
        shards[-1][name] = shape
    index = {}
    for number, shard in enumerate(shards, start=1):
        only = len(shards) == 1
        file = "model.safetensors" if only else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name, shape in shard.items():
            if len(shape) > 1:
                values = torch.empty(shape, dtype=dtype, device=device).normal_(0, SCALE, generator=drawn)
            else:
                made = torch.zeros if name.endswith("bias") else torch.ones
                values = made(shape, dtype=dtype, device=device)
            tensors[name] = values.cpu()
            index[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        document = {"metadata": {}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document), encoding="utf-8")


def _config(card: ModelCard) -> dict[str, Any]:
    """config.json, as the model's authors write it."""
    a = _architecture(card)
    shared = {
        "model_type": a.model_type,
        "hidden_size": a.hidden,
        "intermediate_size": a.intermediate,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "vocab_size": a.vocab,
        "max_position_embeddings": a.max_positions or card.max_tokens,
        "architectures": [a.class_name],
        "dtype": card.weights_dtype or "float32",
    }
    if FAMILIES[a.model_type] == "causal":
        return shared | {
            "num_key_value_heads": a.kv_heads,
            "head_dim": a.head_dim,
            "tie_word_embeddings": a.tied_embeddings,
            "rope_theta": 1_000_000,
            "rms_norm_eps": 1e-6,
        }
    types = a.token_types if a.token_types is not None else 2
    return shared | {"type_vocab_size": types, "pad_token_id": _pad(card)}


def _pad(card: ModelCard) -> int:
    """RoBERTa counts positions from its padding token, which is 1 in all published ones."""
    return 1 if _architecture(card).model_type == "xlm-roberta" else 0


def _tokenizer(card: ModelCard, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<unk>", "<s>", "</s>"]
    special[_pad(card)] = "<pad>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate([*special, *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    single = "$A </s>" if card.pooling == "last" else "<s> $A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",  # noqa: S106 - words
        padding_side="left" if card.pooling == "last" else "right", model_max_length=card.max_tokens,
    ).save_pretrained(folder)  # fmt: skip


def _sentence_transformers(card: ModelCard, folder: Path) -> None:
    def write(name: str, document: Any) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")

    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    write("modules.json", [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(modules)
    ])  # fmt: skip
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}
    pooling = {f"pooling_mode_{mode}": mode == modes.get(str(card.pooling)) for mode in modes.values()}
    write("1_Pooling/config.json", {"word_embedding_dimension": card.dimensions, **pooling})
    write("sentence_bert_config.json", {"max_seq_length": card.max_tokens, "do_lower_case": False})
    (folder / "2_Normalize").mkdir(exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a packaged card's name, or tiny")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    count = make(card_of(given.model), given.folder, given.device)
    print(f"{given.folder}: {count:,} parameters")


if __name__ == "__main__":
    main()
