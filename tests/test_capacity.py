"""`capacity`: the search against a model of known capacity, the plan's arithmetic, and a real server."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stand_ins.queue_model import OVERHEAD_S, QueueModel, p99_ms

from deploytool.capacity.judging import Tally, judge
from deploytool.capacity.search import Observation, Search, samples_of
from deploytool.catalog import Catalog
from deploytool.hardware import Price
from deploytool.noise import Requests
from deploytool.sizing import Found, Probe, instances_for, knee, limit_of, plan
from deploytool.store import Store
from deploytool.thresholds import parse_slo

REFERENCE = Path(__file__).resolve().parent / "stand_ins" / "reference_server.py"
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
SLO = "p99<=150ms,errors<=1%"


def search(model: QueueModel, slo: str = SLO, *, seconds: float = 3600, most: float | None = None) -> Search:
    return Search(
        measure=model,
        slo=parse_slo(slo),
        seconds_left=lambda: seconds - model.passed_s,
        overhead_s=OVERHEAD_S,
        most_qps=most,
    )


def true_capacity(limit_ms: float, low: float, high: float, slots: int = 4, service_s: float = 0.04) -> float:
    """The model's highest rate with its P99 within the limit, by bisection of long runs."""
    while high / low > 1.01:
        middle = (low + high) / 2
        low, high = (middle, high) if p99_ms(middle, slots, service_s) <= limit_ms else (low, middle)
    return low


def test_the_search_finds_a_known_capacity() -> None:
    """4 slots of 40 ms: 100/s at most, and fewer with a P99 of 150 ms."""
    truth = true_capacity(150, 50, 100)
    assert 75 < truth < 90
    models = [QueueModel(seed) for seed in range(5)]
    found = [search(model).run(12.5) for model in models]
    # A grid from a quarter of the answer, 5 % apart, each rate with the requests of one confirming window.
    grid = math.ceil(math.log(4) / math.log(1.05)) * samples_of("confirm", parse_slo(SLO))
    assert sum(model.requests for model in models) / len(models) <= 0.25 * grid
    for one in found:
        assert one.max_qps == pytest.approx(truth, rel=0.10)
        assert one.converged
        assert one.low == one.max_qps
        assert one.high is not None
        assert one.low < one.high <= 100
        assert one.best is not None
        assert one.best.step == "confirm"
    assert sum(one.max_qps for one in found) / len(found) == pytest.approx(truth, rel=0.05)


def test_the_start_may_be_far_too_high() -> None:
    found = search(QueueModel(1)).run(800)
    assert found.max_qps == pytest.approx(true_capacity(150, 50, 100), rel=0.10)
    assert [probe.ruling for probe in found.probes if probe.rate > 110] == ["breaks"] * 3


def test_no_rate_holds_an_slo_below_the_service_time() -> None:
    found = search(QueueModel(1), "p99<=30ms").run(20)
    assert (found.max_qps, found.low, found.converged) == (0.0, None, False)
    assert found.reason == "the SLO breaks at every rate that was tried"
    assert limit_of(found, None, None)[0] == "compute"


def test_time_that_is_over_is_said() -> None:
    model = QueueModel(1)
    found = search(model, seconds=60).run(12.5)
    assert model.passed_s <= 60
    assert not found.converged
    assert found.low is None
    assert found.reason == "the time was over"
    assert all(probe.rate >= found.max_qps for probe in found.probes if probe.ruling == "breaks")
    nothing = search(QueueModel(1), seconds=1).run(12.5)
    assert (nothing.max_qps, nothing.probes) == (0.0, ())


@pytest.mark.parametrize("start", [12.5, 40, 300])
def test_little_time_still_gives_a_rate_that_holds(start: float) -> None:
    """The rate found first is often taken back by its confirmation; by then the time is nearly over."""
    for seed in range(6):
        model = QueueModel(seed)
        found = search(model, seconds=80).run(start)
        assert model.passed_s <= 80
        held = [probe for probe in found.probes if probe.rate == found.max_qps and probe.ruling == "holds"]
        assert 0 < found.max_qps < 100
        assert held


