#!/usr/bin/env bash
# Debian's ssh server for the test of a load over ssh, where none is installed. The test starts it itself, with keys
# and a port of its own. Only root of a machine with apt can install it; elsewhere that test will be skipped.
set -euo pipefail

if command -v sshd >/dev/null || [ -x /usr/sbin/sshd ]; then
  exit 0
elif [ -d /run/systemd/system ]; then # the package would start a server for the whole network
  echo "sshd: not installed; it is left to you here: the test of a load over ssh will be skipped" >&2
elif [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "sshd: not installed, and only root can with apt: the test of a load over ssh will be skipped" >&2
else
  echo "sshd: installing openssh-server ..."
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if ! { apt-get update && apt-get install -y --no-install-recommends openssh-server; } >"$log" 2>&1; then
    tail -5 "$log" >&2
    echo "sshd: openssh-server could not be installed: the test of a load over ssh will be skipped" >&2
  fi
  rm -f "$log"
fi
