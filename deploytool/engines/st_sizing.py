"""How much memory the SentenceTransformers server takes: its largest forward pass, chosen so that it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deploytool.engines import sizes
from deploytool.memory import FitVerdict, MemoryEstimate, Range, judge, torch_memory
from deploytool.models import ModelCard
from deploytool.settings import Resolver

GPU_BATCH_TOKENS, CPU_BATCH_TOKENS, SMALLEST_BATCH_TOKENS = 16384, 8192, 1024


def size(
    values: Resolver, card: ModelCard, basis: sizes.Basis, on_cpu: bool, warnings: list[str]
) -> MemoryEstimate:
    """Choose the longest text and the tokens of one forward pass: the most that fits, else the least."""
    context = torch_memory.CPU_CONTEXT if on_cpu else torch_memory.CONTEXT
    batch = values.given("batch")
    fixed = values.given("max_batch_tokens")
    largest = CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS

    def budgets(longest: int) -> list[int]:
        if fixed is not None:
            return [int(str(fixed.value))]
        if batch is not None:
            return [int(str(batch.value)) * longest]
        steps = [largest]
        while steps[-1] > SMALLEST_BATCH_TOKENS:
            steps.append(steps[-1] // 2)
        return list(dict.fromkeys(max(step, longest) for step in steps))

    def parts(longest: int, tokens: int) -> tuple[Range, Range]:
        padded = max(tokens, longest)
        work = torch_memory.forward(basis.arch, basis.dtype, tokens=padded, longest=longest)
        return torch_memory.parts(basis.weights(), work, context)

    def need(longest: int, tokens: int) -> Range:
        return basis.need(*parts(longest, tokens))

    longest, tokens = first_that_fits(
        [(length, budget) for length in sizes.lengths(values, card) for budget in budgets(length)],
        lambda length, budget: judge(need(length, budget), basis.available_mib),
    )
    rest, work = parts(longest, tokens)
    fits = judge(need(longest, tokens), basis.available_mib) != "does_not_fit"
    sizes.explain_length(values, card, longest, fits=fits)
    if fits:
        sizes.note_shortened(values, card, longest, warnings)
    why = "keeps the device busy, and fits" if fits else "the fewest that were tried"
    if batch is not None:
        why = f"{batch.value} texts of {longest} tokens"
    values.resolve("max_batch_tokens", tokens, why)
    values.resolve("batch", max(tokens // longest, 1), "texts of the longest length in one forward pass")
    weights = basis.weights()
    made = sizes.Parts(
        weights=weights,
        pool=None,
        rest=rest,
        work=work,
        context=context.expected,
        beside_weights=rest.expected - weights - context.expected,
    )
    return sizes.estimate(made, basis)


def first_that_fits(
    tries: Sequence[tuple[int, int]], judged: Callable[[int, int], FitVerdict]
) -> tuple[int, int]:
    """The first (length, tokens) that fits; a tight one of a longer text beats one that fits a shorter."""
    tight: tuple[int, int] | None = None
    for length, tokens in tries:
        if tight is not None and length < tight[0]:
            break
        verdict = judged(length, tokens)
        if verdict in ("fits", "unknown"):
            return length, tokens
        if verdict == "tight":
            # The fewest tokens of this length: nearest to fitting.
            tight = length, tokens
    return tight or tries[-1]
