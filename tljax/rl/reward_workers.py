"""A user's reward function in processes of its own, so that one that hangs or dies takes nothing along."""

import atexit
import contextlib
import inspect
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from tljax.calls.compare import KINDS
from tljax.core.errors import InputError
from tljax.core.user_function import describe_exception, load_function
from tljax.rl.irm import Reward

FIELD = "config.reward.rule"
ALLOWED = "fn(prediction: str, golden: str, tools: list[dict]) -> float | Reward"
STARTUP = 300.0  # seconds that importing the user's module may take
LARGEST = 3.4e38  # of float32
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Arguments = tuple[str, str, list[dict[str, Any]]]  # prediction, golden call, tools
Answer = tuple[float, str, str]  # value, kind, detail; kind "" where the function gave a bare number


class Workers:
    """`count` processes that have imported the function at `path`; each makes one call at a time.

    Raises InputError where the module cannot be imported or the function does not take three arguments.
    """

    def __init__(self, path: str, count: int, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._processes: dict[Connection, BaseProcess] = {}
        self._close = weakref.finalize(self, _kill, self._processes)
        # Registered after multiprocessing's own, which waits for every process, this runs before it.
        atexit.register(self._close)
        try:
            for _ in range(count):
                self._start()
            for connection in self._processes:
                self._greet(connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes at once, whatever they do."""
        self._close()
        atexit.unregister(self._close)

    def call(self, calls: Sequence[Arguments], where: Callable[[int], str]) -> list[Answer]:
        """The answers in the order of `calls`; where(i) names call i in an error.

        Raises InputError, and ends all processes, when a call raises, takes longer than the limit, ends its process or
        gives what is no reward.
        """
        if not self._processes:
            raise RuntimeError("the processes of the reward function have been closed")
        answers: list[Answer | None] = [None] * len(calls)
        running: dict[Connection, tuple[int, float]] = {}
        idle, following = list(self._processes), 0
        try:
            while running or following < len(calls):
                while idle and following < len(calls):
                    connection = idle.pop()
                    running[connection] = following, time.monotonic() + self._timeout
                    with contextlib.suppress(OSError):  # a process that has ended is noticed below
                        connection.send(calls[following])
                    following += 1
                soonest = min(deadline for _, deadline in running.values())
                wait(list(running), max(0.0, soonest - time.monotonic()))
                for connection, (i, deadline) in list(running.items()):
                    if connection.poll():
                        answers[i] = self._answer(connection, lambda i=i: where(i))
                        del running[connection]
                        idle.append(connection)
                    elif time.monotonic() > deadline:
                        raise InputError(
                            f"{where(i)}: {FIELD} {self._path} took more than {self._timeout:g} seconds; mend it, or "
                            "raise config.reward.timeout"
                        )
        except BaseException:
            self.close()
            raise
        return [answer for answer in answers if answer is not None]

    def _start(self) -> None:
        """Starts a process; JAX has threads, and a forked copy of a process with threads may deadlock."""
        # It unblocks signals when it starts, so it has to run before the mask is set.
        resource_tracker.ensure_running()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._path), name="reward", daemon=False)
        # The new process inherits the mask: Ctrl-C before it can ignore signals would print a trace.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._processes[ours] = process

    def _greet(self, connection: Connection) -> None:
        if not connection.poll(STARTUP):
            raise InputError(f"{FIELD}: {self._path}: importing its module took more than {STARTUP:g} seconds; mend it")
        try:
            error = connection.recv()
        except EOFError:
            module = self._path.partition(":")[0]
            raise InputError(
                f"{FIELD}: {self._path}: a process that imports {module} {self._end(connection)}; does "
                f'python -c "import {module}" work, and is the script you start guarded by if __name__ == "__main__"?'
            ) from None
        if error is not None:
            raise InputError(error)

    def _answer(self, connection: Connection, where: Callable[[], str]) -> Answer:
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            answer = f"ended its process, which {self._end(connection)}"
        if isinstance(answer, str):
            raise InputError(f"{where()}: {FIELD} {self._path} {answer}; mend it, or choose another rule")
        return answer

    def _end(self, connection: Connection) -> str:
        process = self._processes[connection]
        process.join(5)
        code = process.exitcode
        return f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def _kill(processes: dict[Connection, BaseProcess]) -> None:
    for process in processes.values():
        process.kill()
    for connection, process in processes.items():
        process.join()
        connection.close()
    processes.clear()


def _serve(connection: Connection, path: str) -> None:
    """What a process does: import the function, then answer calls until the other end is gone."""
    # Ctrl-C, or a scheduler's SIGTERM, is for the run: it still needs its rewards to finish an update.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Imports inside the function find what lies beside it too.
    sys.path.insert(0, os.getcwd())
    try:
        function = load_function(path, FIELD, ALLOWED)
        _check_signature(function, path)
    except InputError as error:
        connection.send(str(error))
        return
    connection.send(None)
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = read_answer(function(*arguments))
        except BaseException as error:  # the user's code may raise anything, SystemExit too
            answer = f"raised {describe_exception(error)}"
        with contextlib.suppress(OSError):  # the run is gone, which the next turn notices
            connection.send(answer)


def _end_with_parent() -> None:
    """A run that was killed outright must not leave a function behind that hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _check_signature(function: Callable[..., Any], path: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise InputError(f"{FIELD}: {path} is async; allowed: {ALLOWED}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, some have none
        return
    try:
        signature.bind("", "", [])
    except TypeError as error:
        raise InputError(f"{FIELD}: {path}{signature} does not fit ({error}); allowed: {ALLOWED}") from None


def read_answer(result: Any) -> Answer | str:
    """What a user's function returned as an answer, or what is wrong with it as text."""
    kind = detail = ""
    value = result
    if isinstance(result, Reward):
        value, kind, detail = result.value, result.kind, result.detail
        if kind and kind not in KINDS:
            return f'returned the kind {kind!r:.60}; allowed: {", ".join(KINDS)}, or "" for the table\'s'
        if not isinstance(detail, str):
            return f"returned a detail of type {type(detail).__name__}; allowed: text"
    number = None
    if not isinstance(value, str | bytes | bytearray):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if number is None:
        return f"returned {_shown(value)}, of type {type(value).__name__}; allowed: a finite number, or a Reward"
    if not math.isfinite(number) or abs(number) > LARGEST:
        return f"returned {number}; allowed: a finite number, or a Reward"
    return number, kind, " ".join(detail.split())


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:60]
