"""Before the texts are sent: is it the right system, and are the vectors of the cache still its vectors?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from deploytool.endpoint import Client
from deploytool.errors import Unhealthy
from deploytool.evaluation.embedding import Embedder
from deploytool.evaluation.prompting import Role
from deploytool.evaluation.systems import Served
from deploytool.golden import find
from deploytool.probes import Check, prove
from deploytool.retrieval.cache import Kept, unpack
from deploytool.retrieval.vectors import cosines

BEARABLE = ("golden", "norm")  # a quantised model's quality may be measured; vectors are renormalised here
SAMPLE = 8
SAME = 0.999  # half precision's gate; see deploytool.probes.check
LIKE = 0.99


def proven(system: Served, client: Client, profiles: Path | None) -> list[str]:
    """Findings of the readiness proof. Unhealthy where no figure of this server would mean anything.

    A hosted API is not asked: every text costs there.
    """
    if system.api is not None:
        return []
    resolved = system.resolved
    checks = prove(
        client,
        system.card,
        dtype=resolved.dtype,
        golden=find(system.card, profiles),
        max_length=resolved.max_length,
    )
    failed = [check for check in checks if check.passed is False]
    fatal = [check for check in failed if check.name not in BEARABLE]
    if fatal:
        first = fatal[0]
        raise Unhealthy(
            f"{system.target} is not right, nothing was measured: {first.name}: {first.saw}",
            hint=first.hint or f"see deploytool smoke {system.target}",
            details=[f"{check.name}: {check.saw}" for check in fatal[1:]],
        )
    return [_finding(check) for check in failed]


def _finding(check: Check) -> str:
    return f"{check.name}: {check.saw}" + (f"; {check.hint}" if check.hint else "")


def recheck(embedder: Embedder, texts: Sequence[str], role: Role) -> list[str]:
    """Compare cached vectors with the server's of today; forget them where they are not the same.

    Also compares with what another server gave for the same model: a wrong pooling or length is seen so.
    """
    cache = embedder.cache
    if cache is None or embedder.system.api is not None:
        return []
    space = embedder.space(role)
    sample = spread(texts)
    own, others = cache.space(space), cache.others(space)
    prompted = embedder.prompted(sample, role)
    if not any(cache.get(number, prompted) for number in (own, *(number for number, _ in others))):
        return []
    fresh = embedder.fresh(sample, role)
    found = []
    lowest = lowest_cosine(fresh, cache.get(own, fresh))
    if lowest is not None and lowest < SAME:
        cache.forget(own)
        found.append(
            f"the cached vectors of the {_plural(role)} are not this server's any more (lowest cosine "
            f"{lowest:.4f}; other weights, pooling, length or prompt?): forgotten and computed afresh"
        )
    for number, computed_by in others:
        lowest = lowest_cosine(fresh, cache.get(number, fresh))
        if lowest is not None and lowest < LIKE:
            found.append(
                f"{computed_by} gave other vectors for the same {_plural(role)} of the same model (lowest "
                f"cosine {lowest:.4f}): one of the two pools, cuts or prompts wrongly; check both with "
                "`deploytool smoke`"
            )
            break
    return found


def spread(texts: Sequence[str]) -> list[str]:
    """A few texts from the shortest to the longest."""
    ordered = sorted(set(texts), key=lambda text: (len(text), text))
    last = len(ordered) - 1
    return [ordered[place] for place in sorted({round(last * step / (SAMPLE - 1)) for step in range(SAMPLE)})]


def lowest_cosine(a: dict[str, Kept], b: dict[str, Kept]) -> float | None:
    """Over the texts that both hold; None where there is none. Other widths are as unlike as can be."""
    common = [text for text in a if text in b and a[text].vector and b[text].vector]
    if not common:
        return None
    if any(len(a[text].vector) != len(b[text].vector) for text in common):
        return -1.0
    pairs = cosines(unpack([a[text].vector for text in common]), unpack([b[text].vector for text in common]))
    return min(-1.0 if math.isnan(value) else value for value in pairs)


def prompt_ignored(embedder: Embedder, texts: Sequence[str]) -> str | None:
    """A sentence where the server gives the same vector with and without the prompt."""
    prompt = embedder.prompting.query
    if not prompt.strip() or embedder.system.api is not None:
        return None
    text = spread(texts)[len(spread(texts)) // 2]
    answer = embedder.client.embed([prompt + text, text]).vectors
    import numpy as np

    pair = np.asarray(answer, dtype=np.float32)
    if cosines(pair[:1], pair[1:])[0] < 1 - 1e-6:
        return None
    return (
        f"the prompt {prompt!r} changes nothing: the server drops it, or it reads only the end of a text "
        "(measure without it: --query-prompt '')"
    )


def _plural(role: Role) -> str:
    return "queries" if role == "query" else "documents"
