"""Why vectors are not the right ones: explanations tried in turn, without asking the server again.

Two ways: what was done to the right vectors (given to another text, dimensions in another order, cut, not
normalised), and which vectors that are wrong on purpose they equal (golden file: pooling, prompts, length).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deploytool.probes.arithmetic import cosine, norm, not_finite

Vectors = Mapping[str, Sequence[float]]

EXPLAINS = 0.99  # an explanation must bring the vectors this near, on every text that it covers
BETTER_BY = 0.002  # and nearer than the right vectors are: half precision alone moves them by less
SAME_TEXT = 0.98
REORDERED = 0.8  # after undoing an order of dimensions; what is not reordered stays near 0
NORM_TOLERANCE = 0.01
BLURRED = 0.9  # every text this near, none exact: coarse numbers, not another computation


class Cause(NamedTuple):
    """What is wrong, in a word for programs (`pooling:cls`, `cut:128`) and a sentence with the mend."""

    name: str
    sentence: str


POOLED = {
    "cls": "takes the first token (CLS)",
    "last": "takes the last token",
    "mean": "takes the mean over all tokens",
    "max": "takes the maximum over all tokens",
}


def explain(
    answers: Vectors,
    right: Vectors,
    wrongs: Mapping[str, Vectors] | None = None,
    *,
    pooling: str | None = None,
    tokens: Mapping[str, int] | None = None,
) -> Cause:
    """The likeliest cause that `answers` differ from `right`, both by text name.

    wrongs: cause -> text name -> vector, as golden files hold them; pooling: the right one, for the sentence;
    tokens: lengths of the texts, to see that only long ones are wrong.
    """
    for tried in (_broken, _width, _constant, _shuffled, _reordered):
        found = tried(answers, right)
        if found is not None:
            return found
    named = _named(answers, right, wrongs or {}, pooling)
    if named is not None:
        return named
    return _only_long(answers, right, tokens or {}) or _unknown(answers, right, wrongs or {}, pooling)


def unnormalised(answers: Vectors) -> Cause | None:
    """Vectors that should have length 1 and have not; their direction may be right all the same."""
    lengths = [norm(vector) for vector in answers.values()]
    if all(abs(length - 1) <= NORM_TOLERANCE for length in lengths):
        return None
    return Cause(
        "not-normalised",
        f"the vectors have lengths from {min(lengths):.3f} to {max(lengths):.3f}, not 1: the server leaves "
        "out the model's Normalize step, so that dot products are no cosines",
    )


def _broken(answers: Vectors, _: Vectors) -> Cause | None:
    broken = [name for name, vector in answers.items() if not_finite(vector)]
    if broken:
        return Cause(
            "overflow",
            f"NaN or infinity in {len(broken)} of {len(answers)} vectors ({broken[0]}, ...): activations "
            "overflow float16, serve with bfloat16 or float32",
        )
    if any(norm(vector) == 0 for vector in answers.values()):
        return Cause(
            "zero", "vectors of nothing but zeros: the weights were not loaded, or the kernel failed"
        )
    return None


def _width(answers: Vectors, right: Vectors) -> Cause | None:
    pairs = [(answers[name], right[name]) for name in answers]
    if all(len(left) == len(full) for left, full in pairs):
        return None
    widths = sorted({len(left) for left, _ in pairs})
    full_width = len(pairs[0][1])
    if len(widths) == 1 and widths[0] < full_width:
        lowest = min(cosine(left, full[: widths[0]]) for left, full in pairs)
        if lowest >= EXPLAINS:
            return Cause(
                f"dimensions:{widths[0]}",
                f"the server cuts the vectors to their first {widths[0]} of {full_width} dimensions without "
                "being asked (a Matryoshka size as its default)",
            )
    return Cause(
        "dimensions",
        f"{' and '.join(map(str, widths))} dimensions instead of {full_width}: another model is served",
    )


def _constant(answers: Vectors, _: Vectors) -> Cause | None:
    vectors = list(answers.values())
    if len(vectors) > 2 and min(cosine(vectors[0], other) for other in vectors[1:]) > 0.99999:
        return Cause(
            "constant",
            "every text gets the same vector: pooling takes a position that does not hang on the text, or "
            "the texts are lost on the way",
        )
    return None


def _shuffled(answers: Vectors, right: Vectors) -> Cause | None:
    """Whether the vectors are right ones, given to other texts."""
    nearest: dict[str, str] = {}
    for name, vector in answers.items():
        cosines = {other: cosine(vector, right[other]) for other in answers}
        best = max(cosines, key=cosines.__getitem__)
        if cosines[best] < SAME_TEXT:
            return None
        nearest[name] = name if cosines[name] >= cosines[best] - BETTER_BY else best
    moved = [name for name, other in nearest.items() if name != other]
    if not moved:
        return None
    return Cause(
        "shuffled",
        f"the vectors are right but {len(moved)} of {len(answers)} belong to another text of their request "
        f"({moved[0]} got that of {nearest[moved[0]]}): the server, or a proxy, mixes up a batch "
        "(data[].index lost, or sorted by length and not sorted back)",
    )


def _reordered(answers: Vectors, right: Vectors) -> Cause | None:
    """Whether one order of dimensions, read off the first text by the rank of its numbers, undoes it all."""
    names = list(answers)
    if len(names) < 2 or min(cosine(answers[name], right[name]) for name in names) >= EXPLAINS:
        return None
    first = names[0]
    by_rank = sorted(range(len(right[first])), key=right[first].__getitem__)
    places = sorted(range(len(answers[first])), key=answers[first].__getitem__)
    came_from = [0] * len(places)
    for source, place in zip(by_rank, places, strict=True):
        came_from[place] = source
    for name in names[1:]:
        moved = [right[name][source] for source in came_from]
        if cosine(answers[name], moved) < REORDERED or cosine(answers[name], right[name]) >= EXPLAINS:
            return None
    return Cause(
        "dimension-order",
        "the numbers are right but their dimensions are in another order, the same for every text: shards of "
        "a tensor-parallel layer, or a converter, put them together wrongly",
    )


def _named(
    answers: Vectors, right: Vectors, wrongs: Mapping[str, Vectors], pooling: str | None
) -> Cause | None:
    """The known mistake whose vectors these are; of several, the one that is nearest on its worst text."""
    best: tuple[float, int, str] | None = None
    for cause, vectors in wrongs.items():
        names = [name for name in vectors if name in answers]
        if not names:
            continue
        near = min(cosine(answers[name], vectors[name]) for name in names)
        instead = min(cosine(answers[name], right[name]) for name in names)
        rank = (near, len(names), cause)
        if near >= EXPLAINS and near > instead + BETTER_BY and (best is None or rank > best):
            best = rank
    return None if best is None else Cause(best[2], _sentence(best[2], pooling))


def _sentence(cause: str, pooling: str | None) -> str:
    kind, _, what = cause.partition(":")
    if kind == "pooling":
        needs = f"the model needs {pooling}" if pooling else "the model pools otherwise"
        engine = " (SGLang pools every BERT so: take sentence-transformers)" if what == "cls" else ""
        return f"wrong pooling: the server {POOLED.get(what, what)}, {needs}{engine}"
    if kind == "prompt":
        return _of_prompt(what)
    if kind == "cut":
        return (
            f"texts are cut after {what} tokens: the server reads less of a text than the model "
            "(raise its maximum length)"
        )
    if cause == "tokens:no-special":
        return (
            "the special tokens are left out ([CLS] and [SEP], or the end-of-text token that last-token "
            "pooling reads): the server's tokenizer is not set up as the model's"
        )
    if cause == "text:lower-cased":
        return "texts are lower-cased before they are read, and the model tells capitals apart"
    return cause


def _of_prompt(what: str) -> str:
    if what == "missing":
        return "the prompt is missing: the server (or a proxy) takes off or ignores what stands before a text"
    if what == "doubled":
        return "the prompt stands twice: the server adds it to texts that already have it"
    if what == "other":
        return "the wrong prompt: documents get the query's, or queries the document's"
    return (
        f"a prompt is added: the server puts {what.removeprefix('added ')!r} before every text, which the "
        "model does not want there (a default prompt of another model?)"
    )


def _only_long(answers: Vectors, right: Vectors, tokens: Mapping[str, int]) -> Cause | None:
    """Long texts wrong, short ones right, and no known cut."""
    bad = {name for name in answers if cosine(answers[name], right[name]) < EXPLAINS}
    good = [name for name in answers if name not in bad and name in tokens]
    if not bad or not good or any(name not in tokens for name in bad):
        return None
    longest_good, shortest_bad = max(tokens[name] for name in good), min(tokens[name] for name in bad)
    if shortest_bad <= longest_good or len(good) < 3:
        return None
    return Cause(
        "long-texts",
        f"texts of up to {longest_good} tokens are right, those from {shortest_bad} on are not: they are cut "
        "in between, or their positions are computed otherwise (RoPE scaling)",
    )


def _unknown(answers: Vectors, right: Vectors, wrongs: Mapping[str, Vectors], pooling: str | None) -> Cause:
    cosines = [cosine(answers[name], right[name]) for name in answers]
    low, high = min(cosines), max(cosines)
    if low >= BLURRED:
        return Cause(
            "blurred",
            f"every text is a little off (cosine {low:.4f} to {high:.4f}): quantised weights, float16 or "
            "bfloat16 where more is needed, or a lossy attention kernel",
        )
    others = {
        cause: min((cosine(answers[name], vectors[name]) for name in vectors if name in answers), default=-1)
        for cause, vectors in wrongs.items()
    }
    nearest = max(others, key=others.__getitem__, default=None)
    hint = ""
    if nearest is not None and others[nearest] > max(low, BLURRED):
        hint = f"; nearest to: {_sentence(nearest, pooling)} (cosine {others[nearest]:.3f})"
    scale = "not a number" if math.isnan(low) else f"cosine {low:.3f} to {high:.3f}"
    return Cause(
        "unknown",
        f"no known mistake explains them ({scale}): other weights (another model, revision or fine-tune), or "
        f"weights that were loaded wrongly{hint}",
    )