def test_a_client_that_cannot_do_more_makes_it_at_least() -> None:
    found = search(QueueModel(1, slots=400, most_qps=300), "p99<=150ms").run(40)
    # What holds in spite of a lagging client holds; here nothing breaks before the model's own limit.
    assert found.max_qps > 300
    slow = search(QueueModel(1, slots=4, most_qps=60)).run(40)
    void = [probe for probe in slow.probes if probe.ruling == "void"]
    assert {probe.rate for probe in void} == {160.0} or {probe.rate for probe in void} == {80.0, 160.0}
    assert not slow.converged
    assert "the client cannot do" in slow.reason
    assert limit_of(slow, None, None)[0] == "client"


def test_a_highest_rate_to_try_is_kept() -> None:
    found = search(QueueModel(1), most=50).run(12.5)
    assert found.max_qps == 50
    assert max(probe.rate for probe in found.probes) == 50
    assert (found.high, found.converged) == (None, False)
    assert "the highest rate that was to be tried" in found.reason


def test_a_disturbance_at_the_only_rate_that_broke_does_not_end_the_search() -> None:
    class DisturbedModel(QueueModel):
        def __call__(self, rate: float, duration_s: float) -> Observation:
            seen = super().__call__(rate, duration_s)
            if self.windows == 2:
                seen.requests.latency_ms[:] = [1000.0] * len(seen.requests)
            return seen

    truth = true_capacity(150, 50, 100)
    found = search(DisturbedModel(1)).run(round(truth * 0.45, 1))
    assert found.probes[1].ruling == "breaks"
    assert found.probes[1].rate < truth
    assert found.max_qps == pytest.approx(truth, rel=0.10)
    assert found.converged
    assert found.high is not None


def test_errors_break_an_slo_as_well() -> None:
    found = search(QueueModel(1, errors=0.03)).run(12.5)
    assert found.max_qps == 0
    assert any("requests failed" in probe.why for probe in found.probes)


def seen(latencies: list[float], failed: int = 0) -> Requests:
    found = Requests(window_s=10.0)
    for number, latency in enumerate(latencies):
        found.start_s.append(10.0 * number / len(latencies))
        found.latency_ms.append(latency)
    found.failed_s = [10.0 * number / failed for number in range(failed)]
    return found


@pytest.mark.parametrize(
    ("requests", "ruling"),
    [
        (seen([100.0] * 368), "holds"),
        (seen([100.0] * 367), "undecided"),
        (seen([100.0] * 360, failed=8), "undecided"),
        (seen([100.0] * 340, failed=20), "breaks"),
        (seen([100.0] * 80 + [160.0] * 20), "breaks"),
        (seen([20.0 + number * 0.1 for number in range(1000)]), "undecided"),  # it rises all the time
        (seen([], failed=50), "breaks"),
    ],
    ids=["368", "367", "few failed", "many failed", "slow", "rising", "nothing"],
)
def test_what_a_window_shows(requests: Requests, ruling: str) -> None:
    assert judge([requests], parse_slo("p99<=150ms"), Tally()).ruling == ruling


def test_a_mean_and_errors_are_judged_too() -> None:
    steady = seen([100.0 + number % 7 for number in range(700)])
    assert judge([steady], parse_slo("mean<=110ms"), Tally()).ruling == "holds"
    assert judge([steady], parse_slo("mean<=90ms"), Tally()).ruling == "breaks"
    few = judge([steady], parse_slo("errors<=0.1%"), Tally())
    assert few.ruling == "holds"
    assert "takes 3,688" in few.why
    assert "takes" not in judge([steady], parse_slo("errors<=0.1%"), Tally(0, 4000)).why
    assert judge([seen([1.0] * 900, failed=9)], parse_slo("errors<=0%"), Tally()).ruling == "breaks"


def probe(rate: float, ruling: str, **fields: object) -> Probe:
    known = {"rate": rate, "step": "bisect", "ruling": ruling, "why": "-", "due": int(rate * 10),
             "duration_s": 10.0, "served_per_s": rate, "p50_ms": 20.0, "p99_ms": 40.0}  # fmt: skip
    return Probe.model_validate(known | fields)


