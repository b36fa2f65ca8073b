"""Bake-offs: real files, processes and sockets; small sets; killed with SIGKILL and gone on with."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_decisions import SET, example_decision
from ports import unused_port
from small_sets import NOTES, write_beir
from stand_ins import deploying
from stand_ins.faulty_server import FaultyServer
from stand_ins.hosted_api import KEY, HostedApi

from deploytool.bakeoff import bake_off, example, read
from deploytool.bakeoff.figures import rate_in_slo
from deploytool.bakeoff.quality import holm
from deploytool.bakeoff.stages import Kept, Stage
from deploytool.catalog import Catalog
from deploytool.cli.bakeoff import Watcher
from deploytool.cli.main import run
from deploytool.decision import COLUMNS, Decision
from deploytool.deployment import UpOptions, up
from deploytool.errors import BadInput, InvalidFile, Taken
from deploytool.reports import bakeoff as report
from deploytool.reports import bakeoff_page
from deploytool.sizing import Found, Probe, Ruling
from deploytool.store import Store

POINTS = "load: {batch: [1], concurrency: [1], duration_s: 0.4, warmup_s: 0, calibration: false, checks: 0}\n"
SYSTEMS = "datasets: [notes]\nsystems:\n"
WORDS = SYSTEMS + "  - {name: words, baseline: bm25}\n"
PLAIN = "  - {name: unstemmed, baseline: bm25, language: none}\n"
NOBODY = SYSTEMS + "  - {name: keyless, hosted: voyage-code-3}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_beir(tmp_path / "notes")
    return tmp_path


@pytest.fixture
def bake(folder: Path) -> Callable[..., Decision]:
    """A bake-off of a file's text, in this process."""

    def made(text: str, *, fresh: bool = False, profiles: Path | None = None, **weights: float) -> Decision:
        file = folder / "bakeoff.yaml"
        file.write_text(text)
        catalog = Catalog(profiles)
        with Store() as store:
            config = read(file, catalog)
            return bake_off(config, store, Watcher(), catalog=catalog, weights=weights, fresh=fresh)

    return made


def row(decision: Decision, name: str) -> Any:
    return next(row for row in decision.rows if row.name == name)


# The file

BAD = """\
datasets: [nowhere, 3]
systems:
  - {name: Bm25, baseline: bm26}
  - {name: one, model: all-minilm}
  - {name: one, url: "http://127.0.0.1:1", deployment: other, lod: true}
  - {name: two, baseline: tfidf, profile: cpu}
  - {name: three, hosted: all-minilm-l6-v2}
  - {name: four, model: all-minilm-l6-v2, profile: a10gg}
  - {name: five, model: voyage-code-3, profile: cpu}
  - {name: six, model: qwen3-reranker-4b, profile: cpu}
  - {name: seven, url: "ftp://nowhere"}
load: {rate: [4]}
capacity: {slo: p99<150}
evaluation: {dims: [8, 0, 8]}
weights: {qualty: 1, cost: -1}
"""


def test_all_problems_of_a_file_are_told_at_once(folder: Path) -> None:
    (folder / "bad.yaml").write_text(BAD)
    with pytest.raises(InvalidFile) as caught:
        read(folder / "bad.yaml", Catalog())
    told = {(problem.line, problem.field): problem.message for problem in caught.value.problems}
    places = [
        (1, "datasets[0]"), (1, "datasets[1]"), (3, "systems[0].name"), (3, "systems[0].baseline"),
        (4, "systems[1].model"), (4, "systems[1].profile"), (5, "systems[2].name"), (5, "systems[2].lod"),
        (5, "systems[2]"), (6, "systems[3].profile"), (7, "systems[4].hosted"), (8, "systems[5].profile"),
        (9, "systems[6].model"), (10, "systems[7].model"), (11, "systems[8].url"), (12, "load.rate"),
        (13, "capacity.slo"), (14, "evaluation.dims[1]"), (14, "evaluation.dims[2]"), (15, "weights.qualty"),
        (15, "weights.cost"),
    ]  # fmt: skip
    assert sorted(told) == sorted(places)
    assert "did you mean all-minilm-l6-v2?" in told[4, "systems[1].model"]
    assert "got deployment and url" in told[5, "systems[2]"]
    assert "did you mean a10g" in told[8, "systems[5].profile"]
    assert "expected the unit" in told[13, "capacity.slo"]


