"""NVML's error codes in words: why there is no session and what to do, why a card gives no figure.

Codes: NVML API reference, nvmlReturn_t. Errors are told apart by number: instances of nvidia-ml-py's
NVMLError can be neither hashed nor compared with other exceptions.
"""

from __future__ import annotations

from pathlib import Path

LOOK = "look at nvidia-smi and the kernel's log (dmesg | grep -i nvrm)"

# Code -> why NVML could not be started, and what a person does about it.
START: dict[int, tuple[str, str]] = {
    4: (
        "this user may not open the NVIDIA devices",
        "see `ls -l /dev/nvidia*` and join the group that owns them (often video or render)",
    ),
    9: (
        "the NVIDIA driver is installed but its kernel module is not loaded",
        "sudo modprobe nvidia; if that fails see dmesg: after a kernel update the module must be built "
        "again, and Secure Boot refuses an unsigned one",
    ),
    12: (
        "no NVIDIA driver was found (libnvidia-ml.so.1 is not on the library path)",
        "install the NVIDIA driver; in a container start it with the NVIDIA runtime (docker run --gpus all)",
    ),
    13: (
        "the NVIDIA driver is too old for nvidia-ml-py",
        "update the NVIDIA driver",
    ),
    15: (
        "a card is lost: it has fallen off the bus or is otherwise out of reach",
        "see dmesg for Xid messages, check power and seating, reboot",
    ),
    17: (
        "the operating system refused the driver's request",
        "look at dmesg and at the limits of this container or cgroup (devices.list, seccomp)",
    ),
    18: (
        "the driver's library and its kernel module are of different versions: it was updated while in use",
        "reboot, or stop what uses the cards and reload it (rmmod nvidia_uvm nvidia; modprobe nvidia)",
    ),
    20: ("the driver had too little memory to start", "free memory on the host, then try again"),
    999: (
        "the NVIDIA driver reports an unknown error",
        f"{LOOK}; in a container restart it: after a reload of systemd containers lose their cards",
    ),
}

UNSUPPORTED = "this card or driver does not support it"
NO_MEMORY = "NVML has no memory figure for this card (unified memory as on Jetson, or a virtual GPU)"

# Code -> why a running session has no answer.
ANSWER: dict[int, str] = {
    1: "the NVML session was closed",
    2: "NVML does not know this card or question",
    3: UNSUPPORTED,
    4: "no permission to ask the driver for it",
    6: "NVML found nothing of this name",
    9: "the NVIDIA driver was unloaded",
    10: "the driver did not answer in time",
    13: "the driver is too old to tell",
    15: "the card is lost",
    16: "the card needs a reset",
    17: "the operating system refused the request",
    18: "the driver was updated while in use",
    20: "the driver had too little memory",
    999: "the driver reports an unknown error (a container can lose its cards: restart it)",
}

WSL = Path("/usr/lib/wsl/lib")


def start_failure(code: int, wsl: Path = WSL) -> tuple[str, str]:
    """Why NVML could not be started, and the mend."""
    why, mend = START.get(code, (f"NVML cannot be started (NVML error {code})", LOOK))
    if code == 12 and wsl.is_dir():
        mend = f"on WSL2 the driver's library is in {wsl}: add that folder to LD_LIBRARY_PATH"
    return why, mend


def reason(code: int) -> str:
    """Why a question to a running session has no answer."""
    return ANSWER.get(code, f"NVML error {code}")
