"""Checks of the vectors themselves. Thresholds: cosine of one text's vectors computed twice, see `check`."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.endpoint import HttpError
from deploytool.probes.arithmetic import cosine, largest_difference, norm, not_finite
from deploytool.probes.check import Bench, Outcome, fail, ok, skip
from deploytool.probes.texts import LANGUAGES, Language, thirty_two

NORM_TOLERANCE = 0.01  # bfloat16 vectors of length 1 were seen from .9965 to 1.0039
SAME_VECTOR = 0.99999  # above this two texts got one vector; untrained encoders reach .99 honestly
MISPLACED_BY = 0.005  # another text's vector must be this much nearer before a vector is called misplaced
MIXED_UP = 0.98  # a misplaced vector this near to another text's is that text's
VIOLATIONS_ALLOWED = 0.25  # of the comparisons; vectors that do not hang on the text violate half of them
COMPARED_ALONE = 8

_UNLIKE_ALONE = (
    "padding reaches the result (the attention mask or the pooling is wrong), float16 overflows, or SGLang "
    "pools CLS with its radix cache on (--disable-radix-cache)"
)


def single(bench: Bench) -> Outcome:
    vector = bench.single(bench.texts[0])
    return ok(f"one vector of {len(vector)} numbers")


def batch(bench: Bench) -> Outcome:
    answer = bench.batched()
    widths = sorted({len(vector) for vector in answer.vectors})
    saw = f"{len(answer.vectors)} vectors of {_numbers(widths)} numbers in {answer.latency_ms:.0f} ms"
    if len(widths) > 1:
        return fail(saw, "the vectors of one answer differ in width: the server mixes models or cuts some")
    return ok(saw)


def dimension(bench: Bench) -> Outcome:
    widths = sorted({len(vector) for vector in bench.all_vectors()})
    known = bench.card.dimensions if bench.card else None
    saw = f"{_numbers(widths)} dimensions"
    if known is None:
        expected = "one width everywhere (no model card says which)"
        if len(widths) == 1:
            return Outcome(True, saw, expected=expected)
        return fail(saw, "single and batched requests give vectors of other widths", expected)
    expected = f"{known}, as the model card of {bench.card.name if bench.card else ''} says"
    if widths == [known]:
        return Outcome(True, saw, expected=expected)
    cut = bench.card is not None and bench.card.matryoshka is not None
    cut = cut and all(width < known for width in widths)
    hint = (
        "the server cuts its vectors to a Matryoshka size without being asked"
        if cut
        else "another model is served than the card describes, or another layer than its embedding"
    )
    return fail(saw, hint, expected)


def finite(bench: Bench) -> Outcome:
    vectors = bench.all_vectors()
    broken = [place for place, vector in enumerate(vectors) if not_finite(vector)]
    if not broken:
        return ok(f"all numbers of {len(vectors)} vectors are finite")
    count = sum(not_finite(vector) for vector in vectors)
    return fail(
        f"{count} numbers are NaN or infinite, in {len(broken)} of {len(vectors)} vectors",
        "an overflow of float16 is the usual cause: serve with bfloat16 or float32; an empty text divided by "
        "its length is the other",
    )


def norms(bench: Bench) -> Outcome:
    lengths = [norm(vector) for vector in bench.all_vectors()]
    low, high = min(lengths), max(lengths)
    saw = f"norms from {low:.4f} to {high:.4f}"
    if bench.card is None or not bench.card.normalize:
        why = "no model card says more" if bench.card is None else "the model does not normalise"
        expected = f"above 0 ({why})"
        if low > 0:
            return Outcome(True, saw, expected=expected)
        return fail(saw, "a zero vector is no embedding: look at the server's log", expected)
    if low >= 1 - NORM_TOLERANCE and high <= 1 + NORM_TOLERANCE:
        return ok(saw)
    return fail(
        saw,
        "the server does not normalise (its Normalize step is missing), or cuts vectors without "
        "renormalising: dot products will not be cosines",
    )


def order(bench: Bench) -> Outcome:
    """Whether vector i of a batch is that of text i, seen by comparing with requests of one text each."""
    answer = bench.batched()
    alone = [bench.single(text) for text in bench.texts]
    misplaced = _misplaced(answer.vectors, alone)
    if not misplaced and answer.in_order:
        return ok(f"{len(alone)} vectors, each nearest to its own text asked for alone, index ascending")
    if not misplaced:
        return fail(
            f"each vector has the right index, but data[] came as {answer.indices}",
            "most clients ignore data[].index and will mix up their texts: the server must sort data[]",
        )
    if min(misplaced.values()) < MIXED_UP:
        return fail(
            f"{len(misplaced)} of {len(alone)} vectors of a batch are unlike those of their texts alone, "
            "and like no other text's",
            _UNLIKE_ALONE,
        )
    arrived = [answer.vectors[index] for index in answer.indices]
    return fail(
        f"{len(misplaced)} of {len(alone)} vectors belong to another text of the batch "
        f"(data[].index {answer.indices})",
        "data[].index is wrong: data[] itself is in the order of the texts"
        if not answer.in_order and not _misplaced(arrived, alone)
        else "the server mixes up the texts of a batch (sorted by length and not sorted back?)",
    )


def _misplaced(vectors: Sequence[list[float]], alone: Sequence[list[float]]) -> dict[int, float]:
    """Places whose vector is nearer to another text's than to its own, with that cosine."""
    places = {}
    for place, vector in enumerate(vectors):
        cosines = [cosine(vector, other) for other in alone]
        if max(cosines) > cosines[place] + MISPLACED_BY:
            places[place] = max(cosines)
    return places


