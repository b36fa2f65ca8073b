#!/bin/sh
# The main job, end to end on the CPU: up, smoke, a short load grid, a report, down. `make demo` calls it.
set -eu

HOME_OF_DEMO=$(mktemp -d "${TMPDIR:-/tmp}/deploytool-demo.XXXXXX")
export DEPLOYTOOL_HOME="$HOME_OF_DEMO"
REPORT=$PWD/demo-report.html

clean() {
    deploytool down --all >/dev/null 2>&1 || true
    rm -rf "$HOME_OF_DEMO"
}
trap clean EXIT
trap 'exit 130' INT TERM

step() { printf '\n$ %s\n' "$*"; "$@"; }

step deploytool up all-minilm-l6-v2 --profile cpu --name demo --port auto
step deploytool ps
step deploytool smoke demo
step deploytool load demo --batch 1,8,32 --concurrency 1,4,16 --duration "${DEMO_DURATION:-3s}" --warmup 1s
step deploytool report latest -o "$REPORT"
step deploytool down demo

printf '\nThe report is %s: open it in a browser.\n' "$REPORT"
