"""Makes a model's golden vectors: in a process of its own, as torch is never loaded here.

What it takes: the model's files in a folder or the local cache, the extra `serve`, and memory for the weights
in float32. It runs a minute or so on processors for a small model.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploytool import __version__, engines, model_files
from deploytool.errors import (
    BadInput,
    DeploytoolError,
    DoesNotFit,
    Incompatible,
    NotAvailable,
    StartFailed,
    missing_extra,
)
from deploytool.golden import document as goldens
from deploytool.golden import files
from deploytool.golden.document import Golden, Text, Wrong
from deploytool.models import ModelCard
from deploytool.probes.texts import GOLDEN, GOLDEN_SET

ENGINE = "sentence-transformers"
FATAL = re.compile(r"^fatal: (.+)(?:\nhint: (.+))?$", re.MULTILINE)
KINDS: dict[int, type[DeploytoolError]] = {2: BadInput, 3: DoesNotFit, 4: Incompatible, 8: NotAvailable}
# Prompts of well-known models, which a server set up for one of them puts before every text.
STRAYS = (
    "query: ",
    "passage: ",
    "search_query: ",
    "Represent this sentence for searching relevant passages: ",
)
POSITIONS_OF_LONGEST = 2048  # a model that reads more need not be asked for more: no text is longer


def make(
    card: ModelCard,
    progress: Callable[[str], None],
    *,
    device: str = "cpu",
    trust_remote_code: bool = False,
    timeout_s: float = 3600.0,
) -> Golden:
    """The golden vectors of a card's model.

    Incompatible (4) where Sentence Transformers does not compute it rightly, NotAvailable (8) where its files
    or the extra are missing, BadInput, DoesNotFit or StartFailed where the computation fails.
    """
    _check(card, trust_remote_code)
    progress(f"reading the weights of {card.name}")
    located = model_files.locate(card)
    if located.path is None:
        raise NotAvailable(
            f"the files of {card.name} are not here", hint=f"download them: hf download {card.hub_id}"
        )
    folder = Path(located.path)
    weights = files.described(folder)
    progress("computing in float32")
    made = _run(_job(card, folder, located.revision, device, trust_remote_code), timeout_s)
    return Golden(
        probe_set=GOLDEN_SET,
        model=card.name,
        hub_id=card.hub_id,
        revision=located.revision,
        weights=weights,
        libraries={"deploytool": __version__, **made["libraries"]},
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        pooling=card.pooling or _default_pooling(card),
        normalized=made["normalized"],
        dimensions=made["dimensions"],
        max_tokens=made["max_tokens"],
        default_prompt=made["default_prompt"],
        prompts={kind: goldens.digest(text) for kind, text in goldens.prompts_of(card).items()},
        texts=tuple(Text.model_validate(text) for text in made["texts"]),
        wrong=tuple(Wrong.model_validate(wrong) for wrong in made["wrong"]),
    )


def file_name(card: ModelCard, golden: Golden) -> str:
    """NAME.json; with a piece of the weights' digest where only a folder's name says which model it is."""
    if card.origin == "card" or card.hub_id is not None:
        return f"{card.name}.json"
    return f"{card.name}@{golden.weights[0].sha256[:12]}.json"


def render(golden: Golden) -> str:
    """The file's content: one line a vector, so that a change can be seen in a diff."""
    head = golden.model_dump(mode="json", exclude={"texts", "wrong"})
    lines = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    for field, entries in (("texts", golden.texts), ("wrong", golden.wrong)):
        rows = ",\n  ".join(json.dumps(entry.model_dump(), ensure_ascii=False) for entry in entries)
        lines += f',\n "{field}": [\n  {rows}\n ]'
    return lines + "\n}\n"


def _check(card: ModelCard, trust_remote_code: bool) -> None:
    if card.kind not in ("embedding", "encoder"):
        raise Incompatible(
            f"{card.name} is of kind {card.kind}: it has no vectors to compute here",
            hint="`deploytool verify` compares two endpoints",
        )
    support = engines.engine(ENGINE).support(card)
    if support.verdict != "ok":
        raise Incompatible(
            f"Sentence Transformers does not compute {card.name}: {support.reason}",
            hint="golden vectors come from there",
        )
    if card.remote_code.required and not trust_remote_code:
        raise Incompatible(
            f"{card.name} needs code of its repository ({card.remote_code.reason})",
            hint="read that code, then --trust-remote-code",
        )
    if trust_remote_code and card.folder is None and not card.revision:
        raise BadInput(
            f"the card of {card.name} pins no revision: its repository's code could change",
            hint="download it and give its folder, or pin a commit in a card of your own",
        )


def _default_pooling(card: ModelCard) -> Any:
    """What the engine takes for an encoder without a pooling of its own."""
    return "mean" if card.kind == "encoder" else None


def _job(card: ModelCard, folder: Path, revision: str | None, device: str, trusted: bool) -> dict[str, Any]:
    shipped = (folder / "modules.json").is_file()
    limit = min(card.max_tokens, POSITIONS_OF_LONGEST) if card.max_tokens else None
    return {
        "model": str(folder),
        "revision": revision,
        "trust_remote_code": trusted,
        "pooling": None if shipped else card.pooling or _default_pooling(card),
        "normalize": card.normalize,
        "device": device,
        "max_tokens": limit,
        "prompts": goldens.prompts_of(card),
        "strays": list(STRAYS),
        "texts": [probe._asdict() for probe in GOLDEN],
    }


def _run(job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    if engines.engine(ENGINE).installed() is None:
        raise missing_extra("sentence-transformers", "serve", "making golden vectors")
    environ = {name: value for name, value in os.environ.items() if name != "DEPLOYTOOL_API_KEY"}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        try:
            child = subprocess.run(
                [sys.executable, "-m", "deploytool.st_server.reference"],
                input=json.dumps(job),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                timeout=timeout_s,
                env=environ,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StartFailed(
                f"the reference vectors were not there after {timeout_s:g} s",
                hint="a large model takes long on processors: allow more with --timeout, or --device cuda",
            ) from error
        errors.seek(0)
        said = errors.read()
    if child.returncode == 0:
        made: dict[str, Any] = json.loads(child.stdout)
        return made
    raise _failure(child.returncode, said)


def _failure(code: int, said: str) -> DeploytoolError:
    found = FATAL.findall(said)
    kind = KINDS.get(code, StartFailed)
    if found:
        message, hint = found[-1]
        return kind(message, hint=hint or None)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    hint = "out of memory? float32 needs four bytes a parameter" if code == -9 else "see the lines above"
    return StartFailed(
        f"the computation of the reference vectors {how}", hint=hint, details=said.strip().splitlines()[-15:]
    )
