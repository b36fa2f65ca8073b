"""What the hub tells of a model, asked of a real HTTP server that answers as the hub does."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from deploytool import hub_metadata
from deploytool.catalog import Catalog
from deploytool.errors import NotAvailable

CommandLine = Callable[..., "CompletedProcess[str]"]
HUB_ID = "some/model"
COMMIT = "c" * 40
TOKEN = "hf_not-for-others"
QWEN = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 512, "max_position_embeddings": 512, "dtype": "bfloat16",
}  # fmt: skip
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def shard(count: int, *, pad: int = 0) -> bytes:
    """A safetensors file of `count` bfloat16 values: header, and weights that nobody should ask for."""
    entry = {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}
    header = json.dumps({"__metadata__": {"note": "x" * pad}, "weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(2 * count)


FILES = {
    "config.json": json.dumps(QWEN).encode(),
    "modules.json": json.dumps(MODULES).encode(),
    "1_Pooling/config.json": b'{"word_embedding_dimension": 64, "pooling_mode_lasttoken": true}',
    "README.md": b"---\nlicense: apache-2.0\n---\n",
    "modeling_own.py": b"raise SystemExit('executed')",
    "pytorch_model.bin": bytes(10),
    "model-00001-of-00002.safetensors": shard(2_000_000),
    "model-00002-of-00002.safetensors": shard(500_000, pad=200_000),
}


@dataclass
class Hub:
    """`asked`: each request's path, its Authorization, and the bytes of the answer."""

    url: str = ""
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)
    ranges: bool = True
    status: int = 200
    weights_at: str = ""  # another host, as the hub sends clients on to for large files

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        hub = self.hub
        status, headers, body = 200, {}, b"{}"
        if hub.status != 200:
            status = hub.status
        elif self.path.startswith("/api/models/"):
            document: dict[str, Any] = {"sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            body = json.dumps(document).encode()
        else:
            name = self.path.removeprefix(f"/{HUB_ID}/resolve/{COMMIT}/")
            if name.endswith(".safetensors") and hub.weights_at:
                status, headers, body = 302, {"Location": f"{hub.weights_at}{self.path}"}, b""
            else:
                status, headers, body = self.part(FILES[name])
        # Noted before the client can have the answer, and ask again, or look here.
        hub.asked.append((self.path, self.headers.get("Authorization"), len(body)))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has read enough
            self.wfile.write(body)

    def part(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        wanted = self.headers.get("Range")
        if wanted is None or not self.hub.ranges:
            return 200, {}, content
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        return 206, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}, part

    def log_message(self, *_: Any) -> None:
        pass


def serving(address: str) -> Iterator[Hub]:
    hub = Hub()
    handler = type("HandlerOfOne", (Handler,), {"hub": hub})
    with ThreadingHTTPServer((address, 0), handler) as server:
        hub.url = f"http://{address}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for hub in serving("127.0.0.1"):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        yield hub


@pytest.fixture
def elsewhere() -> Iterator[Hub]:
    yield from serving("127.0.0.2")


def test_a_model_that_is_not_here_is_planned_by_what_the_hub_tells(hub: Hub, cli: CommandLine) -> None:
    command = ("plan", HUB_ID, "--profile", "a10g", "--engine", "sglang", "--json")
    answer = cli(*command)
    assert answer.returncode == 0, answer.stderr
    plan = json.loads(answer.stdout)
    assert plan["memory"]["weights_mib"] == pytest.approx(2_500_000 * 2 / 2**20, abs=0.1)
    assert plan["argv"][plan["argv"].index("--revision") + 1] == COMMIT
    assert any("not in the cache" in warning for warning in plan["warnings"])
    # The headers were read, not the 5 MB of weights; no code and no pickle was fetched.
    assert sum(size for path, _, size in hub.asked if path.endswith(".safetensors")) < 400_000
    assert not any(path.endswith((".py", ".bin")) for path in hub.paths())
    asked = len(hub.asked)
    assert json.loads(cli(*command).stdout)["memory"] == plan["memory"]
    assert len(hub.asked) == asked


def test_what_is_read_is_a_card(hub: Hub) -> None:
    with pytest.raises(NotAvailable, match=r"is not known$"):
        Catalog().model(HUB_ID)
    assert hub.asked == []  # nobody is contacted by a command that is not to start or plan it
    card = Catalog(ask_hub=True).model(HUB_ID)
    assert Catalog().model(HUB_ID) == card  # it is kept now
    assert (card.parameters, card.weights_dtype, card.pooling, card.dimensions) == (
        2_500_000, "bfloat16", "last", 64,
    )  # fmt: skip
    assert (card.revision, card.licence, card.folder, card.origin) == (
        COMMIT, "apache-2.0", None, f"hub {HUB_ID}",
    )  # fmt: skip


def test_a_server_that_ignores_ranges_is_read_no_further_than_needed(hub: Hub) -> None:
    hub.ranges = False
    assert hub_metadata.describe(HUB_ID).parameters == 2_500_000


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    hub: Hub, elsewhere: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.weights_at = elsewhere.url
    assert hub_metadata.describe(HUB_ID).parameters == 2_500_000
    assert {key for _, key, _ in hub.asked} == {f"Bearer {TOKEN}"}
    assert elsewhere.asked and {key for _, key, _ in elsewhere.asked} == {None}
    kept = [path for path in Path(os.environ["DEPLOYTOOL_HOME"]).rglob("*") if path.is_file()]
    assert kept and not any(TOKEN.encode() in path.read_bytes() for path in kept)


def test_a_branch_is_asked_again_after_a_day_and_what_is_kept_serves_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub_metadata.describe(HUB_ID)
    (ref,) = first.folder.parent.glob("refs/main")
    old = time.time() - 2 * hub_metadata.FRESH_S
    os.utime(ref, (old, old))
    asked = len(hub.asked)
    assert hub_metadata.describe(HUB_ID) == first
    assert hub.paths()[asked:] == [f"/api/models/{HUB_ID}/revision/main"]  # the files are of a commit
    os.utime(ref, (old, old))
    hub.status = 500
    assert hub_metadata.describe(HUB_ID) == first
    assert hub_metadata.describe(HUB_ID, COMMIT) == first
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_metadata.describe(HUB_ID) == first


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "accept the terms"), (404, "the hub has no"), (500, "could not be asked"), (200, "is set")],
)
def test_what_the_hub_does_not_tell_is_said(
    hub: Hub, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    hub.status = status
    if status == 200:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answer = cli("models", "show", HUB_ID)
    assert answer.returncode == 8
    assert said in answer.stderr and "Traceback" not in answer.stderr
    assert "download it (`hf download" in answer.stderr


def test_weights_that_are_none_are_no_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "model-00002-of-00002.safetensors", b"<html>sign in</html>")
    with pytest.raises(NotAvailable, match="is no safetensors file"):
        hub_metadata.describe(HUB_ID)
    assert not list(Path(os.environ["DEPLOYTOOL_HOME"]).rglob("config.json"))
