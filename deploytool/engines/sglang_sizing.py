"""How much of a card an SGLang embedding server takes: its token pool, what it keeps free, what it sizes by.

An embedding server holds tokens only while they are computed: the longest text, and what one scheduler step
admits, twice, because the next step is prepared while the last one runs (SGLang's overlap schedule). A pool
for those tokens is what `--max-total-tokens` caps; SGLang alone would take most of the card.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from deploytool.engines.sizes import Basis, Parts, mib
from deploytool.memory import (
    GPU_CONTEXT,
    MIB,
    SGLANG_GRAPH_MIB_PER_SIZE,
    SGLANG_WORKSPACE,
    Range,
    activations,
    judge,
    kv_bytes_per_token,
    request_table_mib,
    sglang_chunk_default,
    sglang_fraction,
    sglang_prefill_graphs,
    sglang_reserve_mib,
)

# On a processor SGLang is three Python processes with torch in each (resident, before weights).
CPU_CONTEXT = Range(1500, 2200, 3500)
SMALLEST_CHUNK = 2048  # SGLang reserves for 2048 tokens at least: less gains nothing
# SGLang takes a text that is shorter than its context length; with --allow-auto-truncate it cuts at six less.
HEADROOM_TOKENS, HEADROOM_TRUNCATING = 1, 6
PAGE_TOKENS = 64
LARGEST_FRACTION = 0.97
FRACTION_SLACK = 0.02
LOADED_OVERHEAD = 1.03  # buffers beside the weights: rotary tables, padded vocabulary
CPU_FRACTION = 0.8
# A reranker computes the whole vocabulary's logits of each pair's last token, in float32, and their softmax.
PAIR_TOKENS = 64  # its prompt alone is longer: so many pairs at most stand in a prefill
LOGIT_COPIES = Range(1, 2, 3)


class Wanted(NamedTuple):
    """What the user fixed; None: to be chosen."""

    chunk: int | None = None
    prefill_tokens: int | None = None
    pool_tokens: int | None = None
    fraction: float | None = None
    truncate: bool = False

    @property
    def headroom(self) -> int:
        """Tokens by which the context length exceeds the longest text."""
        return HEADROOM_TRUNCATING if self.truncate else HEADROOM_TOKENS


class Sizing(NamedTuple):
    """One way to size the server, and what it needs of a card (MiB).

    `asked` is the longest text that was wanted, `longest` what SGLang will take (at the model's end: less).
    """

    asked: int
    longest: int
    tensor_parallel: int
    chunk: int
    prefill_tokens: int
    context_length: int
    pool_tokens: int
    capped: bool
    fraction: float
    fraction_why: str
    weights: float
    pool: float
    rest: Range
    work: Range
    context: Range
    need: Range

    @property
    def parts(self) -> Parts:
        """The same, for the memory document."""
        beside = self.rest.expected - self.weights - self.pool - self.context.expected
        return Parts(self.weights, self.pool, self.rest, self.work, self.context.expected, beside)


class Sizer(NamedTuple):
    """The fixed part of sizing one model on one kind of hardware.

    `whole_texts`: attention looks both ways, so a text must not be cut into chunks.
    `positions`: what SGLang derives as the model's context from its config.json. `scores_pairs`: a reranker.
    """

    basis: Basis
    wanted: Wanted
    whole_texts: bool
    on_cpu: bool
    positions: int | None
    scores_pairs: bool = False

    def best(self, longest: list[int], tensor_parallel: list[int]) -> Sizing:
        """The first that fits: fewest cards, then the longest text, then the largest prefill.

        Where nothing fits it is the smallest that was tried: what the model needs at the least.
        """
        last: Sizing | None = None
        for cards in tensor_parallel:
            for length in longest:
                tight: Sizing | None = None
                for last in self._tries(length, cards):
                    verdict = judge(last.need, self.basis.available_mib)
                    if verdict in ("fits", "unknown"):
                        return last
                    if verdict == "tight" and tight is None:
                        tight = last
                if tight is not None:
                    return tight
        if last is None:
            raise ValueError("no length and no number of cards to try")
        return last

    def _tries(self, longest: int, cards: int) -> Iterator[Sizing]:
        fixed = self.wanted.prefill_tokens if self.whole_texts else self.wanted.chunk
        if fixed is not None:
            yield self.size(longest, cards, fixed)
            return
        step = sglang_chunk_default(self.basis.total_mib)
        while step >= SMALLEST_CHUNK:
            yield self.size(longest, cards, max(step, longest) if self.whole_texts else step)
            step //= 2

    def size(self, longest: int, cards: int, step: int) -> Sizing:
        """Sizes for texts of `longest` tokens on `cards` cards with `step` tokens in one prefill."""
        basis = self.basis
        wanted_context = longest + self.wanted.headroom
        context_length = min(wanted_context, self.positions or wanted_context)
        weights = basis.weights(cards)
        kv = kv_bytes_per_token(basis.arch, basis.dtype, tensor_parallel=cards)
        context = CPU_CONTEXT if self.on_cpu else GPU_CONTEXT
        tokens = self.wanted.pool_tokens or _pages(context_length + 2 * step)
        work = self._work(step, cards)
        beside = self._beside(step, tokens, context_length)
        fraction, why = self._fraction(step, cards, weights, mib(tokens, kv), beside.plus(work), context)
        capped = self.wanted.pool_tokens is not None or self.wanted.fraction is None
        if not capped and basis.available_mib is not None:
            room = fraction * (basis.available_mib - context.expected) - weights
            tokens = int(max(room, 0) * MIB / kv)
        pool = mib(tokens, kv)
        static = Range(weights + pool, weights + pool, weights * LOADED_OVERHEAD + pool)
        rest = static.plus(beside).plus(context)
        return Sizing(
            asked=longest,
            longest=context_length - self.wanted.headroom,
            tensor_parallel=cards,
            chunk=-1 if self.whole_texts else step,
            prefill_tokens=self.wanted.prefill_tokens or step,
            context_length=context_length,
            pool_tokens=tokens,
            capped=capped,
            fraction=fraction,
            fraction_why=why,
            weights=weights,
            pool=pool,
            rest=rest,
            work=work,
            context=context,
            need=_at_least(basis.need(rest, work, cards), context, basis.loading(cards)),
        )

    def _work(self, step: int, cards: int) -> Range:
        """What a full prefill adds."""
        basis = self.basis
        work = activations(basis.arch, basis.dtype, tokens=step, tensor_parallel=cards)
        if not self.scores_pairs:
            return work
        logits = step / PAIR_TOKENS * basis.arch.vocab * 4 / MIB
        return work.plus(Range(logits, logits, logits).times(*LOGIT_COPIES))

    def _beside(self, step: int, pool_tokens: int, context_length: int) -> Range:
        """What is held at rest beside weights and pool: the table of requests, workspaces, graphs."""
        table = request_table_mib(pool_tokens, context_length)
        beside = Range(table, table, table)
        if self.on_cpu:
            return beside
        graphs = 0 if self.whole_texts else SGLANG_GRAPH_MIB_PER_SIZE * sglang_prefill_graphs(step)
        return beside.plus(SGLANG_WORKSPACE).plus(Range(0, graphs, graphs))

    def _fraction(
        self, step: int, cards: int, weights: float, pool: float, work: Range, context: Range
    ) -> tuple[float, str]:
        """`mem_fraction_static`: SGLang's own for this prefill size, or more, as weights and pool need."""
        if self.wanted.fraction is not None:
            return self.wanted.fraction, ""
        total, available = self.basis.total_mib, self.basis.available_mib
        if total is None:
            return CPU_FRACTION, "an upper bound; max_total_tokens caps the pool"
        reserve = sglang_reserve_mib(total, step, tensor_parallel=cards, prefill_graphs=not self.whole_texts)
        own = sglang_fraction(total, reserve)
        free = (available or total) - context.expected
        needed = (weights * LOADED_OVERHEAD + pool) / free if free > 0 else LARGEST_FRACTION
        if needed <= own:
            return own, "SGLang's own for this prefill size; max_total_tokens caps the pool below it"
        # A little more than needed, so that a small misjudgement costs no pool; never what work needs.
        most = max(needed, 1 - work.upper / free) if free > 0 else needed
        raised = math.ceil(min(needed + FRACTION_SLACK, most) * 1000) / 1000
        why = f"raised from SGLang's {own} so that weights and pool have room"
        return min(raised, LARGEST_FRACTION), why


def _at_least(need: Range, context: Range, loading: float) -> Range:
    """Weights that are quantised while they load are on the card in 16 bit first, before there is a pool."""
    return Range(*(max(whole, part + loading) for whole, part in zip(need, context, strict=True)))


def _pages(tokens: int) -> int:
    return math.ceil(tokens / PAGE_TOKENS) * PAGE_TOKENS