def distinct(bench: Bench) -> Outcome:
    vectors = bench.batched().vectors
    pairs = [(i, j) for i in range(len(vectors)) for j in range(i)]
    nearest = max(cosine(vectors[i], vectors[j]) for i, j in pairs)
    saw = f"{len(vectors)} unlike texts, nearest two at cosine {nearest:.5f}"
    if nearest < SAME_VECTOR:
        return ok(saw)
    return fail(
        saw,
        "the vector does not hang on the text: pooling takes a position that is the same for all of them "
        "(CLS of a model not trained for it, the last token of padding), or the texts were cut to nothing",
    )


def deterministic(bench: Bench) -> Outcome:
    text = bench.texts[1]
    first = bench.single(text)
    again = [bench.client.embed(text).vectors[0] for _ in range(2)]
    lowest = min(cosine(first, vector) for vector in again)
    difference = max(largest_difference(first, vector) for vector in again)
    same = "bit by bit the same" if difference == 0 else f"largest difference {difference:.1e}"
    saw = f"one text three times: cosine {lowest:.6f}, {same}"
    if lowest >= bench.gate:
        return Outcome(True, saw, expected=bench.gate_text)
    return fail(
        saw,
        "the model runs with dropout (not in evaluation mode), several replicas behind this address serve "
        "different models, or SGLang pools CLS with its radix cache on (--disable-radix-cache)",
        bench.gate_text,
    )


def batch_invariance(bench: Bench) -> Outcome:
    """One text alone against the same text among 32, or among 8 where the server takes no more."""
    texts, refused = thirty_two(), ""
    try:
        together = bench.client.embed(texts).vectors
    except HttpError as error:
        if error.status not in (400, 413, 422):
            raise
        texts, refused = texts[:8], f"32 texts at once were refused ({error.message}); "
        together = bench.client.embed(texts).vectors
    chosen = _spread(texts)
    cosines = {place: cosine(bench.single(texts[place]), together[place]) for place in chosen}
    worst = min(cosines, key=cosines.__getitem__)
    saw = f"{refused}{len(chosen)} texts alone against among {len(texts)}: lowest cosine {cosines[worst]:.6f}"
    if cosines[worst] >= bench.gate:
        return Outcome(True, saw, expected=bench.gate_text)
    return fail(
        f"{saw} (text of {len(texts[worst])} characters)",
        _UNLIKE_ALONE,
        bench.gate_text,
    )


def _spread(texts: Sequence[str]) -> list[int]:
    """The shortest, the longest, and places spread over the batch: padding hits the short ones most."""
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    step = max(1, len(texts) // (COMPARED_ALONE - 2))
    return sorted({by_length[0], by_length[-1], *range(0, len(texts), step)})[:COMPARED_ALONE]


def similarity(bench: Bench) -> Outcome:
    if bench.card is not None and bench.card.kind == "reranker":
        return skip("a reranker has no vectors to compare")
    wrong: dict[str, int] = {}
    total = 0
    for language in LANGUAGES:
        violations, comparisons = _violations(bench, language)
        total += comparisons
        if violations:
            wrong[language.name] = violations
    count = sum(wrong.values())
    where = f" ({', '.join(f'{name} {number}' for name, number in wrong.items())})" if wrong else ""
    saw = f"{total - count} of {total} comparisons right over {len(LANGUAGES)} languages{where}"
    if count <= VIOLATIONS_ALLOWED * total:
        return ok(saw)
    if bench.card is None or bench.card.origin != "card":
        return skip(f"{saw}: advisory, as no model card says that this model knows meanings")
    return fail(
        saw,
        "the vectors do not follow the meaning: wrong pooling for this model, a chat model served as an "
        "embedder, broken weights, or texts cut to nothing",
    )


def _violations(bench: Bench, language: Language) -> tuple[int, int]:
    """How often a text was no nearer to its paraphrase than to one of the other topic; and of how many."""
    first = bench.client.embed([*language.first, *language.second]).vectors
    pairs = ((0, 1, (2, 3)), (1, 0, (2, 3)), (2, 3, (0, 1)), (3, 2, (0, 1)))
    comparisons = [(text, same, other) for text, same, others in pairs for other in others]
    violations = sum(
        not cosine(first[text], first[same]) > cosine(first[text], first[other])
        for text, same, other in comparisons
    )
    return violations, len(comparisons)


def _numbers(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))