def found_of(*probes: Probe, max_qps: float = 80.0) -> Found:
    return Found(max_qps=max_qps, low=max_qps, high=100.0, p99_ms=40.0, converged=True, reason="converged",
                 probes=probes)  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "limit"),
    [
        (probe(100, "breaks", served_per_s=85.0), "compute"),
        (probe(100, "breaks", errors={"429": 30}), "queue"),
        (probe(100, "breaks"), "queue"),
        (probe(100, "breaks", gpu_utilisation_percent=97.0), "compute"),
        (probe(100, "breaks", errors={"5xx": 3}, vram_peak_mib=22_900.0), "memory"),
        (probe(100, "breaks", vram_peak_mib=22_900.0), "queue"),
        (probe(100, "void"), "client"),
    ],
    ids=["saturated", "refused", "waiting", "busy card", "full card", "card filled at start", "client"],
)
def test_what_limits(broken: Probe, limit: str) -> None:
    assert limit_of(found_of(probe(80, "holds"), broken), Catalog().hardware("a10g"), 1)[0] == limit


def test_the_knee_is_where_throughput_per_latency_is_highest() -> None:
    probes = [
        probe(20, "holds", p50_ms=10.0),
        probe(40, "holds", p50_ms=11.0),
        probe(80, "holds", p50_ms=40.0),
    ]
    assert knee(probes) == 40
    assert knee([]) is None


def test_a_plan_is_arithmetic() -> None:
    drawn = plan(80.0, 8, target_qps=500, growth=0.3, headroom=0.2, tokens_per_s=80.0 * 8 * 20,
                 vram_peak_mib=10_000.0, card=Catalog().hardware("a10g"), cards_per_replica=1)  # fmt: skip
    assert drawn.needed_qps == pytest.approx(650)
    assert drawn.per_replica_qps == pytest.approx(64)
    assert (drawn.working, drawn.replicas, drawn.cards, drawn.instances) == (
        11,
        12,
        12,
        12,
    )  # 650 / 64 = 10.2
    assert drawn.usd_per_hour == pytest.approx(12 * 1.006)
    assert drawn.usd_per_1m_texts == pytest.approx(12 * 1.006 / (500 * 8 * 3600) * 1e6)
    assert drawn.usd_per_1m_tokens == pytest.approx((drawn.usd_per_1m_texts or 0) / 20)
    assert drawn.usd_per_1m_texts_full == pytest.approx(1.006 / (80 * 8 * 3600) * 1e6)
    assert drawn.vram_mib_per_card == pytest.approx(11_000)


def test_a_plan_without_what_it_needs_says_so() -> None:
    nothing = plan(0.0, 1, target_qps=500, growth=0.0, headroom=0.2, tokens_per_s=None, vram_peak_mib=None,
                   card=None, cards_per_replica=None)  # fmt: skip
    assert (nothing.replicas, nothing.reason) == (None, "no rate holds the SLO")
    assert (nothing.usd_per_hour, nothing.usd_reason) == (None, "the hardware is not known")
    assert nothing.vram_mib_per_card is None
    plain = plan(50.0, 1, target_qps=None, growth=0.0, headroom=0.0, tokens_per_s=None, vram_peak_mib=None,
                 card=Catalog().hardware("cpu"), cards_per_replica=None)  # fmt: skip
    assert (plain.replicas, plain.reason) == (None, "no --target-qps was given")
    assert plain.usd_reason == "the profile cpu has no price"


@pytest.mark.parametrize(
    ("replicas", "cards", "gpus", "instances"),
    [(5, 1, 4, 2), (4, 1, 4, 1), (3, 2, 4, 2), (3, 3, 4, 3), (2, 8, 4, 4)],
)
def test_replicas_are_put_on_whole_instances(replicas: int, cards: int, gpus: int, instances: int) -> None:
    price = Price.model_validate(
        {"usd_per_hour": 1, "instance": "x", "gpus": gpus, "as_of": "2026-01-01", "source": "x"}
    )
    assert instances_for(replicas, cards, price) == instances


