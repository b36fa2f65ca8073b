"""The server's queue and packing: pure, with a stand-in for the model's compute."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.st_server.batcher import Batcher
from deploytool.st_server.errors import DeviceLost, OutOfMemory, RequestError
from deploytool.st_server.jobs import Job, NotFinite, QueueFull, Stopped, result
from deploytool.st_server.packing import Limits, choose, padded_tokens

LONG_S = 200.0  # never reached unless something hangs


class StandInCompute:
    """Stands in for the model: a text's vector is (its length, its first id, its last id).

    With `held`, every batch waits until `let_go`; `entered` is released once per batch that came in.
    """

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.alone: list[bool] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.held = False
        self.fail: Callable[[Sequence[Sequence[int]]], Exception | None] = lambda _: None
        self.lock = threading.Lock()

    def __call__(self, batch: Sequence[Sequence[int]], *, alone: bool) -> np.ndarray:
        with self.lock:
            self.batches.append([list(text) for text in batch])
            self.alone.append(alone)
        self.entered.release()
        if self.held:
            assert self.gate.acquire(timeout=LONG_S)
        if (error := self.fail(batch)) is not None:
            raise error
        return np.array([[len(text), text[0], text[-1]] for text in batch], np.float32)

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=LONG_S)

    def let_go(self, batches: int = 1) -> None:
        self.gate.release(batches)


class Recorder:
    """What the batcher told its observer."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.computes: list[tuple[int, int, int, float]] = []
        self.splits: list[int] = []

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def computed(self, texts: int, tokens: int, padded: int, seconds: float) -> None:
        self.computes.append((texts, tokens, padded, seconds))

    def split(self, texts: int) -> None:
        self.splits.append(texts)


class StandInClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A running batcher with its stand-ins, and the answers of its jobs."""

    def __init__(
        self, *, budget: int = 100, overhead: int = 1000, max_waiting: int = 1000, lanes: int = 1
    ) -> None:
        self.compute = StandInCompute()
        self.recorder = Recorder()
        self.clock = StandInClock()
        self.lost: list[DeviceLost] = []
        self.answered: dict[int, threading.Event] = {}
        self.batcher = Batcher(
            self.compute,
            self.recorder,
            limits=Limits(budget, overhead),
            max_waiting=max_waiting,
            lanes=lanes,
            on_lost=self.lost.append,
            clock=self.clock,
        )
        self.batcher.start()

    def submit(self, *lengths: int, mark: int = 7) -> Job:
        """A job of texts with these lengths; all ids are `mark`."""
        event = threading.Event()
        answers: list[Job] = []

        def on_done(job: Job) -> None:
            answers.append(job)
            assert len(answers) == 1, "a job is answered once"
            event.set()

        job = Job([[mark] * length for length in lengths], on_done)
        self.answered[id(job)] = event
        self.batcher.submit(job)
        return job

    def wait(self, *jobs: Job) -> None:
        for job in jobs:
            assert self.answered[id(job)].wait(LONG_S), "a job was never answered"

    def hold(self) -> Job:
        """A job of one short text that occupies the (only) lane until `let_go`."""
        self.compute.held = True
        job = self.submit(1, mark=1)
        self.compute.wait_entered()
        return job

    def release(self) -> None:
        self.compute.held = False
        self.compute.let_go(1000)


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def build(**options: int) -> Bench:
        benches.append(Bench(**options))
        return benches[-1]

    yield build
    for bench in benches:
        bench.release()
        bench.batcher.stop()
        assert bench.batcher.join(LONG_S)


def lengths(batch: list[list[int]]) -> list[int]:
    return [len(text) for text in batch]


# --- packing --------------------------------------------------------------------------------------


@given(
    found=st.lists(st.integers(1, 600), min_size=1, max_size=80),
    turn=st.integers(0, 79),
    budget=st.integers(1, 4000),
    overhead=st.integers(0, 200),
)
def test_a_batch_holds_the_turn_and_keeps_the_limits(
    found: list[int], turn: int, budget: int, overhead: int
) -> None:
    ordered = sorted(found, reverse=True)
    turn %= len(ordered)
    first, last = choose(ordered, turn, Limits(budget, overhead))
    assert first <= turn < last <= len(ordered)
    run = ordered[first:last]
    padded = padded_tokens(run)
    assert len(run) == 1 or padded <= budget
    assert padded - sum(run) <= overhead


@given(found=st.lists(st.integers(1, 600), min_size=1, max_size=40), turn=st.integers(0, 39))
def test_no_run_within_the_limits_computes_more(found: list[int], turn: int) -> None:
    ordered = sorted(found, reverse=True)
    turn %= len(ordered)
    limits = Limits(budget=1500, overhead=40)
    first, last = choose(ordered, turn, limits)
    for begin in range(turn + 1):
        for end in range(turn + 1, len(ordered) + 1):
            run = ordered[begin:end]
            padded = padded_tokens(run)
            holds = padded <= limits.budget and padded - sum(run) <= limits.overhead
            if holds:
                assert sum(run) <= sum(ordered[first:last])


def test_short_texts_do_not_pay_for_a_long_one() -> None:
    ordered = [256, 8, 8, 8, 8]
    assert choose(ordered, 0, Limits(10_000, 32)) == (0, 1)
    assert choose(ordered, 1, Limits(10_000, 32)) == (1, 5)


def test_a_forward_that_costs_much_by_itself_takes_them_together() -> None:
    assert choose([256, 8, 8, 8, 8], 0, Limits(10_000, 5000)) == (0, 5)


# --- batching -------------------------------------------------------------------------------------


def test_what_waits_is_computed_together_across_jobs_longest_first(make: Callable[..., Bench]) -> None:
    bench = make()
    held = bench.hold()
    jobs = [bench.submit(3, mark=3), bench.submit(9, 5, mark=9), bench.submit(4, mark=4)]
    bench.release()
    bench.wait(held, *jobs)
    assert lengths(bench.compute.batches[1]) == [9, 5, 4, 3]
    for job in jobs:
        assert job.error is None
        assert job.vectors is not None
        expected = [[len(text), text[0], text[-1]] for text in job.texts]
        assert job.vectors.tolist() == expected


def test_a_batch_keeps_the_token_budget_and_a_longer_text_goes_alone(make: Callable[..., Bench]) -> None:
    bench = make(budget=100)
    held = bench.hold()
    job = bench.submit(50, 50, 250, 50, 40, 30)
    bench.release()
    bench.wait(held, job)
    assert [lengths(batch) for batch in bench.compute.batches[1:]] == [[250], [50, 50], [50, 40], [30]]


def test_nothing_starves_behind_a_stream_of_better_fitting_texts(make: Callable[..., Bench]) -> None:
    bench = make(budget=20, overhead=0)
    held = bench.hold()
    old = bench.submit(17, mark=5)
    for _ in range(50):
        bench.submit(2, 2, 2, 2, 2)
    bench.compute.let_go()  # the held batch ends: the next one is taken
    bench.compute.wait_entered()
    assert [5] * 17 in bench.compute.batches[1]
    bench.release()
    bench.wait(held, old)


@pytest.mark.parametrize(("between", "together"), [(29, [8, 8]), (30, [8])])
def test_who_came_long_after_the_oldest_is_not_taken_with_it(
    make: Callable[..., Bench], between: int, together: list[int]
) -> None:
    """Eight batches of 16 tokens are looked at: 8 for the oldest, 4 for each that came between, then the last."""
    bench = make(budget=16, overhead=0)
    jobs = [bench.hold(), bench.submit(8), *(bench.submit(4) for _ in range(between)), bench.submit(8)]
    bench.release()
    bench.wait(*jobs)
    assert lengths(bench.compute.batches[1]) == together


def test_arrivals_while_a_batch_computes_go_with_the_next(make: Callable[..., Bench]) -> None:
    bench = make()
    held = bench.hold()
    first = bench.submit(3)
    bench.compute.let_go()
    bench.compute.wait_entered()
    second = bench.submit(3)
    third = bench.submit(3)
    bench.release()
    bench.wait(held, first, second, third)
    assert [len(batch) for batch in bench.compute.batches] == [1, 1, 2]


def test_a_batch_knows_whether_it_is_alone(make: Callable[..., Bench]) -> None:
    bench = make(budget=3, lanes=1)
    held = bench.hold()
    job = bench.submit(3, 3)
    bench.release()
    bench.wait(held, job)
    assert bench.compute.alone == [True, False, True]


def test_lanes_compute_side_by_side(make: Callable[..., Bench]) -> None:
    bench = make(lanes=2)
    held = bench.hold()
    other = bench.submit(2)
    bench.compute.wait_entered()  # while the first is held
    assert bench.compute.alone == [True, False]
    bench.release()
    bench.wait(held, other)


def test_the_observer_hears_waits_and_padding(make: Callable[..., Bench]) -> None:
    bench = make()
    held = bench.hold()
    job = bench.submit(4, 2)
    bench.clock.now += 3.0
    bench.release()
    bench.wait(held, job)
    assert bench.recorder.waits == [0.0, 3.0]
    assert [entry[:3] for entry in bench.recorder.computes] == [(1, 1, 1), (2, 6, 8)]


# --- failures -------------------------------------------------------------------------------------


def test_one_failed_batch_answers_every_caller_and_only_those(make: Callable[..., Bench]) -> None:
    bench = make(budget=20, overhead=0)
    bench.compute.fail = lambda batch: ValueError("broken") if batch[0][0] == 6 else None
    held = bench.hold()
    bad = [bench.submit(10, mark=6), bench.submit(10, mark=6)]
    good = bench.submit(4, mark=8)
    bench.release()
    bench.wait(held, *bad, good)
    assert [str(job.error) for job in bad] == ["broken", "broken"]
    assert good.error is None
    assert bench.batcher.unanswered == 0
    assert bench.batcher.waiting == 0


def test_a_failed_job_does_not_compute_its_other_texts(make: Callable[..., Bench]) -> None:
    bench = make(budget=10)
    bench.compute.fail = lambda batch: ValueError("broken") if batch[0][0] == 6 else None
    job = bench.submit(10, 10, 10, mark=6)
    bench.wait(job)
    after = bench.submit(1)
    bench.wait(after)
    assert [len(batch) for batch in bench.compute.batches] == [1, 1]


def test_a_wrong_number_of_vectors_is_a_failure() -> None:
    def compute(batch: Sequence[Sequence[int]], *, alone: bool) -> np.ndarray:
        return np.zeros((len(batch) + 1, 3), np.float32)

    done = threading.Event()
    batcher = Batcher(
        compute,
        Recorder(),
        limits=Limits(10, 1),
        max_waiting=10,
        on_lost=lambda _: None,
    )
    batcher.start()
    job = Job([[1]], lambda _: done.set())
    batcher.submit(job)
    assert done.wait(LONG_S)
    assert "gave 2 vectors for 1 texts" in str(job.error)
    batcher.stop()
    assert batcher.join(LONG_S)


@pytest.mark.parametrize("error", [OutOfMemory("no room"), MemoryError()])
def test_an_out_of_memory_batch_is_split_and_retried(make: Callable[..., Bench], error: Exception) -> None:
    bench = make(budget=100)
    bench.compute.fail = lambda batch: error if len(batch) > 2 else None
    held = bench.hold()
    jobs = [bench.submit(10, 10, 10, 10), bench.submit(10, 10, 10, 10)]
    bench.release()
    bench.wait(held, *jobs)
    assert all(job.error is None for job in jobs)
    assert [len(batch) for batch in bench.compute.batches] == [1, 8, 4, 2, 2, 4, 2, 2]
    assert bench.recorder.splits == [8, 4, 4]
    assert bench.batcher.budget == 20, "later batches are made small enough"


def test_a_text_too_large_for_the_memory_fails_alone(make: Callable[..., Bench]) -> None:
    bench = make(budget=100)
    bench.compute.fail = lambda batch: OutOfMemory("no room") if max(map(len, batch)) > 20 else None
    held = bench.hold()
    large, small = bench.submit(25), bench.submit(20, 20)
    bench.release()
    bench.wait(held, large, small)
    assert isinstance(large.error, OutOfMemory)
    assert small.error is None


def test_a_cut_budget_grows_back(make: Callable[..., Bench]) -> None:
    bench = make(budget=100)
    bench.compute.fail = lambda batch: OutOfMemory("no room") if len(batch) > 5 else None
    bench.wait(bench.submit(*[10] * 10))
    assert bench.batcher.budget < 100
    for _ in range(64 * 8):
        bench.wait(bench.submit(1))
    assert bench.batcher.budget == 100


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_an_error_of_its_job_only(bad: float) -> None:
    def compute(batch: Sequence[Sequence[int]], *, alone: bool) -> np.ndarray:
        rows = np.ones((len(batch), 3), np.float32)
        for row, text in zip(rows, batch, strict=True):
            if text[0] == 6:
                row[1] = bad
        return rows

    batcher = Batcher(compute, Recorder(), limits=Limits(100, 100), max_waiting=10, on_lost=lambda _: None)
    done = threading.Semaphore(0)
    poisoned = Job([[5], [6, 6]], lambda _: done.release())
    clean = Job([[5, 5]], lambda _: done.release())
    batcher.submit(poisoned)
    batcher.submit(clean)
    batcher.start()
    assert done.acquire(timeout=LONG_S) and done.acquire(timeout=LONG_S)
    assert isinstance(poisoned.error, NotFinite)
    assert poisoned.error.index == 1
    assert clean.error is None and clean.vectors is not None
    batcher.stop()
    assert batcher.join(LONG_S)


def test_a_lost_device_answers_everyone_and_ends_the_lanes(make: Callable[..., Bench]) -> None:
    bench = make(budget=10)
    held = bench.hold()
    waiting = [bench.submit(10), bench.submit(10)]
    bench.compute.fail = lambda _: DeviceLost("gone")
    bench.release()
    bench.wait(held, *waiting)
    assert all(isinstance(job.error, DeviceLost) for job in (held, *waiting))
    assert bench.batcher.join(LONG_S)
    assert len(bench.lost) == 1
    with pytest.raises(Stopped):
        bench.submit(1)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValueError("broken"), 500, "batch_failed"),
        (OutOfMemory("no room"), 500, "out_of_memory"),
        (DeviceLost("gone"), 500, "device_lost"),
        (NotFinite(3), 500, "not_finite"),
        (Stopped("late"), 503, "stopping"),
    ],
)
def test_every_failure_has_an_answer_for_the_client(error: Exception, status: int, code: str) -> None:
    job = Job([[1]], lambda _: None)
    job.error = error
    with pytest.raises(RequestError) as refused:
        result(job)
    assert (refused.value.status, refused.value.code) == (status, code)


# --- limits, abandoning, stopping -----------------------------------------------------------------


def test_an_abandoned_job_is_not_computed_and_frees_its_room(make: Callable[..., Bench]) -> None:
    bench = make(max_waiting=4)
    held = bench.hold()
    gone = bench.submit(2, 2, 2, 2, mark=6)
    with pytest.raises(QueueFull):
        bench.submit(1)
    bench.batcher.abandon(gone)
    assert bench.batcher.waiting == 0
    stays = bench.submit(3)
    bench.release()
    bench.wait(held, stays)
    assert all(text[0] != 6 for batch in bench.compute.batches for text in batch)
    assert not bench.answered[id(gone)].is_set()


def test_abandoning_a_job_that_is_being_computed_is_harmless(make: Callable[..., Bench]) -> None:
    bench = make()
    held = bench.hold()
    bench.batcher.abandon(held)
    bench.release()
    bench.wait(bench.submit(2))
    assert not bench.answered[id(held)].is_set()
    assert bench.batcher.unanswered == 0


def test_a_full_queue_says_when_to_come_back(make: Callable[..., Bench]) -> None:
    bench = make(max_waiting=10)
    held = bench.hold()
    bench.clock.now += 0.5  # one token took half a second
    bench.compute.let_go()
    bench.wait(held)
    held = bench.hold()
    bench.submit(2, 2, 2, 2)
    with pytest.raises(QueueFull) as full:
        bench.submit(*[1] * 7)
    assert full.value.retry_after_s == 4  # 8 waiting tokens at 2 per second
    bench.submit(*[1] * 6)
    assert bench.batcher.waiting == 10


def test_a_job_larger_than_the_queue_is_let_in_where_nothing_waits(make: Callable[..., Bench]) -> None:
    bench = make(max_waiting=2)
    job = bench.submit(1, 1, 1, 1, 1)
    bench.wait(job)
    assert job.error is None


def test_stopping_answers_everyone_and_ends_the_lanes(make: Callable[..., Bench]) -> None:
    bench = make()
    held = bench.hold()
    waiting = bench.submit(3)
    bench.batcher.stop()
    bench.wait(held, waiting)
    assert isinstance(waiting.error, Stopped)
    assert not bench.batcher.join(0.0), "the forward that runs is not torn off"
    bench.release()
    assert bench.batcher.join(LONG_S)
    with pytest.raises(Stopped):
        bench.submit(1)


def test_many_threads_submit_and_every_job_gets_its_own_vectors(make: Callable[..., Bench]) -> None:
    bench = make(budget=64, overhead=8, lanes=3, max_waiting=100_000)
    jobs: list[Job] = []
    lock = threading.Lock()

    def client(number: int) -> None:
        for round_ in range(40):
            mark = number * 1000 + round_
            job = bench.submit(*[1 + (mark * 7 + k) % 30 for k in range(1 + round_ % 5)], mark=mark)
            with lock:
                jobs.append(job)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    bench.wait(*jobs)
    assert len(jobs) == 320
    for job in jobs:
        assert job.error is None and job.vectors is not None
        assert job.vectors.tolist() == [[len(text), text[0], text[0]] for text in job.texts]
    assert bench.batcher.waiting == 0 and bench.batcher.unanswered == 0


def test_what_a_failed_forward_held_is_freed_before_the_retry() -> None:
    class Tensor:
        """Stands in for the memory of a forward."""

    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def compute(batch: Sequence[Sequence[int]], *, alone: bool) -> np.ndarray:
        alive.append(sum(reference() is not None for reference in held))
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        if len(batch) > 1:
            raise OutOfMemory("no room")
        return np.ones((len(batch), 3), np.float32)

    batcher = Batcher(compute, Recorder(), limits=Limits(100, 100), max_waiting=10, on_lost=lambda _: None)
    done = threading.Event()
    batcher.submit(job := Job([[5]] * 4, lambda _: done.set()))
    batcher.start()
    assert done.wait(LONG_S)
    assert job.error is None
    assert alive == [0] * 7
    batcher.stop()
    assert batcher.join(LONG_S)
