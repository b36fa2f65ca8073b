"""TARGET: names and addresses, what each brings along, and what is said where it cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from example_deployments import deployment
from stand_ins.faulty_server import MODEL, WIDTH, FaultyServer

from deploytool.catalog import Catalog
from deploytool.errors import BadInput, InvalidFile, Unhealthy, UnknownName
from deploytool.identity import ProcessIdentity
from deploytool.store import Store
from deploytool.targets import Resolved, is_url, read_key, resolve

KEY = "sesame-open-1234"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("https://api.example/v1", True),
        ("localhost:8000", True),
        ("127.0.0.1:8000/v1", True),
        ("[::1]:8000", True),
        ("ftp://host", True),
        ("qwen3-4b", False),
        ("mini.2", False),
        ("localhost", False),
    ],
)
def test_names_and_addresses_are_told_apart(target: str, expected: bool) -> None:
    assert is_url(target) is expected


# Names


def test_a_name_brings_everything_from_its_record(store: Store) -> None:
    with FaultyServer() as server:
        store.reserve(deployment(server.port))
        found = resolve("mini", store, environ={})
        with found.client() as client:
            assert len(client.embed("one").vectors[0]) == WIDTH
    assert found.url == server.url
    assert found.embeddings_url == f"{server.url}/v1/embeddings"
    assert found.model == MODEL
    assert found.card is not None
    assert found.card.dimensions == WIDTH
    assert (found.ours, found.dtype, found.api_key) == (True, "float32", None)


def test_a_card_that_another_version_wrote_is_read_with_all_that_is_known(store: Store) -> None:
    written = Catalog().model("all-minilm-l6-v2")
    stored = written.model_dump(mode="json")
    stored["new"] = stored["architecture"]["new"] = stored["engines"]["sglang"]["new"] = 1
    store.reserve(deployment(1, card=stored))
    assert resolve("mini", store, environ={}).card == written


def test_a_record_without_a_card_has_none(store: Store) -> None:
    store.reserve(deployment(1, card={}, plan={}))
    found = resolve("mini", store, environ={})
    assert found.card is None
    assert found.dtype is None


def test_an_unknown_name_gets_the_nearest_and_is_told_that_addresses_work(store: Store) -> None:
    store.reserve(deployment(1, name="qwen3-4b"))
    with pytest.raises(UnknownName) as caught:
        resolve("qwen-4b", store, environ={})
    assert "did you mean qwen3-4b?" in str(caught.value.hint)
    assert "http://127.0.0.1:8000" in str(caught.value.hint)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("state", "words", "hint"),
    [
        ("starting", "mini is still starting: loading weights", "deploytool status mini"),
        ("stopped", "mini is stopped: loading weights", "deploytool restart mini"),
        ("died", "mini died: loading weights", "deploytool logs mini"),
    ],
)
def test_a_deployment_that_does_not_run_is_refused_with_its_state(
    store: Store, state: str, words: str, hint: str
) -> None:
    store.reserve(deployment(1, state=state, reason="loading weights"))
    with pytest.raises(Unhealthy) as caught:
        resolve("mini", store, environ={})
    assert caught.value.message == words
    assert hint in str(caught.value.hint)


def test_an_unhealthy_deployment_can_be_looked_at_and_is_called_so(store: Store) -> None:
    store.reserve(deployment(1, state="unhealthy", reason="/ready: answered 503"))
    assert resolve("mini", store, environ={}).notes == ("mini is unhealthy: /ready: answered 503",)


def test_a_process_that_is_gone_is_seen_although_the_record_says_ready(store: Store) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    store.reserve(deployment(1, process=ProcessIdentity(pid=ended.pid, started_at=1.0)))
    with pytest.raises(Unhealthy) as caught:
        resolve("mini", store, environ={})
    assert str(ended.pid) in caught.value.message


def test_the_key_comes_from_where_the_record_says(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    store.reserve(deployment(1, key_source=f"file {file}"))
    store.reserve(deployment(2, name="other", id="other-1", key_source="env MY_KEY"))
    assert resolve("mini", store, environ={}).api_key == KEY
    assert resolve("other", store, environ={"MY_KEY": KEY}).api_key == KEY
    with pytest.raises(BadInput) as caught:
        resolve("other", store, environ={})
    assert "MY_KEY" in caught.value.message
    assert "--api-key-file" in str(caught.value.hint)
    assert resolve("other", store, api_key_file=file, environ={}).api_key == KEY


def test_the_variable_of_urls_is_not_sent_to_a_deployment_without_a_key(store: Store) -> None:
    store.reserve(deployment(1))
    assert resolve("mini", store, environ={"DEPLOYTOOL_API_KEY": KEY}).api_key is None


def test_another_card_can_be_asked_for(store: Store) -> None:
    store.reserve(deployment(1))
    card = resolve("mini", store, model="all-minilm-l6-v2", environ={}).card
    assert card is not None
    assert card.name == "all-minilm-l6-v2"


# Addresses


def test_an_address_takes_its_model_from_the_server(store: Store) -> None:
    with FaultyServer() as server:
        found = resolve(f"{server.url}/v1/", store, environ={})
    assert (found.url, found.model, found.card, found.ours) == (server.url, MODEL, None, False)


@pytest.mark.parametrize(
    ("listed", "asked", "sent"),
    [
        (["a", "all-minilm-l6-v2"], "all-minilm-l6-v2", "all-minilm-l6-v2"),
        (["a", "sentence-transformers/all-MiniLM-L6-v2"], "all-minilm-l6-v2",
         "sentence-transformers/all-MiniLM-L6-v2"),
        (["a-name-of-its-own"], "all-minilm-l6-v2", "a-name-of-its-own"),
        (["a", "b"], "all-minilm-l6-v2", "all-minilm-l6-v2"),
        ([], "all-minilm-l6-v2", "all-minilm-l6-v2"),
        ([], None, "default"),
    ],
)  # fmt: skip
def test_the_served_name_is_found(store: Store, listed: list[str], asked: str | None, sent: str) -> None:
    with FaultyServer() as server:
        server.models = listed
        found = resolve(server.url, store, model=asked, environ={})
    assert found.model == sent
    assert (found.card.name if found.card else None) == asked


def test_several_models_must_be_chosen_from(store: Store) -> None:
    with FaultyServer() as server:
        server.models = ["a", "b"]
        with pytest.raises(BadInput) as caught:
            resolve(server.url, store, environ={})
        assert "a, b" in caught.value.message
        assert "--model" in str(caught.value.hint)
        chosen = resolve(server.url, store, model="b", environ={})
    assert (chosen.model, chosen.card) == ("b", None)


def test_a_model_that_neither_catalog_nor_server_knows(store: Store) -> None:
    with FaultyServer() as server, pytest.raises(UnknownName) as caught:
        resolve(server.url, store, model="all-minlm", environ={})
    assert "all-minilm-l6-v2" in str(caught.value.hint)


def test_a_broken_card_is_told_even_where_the_server_lists_the_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"{MODEL}.yaml").write_text(f"name: {MODEL}\nkind: teapot\n")
    with FaultyServer() as server, pytest.raises(InvalidFile):
        resolve(server.url, store, model=MODEL, catalog=Catalog(tmp_path), environ={})


def test_an_address_that_does_not_answer_is_no_error_here(store: Store, free_port: Callable[[], int]) -> None:
    found = resolve(f"127.0.0.1:{free_port()}", store, model="all-minilm-l6-v2", environ={})
    assert found.model == "all-minilm-l6-v2"
    assert found.url.startswith("http://127.0.0.1:")


def test_what_is_no_address_is_refused(store: Store) -> None:
    with pytest.raises(BadInput):
        resolve("ftp://host:21", store, environ={})


def test_the_key_of_an_address(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    with FaultyServer(key=KEY) as server:
        assert resolve(server.url, store, environ={"DEPLOYTOOL_API_KEY": KEY}).model == MODEL
        found = resolve(server.url, store, api_key_file=file, environ={"DEPLOYTOOL_API_KEY": "another"})
        assert (found.model, found.api_key, found.notes) == (MODEL, KEY, ())
        assert resolve(server.url, store, environ={"DEPLOYTOOL_API_KEY": ""}).api_key is None


def test_a_key_in_the_open_is_warned_of(store: Store) -> None:
    found = resolve("http://no-such-host.invalid:1", store, environ={"DEPLOYTOOL_API_KEY": KEY})
    assert "unencrypted" in found.notes[0]
    assert KEY not in found.notes[0]


def test_the_key_is_not_in_the_repr() -> None:
    found = Resolved("t", "u", "u/v1/embeddings", "m", None, None, api_key=KEY)
    assert KEY not in repr(found)


@pytest.mark.parametrize("content", [b"", b"  \n", b"two words\n", b"\xff\xfe\x00"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_key(file)
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_key(tmp_path / "none")
    assert "No such file" in caught.value.message
