"""Write tiny random models in the layout of Sentence Transformers: make_models.py FOLDER KIND...

Each is written to FOLDER/KIND. KIND is one of qwen3, reranker, bert-cls, bert-mean.
Random weights are enough to see whether an engine pools, normalises and orders as it should: the reference is
computed from the same weights by another implementation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CORPUS = [
    "a tiny corpus for the test of an embedding server",
    "the quick brown fox jumps over the lazy dog",
    "def add(a, b): return a + b",
    "vectors are compared by their cosine",
] * 20


def main(kind: str, folder: Path) -> None:
    import torch

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "reranker":
        qwen3(folder, ending="", words=["yes", "no"] * 100)
        # As Sentence Transformers marks a model that scores pairs.
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps({"model_type": "CrossEncoder"}), encoding="utf-8")
        return
    if kind == "qwen3":
        hidden = qwen3(folder)
        pooling = "lasttoken"
    else:
        hidden = bert(folder)
        pooling = kind.removeprefix("bert-")
    sentence_transformers_files(folder, hidden, pooling)


def qwen3(folder: Path, ending: str = " <|endoftext|>", words: list[str] | None = None) -> int:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*CORPUS, *(words or [])], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A{ending}", special_tokens=[("<|endoftext|>", 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=512
    ).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
        eos_token_id=1, bos_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return 64


def bert(folder: Path) -> int:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=256,
    ).save_pretrained(folder)  # fmt: skip
    config = BertConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    # Published BERT models say this; SGLang reads it, and newer transformers no longer write it.
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | {"position_embedding_type": "absolute"}), encoding="utf-8")
    return 64


def sentence_transformers_files(folder: Path, hidden: int, pooling: str) -> None:
    def write(name: str, document: Any) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document, indent=2), encoding="utf-8")

    classes = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    write("modules.json", [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(zip(classes, paths, strict=True))
    ])  # fmt: skip
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    write("1_Pooling/config.json", {"word_embedding_dimension": hidden, "include_prompt": True} | {
        f"pooling_mode_{mode}": mode.startswith(pooling) for mode in modes if mode != "mean_sqrt_len_tokens"
    })  # fmt: skip
    write("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    (folder / "2_Normalize").mkdir(exist_ok=True)


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        main(wanted, Path(sys.argv[1]) / wanted)
