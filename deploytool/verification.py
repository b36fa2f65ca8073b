"""Do two endpoints compute the same vectors, or does one compute those of the float32 reference?

The same texts go to both; the verdict hangs on the text that is worst. Where golden vectors of the model are
known, both endpoints are compared with them, too, so that it is said which of the two is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from deploytool.endpoint import EndpointError
from deploytool.errors import NotAvailable, Unhealthy
from deploytool.golden import Found, Golden
from deploytool.golden.document import prompts_of
from deploytool.models import ModelCard
from deploytool.probes.arithmetic import cosine
from deploytool.probes.causes import Cause, explain
from deploytool.probes.golden import Answers, Comparison, ask, compare, gate_text, judge, texts_of, tokens_of
from deploytool.probes.texts import GOLDEN, GOLDEN_SET
from deploytool.schema import Document
from deploytool.targets import Resolved

REFERENCE = "golden"
# Without a reference nothing says how many tokens a text has: only texts that every model reads whole.
SHORT_CHARACTERS = 300


class TextCosine(Document):
    """One text: its length where known, and the cosine of its two vectors (None: not a number)."""

    text: str
    kind: str
    tokens: int | None = None
    cosine: float | None


class CauseFound(Document):
    """What is wrong with the vectors of `target`."""

    target: str
    name: str
    message: str


class Verification(Document):
    """The comparison of one endpoint with another, or with golden vectors."""

    target: str
    url: str
    model: str
    against: str
    probe_set: int
    gate: str
    verdict: Literal["pass", "warn", "fail"]
    min: float | None
    mean: float | None
    worst: str
    texts: tuple[TextCosine, ...]
    left_out: dict[str, str] = Field(default_factory=dict, description="text -> why it was not compared")
    causes: tuple[CauseFound, ...] = ()
    golden: str | None = Field(default=None, description="the golden file that was used")


def against_golden(target: Resolved, found: Found, timeout_s: float) -> Verification:
    """One endpoint against its model's golden vectors. NotAvailable where there are none; Unhealthy."""
    if found.golden is None:
        raise NotAvailable(
            found.reason, hint=found.mend or "compare with another endpoint: --against TARGET2"
        )
    answers = _asked(target, texts_of(found.golden), tokens_of(found.golden), timeout_s)
    result = compare(answers.vectors, found.golden, target.dtype)
    return _verification(
        target,
        REFERENCE,
        result,
        answers.left_out,
        found,
        gate_text(target.dtype),
        _told(target, result.cause),
    )


def against_target(target: Resolved, other: Resolved, found: Found, timeout_s: float) -> Verification:
    """Two endpoints against each other; golden vectors, where found, say which one is wrong. Unhealthy."""
    golden = found.golden
    texts = texts_of(golden) if golden else own_texts(target.card or other.card)
    tokens = tokens_of(golden) if golden else {}
    limits = [limit for limit in (target.max_length, other.max_length) if limit is not None]
    longest = min(limits, default=None)
    mine = _asked(target, texts, tokens, timeout_s, longest)
    theirs = _asked(other, {name: texts[name] for name in mine.vectors}, tokens, timeout_s, longest)
    left_out = {**mine.left_out, **theirs.left_out}
    both = [name for name in mine.vectors if name in theirs.vectors]
    ours = {name: mine.vectors[name] for name in both}
    cosines = {name: cosine(ours[name], theirs.vectors[name]) for name in both}
    dtype = "float32" if target.dtype == other.dtype == "float32" else target.dtype and other.dtype
    verdict = judge(cosines.values(), dtype)
    causes: tuple[CauseFound, ...] = ()
    if verdict != "pass":
        causes = _blamed(target, ours, other, theirs.vectors, golden) or (
            CauseFound(target=target.target, **_between(explain(ours, theirs.vectors))),
        )
    gate = gate_text(dtype if dtype == "float32" else "the coarser of the two" if dtype else None).replace(
        "to the float32 reference", "between the two"
    )
    return _verification(
        target, other.target, Comparison(cosines, verdict, None), left_out, found, gate, causes
    )


def own_texts(card: ModelCard | None) -> dict[str, str]:
    """The short texts of the probe set, with the card's prompts before them."""
    prompts = prompts_of(card) if card is not None else {"query": "", "document": ""}
    return {
        probe.name: prompts[probe.kind] + probe.text
        for probe in GOLDEN
        if len(probe.text) <= SHORT_CHARACTERS
    }


def _asked(
    target: Resolved,
    texts: Mapping[str, str],
    tokens: Mapping[str, int],
    timeout_s: float,
    longest: int | None = None,
) -> Answers:
    limit = longest if longest is not None else target.max_length
    try:
        with target.client(timeout_s) as client:
            answers = ask(client, texts, longest=limit, tokens=tokens)
    except EndpointError as error:
        raise Unhealthy(f"{target.target}: {error.message}", hint=error.hint) from error
    if not answers.vectors:
        why = next(iter(answers.left_out.values()))
        raise Unhealthy(f"{target.target} gives no vector of any text: {why}", hint="see its log")
    return answers


def _blamed(
    target: Resolved,
    mine: Mapping[str, list[float]],
    other: Resolved,
    theirs: Mapping[str, list[float]],
    golden: Golden | None,
) -> tuple[CauseFound, ...]:
    """What is wrong with either endpoint, by the golden vectors."""
    if golden is None:
        return ()
    causes: list[CauseFound] = []
    for endpoint, vectors in ((target, mine), (other, theirs)):
        causes += _told(endpoint, compare(vectors, golden, endpoint.dtype).cause)
    return tuple(causes)


def _told(target: Resolved, cause: Cause | None) -> tuple[CauseFound, ...]:
    if cause is None:
        return ()
    return (CauseFound(target=target.target, name=cause.name, message=cause.sentence),)


def _between(cause: Cause) -> dict[str, str]:
    """A cause seen between two endpoints, without knowing which one is right."""
    if cause.name != "unknown":
        return {"name": cause.name, "message": f"against the other one: {cause.sentence}"}
    message = "nothing says which of the two is right: other weights, pooling or prompts on one side"
    return {"name": cause.name, "message": f"{message} (golden vectors would: deploytool golden make MODEL)"}


def _verification(
    target: Resolved,
    against: str,
    result: Comparison,
    left_out: dict[str, str],
    found: Found,
    gate: str,
    causes: tuple[CauseFound, ...],
) -> Verification:
    golden = found.golden
    kinds = {probe.name: probe.kind for probe in GOLDEN} | (
        {text.name: text.kind for text in golden.texts} if golden else {}
    )
    tokens = tokens_of(golden) if golden else {}
    return Verification(
        target=target.target,
        url=target.url,
        model=target.model,
        against=against,
        probe_set=golden.probe_set if golden else GOLDEN_SET,
        gate=gate,
        verdict=result.verdict,
        min=_number(result.lowest),
        mean=_number(result.mean),
        worst=result.worst,
        texts=tuple(
            TextCosine(text=name, kind=kinds[name], tokens=tokens.get(name), cosine=_number(value))
            for name, value in result.cosines.items()
        ),
        left_out=left_out,
        causes=causes,
        golden=str(found.path) if golden else None,
    )


def _number(value: float) -> float | None:
    return round(value, 8) if value == value else None  # noqa: PLR0124 - JSON has no NaN
