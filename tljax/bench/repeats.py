"""Repeats: the seconds of something that is repeated, and the peak of the host's memory meanwhile."""

import time
from collections.abc import Callable
from typing import Any

from tljax.bench import machine
from tljax.bench.measurement import Measurement


class Repeats:
    """Collects a value for each pair of begin() and end(); the first `warmup` of them are not counted."""

    def __init__(self, warmup: int):
        self._warmup = warmup
        self._begin = 0.0
        self._seconds: list[float] = []
        self._peaks: list[float] = []

    def begin(self) -> None:
        machine.reset_peak()
        self._begin = time.perf_counter()

    def end(self) -> None:
        self._seconds.append(time.perf_counter() - self._begin)
        self._peaks.append(machine.peak_host_bytes())

    @property
    def seconds(self) -> list[float]:
        """The counted seconds, one for each repeat."""
        return self._seconds[self._warmup :]

    def measurements(self, name: str) -> dict[str, Measurement]:
        """Returns the seconds and the peaks as quantities of the report."""
        return {
            f"{name}, seconds": Measurement("s", self.seconds),
            f"{name}, peak host memory": Measurement("bytes", self._peaks[self._warmup :]),
        }


def repeat(function: Callable[[], Any], warmup: int, count: int) -> list[float]:
    """Calls a function warmup + count times, and returns the seconds of the last `count` calls."""
    repeats = Repeats(warmup)
    for _ in range(warmup + count):
        repeats.begin()
        function()
        repeats.end()
    return repeats.seconds
