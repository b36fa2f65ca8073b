"""Runs in SGLang's own environment: parses and resolves command lines with the real parser, without a GPU.

Standard input: JSON lines `{"argv": [...], "config": {...}}`, argv after `sglang serve`, config the model's
config.json; `"total_mib"` stands in for the memory of a card, which SGLang would ask the driver for.
Standard output: for each a JSON line `{"values": {...}}` with the resolved arguments, or `{"refused": "..."}`
with the parser's message.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from sglang.srt.arg_groups import memory_hook
from sglang.srt.server_args import prepare_server_args

NAMES = (
    "model_path", "is_embedding", "served_model_name", "host", "port", "dtype", "tp_size", "context_length",
    "chunked_prefill_size", "max_prefill_tokens", "max_total_tokens", "mem_fraction_static", "load_format",
    "disable_radix_cache", "allow_auto_truncate", "trust_remote_code", "enable_metrics", "revision", "device",
    "attention_backend", "json_model_override_args", "max_running_requests", "api_key",
    "dp_size", "quantization", "chat_template",
)  # fmt: skip


def folder_of(config: dict[str, Any], root: Path) -> Path:
    text = json.dumps(config, sort_keys=True)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:12]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)
    return folder


def read(argv: list[str], folder: Path) -> dict[str, Any]:
    place = argv.index("--model-path") + 1
    given = [*argv[:place], str(folder), *argv[place + 1 :]]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            arguments = prepare_server_args(given)
            arguments.resolve_once()
            resolved = arguments.resolved_dict()
    except SystemExit:
        return {"refused": said.getvalue().strip().splitlines()[-1]}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    values = {name: resolved.get(name) for name in NAMES}
    return {"values": values | {"model_path": argv[place]}}


def main() -> None:
    root = Path(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        if "total_mib" in order:
            memory_hook.get_device_memory_capacity = lambda _, total=order["total_mib"]: total
        print(json.dumps(read(order["argv"], folder_of(order["config"], root))), flush=True)


if __name__ == "__main__":
    main()
