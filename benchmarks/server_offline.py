"""The offline limit of a backend: the whole list at once, with the best batch size, and one text alone.

torch is `SentenceTransformer.encode`. The others are the server's own exported graph, driven as `encode`
does (tokenise, sort by length, batches of a fixed size), once in one lane and once over the server's lanes;
the better of the two counts. Prints {"texts_per_s", "batch", "one_ms"}.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

BATCHES = {"cpu": (8, 16, 32), "cuda": (32, 64, 128, 256, 512)}
REPEATS = 2


def main() -> None:
    kind, model, device, dtype = sys.argv[1:]
    texts = json.load(sys.stdin)
    encode = _torch(model, device, dtype) if kind == "torch" else _exported(kind, model)
    encode(texts[:64], 16)
    rates = {
        batch: max(_rate(lambda size=batch: encode(texts, size), len(texts)) for _ in range(REPEATS))  # type: ignore[misc]
        for batch in BATCHES[device.partition(":")[0]]
    }
    best = max(rates, key=lambda batch: rates[batch])
    times = []
    for text in texts[:60]:
        began = time.perf_counter()
        encode([text], 1)
        times.append((time.perf_counter() - began) * 1000)
    json.dump({"texts_per_s": rates[best], "batch": best, "one_ms": statistics.median(times)}, sys.stdout)


def _rate(work: Callable[[], Any], texts: int) -> float:
    began = time.perf_counter()
    work()
    return texts / (time.perf_counter() - began)


def _torch(model: str, device: str, dtype: str) -> Callable[[list[str], int], Any]:
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device=device, model_kwargs={"dtype": dtype})
    return lambda texts, batch: loaded.encode(texts, batch_size=batch, show_progress_bar=False)


def _exported(kind: str, model: str) -> Callable[[list[str], int], Any]:
    from pathlib import Path

    from deploytool.st_server import config
    from deploytool.st_server.backends import loader

    backend = loader(kind)(config.parse(["--model", model, "--device", "cpu"]), Path(model), lambda _: None)
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
