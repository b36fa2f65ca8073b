"""The supervisor: waits for one server, keeps its log, and writes down how it ended. Standard library only.

Started as `python -I -S supervisor.py FOLDER` with its order (JSON) on standard input:
`{"argv", "env", "log", "max_log_bytes", "grace_s", "secrets"}`. It leaves the session of whoever started it,
so that it outlives the tool, starts the server in a process group of its own, and answers on standard output
once the server's identity is on disk. In FOLDER it writes, each atomically,

- `server.json`: pids and start ticks of server and supervisor, before the server's program is executed;
- `exit.json`: the server's exit status, the end time and whether the kernel ran out of memory meanwhile.

Where `stop-asked` lies in FOLDER by then, the program is not executed: a stop came first.

A killed supervisor takes the server with it (PR_SET_PDEATHSIG). SIGTERM to the supervisor ends the server:
SIGTERM, `grace_s` seconds, SIGKILL. Whatever the server leaves behind is adopted (PR_SET_CHILD_SUBREAPER)
and ended too. This file imports nothing of deploytool: it must stay small in memory and start where nothing
else can.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LEFTOVER_GRACE_S = 3.0
STOP_MARK = "stop-asked"
CHUNK = 1 << 16
LONGEST_LINE = 1 << 20


def write_json(path: str, document: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all."""
    partial = path + ".part"
    with open(partial, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs this process memory
        json.dump(document, file)
    os.replace(partial, path)  # noqa: PTH105


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state, ppid, ...); empty where the process is gone."""
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def who(pid: int) -> dict[str, Any]:
    return {"pid": pid, "start_ticks": int(stat_fields(pid)[19])}


def prctl(option: int, value: int) -> None:
    words = [ctypes.c_ulong(word) for word in (value, 0, 0, 0)]
    ctypes.CDLL(None).prctl(ctypes.c_int(option), *words)


def oom_kills() -> dict[str, int]:
    """Counters of the kernel's out-of-memory kills: of this process's memory cgroup, and of the machine."""
    sources = {"the machine": "/proc/vmstat"}
    for line in read_text("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            sources["its cgroup"] = f"/sys/fs/cgroup{path}/memory.events"
        elif "memory" in controllers.split(","):
            sources["its cgroup"] = f"/sys/fs/cgroup/memory{path}/memory.oom_control"
    counts = {}
    for source, file in sources.items():
        for line in read_text(file).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                counts[source] = int(value)
    return counts


class Log:
    """The server's output: bounded by rotation to two files, free of secrets, never a reason to block."""

    def __init__(self, path: str, max_bytes: int, secrets: list[str]) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.secrets = [secret.encode() for secret in secrets if secret]
        self.held = b""
        self.lost = 0
        self.file = -1
        self.size = 0

    def open(self) -> None:
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.file).st_size

    def write(self, data: bytes) -> None:
        data = self.held + data
        for secret in self.secrets:
            data = data.replace(secret, b"***")
        keep = self.partial_secret(data)
        self.held = data[len(data) - keep :]
        self.append(data[: len(data) - keep])

    def partial_secret(self, data: bytes) -> int:
        """Length of the longest end of `data` that may be the beginning of a secret."""
        longest = 0
        for secret in self.secrets:
            for length in range(min(len(secret) - 1, len(data)), longest, -1):
                if data.endswith(secret[:length]):
                    longest = length
                    break
        return longest

    def append(self, data: bytes) -> None:
        try:
            if self.file < 0:
                self.open()
            if self.lost:
                data = b"\n[deploytool: %d bytes of output were lost here]\n" % self.lost + data
            if self.size + len(data) > self.max_bytes:
                data = self.rotate(data)
            self.put(data)
        except OSError:
            # A full disk must not stop a server that answers.
            self.lost += len(data)

    def rotate(self, data: bytes) -> bytes:
        """Begin a new file between two lines; returns what belongs into it. A line without end is cut."""
        end_of_line = data.rfind(b"\n") + 1
        if end_of_line == 0 and self.size < self.max_bytes + LONGEST_LINE:
            return data
        self.put(data[:end_of_line])
        os.close(self.file)
        self.file = -1
        os.replace(self.path, self.path + ".1")  # noqa: PTH105
        self.open()
        return data[end_of_line:]

    def put(self, data: bytes) -> None:
        while data:
            written = os.write(self.file, data)
            self.size += written
            self.lost = 0
            data = data[written:]

    def close(self) -> None:
        held, self.held = self.held, b""
        self.append(held)
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def execute(
    order: dict[str, Any], folder: str, gate: int, output: int, failure: int, parent: int
) -> NoReturn:
    """In the forked child: wait until the identity is on disk, then become the server."""
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent or os.read(gate, 1) != b"g":
            os._exit(127)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.chdir(folder)
        os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - argv list, no shell
    except OSError as error:
        os.write(failure, f"{order['argv'][0]}: {error.strerror}".encode())
    finally:
        os._exit(127)


