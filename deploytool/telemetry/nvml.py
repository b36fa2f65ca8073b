"""The one door to NVML: what cards are here, how full they are, and who holds their memory.

"Unsupported" is neither zero nor an exception in the middle of sampling: every question gives an `Answer`, a
value or the reason why there is none. One session is kept open for the life of the process.

NVML counts cards as nvidia-smi does, by PCI bus, and ignores CUDA_VISIBLE_DEVICES; CUDA counts the fastest
card first unless CUDA_DEVICE_ORDER=PCI_BUS_ID. Process ids are those of the host, also when asked from a
container. Functions and error codes: NVML API reference, "Device Queries" and "nvmlReturn_t".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from deploytool.telemetry import nvml_errors
from deploytool.telemetry.cards import Answer, Detected, Gpu, GpuProcess, Memory, Unavailable

__all__ = ["Answer", "Detected", "Gpu", "GpuProcess", "Memory", "Session", "Unavailable", "connect", "detect"]

T = TypeVar("T")
MIB = 1024 * 1024


class Session:
    """NVML, initialised. No question raises for what a card or driver cannot tell."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        self._handles: dict[int, Any] = {}

    def count(self) -> Answer[int]:
        return self._ask(self._nvml.nvmlDeviceGetCount)

    def driver_version(self) -> Answer[str]:
        return self._ask(self._nvml.nvmlSystemGetDriverVersion)

    def cuda_version(self) -> Answer[str]:
        """The newest CUDA that the driver runs, as "12.8"; libraries built for a later major do not start."""
        found: Answer[int] = self._ask(self._nvml.nvmlSystemGetCudaDriverVersion)
        if found.value is None:
            return Answer(None, found.reason)
        return Answer(f"{found.value // 1000}.{found.value % 1000 // 10}")

    def name(self, index: int) -> Answer[str]:
        return self._of_card(index, self._nvml.nvmlDeviceGetName)

    def uuid(self, index: int) -> Answer[str]:
        return self._of_card(index, self._nvml.nvmlDeviceGetUUID)

    def compute_capability(self, index: int) -> Answer[str]:
        found: Answer[tuple[int, int]] = self._of_card(index, self._nvml.nvmlDeviceGetCudaComputeCapability)
        return Answer(f"{found.value[0]}.{found.value[1]}") if found.value else Answer(None, found.reason)

    def utilisation_percent(self, index: int) -> Answer[float]:
        """Share of time with a kernel running, which the driver averages over 1/6 to 1 s."""
        rates: Answer[Any] = self._of_card(index, self._nvml.nvmlDeviceGetUtilizationRates)
        return Answer(None if rates.value is None else float(rates.value.gpu), rates.reason)

    def power_w(self, index: int) -> Answer[float]:
        """Draw of the whole card, which newer drivers average over 1 s."""
        milliwatt: Answer[int] = self._of_card(index, self._nvml.nvmlDeviceGetPowerUsage)
        return Answer(None if milliwatt.value is None else milliwatt.value / 1000, milliwatt.reason)

    def mig(self, index: int) -> Answer[bool]:
        """Whether the card is cut into MIG instances; False where it cannot be."""
        mode: Answer[list[int]] = self._of_card(index, self._mig_mode)
        return Answer(None if mode.value is None else bool(mode.value[0]), mode.reason)

    def memory(self, index: int) -> Answer[Memory]:
        """Version 2 where the driver has it, else version 1; the reading says which."""
        found = self._of_card(index, self._memory)
        if found.reason == nvml_errors.UNSUPPORTED:
            return Answer(None, nvml_errors.NO_MEMORY)
        return found

    def process_memory_mib(self, index: int) -> Answer[dict[int, float | None]]:
        """Memory by host pid of the compute processes; None where the driver keeps no such count."""
        return self._of_card(index, lambda handle: self._processes(handle, "Compute"))

    def holders(self, index: int) -> Answer[tuple[GpuProcess, ...]]:
        """Every process with memory on the card, compute and graphics, the largest first, with its name."""
        compute = self.process_memory_mib(index)
        if compute.value is None:
            return Answer(None, compute.reason)
        graphics = self._of_card(index, lambda handle: self._processes(handle, "Graphics"))
        # A process that does both stands in both lists with the same memory.
        found = {**(graphics.value or {}), **compute.value}
        ranked = sorted(found.items(), key=lambda entry: -(entry[1] or 0))
        return Answer(
            tuple(GpuProcess(pid=pid, name=self._process_name(pid), memory_mib=mib) for pid, mib in ranked)
        )

    def gpu(self, index: int) -> Gpu:
        """Everything about one card, now."""
        answers: dict[str, Answer[Any]] = {
            "name": self.name(index),
            "uuid": self.uuid(index),
            "compute_capability": self.compute_capability(index),
            "driver_version": self.driver_version(),
            "mig": self.mig(index),
            "processes": self.holders(index),
        }
        memory = self.memory(index)
        for field in ("total_mib", "used_mib", "free_mib", "reserved_mib", "source"):
            answers[f"memory_{field}"] = Answer(getattr(memory.value, field, None), memory.reason)
        if memory.value and memory.value.reserved_mib is None:
            answers["memory_reserved_mib"] = Answer(None, "the driver is too old to tell it from used memory")
        return Gpu(
            index=index,
            **{field: answer.value for field, answer in answers.items()},
            problems={field: answer.reason for field, answer in answers.items() if answer.reason},
        )

    def _ask(self, question: Callable[..., T], *arguments: Any) -> Answer[T]:
        try:
            return Answer(question(*arguments))
        except self._nvml.NVMLError as error:
            return Answer(None, nvml_errors.reason(error.value))

    def _of_card(self, index: int, question: Callable[[Any], T]) -> Answer[T]:
        handle = self._handles.get(index)
        if handle is None:
            found = self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
            if found.value is None:
                return Answer(None, found.reason)
            handle = self._handles[index] = found.value
        return self._ask(question, handle)

    def _mig_mode(self, handle: Any) -> list[int]:
        nvml = self._nvml
        try:
            mode: list[int] = nvml.nvmlDeviceGetMigMode(handle)
        except nvml.NVMLError as error:
            if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                raise
            return [0, 0]
        return mode

    def _memory(self, handle: Any) -> Memory:
        nvml = self._nvml
        try:
            info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        except nvml.NVMLError as error:
            if error.value not in (
                nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
                nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
            ):
                raise
            info = nvml.nvmlDeviceGetMemoryInfo(handle)
            return Memory(info.total / MIB, info.used / MIB, info.free / MIB, None, "v1")
        used = info.used
        if info.reserved and used + info.free >= info.total:
            # The reference of R525 counts what is reserved as used, later ones do not: the sum tells which.
            used -= info.reserved
        return Memory(info.total / MIB, used / MIB, info.free / MIB, info.reserved / MIB, "v2")

    def _processes(self, handle: Any, kind: str) -> dict[int, float | None]:
        nvml = self._nvml
        try:
            found = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")(handle)
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            found = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_v2")(handle)
        return {
            entry.pid: None if entry.usedGpuMemory is None else entry.usedGpuMemory / MIB for entry in found
        }

    def _process_name(self, pid: int) -> str | None:
        try:
            found = self._ask(self._nvml.nvmlSystemGetProcessName, pid).value
        except UnicodeDecodeError:
            return None
        # Arguments can hold secrets: only the program's own name is kept, and only what can be printed of it.
        name = found.split(" ")[0].rsplit("/", 1)[-1] if found else ""
        return "".join(letter if letter.isprintable() else "?" for letter in name) or None


_lock = threading.Lock()
_session: Session | None = None


def connect() -> Session | Unavailable:
    """The one session of this process, opened on first use. A failure is not remembered: ask again later."""
    global _session  # noqa: PLW0603 - NVML itself is one per process
    with _lock:
        if _session is None:
            try:
                import pynvml
            except ImportError:
                return Unavailable("the package nvidia-ml-py is not installed", "pip install nvidia-ml-py")
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                return Unavailable(*nvml_errors.start_failure(error.value))
            _session = Session(pynvml)
        return _session


def detect() -> Detected:
    """Every card that NVML shows, whatever CUDA_VISIBLE_DEVICES says. Never raises."""
    session = connect()
    if isinstance(session, Unavailable):
        return Detected(reason=session.reason, mend=session.mend)
    count = session.count()
    if count.value is None:
        return Detected(reason=f"NVML cannot count the cards: {count.reason}", mend=nvml_errors.LOOK)
    if count.value == 0:
        return Detected(
            reason="the NVIDIA driver works but shows no card",
            mend="in a container: start it with a card (docker run --gpus all); on a host: see lspci, dmesg",
        )
    return Detected(gpus=tuple(session.gpu(index) for index in range(count.value)))
