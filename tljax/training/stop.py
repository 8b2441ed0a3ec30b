"""Ctrl-C and SIGTERM as a request: the run finishes its update, saves and ends, instead of losing what it has done."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax

from tljax.distributed import processes
from tljax.distributed.mesh import max_over_processes

# What a process returns that was stopped and has saved: the shell's code for Ctrl-C; for SIGTERM, as it was asked, 0,
# or what launch/interruptible.py wants to know it by.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: int(os.environ.get("TLJAX_INTERRUPTED", "0"))}


class StopRequest:
    """While open, holds the first signal that asked the process to stop; a second one takes its usual course.

    Of a run of several processes any may be asked, and all stop after one update: a scheduler signals all of them,
    Cloud TPU before maintenance (its "autocheckpoint") the process on the host that goes.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._told: jax.Array | None = None  # the largest signal that any process had at the update before
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals to the main thread alone, and lets no other set handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def after(self, step: int, *, devices_idle: bool = False, unit: str = "update") -> signal.Signals | None:
        """The signal by which the run stops after update `step`, if any; to be asked after every update.

        Of several processes all stop after the same one, the next but one at most: what they tell each other is read
        an update late, so that it never holds up the devices. waits: the devices have nothing to do, and it is read
        at once. what: there is one of where there are no updates.
        """
        if not processes.is_multiprocess():
            return self.signal
        processes.report_progress(f"{unit} {step}")
        told = max_over_processes(self.signal or 0)
        before, self._told = (told if devices_idle else self._told), told
        return None if before is None or not int(before) else signal.Signals(int(before))

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
    """Says how to go on with the run in `folder` and raises SystemExit with the signal's code."""
    flags = f"--config.out={folder} --config.resume=auto"
    log_message(f"stopped by {number.name} after update {step} of {total}, saved; continue with {flags}")
    raise SystemExit(EXIT_CODES[number])
