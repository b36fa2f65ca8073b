"""The command: what it prints, its exit code, JSON and JUnit; on the real server and on faulty ones."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import CommandLine, Served
from example_deployments import deployment
from stand_ins.faulty_server import MODEL, FaultyServer

from deploytool.identity import identify
from deploytool.probes.suite import SMOKE
from deploytool.reports.junit import Case, render
from deploytool.store import Store

KEY = "sesame-open-1234"


def suite_of(text: str) -> ElementTree.Element:
    """The one test suite of a JUnit document, checked against what CI systems require of it."""
    root = ElementTree.fromstring(text)  # noqa: S314 - our own document
    assert root.tag == "testsuites"
    (suite,) = root
    assert suite.tag == "testsuite"
    assert {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"} <= set(suite.attrib)
    cases = suite.findall("testcase")
    assert [child.tag for child in suite if child.tag != "properties"] == ["testcase"] * len(cases)
    for case in cases:
        assert {"name", "classname", "time"} == set(case.attrib)
        assert float(case.attrib["time"]) >= 0
        kinds = [child.tag for child in case]
        assert kinds in ([], ["failure"], ["skipped"], ["system-out"])
        assert all(child.get("message") for child in case if child.tag in ("failure", "skipped"))
    for node in (root, suite):
        assert int(node.attrib["tests"]) == len(cases)
        assert int(node.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(node.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
        assert node.attrib["errors"] == "0"
    return suite


@pytest.mark.model
def test_the_real_server_by_its_address(minilm_server: Served, cli: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out.xml"
    answer = cli("smoke", minilm_server.url, "--model", "all-minilm-l6-v2", "--json", "--junit", str(out))
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert list(document) == ["target", "url", "model", "card", "passed", "checks", "seconds"]
    assert document["passed"] is True
    assert (document["url"], document["model"]) == (minilm_server.url, "all-minilm-l6-v2")
    skipped = {check["name"] for check in document["checks"] if check["passed"] is None}
    assert skipped == {"matryoshka", "long_text", "key_missing", "key_wrong"}
    assert len(suite_of(out.read_text()).findall("testcase")) == len(SMOKE) + 1  # and `golden`


@pytest.mark.model
def test_the_real_server_by_its_deployments_name(minilm_server: Served, cli: CommandLine, home: Path) -> None:
    record = deployment(int(minilm_server.url.rsplit(":", 1)[1]), process=identify(minilm_server.pid))
    record.launch = record.launch.model_copy(update={"model": minilm_server.model})
    record.card = record.card | {"dimensions": 384, "max_tokens": 256}
    with Store() as store:
        store.reserve(record)
    answer = cli("smoke", "mini", "--json")
    assert answer.returncode == 0, answer.stderr
    checks = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert checks["dimension"]["saw"] == "384 dimensions"
    assert checks["deterministic"]["expected"] == "cosine >= 0.9999 (for float32)"
    assert checks["long_text"]["passed"] is True


def test_the_table_for_people(cli: CommandLine) -> None:
    with FaultyServer("not_normalised") as server:
        answer = cli("smoke", server.url)
        assert answer.returncode == 0  # no card: the norm is told, not judged
        assert "norms from 3.5000 to 3.5000" in answer.stdout
        lines = answer.stdout.splitlines()
    assert lines[0].split() == ["check", "saw"]
    assert lines[1].split()[:2] == ["reachable", "pass"]
    assert "0 failed" in answer.stderr


def test_a_failure_is_told_and_ends_with_6(cli: CommandLine, tmp_path: Path) -> None:
    with FaultyServer("shuffled_index") as server:
        answer = cli("smoke", server.url, "--junit", str(tmp_path / "out.xml"))
    assert answer.returncode == 6
    assert "FAIL order" in answer.stdout
    assert "expected: vector i is that of text i" in answer.stdout
    assert "is not right: order" in answer.stderr
    assert "hint: data[].index is wrong" in answer.stderr
    failure = suite_of((tmp_path / "out.xml").read_text()).find("testcase[@name='order']/failure")
    assert failure is not None
    assert "data[].index" in (failure.text or "")


def test_the_document_of_a_failure(cli: CommandLine) -> None:
    with FaultyServer("usage_missing") as server:
        answer = cli("smoke", server.url, "--json")
    assert answer.returncode == 6
    document = json.loads(answer.stdout)
    assert document["passed"] is False
    (failed,) = [check for check in document["checks"] if check["passed"] is False]
    assert {"name", "passed", "saw", "expected", "hint"} <= set(failed)
    assert failed["name"] == "usage"


def test_nothing_answers(cli: CommandLine, tmp_path: Path, free_port: Callable[[], int]) -> None:
    answer = cli("smoke", f"http://127.0.0.1:{free_port()}", "--junit", str(tmp_path / "out.xml"))
    assert answer.returncode == 6
    assert "does not answer" in answer.stderr
    assert "deploytool ps" in answer.stderr
    assert f"{len(SMOKE)} checks" in answer.stdout
    suite = suite_of((tmp_path / "out.xml").read_text())
    assert (suite.attrib["failures"], suite.attrib["skipped"]) == ("1", str(len(SMOKE)))


def test_a_dead_deployment(cli: CommandLine, tmp_path: Path, home: Path) -> None:
    ended = subprocess.Popen(["sleep", "60"])
    identity = identify(ended.pid)
    ended.kill()
    ended.wait()
    with Store() as store:
        store.reserve(deployment(1, process=identity))
    answer = cli("smoke", "mini", "--json", "--junit", str(tmp_path / "out.xml"))
    assert answer.returncode == 6
    assert json.loads(answer.stdout)["error"]["message"].startswith("mini died")
    assert "deploytool restart mini" in answer.stderr
    assert suite_of((tmp_path / "out.xml").read_text()).attrib["failures"] == "1"


def test_the_key_is_used_enforced_and_never_printed(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    with FaultyServer(key=KEY) as server:
        right = cli("smoke", server.url, "--json", env={"DEPLOYTOOL_API_KEY": KEY})
        by_file = cli("smoke", server.url, "--api-key-file", str(file))
        without = cli("smoke", server.url)
    assert right.returncode == by_file.returncode == 0, right.stderr + by_file.stderr
    checks = {check["name"]: check["passed"] for check in json.loads(right.stdout)["checks"]}
    assert checks["key_missing"] is checks["key_wrong"] is True
    assert without.returncode == 6
    assert "--api-key-file" in without.stderr
    with FaultyServer("echoes_key", key=KEY) as server:
        echoed = cli(
            "smoke", server.url, "--junit", str(tmp_path / "out.xml"), env={"DEPLOYTOOL_API_KEY": KEY}
        )
    assert echoed.returncode == 6
    for text in (
        right.stdout,
        by_file.stdout,
        echoed.stdout,
        echoed.stderr,
        (tmp_path / "out.xml").read_text(),
    ):
        assert KEY not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-deployment"], "no deployment is named"),
        (["ftp://host:1"], "no http or https URL"),
        (["http://me:sesame@host:1"], "user name or password"),
        (["http://127.0.0.1:1", "--junit", "/no/such/folder/out.xml"], "no folder"),
        (["http://127.0.0.1:1", "--junit", "-"], "stdout carries the table"),
        (["http://127.0.0.1:1", "--api-key-file", "/no/such/file"], "cannot read the API key"),
        (["http://127.0.0.1:1", "--model", "all-minlm"], "did you mean all-minilm-l6-v2"),
        (["http://127.0.0.1:1", "--timeout", "0"], "timeout"),
        ([], "target"),
    ],
)
def test_wrong_usage_ends_with_2(cli: CommandLine, arguments: list[str], words: str) -> None:
    answer = cli("smoke", *arguments)
    assert answer.returncode == 2
    assert words in answer.stderr.lower() or words in answer.stderr
    assert "sesame" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_report_that_cannot_be_written(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "out.xml").mkdir()
    with FaultyServer() as server:
        answer = cli("smoke", server.url, "--junit", str(tmp_path / "out.xml"))
    assert answer.returncode == 2
    assert "it is a folder" in answer.stderr
    assert "--junit" in answer.stderr
    assert server.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.xml"]


def test_a_card_of_the_users_own(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.yaml").write_text(
        "name: mine\ntitle: Mine\nkind: embedding\ndimensions: 512\nlicence: none\nsources: [me]\n"
    )
    with FaultyServer() as server:
        answer = cli("smoke", server.url, "--model", "mine", "--profiles-dir", str(tmp_path), "--json")
    assert answer.returncode == 6
    failed = [check for check in json.loads(answer.stdout)["checks"] if check["passed"] is False]
    assert [(check["name"], check["saw"]) for check in failed] == [("dimension", "256 dimensions")]
    assert failed[0]["expected"] == "512, as the model card of mine says"


def test_junit_holds_any_text() -> None:
    cases = [
        Case("ok", True, "fine & <good>", seconds=1.25),
        Case("bad", False, 'quotes " and \x00 control \x1b[31m', ["line one", "line two"]),
        Case("skipped", None, "no card"),
    ]
    text = render("suite <one>", cases, properties=[("url", "http://h:1")])
    suite = suite_of(text)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>')
    assert suite.attrib["time"] == "1.250"
    failure = suite.find("testcase[@name='bad']/failure")
    assert failure is not None
    assert failure.text == 'quotes " and � control �[31m\nline one\nline two'


# The same answers as the client that everyone uses.


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.model)])
def endpoint(request: pytest.FixtureRequest) -> Any:
    """(url, model) of the stand-in, and of the real server."""
    if request.param == "real":
        served: Served = request.getfixturevalue("minilm_server")
        yield served.url, served.model
        return
    with FaultyServer() as server:
        yield server.url, MODEL


def test_openai_python_sees_the_same_vectors(endpoint: tuple[str, str]) -> None:
    from openai import BadRequestError, OpenAI

    from deploytool.endpoint import Client, HttpError

    url, model = endpoint
    texts = ["one", "the second text is longer", "三"]
    with (
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as theirs,
        Client(url, model=model) as ours,
    ):
        assert [listed.id for listed in theirs.models.list()] == ours.models() == [model]
        answer = ours.embed(texts, encoding="base64")
        packed = theirs.embeddings.create(model=model, input=texts)
        plain = theirs.embeddings.create(model=model, input=texts, encoding_format="float")
        assert [row.embedding for row in packed.data] == answer.vectors
        assert [row.index for row in plain.data] == answer.indices
        assert packed.usage.prompt_tokens == answer.prompt_tokens
        widths = {len(row.embedding) for row in plain.data}
        assert widths == {len(answer.vectors[0])}
        with pytest.raises(BadRequestError) as told:
            theirs.embeddings.create(model=model, input=[])
        with pytest.raises(HttpError) as seen:
            ours.embed([])
    assert seen.value.status == told.value.status_code == 400
    assert seen.value.reason is not None
    assert seen.value.reason in str(told.value)
