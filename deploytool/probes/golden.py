"""Compares a server's vectors with reference vectors computed in float32: the gates, and what is wrong.

Gates, on the text that is worst: float32 at least .9999; half precision .999, from .99 on with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from deploytool.endpoint import Client, HttpError
from deploytool.golden import Golden
from deploytool.probes.arithmetic import cosine
from deploytool.probes.causes import Cause, explain, unnormalised
from deploytool.probes.check import FLOAT32_GATE, HALF_GATE, Bench, Outcome, fail, skip

Verdict = Literal["pass", "warn", "fail"]

WARN_GATE = 0.99
TEXTS_A_REQUEST = 8
REFUSED = (400, 413, 422)


class Comparison(NamedTuple):
    """Cosines by text, the verdict on the worst of them, and the cause where it is not a pass."""

    cosines: dict[str, float]
    verdict: Verdict
    cause: Cause | None

    @property
    def worst(self) -> str:
        return min(self.cosines, key=lambda name: _orderly(self.cosines[name]))

    @property
    def lowest(self) -> float:
        return self.cosines[self.worst]

    @property
    def mean(self) -> float:
        return sum(self.cosines.values()) / len(self.cosines)


class Answers(NamedTuple):
    """What a server answered to the golden texts, and the texts that were not asked or refused, with why."""

    vectors: dict[str, list[float]]
    left_out: dict[str, str]


def golden(bench: Bench) -> Outcome:
    """The check of the suites: the model's own vectors, as its reference implementation computes them."""
    found = bench.golden
    if found is None or found.golden is None:
        reason = found.reason if found else "no golden vectors were looked for"
        return skip(f"{reason}; {found.mend}" if found and found.mend else reason)
    reference = found.golden
    answers = ask(bench.client, texts_of(reference), longest=bench.max_length, tokens=tokens_of(reference))
    if not answers.vectors:
        return skip(f"the server takes none of the texts: {next(iter(answers.left_out.values()))}")
    result = compare(answers.vectors, reference, bench.dtype)
    saw = _saw(result, answers)
    expected = gate_text(bench.dtype)
    if result.verdict == "pass":
        return Outcome(True, saw, expected=expected)
    sentence = result.cause.sentence if result.cause else ""
    if result.verdict == "warn":
        return Outcome(True, f"warning: {saw}; {sentence}", expected=expected, hint=sentence)
    return fail(saw, sentence, expected)


def texts_of(reference: Golden) -> dict[str, str]:
    return {text.name: text.sent for text in reference.texts}


def tokens_of(reference: Golden) -> dict[str, int]:
    return {text.name: text.tokens for text in reference.texts}


def ask(
    client: Client, texts: Mapping[str, str], *, longest: int | None = None, tokens: Mapping[str, int]
) -> Answers:
    """The vectors of the texts, a few a request. `longest`: tokens that the server reads of a text.

    Texts longer than that are not asked for. A request of several texts that is refused is asked again text
    by text; what is still refused is left out. Raises EndpointError otherwise.
    """
    left_out = {
        name: f"{tokens[name]} tokens, the server reads {longest}"
        for name in texts
        if longest is not None and tokens.get(name, 0) > longest
    }
    wanted = [name for name in texts if name not in left_out]
    vectors: dict[str, list[float]] = {}
    for start in range(0, len(wanted), TEXTS_A_REQUEST):
        names = wanted[start : start + TEXTS_A_REQUEST]
        try:
            vectors |= dict(zip(names, client.embed([texts[name] for name in names]).vectors, strict=True))
        except HttpError as error:
            if error.status not in REFUSED:
                raise
            _one_by_one(client, texts, names, vectors, left_out)
    return Answers(vectors, left_out)


def _one_by_one(
    client: Client,
    texts: Mapping[str, str],
    names: Sequence[str],
    vectors: dict[str, list[float]],
    left_out: dict[str, str],
) -> None:
    for name in names:
        try:
            vectors[name] = client.embed(texts[name]).vectors[0]
        except HttpError as error:
            if error.status not in REFUSED:
                raise
            left_out[name] = f"refused: {error.message}"


def compare(answers: Mapping[str, Sequence[float]], reference: Golden, dtype: str | None) -> Comparison:
    """Answers against the reference vectors, by text name."""
    right = reference.vectors()
    cosines = {name: cosine(vector, right[name]) for name, vector in answers.items()}
    verdict = judge(cosines.values(), dtype)
    if verdict == "pass":
        scaled = unnormalised(answers) if reference.normalized else None
        return Comparison(cosines, "fail" if scaled else "pass", scaled)
    cause = explain(
        answers, right, reference.wrongs(), pooling=reference.pooling, tokens=tokens_of(reference)
    )
    return Comparison(cosines, verdict, cause)


def judge(cosines: Iterable[float], dtype: str | None) -> Verdict:
    """The verdict on the lowest cosine; not a number fails."""
    lowest = min(map(_orderly, cosines))
    if dtype == "float32":
        return "pass" if lowest >= FLOAT32_GATE else "fail"
    if lowest >= HALF_GATE:
        return "pass"
    return "warn" if lowest >= WARN_GATE else "fail"


def gate_text(dtype: str | None) -> str:
    """The gate in words."""
    if dtype == "float32":
        return f"cosine >= {FLOAT32_GATE} to the float32 reference (float32)"
    why = dtype or "half precision's, as the server's dtype is not known"
    return f"cosine >= {HALF_GATE} to the float32 reference, from {WARN_GATE} on a warning ({why})"


def _orderly(value: float) -> float:
    """NaN is worse than any cosine."""
    return -2.0 if math.isnan(value) else value


def _saw(result: Comparison, answers: Answers) -> str:
    saw = (
        f"{len(result.cosines)} texts against their reference vectors: lowest cosine {result.lowest:.6f} "
        f"({result.worst}), mean {result.mean:.6f}"
    )
    if not answers.left_out:
        return saw
    name, why = next(iter(answers.left_out.items()))
    return f"{saw}; {len(answers.left_out)} left out ({name}: {why})"
