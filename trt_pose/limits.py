"""What this process may take of the machine: memory, and a check before much of it is taken; cores."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

from .errors import PoseError

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Returns the memory that this process may take, by the machine, its container and its limit; None if unknown."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10)
    with suppress(OSError, ValueError, StopIteration):
        most = int((_CGROUP / "memory.max").read_text(encoding="ascii"))  # "max" is no number
        taken = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        # The cached content of files counts as taken, and is given up when memory is needed.
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(next(line for line in lines if line.startswith("file ")).split()[1])
        found.append(most - taken + cached)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            found.append(soft - pages * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def usable_cores() -> int:
    """Returns the number of cores that this process may use, by its affinity and the quota of its container."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # "max" is no number
        quota, period = map(int, (_CGROUP / "cpu.max").read_text(encoding="ascii").split())
        cores = min(cores, max(1, quota // period))
    return cores


def check_memory(needed: int, what: str, error: type[PoseError]) -> None:
    """Raises ``error`` when ``what`` takes more memory than there is.

    Args:
        needed: bytes, at least.
        what: the activity and its sizes, as the start of the message.
        error: exception type to raise.
    """
    there = available_bytes()
    if there is not None and needed > there:
        raise error(
            f"{what}: it needs {needed / 1e9:.1f} GB at least, {max(there, 0) / 1e9:.1f} GB are free. Lower it."
        )


def release_memory() -> None:
    """Returns freed memory to the system.

    glibc keeps what small objects lie beside, such as the 200 MB that tracing a network frees. Other C libraries than
    glibc have no such function; nothing happens there.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
