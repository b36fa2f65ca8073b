"""What a terminal shows while a load runs, drawn by rich itself into text."""

from __future__ import annotations

from io import StringIO

from example_runs import card_run, cpu_run
from rich.console import Console
from rich.live import Live as Screen

from deploytool.benchmark import LoadOptions
from deploytool.cli.load_view import PlainView, TerminalView
from deploytool.loadgen.plan import Live


def shown(view: TerminalView) -> str:
    console = Console(file=StringIO(), width=110)
    console.print(view.screen.renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_grid_fills_up() -> None:
    """The cells of a run that did not go well: each stands where it belongs, with what it is worth."""
    record = card_run()
    options = LoadOptions(batch=(1, 8, 32), concurrency=(1, 4, 16))
    out = Console(file=StringIO(), width=110, force_terminal=True)
    with Screen("", console=out, transient=True, auto_refresh=False) as screen:
        view = TerminalView(options, screen)
        view.begins(record.model_copy(update={"cells": []}), 9)
        view.cell(1, "b1 c1")
        live = Live("measuring", 12.0, 300, 2, 57.25, 88.0, 0.0, 93.0, 1.25, 18_230.0, "VRAM")
        view.live(live)
        first = shown(view)
        assert [line.split() for line in first.splitlines()[:4]] == [
            ["batch", "c1", "c4", "c16"], ["1", "measuring", "·", "·"], ["8", "·", "·", "·"],
            ["32", "·", "·", "·"],
        ]  # fmt: skip
        for words in ("57.2", "~88 ms", "errors 2", "VRAM 18,230 MiB", "client CPU 93 %", "lag 1.2 ms"):
            assert words in first
        for number, cell in enumerate(record.cells, start=1):
            view.cell(number, cell.name)
            view.done(cell)
        view.live(live._replace(phase="last answers", memory_mib=None, cpu_percent=None, lag_ms=None))
        last = shown(view).splitlines()
    assert last[1].count("✗") == 1, "a void cell"
    assert last[2].count("?") == 1, "a suspect one"
    assert "interrupted" in last[3]
    assert "failed" in last[3]
    assert "measuring" not in " ".join(last[:4])


def test_a_grid_too_large_for_a_terminal_is_its_progress_alone() -> None:
    options = LoadOptions(batch=tuple(range(1, 40)), concurrency=(1,))
    with Screen("", console=Console(file=StringIO()), auto_refresh=False) as screen:
        view = TerminalView(options, screen)
        view.begins(cpu_run(), 39)
        view.cell(3, "b3 c1")
        view.live(Live("warm-up", 1.0))
        lines = shown(view).splitlines()
    assert len(lines) == 2
    assert "cell 3/39 b3 c1" in lines[1]
    assert "QPS -" in lines[0]
    assert "cell 3/39" in PlainView.line(view, Live("warm-up", 1.0))
