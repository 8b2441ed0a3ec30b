"""The ways in which a process of a run ends, and its exit codes."""

import atexit
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from tljax.core.errors import INTERRUPTED

FAILED = 1
BAD_INPUT = 2  # the code that core/errors.py gives an InputError
LOST = INTERRUPTED  # another process is gone, start all again
STUCK = 134  # the code of an abort: schedulers try it again a few times, as a host or its network may be the cause

_exiting = threading.Lock()
_abort_handlers: list[Any] = []  # C does not keep its handlers alive


def exit_now(code: int, message: str) -> None:
    """Prints a message and ends this process at once.

    JAX's orderly end would wait for the other processes, in collectives that never finish.
    """
    if not _exiting.acquire(blocking=False):
        threading.Event().wait()  # another thread prints its message, and ends this one too
    try:
        sys.stdout.flush()
        os.write(2, f"{message}\n".encode())
    finally:
        os._exit(code)


def exit_in_order(code: int) -> None:
    """Runs the functions that were registered to run at the exit, then ends this process.

    The interpreter itself is not finalized. A thread that returns from C++ into an interpreter that is being finalized,
    such as the watchdog from a request to the coordinator, is ended by Python (before 3.14) in a way that C++ answers
    with an abort.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def explain_jax_abort(explain: Callable[[], tuple[int, str] | None]) -> Callable[[], Any]:
    """Replaces an abort of this process by JAX with the exit code and message that `explain()` returns.

    explain: returns None to let the abort happen. Returns a function that removes the handler. It must be called before
    the interpreter is finalized, or else the process would abort again and again.
    """
    # JAX aborts a process from a thread of C++ when it loses the coordinator, or does not reach it at the start: exit
    # code 134 and a stack trace that names nobody. Nothing public changed that when it was tried: with JAX 0.10.2 and
    # 0.12.0 jax_enable_recoverability (both aborts remain) and heartbeat_timeout_seconds (a closed connection aborts at
    # once, long before it), and with 0.10.2 signal.signal (its handler waits for the main thread and never ran).

    def handle(_: int) -> None:
        explanation = explain()
        if explanation is not None:
            exit_now(*explanation)

    _abort_handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handle))
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    previous = set_handler(int(signal.SIGABRT), ctypes.cast(_abort_handlers[-1], ctypes.c_void_p))
    return lambda: set_handler(int(signal.SIGABRT), previous)
