"""Process trees and the host's memory, on real processes and files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploytool.telemetry import host, processes

MIB = 1024 * 1024
# A parent with one child; each takes the memory it is told to, says so, and ends with its standard input.
FAMILY = """
import subprocess, sys
held = b"x" * (int(sys.argv[1]) << 20)
child = None
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    child.stdout.readline()
print(child.pid if child else 0, flush=True)
sys.stdin.read()
"""


@contextmanager
def family(mib: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A running parent and the pid of its child, each holding `mib`."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(mib), FAMILY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield parent, child
        finally:
            parent.kill()


def end(process: psutil.Process) -> None:
    """Kill and wait until it is gone; a zombie (nobody reaps it) counts as gone."""
    process.kill()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        psutil.wait_procs([process], timeout=0.05)


def test_a_tree_holds_the_descendants_and_their_memory() -> None:
    with family(64) as (parent, child):
        assert [process.pid for process in processes.tree(parent.pid)] == [parent.pid, child]
        alone = processes.tree_rss_mib(child)
        both = processes.tree_rss_mib(parent.pid)
        assert alone is not None and both is not None
        assert alone > 64
        assert both > alone + 64


def test_a_tree_that_is_gone_has_no_memory() -> None:
    with family(1) as (parent, _):
        tree = processes.ProcessTree(parent.pid, refresh_s=0)
        psutil.Process(parent.pid).children()[0].kill()
        parent.kill()
        # Not waited for: a zombie of ours.
        while psutil.Process(parent.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert processes.tree(parent.pid) == []
        assert processes.tree_rss_mib(parent.pid) is None
        assert tree.rss_mib() is None and tree.pids() == frozenset()
        parent.wait()
        assert processes.tree(parent.pid) == []
        assert processes.ProcessTree(parent.pid).rss_mib() is None


def test_members_that_outlive_the_root_stay_in_the_tree() -> None:
    with family(16) as (parent, child):
        tree = processes.ProcessTree(parent.pid, refresh_s=0)
        assert tree.pids() == {parent.pid, child}
        orphan = psutil.Process(child)
        os.kill(child, 19)  # SIGSTOP: its input ends with the parent's, and it shall not end by that yet
        end(psutil.Process(parent.pid))
        assert tree.pids() == {child}
        left = tree.rss_mib()
        assert left is not None and left > 16
        end(orphan)
        assert tree.rss_mib() is None


def test_a_member_that_vanishes_between_two_looks_adds_nothing() -> None:
    with family(32) as (parent, child):
        tree = processes.ProcessTree(parent.pid, refresh_s=3600)
        before = tree.rss_mib()
        end(psutil.Process(child))
        after = tree.rss_mib()
        assert tree.pids() == {parent.pid, child}
        assert before is not None and after is not None
        assert after < before - 32


def cgroup(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_without_a_limit_the_host_says_what_is_available(tmp_path: Path) -> None:
    assert host.memory(tmp_path).limited_by == "host"
    unlimited = cgroup(tmp_path, memory_dot_max="max\n", memory_dot_current="5\n")
    found = host.memory(unlimited)
    assert found.limited_by == "host"
    assert found.total_mib == psutil.virtual_memory().total / MIB
    assert 0 < found.available_mib < found.total_mib


@pytest.mark.parametrize(
    "files",
    [
        {
            "memory_dot_max": f"{100 * MIB}\n",
            "memory_dot_current": f"{70 * MIB}\n",
            "memory_dot_stat": f"anon 1\ninactive_file {20 * MIB}\n",
        },
        {
            "memory__memory.limit_in_bytes": f"{100 * MIB}\n",
            "memory__memory.usage_in_bytes": f"{70 * MIB}\n",
            "memory__memory.stat": f"inactive_file 1\ntotal_inactive_file {20 * MIB}\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_a_cgroup_limit_is_kept_and_its_page_cache_counts_as_free(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert host.memory(cgroup(tmp_path, **files)) == host.HostMemory(50, 100, "cgroup")


def test_a_cgroup_without_statistics_counts_no_page_cache(tmp_path: Path) -> None:
    folder = cgroup(tmp_path, memory_dot_max=f"{100 * MIB}", memory_dot_current=f"{120 * MIB}")
    assert host.memory(folder).available_mib == 0
