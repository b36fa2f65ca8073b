"""How long the tool takes to answer, beside a bare interpreter: `make bench-cli` prints the table."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 15
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "deploytool --help": ["-m", "deploytool", "--help"],
    "deploytool ps": ["-m", "deploytool", "ps"],
    "deploytool profiles list": ["-m", "deploytool", "profiles", "list"],
    "deploytool plan qwen3-4b --profile a10g": ["-m", "deploytool", "plan", "qwen3-4b", "--profile", "a10g"],
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        # Compiled once, as an installation is, whatever this shell says of it; in a folder of its own.
        environment = {**os.environ, "DEPLOYTOOL_HOME": home, "PYTHONPYCACHEPREFIX": f"{home}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        bare = 0.0
        print(f"{'whole process, ms':42}{'min':>8}{'median':>8}{'max':>8}{'x bare':>8}")
        for name, arguments in COMMANDS.items():
            times = [once(arguments, environment) for _ in range(RUNS + 1)][1:]
            median = statistics.median(times)
            bare = bare or median
            print(f"{name:42}{min(times):8.0f}{median:8.0f}{max(times):8.0f}{median / bare:8.1f}")


def once(arguments: list[str], environment: dict[str, str]) -> float:
    """Milliseconds from start to end of one process."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
