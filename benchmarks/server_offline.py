"""The offline limit of a backend: the whole list at once, with the best batch size, and one text alone.

torch is `SentenceTransformer.encode`. The others are the server's own exported graph, driven as `encode` does
(tokenise, sort by length, batches of a fixed size) over the lanes that the server has by its flags; `encode`
itself is the one lane of `--lanes 1`.

Reads the texts from stdin, a line of JSON; then, for each line, does it again: "all" prints {"texts", "seconds",
"batch"}, "one" prints {"one_ms": [...]}, of one text after the other.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

BATCHES = {"cpu": (8, 16, 32), "cuda": (32, 64, 128, 256, 512)}
REPEATS = 2
ALONE = 60  # texts


def main() -> None:
    kind, model, device, dtype, *flags = sys.argv[1:]
    texts = json.loads(sys.stdin.readline())
    encode = _torch(model, device, dtype) if kind == "torch" else _exported(kind, model, flags)
    encode(texts[:64], 16)
    rates = {
        batch: max(len(texts) / _seconds(encode, texts, batch) for _ in range(REPEATS))
        for batch in BATCHES[device.partition(":")[0]]
    }
    best = max(rates, key=lambda batch: rates[batch])
    for line in sys.stdin:
        if line.strip() == "one":
            found: dict[str, Any] = {"one_ms": [_seconds(encode, [text], 1) * 1000 for text in texts[:ALONE]]}
        else:
            found = {"texts": len(texts), "seconds": _seconds(encode, texts, best), "batch": best}
        print(json.dumps(found), flush=True)


def _seconds(encode: Callable[[list[str], int], Any], texts: list[str], batch: int) -> float:
    began = time.perf_counter()
    encode(texts, batch)
    return time.perf_counter() - began


def _torch(model: str, device: str, dtype: str) -> Callable[[list[str], int], Any]:
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device=device, model_kwargs={"dtype": dtype})
    return lambda texts, batch: loaded.encode(texts, batch_size=batch, show_progress_bar=False)


def _exported(kind: str, model: str, flags: list[str]) -> Callable[[list[str], int], Any]:
    from pathlib import Path

    from deploytool.st_server import config
    from deploytool.st_server.backends import loader

    backend = loader(kind)(
        config.parse(["--model", model, "--device", "cpu", *flags]), Path(model), lambda _: None
    )
    pool = ThreadPoolExecutor(backend.lanes)

    def encode(texts: list[str], batch: int) -> list[Any]:
        rows = sorted(backend.tokenizer.encode(texts, truncate=True), key=len, reverse=True)
        parts = [rows[at : at + batch] for at in range(0, len(rows), batch)]
        if len(parts) == 1:
            return [backend.embed(parts[0], alone=True)]
        return list(pool.map(lambda part: backend.embed(part, alone=False), parts))

    return encode


if __name__ == "__main__":
    main()
