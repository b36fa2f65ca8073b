"""A launch as data: its command as one pastes it, its address, its port, and where a secret goes."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml

from deploytool.errors import BadInput
from deploytool.launch import FREE_PORT, LaunchSpec, Readiness, SecretUse


def spec(host: str = "127.0.0.1", port: int = 8080, argv: tuple[str, ...] = ()) -> LaunchSpec:
    return LaunchSpec(
        engine="some",
        argv=argv or ("serve", "--port", str(port), "--override", '{"a": [1]}', "--flag"),
        env={"B": "2 3", "A": "1"},
        model="m",
        model_path="/m",
        host=host,
        port=port,
        readiness=Readiness(path="/ready", probe_timeout_s=5, start_timeout_s=60),
    )


def test_the_command_pastes_back_into_the_same_words() -> None:
    words = shlex.split(spec().command())
    assert words == ["A=1", "B=2 3", *spec().argv]
    assert shlex.split(spec().command_lines().replace("\\\n", " ")) == words
    assert spec().command_lines().count("\n") == 3


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8080"), ("0.0.0.0", "http://127.0.0.1:8080"), ("::1", "http://[::1]:8080"),
     ("localhost", "http://localhost:8080")],
)  # fmt: skip
def test_the_url_can_be_called(host: str, url: str) -> None:
    assert spec(host).url == url


def test_a_port_is_put_where_argv_names_it() -> None:
    free = spec(port=0, argv=("serve", "--host", "h", "--port", FREE_PORT, "--x"))
    chosen = free.with_port(4711)
    assert chosen.port == 4711 and chosen.argv == ("serve", "--host", "h", "--port", "4711", "--x")
    assert free.port == 0


@pytest.mark.parametrize("key", ["0123", "yes", "a: b #c", "null", "1e5", "[x]", "it's", "{key}"])
def test_a_key_stays_a_text_in_yaml(key: str) -> None:
    content = SecretUse(kind="file", template="api-key: {key}\n", quoting="json").content(key)
    assert yaml.safe_load(content) == {"api-key": key}


@pytest.mark.parametrize("key", ["", " a", "a ", "a\nb", "ключ", "-x", "a'b\"c", "a\\b"])
def test_a_key_that_would_not_arrive_is_refused(key: str) -> None:
    with pytest.raises(BadInput) as caught:
        SecretUse(kind="file", template="api-key: {key}\n", quoting="json").content(key)
    assert not key.strip() or key not in caught.value.message


def test_a_key_by_variable_is_the_key_itself() -> None:
    assert SecretUse(kind="env", name="KEY").content("-x") == "-x"


def test_a_spec_survives_json() -> None:
    assert LaunchSpec.model_validate(json.loads(spec().model_dump_json())) == spec()