def test_paths_are_taken_from_the_folder_of_the_file(folder: Path) -> None:
    (folder / "file.yaml").write_text(
        "datasets: [notes]\nsystems: [{name: a, url: 'http://127.0.0.1:1', api_key_file: key}]\n"
        "load: {corpus: texts.jsonl}\n"
    )
    found = read(folder / "file.yaml", Catalog())
    assert found.datasets[0].name == str(folder / "notes")
    assert (found.systems[0].api_key_file, found.load.corpus) == (folder / "key", folder / "texts.jsonl")


def test_the_written_example_can_be_read(folder: Path, capsys: Any) -> None:
    written = folder / "bakeoff.yaml"
    assert run(["bakeoff", "--init", str(written)]) == 0 and written.read_text() == example()
    found = read(written, Catalog())
    assert [system.kind for system in found.systems] == ["model", "model", "baseline", "baseline"]
    assert run(["bakeoff", "--init", str(written)]) == 2 and "is there already" in capsys.readouterr().err
    # What stands in it as a comment is right, too.
    commented = re.sub(r"^  # (?=- name| {2}\w+:)", "  ", written.read_text(), flags=re.MULTILINE)
    written.write_text(commented.replace("# weights:", "weights:"))
    assert {system.kind for system in read(written, Catalog()).systems} == {
        "model", "deployment", "url", "hosted", "baseline",
    }  # fmt: skip


# What is measured, kept and skipped


def test_an_address_and_baselines_side_by_side(bake: Callable[..., Decision]) -> None:
    with FaultyServer() as server:
        text = WORDS + f"  - {{name: address, url: '{server.url}'}}\nevaluation: {{dims: [64]}}\n" + POINTS
        found = bake(text, quality=1, latency=1, memory=1)
        asked = len(server.requests)
        again = bake(text)
        assert len(server.requests) == asked  # everything was kept
    assert [one.quality for one in again.rows] == [one.quality for one in found.rows]
    served, words = row(found, "address"), row(found, "words")
    assert [one.state for one in found.rows] == ["measured"] * 2
    assert found.datasets["notes"].n_queries == len(NOTES)
    assert served.number("single_text_ms") > 0 and served.number("texts_per_s") > 0
    assert (served.figures["dims"].value, served.figures["bytes_per_vector"].value) == (256, 1024)
    assert served.number("index_mib_per_1m") == pytest.approx(256 * 4 * 1e6 / 2**20)
    assert list(served.by_dims["notes"]) == ["256", "64"]
    assert served.figures["memory_peak_mib"].reason == (
        "memory is measured of servers on this machine that deploytool started"
    )
    assert "needs load points of batch 1 and 16" in str(served.figures["batch16_speedup"].reason)
    assert words.number("memory_peak_mib") > 20 and words.number("single_text_ms") > 0
    assert words.figures["dims"].value is None and words.figures["local"].value is True
    assert words.quality["notes"]["mrr@10"].value == 1.0
    assert found.ranking is not None and found.ranking.standings[0].name == "words"
    assert found.ranking.dropped == {"memory": "known of 1 of 2 systems"}


def test_what_is_changed_is_measured_anew_and_no_more(bake: Callable[..., Decision], capsys: Any) -> None:
    bake(WORDS)
    assert "kept from" not in capsys.readouterr().err
    found = bake(WORDS + PLAIN)
    said = capsys.readouterr().err
    assert said.count("kept from") == 2  # the first one's search and quality
    assert said.count("eval notes ...") == said.count("search notes ...") == 1
    assert [one.state for one in found.rows] == ["measured"] * 2
    bake(WORDS, fresh=True)
    assert "kept from" not in capsys.readouterr().err


