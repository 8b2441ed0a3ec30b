"""Turns Ctrl-C and SIGTERM into a request to stop: the run finishes its update, saves a checkpoint and ends."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax

from tljax.distributed import processes
from tljax.distributed.mesh import max_over_processes

# Exit codes of a process that a signal stopped and that has saved: 130 for Ctrl-C, as in the shell; for SIGTERM 0, or
# the code by which launch/interruptible.py recognizes an interruption.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: int(os.environ.get("TLJAX_INTERRUPTED", "0"))}


class StopRequest:
    """Records the first SIGINT or SIGTERM while it is open; a second signal has its usual effect.

    If any process of a run gets a signal, all processes stop after the same update: a scheduler signals all of them,
    but Cloud TPU ("autocheckpoint") signals only the process on the host that goes into maintenance.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: jax.Array | None = None  # the largest signal of any process at the previous update
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals only to the main thread, and lets no other thread set handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def after(self, step: int, *, devices_idle: bool = False, unit: str = "update") -> signal.Signals | None:
        """Returns the signal that stops the run after update `step`, or None. Call it after every update.

        All processes get the same answer, at most two updates after the signal: the exchange between processes is
        read one update late, so that the devices never wait for it. devices_idle: True if no device would wait, so that
        the exchange is read at once. unit: the name of a step in progress reports.
        """
        if not processes.is_multiprocess():
            return self.signal
        processes.report_progress(f"{unit} {step}")
        largest = max_over_processes(self.signal or 0)
        number, self._previous = (largest if devices_idle else self._previous), largest
        return None if number is None or not int(number) else signal.Signals(int(number))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def exit_after_stop(
    number: signal.Signals, step: int, total: int, folder: object, log_message: Callable[[str], None]
) -> None:
    """Logs how to continue the run in `folder` and raises SystemExit with the exit code of the signal."""
    flags = f"--config.out={folder} --config.resume=auto"
    log_message(f"stopped by {number.name} after update {step} of {total}, saved; continue with {flags}")
    raise SystemExit(EXIT_CODES[number])