@pytest.fixture
def server() -> Iterator[Callable[..., str]]:
    """Start reference servers of a known capacity; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> str:
        process = subprocess.Popen(
            [sys.executable, str(REFERENCE), *options],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.alone
def test_a_real_server_is_measured_and_planned_for(
    cli: CommandLine, server: Callable[..., str], tmp_path: Path
) -> None:
    """3 slots of 40 ms: 75/s. Half of the requests within 300 ms: 50/s hold, 100/s do not."""
    url = server("--answers", "ok@40", "--slots", "3")
    page = tmp_path / "plan.html"
    done = cli("capacity", url, "--slo", "p50<=300ms,errors<=5%", "--target-qps", "400", "--growth", "50%",
               "--profile", "a10g", "--precision", "100%", "--start-qps", "50", "--json",
               "-o", str(page))  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {
        "max_qps",
        "ci95",
        "p99_ms",
        "converged",
        "limit",
        "replicas",
        "usd_per_1m_texts",
        "probes",
    } <= set(document)
    assert document["max_qps"] in (25, 50)
    broken = [probe for probe in document["probes"] if probe["ruling"] == "breaks"]
    assert broken
    assert all(probe["rate"] > 60 for probe in broken)
    assert document["limit"] in ("compute", "queue")
    assert document["replicas"] == -(-600 // (document["max_qps"] * 0.8)) + 1
    assert document["usd_per_1m_texts"] == pytest.approx(
        document["replicas"] * 1.006 / (400 * 3600) * 1e6, rel=1e-6
    )
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "<script" not in text
    assert f"{document['replicas']}" in text
    with Store() as store:
        (record,) = store.runs()
    assert (record.id, record.state) == (document["run"], "finished")
    assert len(record.cells) == len(document["probes"])
    assert sum(cell.requests + sum(cell.errors.values()) for cell in record.cells) == document["requests"]


@pytest.mark.slow
def test_an_interrupted_search_says_what_it_found(server: Callable[..., str]) -> None:
    url = server("--answers", "ok@10")
    with subprocess.Popen(
        [sys.executable, "-m", "deploytool", "capacity", url, "--slo", "p50<=300ms", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tool:
        assert tool.stderr is not None
        for line in tool.stderr:
            if "double" in line:
                break
        tool.send_signal(signal.SIGTERM)
        shown, _ = tool.communicate(timeout=200)
    assert tool.returncode == 130
    document = json.loads(shown)
    assert document["reason"] == "interrupted"
    assert document["probes"][0]["ruling"] == "holds"
    with Store() as store:
        assert store.run("latest").state in ("interrupted", "finished")


@pytest.mark.alone
def test_a_dead_target_ends_the_search(cli: CommandLine) -> None:
    with subprocess.Popen(
        [sys.executable, str(REFERENCE), "--answers", "ok@10"], stdout=subprocess.PIPE, text=True
    ) as target:
        assert target.stdout is not None
        url = target.stdout.readline().strip()
        with subprocess.Popen(
            [sys.executable, "-m", "deploytool", "capacity", url, "--slo", "p50<=300ms", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as tool:
            assert tool.stderr is not None
            for line in tool.stderr:
                if "double" in line:
                    break
            target.kill()
            shown, said = tool.communicate(timeout=200)
    assert tool.returncode == 6, said
    document = json.loads(shown)
    assert document["max_qps"] > 0
    assert "the target is gone" in document["reason"]
    assert (document["converged"], document["at_least"]) == (False, True)
    with Store() as store:
        assert store.run("latest").state == "failed"


def test_nothing_listens(cli: CommandLine, free_port: Callable[[], int]) -> None:
    done = cli("capacity", f"http://127.0.0.1:{free_port()}", "--slo", "p99<=150ms")
    assert done.returncode == 6, done.stderr
    assert "does not answer" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--slo", "p99<=150"], "expected the unit ms or s"),
        (["--slo", "p99<=150ms", "--growth", "lots"], "no percentage"),
        (["--slo", "p99<=150ms", "--headroom", "100%"], "headroom"),
        (["--slo", "p99<=150ms", "--batch", "0"], "batch"),
        (["--slo", "p99<=150ms", "--max-duration", "soon"], "no duration"),
        (["--slo", "p99<=150ms", "-o", "plan.pdf"], "plan.md or -o plan.html"),
        (["--slo", "p99<=150ms", "--profile", "a10gg"], "did you mean"),
    ],
)
def test_what_cannot_be_asked_is_said(cli: CommandLine, options: list[str], said: str) -> None:
    done = cli("capacity", "http://127.0.0.1:9", *options)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
