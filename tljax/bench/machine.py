"""The machine: the memory of a process, the processors' name, their other load, and the versions of libraries."""

import contextlib
import os
import platform
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("jax", "jaxlib", "numpy", "torch", "transformers", "trl")
TICKS = 100.0  # per second in /proc/stat, the same on every Linux


def peak_host_bytes() -> int:
    """Returns the largest resident memory of this process, since its start or since `reset_peak`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def reset_peak() -> None:
    """Lets `peak_host_bytes` count from now on, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def processor_name() -> str:
    """Returns the name of the processor, and the number of those that this process may use."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{len(usable_processors())} x {name}"


def usable_processors() -> set[int]:
    """Returns the numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def library_versions() -> dict[str, str]:
    """Returns the versions of Python, tljax and the libraries that this process has loaded."""
    versions = {"python": platform.python_version()}
    for name in ("tljax", *(name for name in LIBRARIES if name in sys.modules)):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


class OtherLoad:
    """Measures how many of the processors other processes keep busy, from its creation on."""

    def __init__(self):
        self._begin = time.monotonic(), _busy_seconds(), _own_seconds()

    def processors(self) -> float | None:
        """Returns the mean number of busy processors that neither this process nor its ended children used.

        None where the system does not tell. Steal, the time that a virtual machine waits for its host, counts as busy.
        """
        begin, busy, own = self._begin
        busy_now = _busy_seconds()
        if busy is None or busy_now is None:
            return None
        seconds = max(time.monotonic() - begin, 1e-9)
        return max(0.0, (busy_now - busy - (_own_seconds() - own)) / seconds)


def _busy_seconds() -> float | None:
    """Returns the seconds that the usable processors have been busy since the machine started."""
    names = {f"cpu{number}" for number in usable_processors()}
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    total = 0.0
    for name, *fields in (line.split() for line in lines if line.startswith("cpu")):
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            total += (user + nice + system + irq + softirq + steal) / TICKS
    return total


def _own_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