def test_what_cannot_run_here_is_skipped_with_the_reason(
    bake: Callable[..., Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOYAGE_API_KEY", raising=False)
    text = "datasets: [notes]\nsystems:\n"
    text += "  - {name: card, model: qwen3-4b, profile: a10g}\n"
    text += "  - {name: uncached, model: some-org/not-in-any-cache, profile: cpu}\n"
    text += "  - {name: wrong, model: all-minilm-l6-v2, profile: a10g, engine: sglang}\n"
    text += "  - {name: keyless, hosted: voyage-code-3}\n"
    found = bake(text + f"  - {{name: dead, url: 'http://127.0.0.1:{unused_port()}'}}\n", quality=1)
    states = {one.name: one.state for one in found.rows}
    assert states == dict.fromkeys(("card", "uncached", "wrong", "keyless"), "skipped") | {"dead": "failed"}
    assert "needs NVIDIA A10G" in row(found, "card").reason
    assert "not in the cache" in row(found, "uncached").reason
    assert "wrong vectors" in row(found, "wrong").reason
    assert "set VOYAGE_API_KEY" in row(found, "keyless").reason
    assert "nothing answers" in row(found, "dead").reason
    assert found.ranking is None and found.unrankable
    assert row(found, "card").figures["single_text_ms"].reason == f"skipped: {row(found, 'card').reason}"
    for text in (report.render(found), report.markdown(found), report.csv(found), bakeoff_page.html(found)):
        assert "needs NVIDIA A10G" in text


def test_a_wrong_endpoint_fails_before_it_is_loaded(bake: Callable[..., Decision]) -> None:
    with FaultyServer("shuffled_index") as server:
        found = bake(f"datasets: [notes]\nsystems: [{{name: wrong, url: '{server.url}'}}]\n" + POINTS)
        sent = [json.loads(body) for _, path, body in server.requests if path == "/v1/embeddings"]
    assert found.rows[0].state == "failed" and "order" in str(found.rows[0].reason)
    assert len(sent) < 20  # the proof's own


def test_an_unknown_deployment_is_bad_input(bake: Callable[..., Decision]) -> None:
    with pytest.raises(BadInput, match="mine: no deployment"):
        bake("datasets: [notes]\nsystems: [{name: mine, deployment: nobody}]\n")


HOSTED = """
name: hosted-openai
title: hosted
kind: api
api: {provider: openai, base_url: URL, key_env: STAND_IN_KEY, model: stand-in, usd_per_million_tokens: 0.5}
dimensions: 256
max_tokens: 8192
licence: proprietary
"""


@pytest.fixture
def hosted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[HostedApi], str]:
    """Writes the card of a hosted API and gives the text of a bake-off with it."""
    (folder / "cards" / "models").mkdir(parents=True)
    monkeypatch.setenv("STAND_IN_KEY", KEY)

    def text(server: HostedApi) -> str:
        card = HOSTED.replace("URL", f"{server.url}/v1")
        (folder / "cards" / "models" / "hosted-openai.yaml").write_text(card)
        how = "evaluation: {batch: 4, concurrency: 1, max_usd: 1}\n"
        return WORDS + "  - {name: api, hosted: hosted-openai}\n" + how + POINTS

    return text


def test_a_hosted_api_is_priced_and_not_loaded(
    bake: Callable[..., Decision], hosted: Callable[[HostedApi], str], folder: Path
) -> None:
    with HostedApi("openai") as server:
        found = bake(hosted(server), profiles=folder / "cards")
        assert len(server.texts) < 3 * len(NOTES)  # the set alone
    api = row(found, "api")
    assert api.state == "measured" and api.number("usd_per_1m_tokens") == 0.5
    assert api.figures["local"].value is False and "is not loaded" in api.figures["single_text_ms"].reason
    assert KEY not in found.model_dump_json()


class Holding(HostedApi):
    """Answers so many requests, then holds back until it is released."""

    def __init__(self, answers: int) -> None:
        super().__init__("openai")
        self.answers, self.release, self.held = answers, threading.Event(), threading.Event()

    def embedded(self, request: dict[str, Any]) -> Any:
        if len(self.requests) > self.answers:
            self.held.set()
            self.release.wait(60)
        return super().embedded(request)


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_goes_on(
    hosted: Callable[[HostedApi], str], folder: Path
) -> None:
    with Holding(2) as server:
        (folder / "bakeoff.yaml").write_text(hosted(server))
        command = [sys.executable, "-m", "deploytool", "bakeoff", str(folder / "bakeoff.yaml")]
        command += ["--profiles-dir", str(folder / "cards"), "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert server.held.wait(100)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        server.release.set()
        sent = len(server.texts)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert len(server.texts) - sent == 2 * len(NOTES) - 8
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("kept from") == 2  # of the baseline before it
    assert [one["state"] for one in json.loads(done.stdout)["rows"]] == ["measured"] * 2


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with (
        Kept(tmp_path).alone(),
        pytest.raises(Taken, match="another bake-off is at work"),
        Kept(tmp_path).alone(),
    ):
        pass
    with Kept(tmp_path).alone():
        pass


def test_a_server_that_a_killed_bake_off_left_is_taken_down(
    bake: Callable[..., Decision], home: Path, capsys: Any
) -> None:
    with Store() as store:
        Kept(store.folder).is_up("bakeoff-left")
        up(deploying.prepared(deploying.spec()), UpOptions(name="bakeoff-left", smoke=False), store, print)
    assert deploying.ours(home)
    bake(NOBODY)
    assert not deploying.ours(home)
    with Store() as store:
        assert Kept(store.folder).up() == [] and store.deployments() == []
    assert "bakeoff-left was left by a bake-off that was killed" in capsys.readouterr().err


def test_a_stage_that_is_damaged_or_of_another_version_is_not_used(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.keep(Stage(key="k", stage="load", system="a", finished_at="now", seconds=1, result={"a": 1}))
    assert kept.find("k") is not None and Kept(tmp_path, fresh=True).find("k") is None
    file = kept.folder / "stages" / "k.json"
    whole = file.read_text()
    for text in (whole[:40], whole.replace('"schema_version":1', '"schema_version":2'), "\x00"):
        file.write_text(text)
        assert kept.find("k") is None


# Which differences are real


@pytest.mark.parametrize(
    ("rulings", "value"),
    [
        ({40.0: "breaks", 20.0: "breaks"}, 0.0),  # at no rate that was tried
        ({20.0: "undecided", 40.0: "breaks"}, None),  # what is below may hold: that is no zero
        ({}, None),
    ],
)
def test_a_search_without_an_answer_is_no_zero(rulings: dict[float, Ruling], value: float | None) -> None:
    probes = tuple(
        Probe(rate=rate, step="double", ruling=ruling, why="", due=60, duration_s=3, served_per_s=rate)
        for rate, ruling in rulings.items()
    )
    outcome = Found(
        max_qps=0, low=None, high=None, p99_ms=None, converged=False, reason="late", probes=probes
    )
    figure, p99 = rate_in_slo(outcome)
    assert (figure.value, figure.reason, p99.value) == (value, "late", None)


def test_holm_is_what_holm_says() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.7, "b": 0.6}) == {"b": 1.0, "a": 1.0}


# The command and what it writes


def test_the_command_writes_every_format(folder: Path, capsys: Any) -> None:
    file = folder / "bakeoff.yaml"
    file.write_text(WORDS + PLAIN)
    names = ("table.md", "table.csv", "table.html", "table.json")
    outputs = [word for name in names for word in ("-o", str(folder / name))]
    assert run(["bakeoff", str(file), "--weights", "quality=.5,latency=.5,cost=.2", *outputs]) == 0
    said = capsys.readouterr().out
    assert "comes first with these" in said and "cost does not count" in said
    decision = Decision.model_validate_json((folder / "table.json").read_text())
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    assert [one["system"] for one in rows] == ["words", "unstemmed"]
    assert float(rows[0]["notes mrr@10"]) == decision.rows[0].quality["notes"]["mrr@10"].value
    assert {one["place"] for one in rows} == {"1", "2"} and rows[0]["dims"] == "" and rows[0]["dims_reason"]
    table = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")][:4]
    assert len({line.count("|") for line in table}) == 1
    page = (folder / "table.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and "http://" not in page
    assert run(["bakeoff", str(file), "--weights", "qualty=1,latency=x"]) == 2
    told = capsys.readouterr().err
    assert "did you mean quality?" in told and "is no number" in told
    assert run(["bakeoff", str(file), "-o", "x.pdf"]) == 2
    assert run(["bakeoff"]) == 2 and "deploytool bakeoff --init" in capsys.readouterr().err


def test_the_reports_say_what_is_real_and_what_is_not() -> None:
    decision = example_decision()
    text = report.render(decision, width=200)
    assert (
        ".7000 ±.0200 *" in text and ".6880 ±.0200 =" in text and re.search(r"\.6100 ±\.0200(?! [*=])", text)
    )
    assert "the queries cannot tell the quality of large and middle apart" in text
    assert "first in more of them" in text and "bm25 has no place: cost not known" in text
    assert "card skipped: no card is here" in text
    for column in COLUMNS:
        assert column.title in text
    rows = list(csv.DictReader(io.StringIO(report.csv(decision))))
    worse = [one[f"{SET} mrr@10 worse_than_best"] for one in rows]
    assert worse == ["", "False", "True", "True", ""]


def test_names_are_shown_and_do_nothing() -> None:
    decision = example_decision("<b>@x|=1+1</b>\x1b[31m")
    assert "<b>" not in report.markdown(decision) and "@x" not in report.markdown(decision)
    page = bakeoff_page.html(decision)
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert "\x1b" not in report.render(decision) + page + report.csv(decision)


def test_without_any_figure_every_report_can_be_written(bake: Callable[..., Decision]) -> None:
    decision = bake(NOBODY)
    for text in (report.render(decision), report.markdown(decision), report.csv(decision)):
        assert "keyless" in text
    page = bakeoff_page.html(decision)
    assert "No system has both figures" in page and "<svg" not in page


# The real model

MINILM = """\
datasets: [notes]
systems:
  - {name: minilm, model: all-minilm-l6-v2, profile: cpu}
load: {batch: [1, 16], concurrency: [1], duration_s: 1, warmup_s: 0, calibration: false, checks: 1}
capacity: {slo: p90<=10s, max_duration_s: 300, most_qps: 10, start_qps: 10}
evaluation: {dims: [96]}
"""


def begun(folder: Path, text: str) -> tuple[list[str], subprocess.Popen[str]]:
    (folder / "bakeoff.yaml").write_text(text)
    command = [sys.executable, "-m", "deploytool", "bakeoff", str(folder / "bakeoff.yaml"), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    return command, process


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"{words!r} never came: {''.join(seen)}")


@pytest.mark.slow
@pytest.mark.model
def test_a_real_model_from_start_to_table_killed_in_between(
    minilm_folder: Path, folder: Path, home: Path
) -> None:
    command, process = begun(folder, MINILM)
    read_until(process, "  capacity ...")
    process.kill()
    process.communicate()
    left = deploying.ours(home)
    assert left  # the server is there: nobody could take it down
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "was left by a bake-off that was killed" in done.stderr
    assert done.stderr.count("kept from") == 1 and "load: kept from" in done.stderr
    assert not deploying.ours(home)
    found = Decision.model_validate_json(done.stdout).rows[0]
    assert found.state == "measured" and found.quality["notes"]["recall@1"].value == 1.0
    numbers = {column.name: found.number(column.name) for column in COLUMNS}
    unknown = {name for name, value in numbers.items() if value is None}
    texts = {"usd_per_1m_tokens", "languages", "licence", "local"}
    assert unknown == texts, numbers
    assert found.figures["slo_qps"].value == 10 and found.figures["slo_qps"].at_least
    assert (numbers["dims"], numbers["bytes_per_vector"]) == (384, 1536)
    assert 80 < (numbers["model_mib"] or 0) < 100 and (numbers["memory_peak_mib"] or 0) > 200
    assert found.figures["licence"].value == "apache-2.0" and found.figures["local"].value is True
    assert list(found.by_dims["notes"]) == ["384", "96"]


@pytest.mark.slow
@pytest.mark.model
def test_ctrl_c_leaves_nothing_running(minilm_folder: Path, folder: Path, home: Path) -> None:
    _, process = begun(folder, MINILM)
    read_until(process, "  load ...")
    assert deploying.ours(home)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "finished stages are kept" in said
    assert not deploying.ours(home)
    with Store() as store:
        assert store.deployments() == [] and Kept(store.folder).up() == []
