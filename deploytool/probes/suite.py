"""The two suites: the readiness proof, and the whole smoke test; in the order in which one would look."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deploytool.endpoint import Client
from deploytool.golden import Found
from deploytool.models import ModelCard
from deploytool.probes import contract, reranking, vectors
from deploytool.probes import golden as reference
from deploytool.probes.check import Bench, Check, Step, run_steps
from deploytool.probes.texts import MIXED

_REFUSED = "4xx with a readable message"

SINGLE = Step("single", vectors.single, "one text in, one vector out")
BATCH = Step("batch", vectors.batch, "as many vectors as texts, all of one width", ("single",))
DIMENSION = Step("dimension", vectors.dimension, "the card's width", ("batch",))
FINITE = Step("finite", vectors.finite, "no NaN, no infinity", ("batch",))
NORM = Step(
    "norm", vectors.norms, f"1 +- {vectors.NORM_TOLERANCE}, as the model normalises", ("batch", "finite")
)
DISTINCT = Step("distinct", vectors.distinct, "unlike texts get unlike vectors", ("batch", "finite"))
ORDER = Step("order", vectors.order, "vector i is that of text i", ("batch", "finite", "distinct"))

GOLDEN = Step("golden", reference.golden, "the vectors of the float32 reference", ("batch",))

PROOF: tuple[Step, ...] = (SINGLE, BATCH, DIMENSION, FINITE, NORM, DISTINCT, ORDER)

SMOKE: tuple[Step, ...] = (
    Step("reachable", contract.reachable, "an HTTP answer below 500"),
    Step("model_listed", contract.model_listed, "the model's name in /v1/models", ("reachable",)),
    *PROOF,
    Step("deterministic", vectors.deterministic, "the same vector each time", ("finite",)),
    Step(
        "batch_invariance",
        vectors.batch_invariance,
        "the same vector alone and among 32",
        ("order", "deterministic"),
    ),
    Step(
        "similarity",
        vectors.similarity,
        "texts on one subject nearer than others, in several languages and code",
        ("order", "distinct"),
    ),
    Step("base64", contract.base64_equals_float, "base64 holds the same float32 numbers", ("deterministic",)),
    Step("usage", contract.usage, "tokens counted: more for more text, a batch's sum", ("batch",)),
    Step(
        "matryoshka",
        contract.matryoshka,
        f"the size asked for, norm 1, cosine >= {contract.MATRYOSHKA_GATE} to the full vector cut here",
        ("dimension", "norm", "distinct", "deterministic"),
    ),
    Step("empty_input", contract.refused({"input": []}), _REFUSED, ("single",)),
    Step("missing_input", contract.refused({}), _REFUSED, ("single",)),
    Step("wrong_type", contract.refused({"input": {"text": "a"}}), _REFUSED, ("single",)),
    Step(
        "bad_encoding_format",
        contract.refused({"input": "a", "encoding_format": "no-such-format"}),
        _REFUSED,
        ("single",),
    ),
    Step("malformed_json", contract.refused(content=b'{"input": ["a"'), _REFUSED, ("single",)),
    Step("blank_text", contract.blank_text, "4xx, or a finite vector", ("finite",)),
    Step("long_text", contract.long_text, "4xx, or a finite vector of its beginning", ("finite",)),
    Step("still_right", contract.still_right, "the same vector as before", ("deterministic",)),
    Step("key_missing", contract.key_missing, "401", ("single",)),
    Step("key_wrong", contract.key_wrong, "401", ("single",)),
)


def prove(
    client: Client,
    card: ModelCard | None,
    *,
    golden: Found | None = None,
    dtype: str | None = None,
    max_length: int | None = None,
    watch: Callable[[Check], None] | None = None,
) -> list[Check]:
    """The readiness proof: one text and a batch of four; dimension, finite, norm, unlike, in order.

    Where there are golden vectors, the server's are compared with them, too. `dtype` and `max_length` are
    what the server computes in, and how many tokens it was told to read of a text.
    """
    bench = Bench(
        client=client, card=card, dtype=dtype, golden=golden, max_length=max_length, texts=MIXED[:4]
    )
    if card is not None and card.kind == "reranker":
        return run_steps(bench, reranking.PROOF, watch)
    steps = (*PROOF, GOLDEN) if golden is not None and golden.golden is not None else PROOF
    return run_steps(bench, steps, watch)


def smoke(
    client: Client,
    card: ModelCard | None,
    *,
    ours: bool,
    key_enforced: bool,
    dtype: str | None = None,
    golden: Found | None = None,
    max_length: int | None = None,
    watch: Callable[[Check], None] | None = None,
) -> list[Check]:
    """Every check. `ours`: this tool started the server, so that a long text may be tried on it.

    `golden`: the golden vectors that were found, or why there are none; None where nobody looked.

    `dtype` is what the server computes in, where known: float32 has a stricter gate. Nothing that could kill
    a server is sent to any: no token ids outside a vocabulary, no /v1/completions, no huge body.
    """
    bench = Bench(
        client=client,
        card=card,
        ours=ours,
        key_enforced=key_enforced,
        dtype=dtype,
        golden=golden,
        max_length=max_length,
    )
    if card is not None and card.kind == "reranker":
        return run_steps(bench, reranking.SMOKE, watch)
    steps = SMOKE if golden is None else _with_golden(SMOKE)
    return run_steps(bench, steps, watch)


def _with_golden(steps: Sequence[Step]) -> list[Step]:
    """The steps, with the comparison where the readiness proof ends."""
    place = steps.index(PROOF[-1]) + 1
    return [*steps[:place], GOLDEN, *steps[place:]]
