"""Checks of what stands around the vectors: listing, base64, usage, Matryoshka sizes, errors, the key."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from deploytool.endpoint import HttpError, Response
from deploytool.models import Matryoshka
from deploytool.probes.arithmetic import cosine, largest_difference, norm, not_finite
from deploytool.probes.check import Bench, Outcome, fail, ok, skip
from deploytool.probes.vectors import NORM_TOLERANCE
from deploytool.wire.answers import error_shape
from deploytool.wire.errors import NotJson

REFUSALS = (400, 413, 415, 422)
LONGEST_TRIED_TOKENS = 2048  # a longer text costs a CPU many seconds: the check is to be quick
MATRYOSHKA_GATE = 0.99  # cut and renormalised here against there; nomic's own recipe subtracts a mean first
# Rounding a unit vector to fp16 moves its largest numbers by over 1e-5; the last bits of float32, by 1e-7.
FLOAT32_NOISE = 1e-6
BUSY = (429, 500, 502, 503, 504)
BUSY_PAUSES_S = (0.5, 2.0)
NOT_THE_KEY = "deploytool-smoke-this-is-not-the-key"


def reachable(bench: Bench) -> Outcome:
    bench.listing = bench.client.request("GET", "/v1/models")
    saw = f"HTTP {bench.listing.status} in {bench.listing.latency_ms:.0f} ms at {bench.client.base.root}"
    if bench.listing.status < 500:
        return ok(saw)
    return fail(saw, "the server is not ready or failed: look at its log")


def model_listed(bench: Bench) -> Outcome:
    listing, wanted = bench.listing, bench.client.model
    if listing is None or listing.status in (404, 405, 501):
        return skip("the server has no /v1/models")
    names = bench.client.models()
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    saw = f"/v1/models lists {shown or 'nothing'}"
    if wanted in names:
        return ok(saw)
    return fail(
        saw,
        "the server serves something else, or under another name: give the right address or --model",
        f"{wanted} among them",
    )


def base64_equals_float(bench: Bench) -> Outcome:
    texts = list(bench.texts[:2])
    floats = bench.client.embed(texts)
    packed = bench.client.embed(texts, encoding="base64")
    if packed.encoding != "base64":
        return fail(
            "base64 was asked for, lists of numbers came",
            "the server ignores encoding_format: answers are several times larger than they need be",
        )
    pairs = list(zip(floats.vectors, packed.vectors, strict=True))
    widths = sorted({(len(left), len(right)) for left, right in pairs})
    if any(left != right for left, right in widths):
        return fail(
            f"{widths[0][1]} numbers in base64, {widths[0][0]} as floats",
            "base64 holds little-endian float32; float64 would give twice, float16 half as many",
        )
    # The JSON numbers are decimal: a server that keeps all digits gives the same float32.
    difference = max(largest_difference(_as_float32(left), right) for left, right in pairs)
    count = sum(len(left) for left, _ in pairs)
    if difference == 0:
        return ok(f"{count} numbers equal, bit by bit")
    lowest = min(cosine(left, right) for left, right in pairs)
    again = bench.client.embed(texts).vectors
    noise = max(largest_difference(left, right) for left, right in zip(floats.vectors, again, strict=True))
    saw = f"largest difference {difference:.1e}, cosine {lowest:.6f}"
    if noise > 0 and lowest >= bench.gate:
        return ok(f"{saw}; the server's own repeats differ by {noise:.1e}")
    if difference <= FLOAT32_NOISE:
        return ok(f"{saw}: the last bits of float32 arithmetic")
    return fail(saw, "one of the two is rounded, or packed in another type or byte order than float32")


def _as_float32(vector: list[float]) -> list[float]:
    try:
        return list(struct.unpack(f"<{len(vector)}f", struct.pack(f"<{len(vector)}f", *vector)))
    except OverflowError:
        return vector


def usage(bench: Bench) -> Outcome:
    short, long = sorted(bench.texts, key=len)[:: len(bench.texts) - 1]
    counts = [bench.client.embed(text).prompt_tokens for text in (short, long, long)]
    both = bench.client.embed([short, long]).prompt_tokens
    small, large, again = counts
    if small is None or large is None or again is None or both is None:
        return fail(
            "usage.prompt_tokens is missing", "token counts, costs and tokens per second cannot be measured"
        )
    saw = f"{small} tokens for a short text, {large} for a long one, {both} for both"
    if small <= 0 or large <= small:
        return fail(saw, "usage does not grow with the text: it is a constant, or counts texts")
    if again != large:
        return fail(f"{saw}; {again} at the second time", "the same text must cost the same")
    if both != small + large:
        return fail(saw, "a batch must cost the sum of its texts: is padding counted, or only one text?")
    return ok(saw)


def matryoshka(bench: Bench) -> Outcome:
    card = bench.card
    if card is None or card.matryoshka is None or card.dimensions is None:
        return skip("no model card" if card is None else "the model card names no Matryoshka sizes")
    size = _smaller_size(card.matryoshka, card.dimensions)
    if size is None:
        return skip("the model card names no size below the full one")
    try:
        cut = bench.client.embed(bench.texts[1], dimensions=size).vectors[0]
    except HttpError as error:
        return fail(
            f"dimensions={size}: {error.message}",
            "start the server with Matryoshka sizes (SGLang: --json-model-override-args with is_matryoshka)",
        )
    length, alike = norm(cut), cosine(cut, bench.single(bench.texts[1])[:size])
    saw = f"dimensions={size}: {len(cut)} numbers, norm {length:.4f}, cosine {alike:.4f} to the cut vector"
    hint = None
    if len(cut) != size:
        hint = "the server ignores dimensions"
    elif abs(length - 1) > NORM_TOLERANCE and card.normalize:
        hint = "the server cuts without renormalising, which costs retrieval quality"
    elif not alike >= MATRYOSHKA_GATE:
        hint = "the server keeps other dimensions than the first ones"
    return fail(saw, hint) if hint else ok(saw)


def _smaller_size(sizes: Matryoshka, full: int) -> int | None:
    fitting = [size for size in (*sizes.sizes, full // 2, full // 4) if size < full and sizes.allows(size)]
    return max(fitting, default=None)


def refused(body: Any = None, content: bytes | None = None) -> Callable[[Bench], Outcome]:
    """A check that a bad request is refused with 4xx and a readable message.

    `body` may hold "{model}" as its model. Nothing that is known to kill a server is ever sent this way:
    token ids outside the vocabulary and /v1/completions end an SGLang embedding server.
    """

    def check(bench: Bench) -> Outcome:
        document = None if content is not None else {"model": bench.client.model or "", **body}
        return _judged(bench, bench.client.request("POST", "/v1/embeddings", json=document, content=content))

    return check


def _judged(bench: Bench, answer: Response) -> Outcome:
    message = answer.error_message()
    said = bench.client.redact(message)[:160] if message else None
    saw = f"{answer.status}: {said}" if said else f"{answer.status} without a readable message"
    if answer.status < 300 and not said:
        saw = f"{answer.status}, as if nothing were wrong"
    if answer.status >= 500:
        return fail(saw, "bad input must not be the server's failure: clients will retry it for ever")
    if answer.status < 400:
        return fail(saw, "the server takes what it cannot have understood, or hides its errors behind 200")
    if answer.status not in REFUSALS:
        return fail(saw, "400, 413, 415 or 422 tell a client that its request is at fault")
    if said is None:
        return fail(saw, "an error must say in words what was wrong: error.message")
    try:
        shape = error_shape(answer.json())
    except NotJson:
        shape = "plain text"
    return ok(f"{saw} ({shape})")


def blank_text(bench: Bench) -> Outcome:
    """A text of nothing: refused, or a finite vector; a mean over no token would be NaN."""
    body = {"model": bench.client.model or "", "input": ["", "   "]}
    answer = bench.client.request("POST", "/v1/embeddings", json=body)
    if answer.status >= 400:
        return _judged(bench, answer)
    vectors = bench.client.embed(["", "   "]).vectors
    broken = sum(not_finite(vector) > 0 or norm(vector) == 0 for vector in vectors)
    if broken:
        return fail(
            f"{answer.status} with {broken} vectors that are NaN or zero",
            "pooling over no token divides by zero: blank texts must be refused or get a finite vector",
        )
    return ok(f"{answer.status} with finite vectors")


def long_text(bench: Bench) -> Outcome:
    """A text longer than the model reads. Only sent to a server of ours: it costs another one its time."""
    limit = bench.card.max_tokens if bench.card else None
    if not bench.ours:
        return skip("not sent to a server that this tool did not start")
    if limit is None or limit > LONGEST_TRIED_TOKENS:
        return skip(f"the model reads {limit or 'an unknown number of'} tokens: too long to try here")
    text = "harbour " * (limit + limit // 2)
    body = {"model": bench.client.model or "", "input": text}
    answer = bench.client.request("POST", "/v1/embeddings", json=body)
    if answer.status >= 400:
        return _judged(bench, answer)
    result = bench.client.embed(text)
    if not_finite(result.vectors[0]):
        return fail(f"{answer.status} with NaN", "positions beyond the model's last one were read")
    return ok(f"{answer.status}, cut to {result.prompt_tokens or 'an unknown number of'} tokens")


def still_right(bench: Bench) -> Outcome:
    text = bench.texts[1]
    before, after = bench.single(text), bench.client.embed(text).vectors[0]
    alike = cosine(before, after)
    saw = f"one text again: cosine {alike:.6f} to its vector from before"
    if alike >= bench.gate:
        return ok(saw)
    return fail(saw, "bad requests changed what the server answers: look at its log, restart it")


def key_missing(bench: Bench) -> Outcome:
    return _refuses(bench, "without a key", authorised=False)


def key_wrong(bench: Bench) -> Outcome:
    return _refuses(bench, "with a wrong key", key=NOT_THE_KEY)


def _refuses(bench: Bench, how: str, *, authorised: bool = True, key: str | None = None) -> Outcome:
    if not bench.key_enforced:
        return skip("no API key is known for this endpoint")
    body = {"model": bench.client.model or "", "input": bench.texts[0]}
    for pause_s in (*BUSY_PAUSES_S, None):
        answer = bench.client.request("POST", "/v1/embeddings", json=body, authorised=authorised, key=key)
        if answer.status in (401, 403):
            return ok(f"{answer.status} {how}")
        if answer.status not in BUSY or pause_s is None:
            break
        time.sleep(pause_s)  # a proxy or a full queue answered: nobody has looked at the key
    if answer.status in BUSY:
        return fail(
            f"{answer.status} {how}", "the server, or a proxy before it, fails or is too busy to refuse a key"
        )
    return fail(
        f"{answer.status} {how}", "the server does not check the key: anyone who reaches it can use it"
    )
