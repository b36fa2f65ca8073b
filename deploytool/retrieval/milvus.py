"""The same vectors in a Milvus index: Milvus Lite embedded in this process, or a server by its address.

Milvus (https://milvus.io/docs/index.md): FLAT is exact, IVF_FLAT and HNSW are approximate. Vectors are of
length 1 and compared by inner product, which is their cosine.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploytool.errors import BadInput, NotAvailable, missing_extra
from deploytool.retrieval.search import Ranking, from_lists

if TYPE_CHECKING:
    from deploytool.retrieval.search import Matrix

INSERTED_AT_ONCE = 1000
SEARCH_WIDTH = 128


@dataclass(frozen=True)
class Found:
    """The index's ranking and what it took. Queries are timed one by one, in this process's view."""

    ranking: Ranking
    place: str
    version: str
    parameters: dict[str, Any]
    build_seconds: float
    query_ms_p50: float
    query_ms_p95: float
    bytes_on_disk: int | None


def search(
    queries: Matrix, documents: Matrix, ids: Sequence[str], k: int, kind: str, uri: str | None = None
) -> Found:
    """Build an index over `documents`, ask it every query for `k`.

    A small `k` is honest: HNSW must look at no fewer documents than it answers, and finds more then. Raises
    NotAvailable, BadInput for what the index cannot do.
    """
    client_of, version, failures = _package(uri)
    parameters = index_parameters(kind, len(documents))
    k = min(k, len(ids))
    with _place(uri) as (address, folder):
        try:
            client = client_of(uri=address)
        except failures as error:
            raise NotAvailable(
                f"no Milvus at {address}: {error}", hint="is the server running, and is the address right?"
            ) from error
        name = f"deploytool_{uuid.uuid4().hex}"
        try:
            started = time.perf_counter()
            _build(client, name, documents, kind, parameters)
            build_seconds = time.perf_counter() - started
            lists, times = _asked(client, name, queries, ids, k, kind)
            size = _size(folder)
        except failures as error:
            raise BadInput(
                f"Milvus does not do this: {error}", hint="try another kind: milvus:FLAT, IVF_FLAT, HNSW"
            ) from error
        finally:
            _drop(client, name, failures)
    return Found(
        ranking=from_lists(lists, ids, k),
        place="Milvus server" if uri else "Milvus Lite, embedded",
        version=version,
        parameters=parameters,
        build_seconds=build_seconds,
        query_ms_p50=statistics.median(times),
        query_ms_p95=sorted(times)[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)],
        bytes_on_disk=size,
    )


def check_installed(uri: str | None) -> None:
    """NotAvailable where the package, or the embedded index where `uri` is None, is not installed."""
    _package(uri)


def index_parameters(kind: str, n: int) -> dict[str, Any]:
    """Usual sizes: 4 sqrt(n) lists of which an eighth is searched; HNSW of degree 16.

    A list holds at least 39 documents, as k-means wants them: one of a few would miss most of the best ten.
    """
    if kind == "IVF_FLAT":
        lists = max(1, min(65_536, round(4 * math.sqrt(n)), n // 39))
        return {"nlist": lists, "nprobe": max(1, lists // 8)}
    if kind == "HNSW":
        return {"M": 16, "efConstruction": 200, "ef": SEARCH_WIDTH}
    return {}


def _package(uri: str | None) -> tuple[Any, str, tuple[type[Exception], ...]]:
    try:
        import pymilvus
    except ImportError as error:
        raise missing_extra("pymilvus", "milvus", "a Milvus index") from error
    version = f"pymilvus {pymilvus.__version__}"
    if uri is None:
        try:
            import milvus_lite
        except ImportError as error:
            raise missing_extra("milvus-lite", "milvus", "an embedded Milvus index") from error
        version += f", milvus-lite {getattr(milvus_lite, '__version__', '')}".rstrip()
    return pymilvus.MilvusClient, version, (pymilvus.exceptions.MilvusException,)


@contextmanager
def _place(uri: str | None) -> Iterator[tuple[str, Path | None]]:
    if uri is not None:
        yield uri, None
        return
    with tempfile.TemporaryDirectory(prefix="deploytool-milvus-", ignore_cleanup_errors=True) as folder:
        yield str(Path(folder) / "index.db"), Path(folder)


def _build(client: Any, name: str, documents: Matrix, kind: str, parameters: dict[str, Any]) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=int(documents.shape[1]))
    wanted = client.prepare_index_params()
    built = {name: value for name, value in parameters.items() if name in ("nlist", "M", "efConstruction")}
    wanted.add_index("vector", index_type=kind, metric_type="IP", params=built)
    client.create_collection(name, schema=schema, consistency_level="Strong")
    for start in range(0, len(documents), INSERTED_AT_ONCE):
        part = documents[start : start + INSERTED_AT_ONCE]
        client.insert(name, [{"id": start + row, "vector": vector} for row, vector in enumerate(part)])
    client.flush(name)
    client.create_index(name, wanted)
    client.load_collection(name)


def _asked(
    client: Any, name: str, queries: Matrix, ids: Sequence[str], k: int, kind: str
) -> tuple[list[dict[str, float]], list[float]]:
    parameters = index_parameters(kind, len(ids))
    searched = {name: value for name, value in parameters.items() if name in ("nprobe", "ef")}
    if "ef" in searched:
        searched["ef"] = max(searched["ef"], k)  # Milvus refuses to answer more than it looks at
    lists, times = [], []
    for query in queries:
        started = time.perf_counter()
        hits = client.search(
            name,
            [query],
            anns_field="vector",
            limit=k,
            search_params={"metric_type": "IP", "params": searched},
        )[0]
        times.append((time.perf_counter() - started) * 1000)
        lists.append({ids[hit["id"]]: float(hit["distance"]) for hit in hits})
    return lists, times


def _size(folder: Path | None) -> int | None:
    if folder is None:
        return None
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _drop(client: Any, name: str, failures: tuple[type[Exception], ...]) -> None:
    from contextlib import suppress

    with suppress(*failures):
        client.drop_collection(name)
    with suppress(*failures):
        client.close()
