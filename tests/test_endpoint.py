"""The client on real sockets: right answers, every way of failing told apart, and the key kept."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stand_ins.faulty_server import MODEL, WIDTH, FaultyServer, embed

from deploytool.endpoint import (
    Client,
    Disconnected,
    EndpointError,
    HttpError,
    NotJson,
    Refused,
    TimedOut,
    TlsFailed,
    WrongShape,
)
from deploytool.errors import BadInput, Unhealthy

KEY = "sesame-open-1234"


def client(server: FaultyServer, *, key: str | None = None, timeout_s: float = 10.0) -> Client:
    return Client(server.url, model=MODEL, api_key=key, timeout_s=timeout_s)


def test_one_text_and_several() -> None:
    with FaultyServer() as server, client(server) as endpoint:
        assert endpoint.models() == [MODEL]
        assert endpoint.embed("one").vectors == [embed("one")]
        answer = endpoint.embed(["one", "two"])
        assert answer.vectors == [embed("one"), embed("two")]
        assert answer.indices == [0, 1]
        assert answer.model == MODEL
        assert answer.prompt_tokens == 4
        assert answer.latency_ms > 0
        assert endpoint.embed("one", encoding="base64").vectors == [embed("one")]
        assert len(endpoint.embed("one", dimensions=64).vectors[0]) == 64


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_every_form_of_the_base_url_reaches_the_same_paths(suffix: str) -> None:
    with FaultyServer() as server, Client(server.url + suffix, model=MODEL) as endpoint:
        assert len(endpoint.embed("one").vectors[0]) == WIDTH
        assert endpoint.request("GET", "/health").json() == {"status": "ok"}
    assert [path for _, path, _ in server.requests] == ["/v1/embeddings", "/health"]


def test_ipv6() -> None:
    try:
        server = FaultyServer(host="::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    with server, client(server) as endpoint:
        assert "[::1]" in server.url
        assert len(endpoint.embed("one").vectors) == 1


def test_data_is_put_in_the_order_of_its_index() -> None:
    with FaultyServer("unordered_data") as server, client(server) as endpoint:
        answer = endpoint.embed(["one", "two", "three"])
    assert answer.vectors == [embed("one"), embed("two"), embed("three")]
    assert answer.indices == [2, 1, 0]


def test_token_ids_are_sent_as_they_are() -> None:
    with FaultyServer() as server, client(server) as endpoint:
        for inputs, expected in (([1, 2], b"[1, 2]"), ([[1, 2], [3]], b"[[1, 2], [3]]")):
            with pytest.raises(HttpError):  # the stand-in knows no ids
                endpoint.embed(inputs)
            assert b'"input": ' + expected in server.requests[-1][2]


def test_connections_are_kept(free_port: Callable[[], int]) -> None:
    with FaultyServer() as server, client(server) as endpoint:
        for _ in range(5):
            endpoint.embed("one")
        assert server.connections == 1


FAILURES: list[tuple[str, type[EndpointError], str]] = [
    ("fails_always", HttpError, "CUDA error"),
    ("flat_errors", HttpError, "not empty"),
    ("bad_input_silent", HttpError, "without a readable message"),
    ("redirects", HttpError, "307"),
    ("html", NotJson, "It works!"),
    ("truncated_json", NotJson, "not JSON"),
    ("error_with_200", WrongShape, "out of memory"),
    ("one_too_few", WrongShape, "asked for 2 vectors, got 1"),
    ("index_all_zero", WrongShape, "data[].index"),
    ("cut_off", Disconnected, "broke the connection"),
    ("slow", TimedOut, "within 0.4 s"),
    ("drips", TimedOut, "within 0.4 s"),
    ("dies_at_once", Disconnected, "broke the connection"),
]


@pytest.mark.parametrize(("fault", "kind", "words"), FAILURES, ids=[failure[0] for failure in FAILURES])
def test_failures_are_told_apart(fault: str, kind: type[EndpointError], words: str) -> None:
    bad_input = fault in ("flat_errors", "bad_input_silent")
    patience = 0.4 if kind is TimedOut else 20.0
    with FaultyServer(fault) as server, client(server, timeout_s=patience) as endpoint:
        with pytest.raises(EndpointError) as caught:
            endpoint.embed([] if bad_input else ["one", "two"])
        assert type(caught.value) is kind
        assert words in caught.value.message
        assert caught.value.hint
        assert isinstance(caught.value, Unhealthy)
        assert caught.value.exit_code == 6


def test_the_servers_status_and_words_are_kept() -> None:
    with (
        FaultyServer("fails_always") as server,
        client(server) as endpoint,
        pytest.raises(HttpError) as caught,
    ):
        endpoint.embed("one")
    assert caught.value.status == 500
    assert caught.value.reason == "CUDA error: an illegal memory access was encountered"


def test_nothing_listens(free_port: Callable[[], int]) -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as endpoint, pytest.raises(Refused) as caught:
        endpoint.models()
    assert caught.value.status is None
    assert "deploytool ps" in str(caught.value.hint)


def test_an_unknown_host() -> None:
    with Client("http://no-such-host.invalid:1") as endpoint, pytest.raises(Refused):
        endpoint.models()


def test_https_to_a_server_without_tls() -> None:
    with FaultyServer() as server:
        url = server.url.replace("http://", "https://")
        with Client(url, timeout_s=5) as endpoint, pytest.raises(TlsFailed) as caught:
            endpoint.models()
    assert "http://" in str(caught.value.hint)


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[str]:
    """The URL of a TLS port whose certificate nobody signed."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
         "-keyout", str(key), "-out", str(certificate), "-days", "1"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip(f"openssl makes no certificate: {made.stderr.decode()[-200:]}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                    pass

    threading.Thread(target=serve, daemon=True).start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)  # ends the accept in the thread, which closing alone does not
    listener.close()


def test_a_certificate_that_nobody_signed(self_signed: str) -> None:
    with Client(self_signed, timeout_s=5) as endpoint, pytest.raises(TlsFailed) as caught:
        endpoint.models()
    assert "certificate" in caught.value.message
    assert "SSL_CERT_FILE" in str(caught.value.hint)


def test_no_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with FaultyServer() as server, client(server) as endpoint:
        assert endpoint.models() == [MODEL]


def test_the_key_is_sent_and_never_shown() -> None:
    with FaultyServer(key=KEY) as server, client(server, key=KEY) as endpoint:
        assert len(endpoint.embed("one").vectors) == 1
        assert server.keys == [f"Bearer {KEY}"]
        assert endpoint.request("GET", "/v1/models", authorised=False).status == 401
        assert endpoint.request("GET", "/v1/models", key="another").status == 401
        assert KEY not in repr(endpoint)
        assert endpoint.has_key


@pytest.mark.parametrize("fault", ["echoes_key", "echoes_key_in_answer", "echoes_key_as_page"])
def test_a_server_that_repeats_the_key_is_not_quoted(fault: str) -> None:
    with FaultyServer(fault, key=KEY) as server, client(server, key=KEY) as endpoint:
        with pytest.raises(EndpointError) as caught:
            endpoint.embed("one")
        assert "[key hidden]" in caught.value.message
        assert KEY not in f"{caught.value!r} {caught.value} {caught.value.document()}"
        assert KEY not in str(getattr(caught.value, "reason", ""))


def test_a_time_out_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput):
        Client("http://127.0.0.1:1", timeout_s=0)
