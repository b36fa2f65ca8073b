"""The command line of the server -> Config. Every bad flag is one clear line and exit code 2."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from deploytool.st_server.errors import BadUsage

CACHE_VARIABLE = "DEPLOYTOOL_CACHE"
API_KEY_VARIABLE = "DEPLOYTOOL_API_KEY"
MIB = 1 << 20


@dataclass(frozen=True)
class Matryoshka:
    """Sizes a vector may be cut to: a list, or every size from `minimum` to `maximum`."""

    sizes: tuple[int, ...] = ()
    minimum: int = 0
    maximum: int = 0

    def allows(self, size: int) -> bool:
        return size in self.sizes if self.sizes else self.minimum <= size <= self.maximum

    def __str__(self) -> str:
        if self.sizes:
            return ", ".join(map(str, self.sizes))
        return f"{self.minimum} to {self.maximum}"


@dataclass(frozen=True)
class Config:
    """Everything the server was told. None means: the model's or the device's own default."""

    model: str
    served_name: str
    host: str
    port: int
    dtype: str
    device: str
    max_length: int | None
    max_batch_tokens: int
    max_queue: int
    max_texts: int
    max_body_bytes: int
    threads: int
    lanes: int | None
    workers: int
    matryoshka: Matryoshka | None
    pooling: str | None
    query_prompt: str | None
    document_prompt: str | None
    log_json: bool
    body_timeout_s: float
    backend: str
    cache_dir: Path
    normalize: bool
    trust_remote_code: bool
    revision: str | None
    grace_s: float
    api_key: str | None = field(repr=False)

    @property
    def is_folder(self) -> bool:
        return Path(self.model).is_dir()

    @property
    def is_local(self) -> bool:
        return Path(self.model).exists()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadUsage(message, hint="python -m deploytool.st_server --help")


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Config from argv and the environment. Raises BadUsage; `--help` exits with 0."""
    given = _parser().parse_args(argv)
    if given.trust_remote_code and not given.revision and not Path(given.model).is_dir():
        raise BadUsage(
            "--trust-remote-code runs code of the model's repository and needs --revision with it",
            hint="pin the commit whose code you have read: --revision <40 hex digits>",
        )
    threads = given.threads or available_cpus()
    if given.lanes and given.lanes * given.workers > threads:
        raise BadUsage(
            f"--lanes {given.lanes} needs at least as many --threads for each worker (here {threads} in all)"
        )
    if given.device == "cpu" and given.workers > threads:
        raise BadUsage(f"--workers {given.workers} needs at least as many --threads (here {threads})")
    name = given.served_model_name or Path(given.model).name or given.model
    return Config(
        model=given.model,
        served_name=name,
        host=given.host,
        port=given.port,
        dtype=given.dtype,
        device=given.device,
        max_length=given.max_length,
        max_batch_tokens=given.max_batch_tokens,
        max_queue=given.max_queue,
        max_texts=given.max_texts,
        max_body_bytes=given.max_body_mib * MIB,
        threads=threads,
        lanes=given.lanes,
        workers=given.workers,
        matryoshka=given.matryoshka,
        pooling=given.pooling,
        query_prompt=given.query_prompt,
        document_prompt=given.document_prompt,
        log_json=given.log_json,
        body_timeout_s=given.body_timeout,
        backend=given.backend,
        cache_dir=given.cache_dir or cache_dir(environ),
        normalize=given.normalize,
        trust_remote_code=given.trust_remote_code,
        revision=given.revision,
        grace_s=given.grace,
        api_key=_api_key(given.api_key_file, environ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m deploytool.st_server",
        description="Serve a Sentence Transformers model with OpenAI's embeddings API.",
        epilog=f"The API key comes from ${API_KEY_VARIABLE} or --api-key-file, never from the command line.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        type=_model,
        help="a local folder, a hub id (org/name), or a text file of word vectors",
    )
    add("--served-model-name", type=_name, help='what clients send as "model" (default: the last part of it)')
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add(
        "--port",
        default=8000,
        type=_port,
        help="port to listen on; 0 takes a free one (default: %(default)s)",
    )
    add("--dtype", default="auto", choices=["auto", "float32", "float16", "bfloat16"],
        help="auto: float32 on the CPU, bfloat16 or float16 on a GPU")  # fmt: skip
    add("--backend", default="torch", choices=["auto", "torch", "onnx", "openvino"],
        help="auto: on a CPU the fastest installed one with the vectors of torch")  # fmt: skip
    add(
        "--cache-dir",
        type=Path,
        help=f"where exported models are kept (default: ${CACHE_VARIABLE}, or the user's)",
    )
    add("--device", default="auto", type=_device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--max-length", type=_positive, help="tokens read of a text (default: the model's own)")
    add("--max-batch-tokens", default=16384, type=_positive,
        help="padded tokens per forward at most; bounds the memory (default: %(default)s)")  # fmt: skip
    add("--max-queue", default=2048, type=_positive,
        help="texts that may wait; beyond it clients get 429 (default: %(default)s)")  # fmt: skip
    add("--max-texts", default=2048, type=_positive, help="texts per request (default: %(default)s)")
    add("--max-body-mib", default=32, type=_positive, help="size of a request (default: %(default)s)")
    add("--threads", type=_positive, help="CPU threads that compute (default: the CPUs that it may use)")
    add("--lanes", type=_positive,
        help="batches computed side by side (default: up to 4 on a CPU, sharing the threads; 1 on a GPU, "
        "where each takes the memory of one)")  # fmt: skip
    add("--workers", default=1, type=_positive,
        help="processes behind the one port, each with the model: one for each card or CPU socket; "
        "--threads and --max-queue are shared out among them (default: %(default)s)")  # fmt: skip
    add(
        "--matryoshka",
        type=_matryoshka,
        help='sizes that "dimensions" may ask for: "64,128,256" or "32-1024"',
    )
    add("--pooling", choices=["mean", "cls", "last"], help="for an encoder that ships no pooling of its own")
    add("--query-prompt", help='text before each input of "input_type": "query" (default: the model\'s own)')
    add("--document-prompt", help='the same for "input_type": "document"')
    add(
        "--log-json", action="store_true", help="a line of JSON on stderr per request; never a text of a user"
    )
    add("--body-timeout", default=30.0, type=_seconds,
        help="seconds for a body to arrive; then 408 (default: %(default)s)")  # fmt: skip
    add("--normalize", action="store_true", help="bring vectors to length 1 where the model does not")
    add("--trust-remote-code", action="store_true", help="run the repository's own code; needs --revision")
    add("--revision", help="commit, tag or branch of the hub repository")
    add("--api-key-file", type=Path, help=f"file with the API key (instead of ${API_KEY_VARIABLE})")
    add(
        "--grace",
        default=20.0,
        type=_seconds,
        help="seconds to finish in after SIGTERM (default: %(default)s)",
    )
    return parser


def _api_key(file: Path | None, environ: Mapping[str, str]) -> str | None:
    if file is None:
        key = environ.get(API_KEY_VARIABLE)
        if key is None:
            return None
        where = f"${API_KEY_VARIABLE}"
    else:
        where = f"--api-key-file {file}"
        try:
            key = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise BadUsage(f"{where}: {reason}") from error
    key = key.strip()
    if not key:
        raise BadUsage(f"{where} is empty", hint="leave it out to serve without a key")
    if any(not 32 < ord(character) < 127 for character in key):
        raise BadUsage(f"{where}: the key must be one line of printable ASCII without blanks")
    return key


def cache_dir(environ: Mapping[str, str]) -> Path:
    """$DEPLOYTOOL_CACHE, $DEPLOYTOOL_HOME/cache, or the user's cache folder (XDG)."""
    if named := environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    if home := environ.get("DEPLOYTOOL_HOME"):
        return Path(home).expanduser().absolute() / "cache"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deploytool"


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the cgroup's quota where one is set."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)


def _model(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a folder or a hub id")
    return text


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError("expected a printable name")
    return text


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port of 0 to 65535, got {text!r}")
    return port


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0 to 3600 seconds, got {text!r}")
    return number


def _device(text: str) -> str:
    index = text.removeprefix("cuda:")
    if text in ("auto", "cpu", "cuda") or (index != text and index.isdecimal()):
        return text
    raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {text!r}")


def _matryoshka(text: str) -> Matryoshka:
    try:
        if "-" in text:
            low, high = (int(part) for part in text.split("-"))
            if 1 <= low <= high:
                return Matryoshka(minimum=low, maximum=high)
        else:
            sizes = tuple(sorted({int(part) for part in text.split(",")}))
            if sizes[0] >= 1:
                return Matryoshka(sizes=sizes)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f'expected sizes like "64,128,256" or a range like "32-1024", got {text!r}'
    )
