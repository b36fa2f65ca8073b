"""A decision table of made-up figures, for the tests of its reports."""

from __future__ import annotations

from deploytool.decision import (
    COLUMNS,
    QUALITY,
    Against,
    Decision,
    Figure,
    Quality,
    Row,
    SetFacts,
    criteria,
)
from deploytool.weighing import rank

SET = "stdlib-3.11.7:1000"
WEIGHTS = {"quality": 0.5, "latency": 0.2, "memory": 0.2, "cost": 0.1}


def quality(value: float, *, real: bool | None = None, gap: float = 0.0) -> Quality:
    """`real` None: the best of its set."""
    span = (value - 0.02, value + 0.02)
    if real is None:
        return Quality(value=value, ci95=span)
    against = Against(
        best="large",
        value=gap,
        ci95=(gap - 0.02, gap + 0.02),
        p=0.01 if real else 0.4,
        p_adjusted=0.03 if real else 0.8,
        real=real,
    )
    return Quality(value=value, ci95=span, against=against)


def figures(**known: float | str | bool) -> dict[str, Figure]:
    return {
        column.name: Figure(value=known[column.name], reason="as it was seen")
        if column.name in known
        else Figure(reason="it was not asked for")
        for column in COLUMNS
    }


def row(name: str, shift: float, *, real: bool | None, cut: bool = True, **known: float | str | bool) -> Row:
    of_set = {
        metric: quality(base + shift, real=real, gap=shift)
        for metric, base in zip(QUALITY, (0.61, 0.82, 0.7), strict=True)
    }
    sizes = {
        str(size): quality(0.7 + shift - loss, real=loss > 0.02 if loss else None, gap=-loss)
        for size, loss in ((1024, 0.0), (512, 0.01), (256, 0.05))
    }
    return Row(
        name=name,
        kind="model",
        what=f"{name} on an engine",
        state="measured",
        quality={SET: of_set},
        figures=figures(**known),
        by_dims={SET: sizes} if cut else {},
        findings=("its prompt changes nothing",) if name == "large" else (),
    )


def example_decision(name: str = "large") -> Decision:
    """Five systems: three with vectors, one that matches words, one skipped. `name`: of the first."""
    rows = [
        row(name, 0.0, real=None, single_text_ms=42.0, batch16_speedup=7.1, texts_per_s=310.0, slo_qps=38.0,
            slo_p99_ms=240.0, slo_concurrency=4, memory_peak_mib=16800.0, model_mib=7672.0, dims=1024,
            bytes_per_vector=4096, index_mib_per_1m=3906.25, usd_per_1m_tokens=0.02, licence="apache-2.0", local=True),
        row("middle", -0.012, real=False, single_text_ms=12.5, batch16_speedup=5.2, texts_per_s=900.0, slo_qps=120.0,
            slo_p99_ms=230.0, slo_concurrency=16, memory_peak_mib=2100.0, model_mib=1136.0, dims=1024,
            bytes_per_vector=4096, index_mib_per_1m=3906.25, usd_per_1m_tokens=0.006, licence="mit", local=True),
        row("small-with-a-long-name", -0.09, real=True, single_text_ms=6.2, texts_per_s=1500.0, dims=384,
            memory_peak_mib=675.0, model_mib=86.7, usd_per_1m_tokens=0.004, licence="apache-2.0", local=True),
        row("bm25", -0.11, real=True, cut=False, single_text_ms=0.4, memory_peak_mib=96.0, licence="MIT License",
            local=True),
        Row(name="card", kind="model", what="qwen3-8b", state="skipped", reason="no card is here",
            figures={column.name: Figure(reason="skipped: no card is here") for column in COLUMNS}),
    ]  # fmt: skip
    return Decision(
        made_at="2026-02-03T10:11:12+00:00",
        datasets={SET: SetFacts(n_queries=1000, n_docs=1000)},
        slo="p99<=250ms",
        load="batch 1, 16, concurrency 1, 4, 5 s each",
        rows=tuple(rows),
        ranking=rank(criteria(rows[:-1]), WEIGHTS),
    )
