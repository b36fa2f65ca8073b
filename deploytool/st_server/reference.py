"""Reference vectors in float32: `python -m deploytool.st_server.reference < job.json > answer.json`.

Every text is computed alone, by Sentence Transformers as the model ships it. Beside it stand vectors that are
wrong on purpose (other pooling, prompt missing or added, text cut, special tokens left out), so that whoever
compares can say what a server does wrong. Errors are one line `fatal: ...` on stderr and an exit code.

The job: {"model", "trust_remote_code", "revision", "pooling", "normalize", "device", "max_tokens",
"prompts": {"query", "document"}, "strays": [prefix], "texts": [{"name", "kind", "text", "witness"}]}.
The answer: {"dimensions", "normalized", "max_tokens", "default_prompt", "libraries", "left_out",
"texts": [{"name", "kind", "sent", "tokens", "vector"}], "wrong": [{"cause", "text", "vector"}]}, vectors as
base64 of little-endian float32.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploytool.st_server.errors import LoadFailed, Missing, StartError
from deploytool.st_server.stages import say_fatal

Json = dict[str, Any]
CUTS = tuple(2**power for power in range(5, 14))
LONG = 96  # tokens: a text of this length gets vectors of its beginnings
ALIKE = 0.999  # a wrong vector this near to the right one tells nothing
UNKNOWN_SHARE = 0.9
SAME = 0.99999  # what is computed step by step here must be what `encode` gives


class Reference:
    """A model in float32, driven step by step, one text at a time."""

    def __init__(self, job: Json) -> None:
        from deploytool.st_server.backends import torch_model

        config = _config(job)
        loaded = torch_model.load(config, Path(config.model), lambda _: None)
        self.model = loaded.model
        self.device = loaded.device
        self.pooled_at = [type(part).__name__ for part in self.model].index("Pooling")
        self.pooling = str(getattr(self.model[self.pooled_at], "pooling_mode", ""))
        self.normalized = config.normalize or type(self.model[-1]).__name__ == "Normalize"
        self.max_tokens = torch_model.max_length(self.model, config)
        self.model.max_seq_length = self.max_tokens
        self.default = self.model.prompts.get(self.model.default_prompt_name or "") or ""
        self.keeps_type_ids = "token_type_ids" in self.model.tokenizer.model_input_names

    def encode(self, text: str) -> Any:
        """What Sentence Transformers gives for a text, as numpy float32."""
        return self.model.encode(
            [text], prompt="", normalize_embeddings=self.normalized, show_progress_bar=False
        )[0]

    def ids(self, text: str, *, length: int | None = None, special: bool = True) -> list[int]:
        options: Json = {} if length is None else {"truncation": True, "max_length": length}
        tokenizer = self.model.tokenizer
        tokenizer.backend_tokenizer.no_truncation()
        found: list[int] = tokenizer(text, add_special_tokens=special, verbose=False, **options)["input_ids"]
        return found

    def compute(self, ids: list[int], pooling: str | None = None) -> Any:
        """The vector of token ids; `pooling` stands for the model's own."""
        import torch

        row = torch.tensor([ids], device=self.device)
        features: Json = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        if self.keeps_type_ids:
            features["token_type_ids"] = torch.zeros_like(row)
        with torch.inference_mode():
            for place, part in enumerate(self.model):
                if place == self.pooled_at and pooling is not None:
                    features["sentence_embedding"] = _pooled(features["token_embeddings"], pooling)
                else:
                    features = part(features)
            vector = features["sentence_embedding"][0].float()
            if self.normalized:
                vector = torch.nn.functional.normalize(vector, dim=0)
        return vector.cpu().numpy()


def _pooled(tokens: Any, pooling: str) -> Any:
    """One text's token embeddings [1, tokens, width] -> [1, width]."""
    ways = {
        "cls": lambda: tokens[:, 0],
        "last": lambda: tokens[:, -1],
        "mean": lambda: tokens.mean(1),
        "max": lambda: tokens.max(1).values,
    }
    return ways[pooling]()


