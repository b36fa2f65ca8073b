#!/usr/bin/env bash
# Debian's Docker engine for the tests of the docker runtime, where none answers and none is installed.
# Only root of a machine with apt can; elsewhere this says why those tests will be skipped. The tests start the
# engine themselves, in a folder of their own, and end it.
set -euo pipefail

if [ -n "${DOCKER_HOST:-}" ]; then
  echo "docker: the tests use the engine of DOCKER_HOST ($DOCKER_HOST)"
elif curl -sf --max-time 3 --unix-socket /var/run/docker.sock http://docker/_ping >/dev/null 2>&1; then
  echo "docker: the tests use the engine of this machine (/var/run/docker.sock)"
elif command -v dockerd >/dev/null || [ -x /usr/sbin/dockerd ]; then
  exit 0
elif [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "docker: not installed, and only root can with apt: the tests of the docker runtime will be skipped" >&2
else
  echo "docker: installing docker.io (half a minute) ..."
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if ! { apt-get update && apt-get install -y --no-install-recommends docker.io; } >"$log" 2>&1; then
    tail -5 "$log" >&2
    echo "docker: docker.io could not be installed: the tests of the docker runtime will be skipped" >&2
  fi
  rm -f "$log"
fi