class Supervisor:
    """One server from fork to the last of its leftovers."""

    def __init__(self, folder: str, order: dict[str, Any]) -> None:
        self.folder = folder
        self.order = order
        self.log = Log(order["log"], order["max_log_bytes"], order["secrets"])
        self.oom_before = oom_kills()
        self.pid = 0
        self.running = False
        self.stopping = False
        self.kill_at: float | None = None
        self.wake, wake_write = os.pipe()
        self.output, self.output_write = os.pipe()
        for end in (self.wake, wake_write, self.output):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.on_stop)
        signal.signal(signal.SIGINT, self.on_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def on_stop(self, *_: object) -> None:
        self.stopping = True

    def start(self) -> str:
        """Fork the server, write its identity, let it go; returns why its program did not start, or ''."""
        gate, gate_write = os.pipe()
        failure, failure_write = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(gate_write)
            execute(self.order, self.folder, gate, self.output_write, failure_write, parent)
        self.running = True
        for end in (gate, failure_write, self.output_write):
            os.close(end)
        boot = read_text("/proc/sys/kernel/random/boot_id").strip() or None
        identity = {"server": who(self.pid), "supervisor": who(parent), "boot_id": boot}
        write_json(f"{self.folder}/server.json", identity)
        # Whoever stops writes its mark first and then reads server.json: one of the two is always seen.
        if os.path.exists(f"{self.folder}/{STOP_MARK}"):  # noqa: PTH110
            os.close(gate_write)
            os.close(failure)
            return "a stop was asked for before it was executed"
        os.write(gate_write, b"g")
        os.close(gate_write)
        reason = os.read(failure, CHUNK).decode(errors="replace")
        os.close(failure)
        return reason

    def run(self, reason: str) -> None:
        """Until the server and everything it left behind are gone."""
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        poll.register(self.output, select.POLLIN)
        while True:
            self.end_by_now()
            if not self.running and not self.end_leftovers():
                break
            busy = self.stopping or not self.running
            for end, _ in poll.poll(100 if busy else None):
                if end == self.wake:
                    self.drain(self.wake)
                elif not self.copy():
                    poll.unregister(self.output)
            self.reap(reason)
        while self.copy(waiting=False):
            pass
        self.log.close()

    def copy(self, *, waiting: bool = True) -> bool:
        """Move one chunk of output to the log. False at its end, or where nothing waits."""
        try:
            data = os.read(self.output, CHUNK)
        except BlockingIOError:
            return waiting
        self.log.write(data)
        return bool(data)

    def drain(self, end: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(end, CHUNK):
                pass

    def reap(self, reason: str) -> None:
        """Collect every child that ended; the server's end is written down at once."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.running = False
                self.kill_at = None
                self.ended(os.waitstatus_to_exitcode(status), reason, usage.ru_maxrss / 1024)

    def ended(self, status: int, reason: str, peak_rss_mib: float) -> None:
        before = self.oom_before
        kills = {source: count - before.get(source, count) for source, count in oom_kills().items()}
        document = {
            "status": status,
            "error": reason or None,
            "ended_at": time.time(),
            "asked": self.stopping,
            "oom_kills": kills,
            "peak_rss_mib": round(peak_rss_mib, 1),
        }
        try:
            write_json(f"{self.folder}/exit.json", document)
        except OSError as error:
            self.log.write(f"\n[deploytool: server ended with {status}; {error}]\n".encode())

    def end_by_now(self) -> None:
        """SIGTERM once when asked to stop, SIGKILL when the grace is over."""
        if not self.running or not self.stopping:
            return
        if self.kill_at is None:
            self.kill_at = time.monotonic() + float(self.order["grace_s"])
            os.kill(self.pid, signal.SIGTERM)
        elif time.monotonic() >= self.kill_at:
            os.kill(self.pid, signal.SIGKILL)

    def end_leftovers(self) -> bool:
        """End what the server left behind; False when nothing is left."""
        me = str(os.getpid())
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
        children = [pid for pid in pids if stat_fields(pid)[1:2] == [me]]
        if not children:
            return False
        if self.kill_at is None:
            self.kill_at = time.monotonic() + LEFTOVER_GRACE_S
            number = signal.SIGTERM
        elif time.monotonic() >= self.kill_at:
            number = signal.SIGKILL
        else:
            return True
        for pid in children:
            os.kill(pid, number)
        return True


def answer(text: str) -> None:
    """Tell whoever waits, which may be gone; from here on complaints go to a file of our own."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode())
    complaints = os.open("supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(complaints, 1)
    os.dup2(complaints, 2)
    os.close(complaints)


def main() -> None:
    folder = sys.argv[1]
    order = json.load(sys.stdin)
    if os.fork():
        os._exit(0)
    os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.chdir(folder)
    try:
        supervisor = Supervisor(folder, order)
        reason = supervisor.start()
    except OSError as error:
        answer(f"the supervisor could not start the server: {error}")
        sys.exit(1)
    answer("ok")
    supervisor.run(reason)


if __name__ == "__main__":
    main()
