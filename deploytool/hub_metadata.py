"""What the hub tells of a model without downloading it: its small JSON files, and the headers of its weights.

`GET /api/models/ID/revision/REV` names the commit and its files, `/ID/resolve/COMMIT/FILE` gives them; of a
safetensors file only the header is read, by ranged requests. Everything is kept by commit, so that a model is
asked for once; which commit a branch is at is asked again after a day. Nothing of a model is executed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deploytool.errors import NotAvailable
from deploytool.hub_cache import offline, token
from deploytool.paths import cache_dir
from deploytool.safetensors_header import MAX_HEADER, counted, parse_header

if TYPE_CHECKING:
    import httpx

ENDPOINT = "https://huggingface.co"
WEIGHTS = "deploytool-weights.json"  # written last: a folder with it is complete
SMALL = re.compile(
    r"(?:[\w.-]+/)?config\.json|modules\.json|(?:[\w.-]+/)?(?:sentence_bert_config|tokenizer_config)\.json"
    r"|config_sentence_transformers\.json|model\.safetensors\.index\.json|README\.md"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
FRESH_S = 24 * 3600  # a branch moves: after that it is asked again, where the hub answers
MOST_SMALL, FIRST_READ = 8_000_000, 65_536  # bytes
CONNECT_S, ANSWER_S = 5.0, 20.0


class Described(NamedTuple):
    """`folder` holds the model's JSON files. `parameters` None: no safetensors, or packed ones."""

    folder: Path
    commit: str
    parameters: int | None
    dtype: str | None


def kept(hub_id: str) -> Described | None:
    """What is kept of a model's main branch, however old; None where it was never asked for."""
    return _kept(_root(hub_id), "main")[0]


def _root(hub_id: str) -> Path:
    return cache_dir() / "hub" / f"models--{hub_id.replace('/', '--')}"


def describe(hub_id: str, revision: str | None = None, environ: Mapping[str, str] = os.environ) -> Described:
    """What is kept of a model, else what the hub says. NotAvailable where neither is to be had, with why."""
    root = _root(hub_id)
    wanted = revision or "main"
    known, fresh = _kept(root, wanted)
    if known is not None and fresh:
        return known
    if forbidden := offline(environ):
        if known is not None:
            return known
        raise NotAvailable(f"{forbidden} is set: the hub is not asked", hint=f"unset {forbidden}")
    import httpx

    try:
        return _ask(hub_id, wanted, root, environ)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, OSError) as error:
        if known is not None:
            return known
        said = str(error) or type(error).__name__
        raise NotAvailable(
            f"the hub ({_endpoint(environ)}) could not be asked for {hub_id}: {said}",
            hint="check the network (HF_ENDPOINT names a mirror)",
        ) from error


def _endpoint(environ: Mapping[str, str]) -> str:
    return (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _kept(root: Path, wanted: str) -> tuple[Described | None, bool]:
    """What is kept of a revision, and whether it need not be asked for again."""
    ref = root / "refs" / wanted.replace("/", "--")
    try:
        fixed = COMMIT.fullmatch(wanted) is not None
        commit = wanted if fixed else ref.read_text(encoding="ascii").strip()
        found = json.loads((root / commit / WEIGHTS).read_text(encoding="utf-8"))
        fresh = fixed or time.time() - ref.stat().st_mtime < FRESH_S
        return Described(root / commit, commit, found["parameters"], found["dtype"]), fresh
    except (OSError, ValueError, KeyError, TypeError):
        return None, False


def _ask(hub_id: str, wanted: str, root: Path, environ: Mapping[str, str]) -> Described:
    import httpx

    # httpx leaves the token out where it is sent on to another host, as for the weights themselves.
    secret = token(environ)
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    with httpx.Client(
        headers=headers, follow_redirects=True, timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S)
    ) as client:
        base = _endpoint(environ)
        answer = client.get(f"{base}/api/models/{hub_id}/revision/{wanted}")
        _refused(answer.status_code, hub_id, wanted)
        document = answer.raise_for_status().json()
        commit = str(document["sha"])
        if not COMMIT.fullmatch(commit):
            raise ValueError(f"no commit: {commit[:80]!r}")
        if not (root / commit / WEIGHTS).is_file():
            names = [str(entry["rfilename"]) for entry in document["siblings"]]
            _fetch(client, f"{base}/{hub_id}/resolve/{commit}", names, root / commit)
    ref = root / "refs" / wanted.replace("/", "--")
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit, encoding="ascii")
    found, _ = _kept(root, wanted)
    if found is None:
        raise ValueError(f"what was kept in {root} cannot be read")
    return found


def _refused(status: int, hub_id: str, wanted: str) -> None:
    if status in (401, 403):
        raise NotAvailable(
            f"the hub shows no {hub_id} to you: it does not exist, is private, or its terms are not accepted",
            hint=f"check the name; accept the terms at {ENDPOINT}/{hub_id}; `hf auth login` or set HF_TOKEN",
        )
    if status == 404:
        raise NotAvailable(
            f"the hub has no {hub_id} at revision {wanted}", hint="check the name and the revision"
        )


def _fetch(client: httpx.Client, base: str, names: list[str], folder: Path) -> None:
    """The small files and what the weights' headers say, in one step: nobody sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        for name in names:
            if SMALL.fullmatch(name):
                path = partial / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(_span(client, f"{base}/{name}", 0, MOST_SMALL))
        headers = [_header(client, f"{base}/{name}") for name in _weight_names(names)]
        count, dtype = counted(headers)
        document = {"parameters": count, "dtype": dtype}
        (partial / WEIGHTS).write_text(json.dumps(document), encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / WEIGHTS).is_file():
                raise  # else another command was first: the same commit, the same files
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _weight_names(names: list[str]) -> list[str]:
    """The safetensors files of the model itself: shards, or the one file; else those of a first module."""
    found = [name for name in names if name.endswith(".safetensors")]
    shards = [name for name in found if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    single = [name for name in found if name == "model.safetensors"]
    return shards or single or [name for name in found if re.fullmatch(r"(?:0_[\w.-]+/)?[\w.-]+", name)]


def _header(client: httpx.Client, url: str) -> dict[str, Any]:
    first = _span(client, url, 0, FIRST_READ)
    length = int.from_bytes(first[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        raise ValueError(f"{url} is no safetensors file")
    missing = 8 + length - len(first)
    if missing > 0:
        first += _span(client, url, len(first), missing)
    return parse_header(first[8 : 8 + length])


def _span(client: httpx.Client, url: str, start: int, length: int) -> bytes:
    """At most `length` bytes from `start`; of a server that ignores ranges no more is read than that."""
    end = start + length
    with client.stream("GET", url, headers={"Range": f"bytes={start}-{end - 1}"}) as answer:
        if answer.status_code == 416:  # an empty file has no such range
            return b""
        answer.raise_for_status()
        skip = 0 if answer.status_code == 206 else start
        read = bytearray()
        for chunk in answer.iter_bytes():
            read += chunk
            if len(read) >= skip + length:
                break
    return bytes(read[skip : skip + length])
