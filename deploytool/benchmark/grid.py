"""The cells of a load run, measured one after the other, each stored as soon as it is."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from deploytool import samples
from deploytool.benchmark import surroundings
from deploytool.benchmark.checking import AnswerChecker
from deploytool.benchmark.keeping import KeptSamples, disk_errors, part_name
from deploytool.benchmark.options import LoadOptions, Point, Progress
from deploytool.benchmark.proving import Proof, death_of, prove, restarted, unmeasured
from deploytool.benchmark.scraping import Scraper
from deploytool.errors import DeploytoolError, Unhealthy
from deploytool.loadgen import child, measured, null_server, validity, work
from deploytool.loadgen.plan import CellPlan, Live, Spread
from deploytool.records import Cell, RunRecord
from deploytool.store import Store
from deploytool.targets import Resolved

SETTLE_S = 0.5
BROKEN = frozenset({"refused", "reset", "timeout", "connect", "tls"})


class LoadRun:
    """The state of a run while it is measured."""

    def __init__(
        self,
        target: Resolved,
        options: LoadOptions,
        the_work: work.Work,
        store: Store,
        progress: Progress,
        record: RunRecord,
        folder: Path,
    ) -> None:
        self.target, self.options, self.work = target, options, the_work
        self.store, self.progress, self.record, self.folder = store, progress, record, folder
        self.memory = surroundings.Memory(target, list(record.memory))
        timeline = folder / "memory.parquet"
        self.earlier_rows = samples.read(timeline) if timeline.exists() else []
        self.kept = KeptSamples(folder)
        self.proofs: dict[int, Proof] = {}
        standing = {cell.name for cell in record.cells if cell.stands}
        self.missing = [point for point in options.cells if point.name not in standing]
        self.scraper = Scraper(target)
        self.checker = AnswerChecker(target, surroundings.tokenizer_of(target), options.timeout_s)
        self.null_url = ""
        self.spread: Spread | None = None

    def bodies(self, batch: int) -> Path:
        return self.folder / f"bodies-{batch}.jsonl"

    def write_bodies(self) -> None:
        for batch in dict.fromkeys(point.batch for point in self.missing):
            self.work.write_bodies(self.bodies(batch), batch, self.target.model)

    def remove_bodies(self) -> None:
        for batch in self.options.batch:
            self.bodies(batch).unlink(missing_ok=True)

    def prove_first(self) -> None:
        """One request of the first batch size; Unhealthy where nothing answers: no empty run is kept."""
        self.memory.phase("idle")
        self.memory.settle(SETTLE_S)
        try:
            if self.missing and self.prove(self.missing[0].batch).gone:
                raise Unhealthy(
                    f"{self.target.url} does not answer: {self.proofs[self.missing[0].batch].problem}",
                    hint="is it running, and is the address right? `deploytool ps` lists deployments",
                )
        except BaseException:
            self.memory.stop()
            raise

    def prove(self, batch: int) -> Proof:
        proof = prove(self.target, self.bodies(batch), batch, self.options.timeout_s)
        self.proofs[batch] = proof
        return proof

    def measure(self) -> None:
        """All missing cells; the record is stored after each and at the end, whatever ends it."""
        self.progress.begins(self.record, len(self.missing))
        void = [cell.name for cell in self.record.cells if cell.state == "done" and not cell.stands]
        if void:
            self.progress.note(f"measured again, because void: {', '.join(void)}")
        try:
            for point in self.missing:
                if point.batch not in self.proofs:
                    self.prove(point.batch)
            self.memory.phase("loaded")
            self.memory.settle(SETTLE_S)
            with disk_errors(self.folder), self._null_server():
                if self.missing:
                    self.kept.take_apart()
                self._cells()
        except KeyboardInterrupt:
            self.record.state, self.record.reason = "interrupted", "Ctrl-C"
        except DeploytoolError as error:
            self.record.state, self.record.reason = "failed", error.message
            if any(cell.duration_s for cell in self.record.cells):
                self.progress.note(f"what was measured is kept; to go on: --resume {self.record.id}")
            raise
        finally:
            self._close()

    @contextlib.contextmanager
    def _null_server(self) -> Iterator[None]:
        if not self.options.calibration:
            yield
            return
        with null_server.running() as self.null_url:
            yield

    def _cells(self) -> None:
        gone: str | None = None
        clean = True
        for number, point in enumerate(self.missing, start=1):
            if gone is None:
                proof = self.proofs[point.batch] if clean else self.prove(point.batch)
                gone = proof.problem if proof.gone else None
            problem = f"the target was gone before this cell: {gone}" if gone else proof.problem
            self.progress.cell(number, point.name)
            if problem:
                cell = unmeasured(point, self.options, problem, self.memory.peak("idle"))
            else:
                cell = self._cell(point)
                clean = cell.state == "done" and not BROKEN & cell.errors.keys()
                if cell.state == "interrupted" and not cell.duration_s:
                    raise KeyboardInterrupt  # nothing of it was measured
            self._put(cell)
            self._store()
            self.progress.done(cell)
            if cell.state == "interrupted":
                raise KeyboardInterrupt
            if self.spread is not None and cell.state == "failed" and not cell.duration_s:
                raise Unhealthy(
                    f"the workers' load did not begin: {cell.reason}",
                    hint=f"was each started? deploytool load TARGET --worker {self.spread.host}:{self.spread.port}",
                )
        if gone or not any(cell.state == "done" for cell in self.record.cells):
            self.record.state, self.record.reason = "failed", gone or "no cell could be measured"
        else:
            self.record.state = "finished"

    def _put(self, cell: Cell) -> None:
        """The cell, instead of an earlier one of its name; one without figures does not replace figures."""
        earlier = next((one for one in self.record.cells if one.name == cell.name), None)
        if earlier is None:
            self.record.cells.append(cell)
        elif cell.duration_s or not earlier.requests:
            self.record.cells[self.record.cells.index(earlier)] = cell

    def _plan(self, point: Point) -> CellPlan:
        host, path = surroundings.address(self.target)
        options = self.options
        processes = options.processes if point.rate is not None else min(options.processes, point.concurrency)
        if self.spread is not None:
            processes = self.spread.workers
        return CellPlan(
            batch=point.batch,
            concurrency=point.concurrency,
            host=host,
            path=path,
            warmup_s=options.warmup_s,
            duration_s=options.duration_s,
            timeout_s=options.timeout_s,
            bodies=self.bodies(point.batch),
            folder=self.folder / "cells" / part_name(point.name),
            rate=point.rate,
            arrivals=options.arrivals,
            profile=options.profile,
            seed=options.seed,
            processes=processes,
            min_samples=options.min_samples,
            max_duration_s=options.longest_window_s,
            null_url=self.null_url if self.proofs[point.batch].size else "",
            null_bytes=self.proofs[point.batch].size,
            checks=options.checks,
            spread=self.spread,
            last=bool(self.missing) and point == self.missing[-1],
        )

    def _cell(self, point: Point) -> Cell:
        plan = self._plan(point)
        shutil.rmtree(plan.folder, ignore_errors=True)
        phase = f"load {plan.name}"
        self.memory.phase(phase)
        with self.scraper.scraping():
            outcome = child.run_cell(plan, self.target.api_key, self._watch)
        memory = self.memory.peak(phase)
        found = measured.read_samples([plan.samples(rank) for rank in range(plan.processes)])
        self.kept.add(plan.folder.name, found.rows(plan, outcome.window))
        cell = measured.cell_of(plan, outcome, found, memory)
        cell.server = self.scraper.between(outcome.window)
        if cell.state == "done":
            cell.energy_j_per_1m_tokens = surroundings.energy_of(self.memory.rows(), outcome.window, cell)
            if self.options.checks:
                self.memory.phase("checking answers")
                cell.answers = self.checker.check(plan)
                cell.notes += cell.answers.problems
            cell.validity = validity.judge(cell, found, outcome.window, memory, restarted(self.target, cell))
            shutil.rmtree(plan.folder, ignore_errors=True)  # its samples are in the part now
        return cell

    def _watch(self, live: Live) -> str | None:
        if self.spread is not None and live.phase == "starting" and (fault := self.spread.fault()):
            return fault
        peak = self.memory.now()
        if peak.vram_peak_mib is not None:
            live = live._replace(memory_mib=peak.vram_peak_mib, memory_kind="VRAM")
        elif peak.rss_peak_mib is not None:
            live = live._replace(memory_mib=peak.rss_peak_mib, memory_kind="RSS")
        self.progress.live(live)
        return death_of(self.target, live)

    def _store(self) -> None:
        """Samples first, then the record: a cell that the record names has its samples."""
        self.kept.join()
        self._write_memory()
        self.record.memory = self.memory.summary()
        self.store.update_run(self.record)

    def _close(self) -> None:
        self.memory.stop()
        if self.record.state == "running":  # an error that is none of ours is on its way
            self.record.state, self.record.reason = "failed", "deploytool failed; see its message"
        self.record.finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.record.memory = self.memory.summary()
        self.remove_bodies()
        self.store.update_run(self.record)
        with contextlib.suppress(OSError):
            (self.folder / "cells").rmdir()  # stays where a failed cell left its log
        if all(cell.state == "done" for cell in self.record.cells) and self.record.state == "finished":
            self.kept.drop_parts()
        self._write_memory()

    def _write_memory(self) -> None:
        rows = self.earlier_rows + self.memory.rows()
        if rows:
            samples.write(self.folder / "memory.parquet", samples.MEMORY, rows)
