"""One load run from its first request to its stored record."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from deploytool.benchmark import opening, surroundings
from deploytool.benchmark.grid import LoadRun
from deploytool.benchmark.keeping import disk_errors
from deploytool.benchmark.options import LoadOptions, Progress
from deploytool.calibrations.learning import from_load, keep
from deploytool.errors import BadInput
from deploytool.loadgen import child, work
from deploytool.loadgen.plan import Spread
from deploytool.records import RunRecord
from deploytool.store import Store
from deploytool.targets import Resolved


def run_load(
    target: Resolved,
    options: LoadOptions,
    store: Store,
    progress: Progress,
    *,
    resume: RunRecord | None = None,
    make: Callable[..., LoadRun] | None = None,
    spread: Spread | None = None,
) -> RunRecord:
    """Measure every cell of the grid (with `resume`: every one that it lacks) and return the stored record.

    Ctrl-C ends the run as `interrupted`; a target that dies ends it as `failed`; either way the record holds
    what was measured. Raises NotAvailable (packages, disk), BadInput (options, corpus, unlike work) and
    Unhealthy (the target does not answer the first request, or not as it should).
    """
    child.require()
    if options.workers != (spread.workers if spread is not None else 0):
        raise BadInput(
            f"the load is to come from {options.workers} workers on other hosts, and there is no master for them",
            hint="--master HOST:PORT with --expect-workers or --workers, as in the run before",
        )
    the_work = work.prepare(
        file=options.corpus,
        text_tokens=options.text_tokens,
        tokenizer=surroundings.tokenizer_of(target) if options.text_tokens else None,
        encoding=options.encoding,
        seed=options.seed,
        batches=options.batch,
    )
    record = opening.resumed(resume, target, the_work) if resume else opening.new(target, options, the_work)
    folder = store.run_folder(record.id)
    record.folder = str(folder)
    run = (make or LoadRun)(target, options, the_work, store, progress, record, folder)
    run.spread = spread
    try:
        with disk_errors(folder):
            run.write_bodies()
        run.prove_first()
    except BaseException:
        # Nothing was measured: a run that never began leaves nothing behind.
        run.remove_bodies()
        if resume is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    (store.update_run if resume else store.add_run)(record)
    run.measure()
    if target.deployment is not None:
        keep(from_load(target.deployment, record))
    return record


def exit_code(record: RunRecord) -> int:
    """0: every cell was measured; 1: one failed; 130: interrupted."""
    if record.state == "interrupted":
        return 130
    return 0 if record.state == "finished" and all(cell.state == "done" for cell in record.cells) else 1