def answer(job: Json) -> Json:
    """Raises StartError."""
    reference = Reference(job)
    _reads_words(reference, [text["text"] for text in job["texts"]])
    texts, wrong, left_out = [], [], []
    for text in job["texts"]:
        prompt = "" if reference.default else job["prompts"][text["kind"]]
        sent = prompt + text["text"]
        ids = reference.ids(reference.default + sent)
        if len(ids) > reference.max_tokens:
            left_out.append(text["name"])
            continue
        right = reference.encode(reference.default + sent)
        _same(right, reference.compute(ids), text["name"])
        entry = {"name": text["name"], "kind": text["kind"], "sent": sent, "tokens": len(ids)}
        texts.append({**entry, "vector": _packed(right)})
        for cause, vector in _wrongs(reference, text, prompt, ids, job):
            if _cosine(right, vector) < ALIKE:
                wrong.append({"cause": cause, "text": text["name"], "vector": _packed(vector)})
    return {
        "dimensions": len(right),
        "normalized": reference.normalized,
        "max_tokens": reference.max_tokens,
        "default_prompt": reference.default,
        "libraries": _libraries(),
        "left_out": left_out,
        "texts": texts,
        "wrong": wrong,
    }


def _wrongs(
    reference: Reference, text: Json, prompt: str, ids: list[int], job: Json
) -> Iterator[tuple[str, Any]]:
    if len(ids) >= LONG:
        for length in CUTS:
            if length < len(ids):
                cut = reference.ids(reference.default + prompt + text["text"], length=length)
                yield f"cut:{length}", reference.compute(cut)
    if not text["witness"]:
        return
    for pooling in ("cls", "mean", "last", "max"):
        if pooling != reference.pooling.removesuffix("token"):
            yield f"pooling:{pooling}", reference.compute(ids, pooling)
    bare = text["text"]
    other = job["prompts"]["document" if text["kind"] == "query" else "query"]
    standing = reference.default or prompt
    variants = {f"prompt:added {stray}": stray + standing + bare for stray in job["strays"]}
    if standing:
        variants["prompt:missing"] = bare
        variants["prompt:doubled"] = standing + standing + bare
    if other and other != prompt:
        variants["prompt:other"] = other + bare
        variants[f"prompt:added {other}"] = other + standing + bare
    variants["text:lower-cased"] = (standing + bare).lower()
    for cause, changed in variants.items():
        yield cause, reference.compute(reference.ids(changed, length=reference.max_tokens))
    yield "tokens:no-special", reference.compute(reference.ids(standing + bare, special=False))


def _reads_words(reference: Reference, texts: list[str]) -> None:
    """Without its vocabulary's file a tokenizer is made up that knows no word: all texts look the same."""
    ids = [token for text in texts for token in reference.ids(text, special=False)]
    unknown = ids.count(reference.model.tokenizer.unk_token_id)
    if not ids or unknown > UNKNOWN_SHARE * len(ids):
        raise Missing(
            f"the tokenizer knows {len(ids) - unknown} of the {len(ids)} tokens of {len(texts)} texts: its "
            "vocabulary is not there",
            hint="download the model again, with tokenizer.json",
        )


def _same(right: Any, ours: Any, name: str) -> None:
    import numpy as np

    if not np.isfinite(right).all():
        raise LoadFailed(f"the model's own float32 vector of the text {name!r} is not finite")
    if _cosine(right, ours) < SAME:
        raise LoadFailed(
            f"computed step by step, the text {name!r} has another vector than by `encode`",
            hint="a model with modules of its own: reference vectors cannot be made for it yet",
        )


def _cosine(left: Any, right: Any) -> float:
    import numpy as np

    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def _packed(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _libraries() -> dict[str, str]:
    import importlib.metadata

    names = ("sentence-transformers", "transformers", "tokenizers", "torch")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _config(job: Json) -> Any:
    """The server's own configuration of this model, in float32."""
    from deploytool.st_server import config

    argv = ["--model", job["model"], "--dtype", "float32", "--device", job["device"]]
    argv += ["--max-batch-tokens", str(2**20)]
    if job["max_tokens"]:
        argv += ["--max-length", str(job["max_tokens"])]
    if job["pooling"]:
        argv += ["--pooling", job["pooling"]]
    if job["normalize"]:
        argv.append("--normalize")
    if job["trust_remote_code"]:
        argv += ["--trust-remote-code", "--revision", job["revision"] or "main"]
    return config.parse(argv, {})


def main() -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    try:
        job = json.load(sys.stdin)
        from deploytool.st_server import model_folder

        model_folder.locate(_config(job), lambda _: None)
        made = answer(job)
    except StartError as error:
        say_fatal(error)
        return error.exit_code
    except ImportError as error:
        missing = Missing(
            f"reference vectors need the package {error.name or error}, which cannot be imported",
            hint="pip install 'deploytool[serve]'",
        )
        say_fatal(missing)
        return missing.exit_code
    json.dump(made, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
