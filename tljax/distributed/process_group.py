"""The processes of a run: heartbeats and values that they exchange, and the search for one that is dead or stuck."""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

BEAT = 2.0  # seconds between two heartbeats
SILENCE = 40.0  # seconds without one after which a process counts as dead; JAX would abort all after 100
DAY = 86_400_000  # milliseconds: JAX's own limits of waiting; ours are SILENCE and processes.timeout
QUIET = 4  # times `timeout` without one place passed by any process after which all are stuck
FAILED = 1
STUCK = 134  # as of an abort: schedulers start it again a few times, as the cause may lie in a host or its network
LOST = 75  # EX_TEMPFAIL of sysexits.h, as launch/interruptible.py's: another process is gone, start all again

_leaving = threading.Lock()
_kept: list[Any] = []  # handlers of `explain_jax_abort`: C does not keep them alive


class ProcessGroup:
    """The processes of a run. A thread publishes heartbeats, and ends this process when another one fails."""

    def __init__(self, client: Any, me: int, count: int, coordinator: str, timeout: float):
        self.client, self.me, self.count, self.timeout = client, me, count, timeout
        self.coordinator = coordinator
        self.ending = False  # this process has an error of its own to tell, or has finished
        self._own: tuple[int, str] | None = None  # what it told of that error
        self._beat = 0
        self._turn = 0  # of the exchanges, which all processes make in the same order
        self._passed, self._place = 0, "its start"
        self._names = {k: f"process {k}" for k in range(count)}
        self._seen: dict[int, tuple[Any, float]] = {}  # process -> (last sign of life, when it came)
        self._behind: dict[int, tuple[int, float]] = {}  # process -> (places passed, since when another is ahead)
        self._moved = (-1, 0.0)  # places that all have passed together, since when
        self.heartbeat()
        threading.Thread(target=self._watch, daemon=True).start()

    def heartbeat(self) -> dict[int, list[Any]]:
        """Publishes this process's heartbeat, and returns those of all processes.

        A heartbeat is [its number, places passed, the last of them, host and pid].
        """
        self._beat += 1
        own = [self._beat, self._passed, self._place, f"{socket.gethostname()}, pid {os.getpid()}"]
        self.publish(f"alive/{self.me}", json.dumps(own))
        alive = {k: json.loads(value) for k, value in self.collect("alive").items()}
        self._names |= {k: f"process {k} ({where})" for k, (*_, where) in alive.items()}
        return alive

    def describe(self, k: int) -> str:
        """Returns "process K (HOST, pid PID)", or "process K" before its first heartbeat."""
        return self._names[k]

    def report_progress(self, place: str) -> None:
        """Notes that this process reached a place that all processes pass; the others see by it which one is stuck."""
        self._passed, self._place = self._passed + 1, place

    def explain_abort(self) -> tuple[int, str] | None:
        """Exit code and line for an abort: this process's own error, or that the coordinator no longer answers."""
        if self._own is not None:
            return self._own  # told already: process 0 was the quicker to leave, and took the coordinator along
        host, _, port = self.coordinator.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            return LOST, f"error: {lost_process_message(self.describe(0))}"
        return None

    def publish(self, key: str, value: str) -> None:
        """Writes a value to the coordinator's store, where every process can read it."""
        self.client.key_value_set(f"tljax/{key}", value, allow_overwrite=True)

    def collect(self, folder: str) -> dict[int, str]:
        """Returns what each process has published under FOLDER/PROCESS, by the number of the process."""
        found = self.client.key_value_dir_get(f"tljax/{folder}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}

    def next_exchange(self) -> int:
        """Returns the number of the next exchange, which is the same on all processes."""
        self._turn += 1
        return self._turn

    def barrier(self, place: str) -> None:
        """Returns when every process has called it."""
        self.report_progress(place)
        key = f"tljax/meet/{self.next_exchange()}"
        call_in_thread(lambda: self.client.wait_at_barrier(key, DAY))

    def publish_failure(self, code: int, line: str) -> None:
        """Tells the others why this process ends, and waits until they know: the store ends with process 0."""
        self.ending, self._own = True, (code, line)
        with contextlib.suppress(Exception):
            self.publish(f"ended/{self.me}", json.dumps([code, line]))
            until = time.monotonic() + SILENCE
            while len(self.collect("ended")) < self.count and time.monotonic() < until:
                time.sleep(BEAT / 10)
            if self.me == 0:
                time.sleep(BEAT)  # the others leave first: JAX aborts them where the store goes

    def _watch(self) -> None:
        while True:
            # Requests to a coordinator that is frozen, or cut off without a word, never come back.
            patience = threading.Timer(SILENCE, exit_now, (LOST, f"error: {lost_process_message(self.describe(0))}"))
            patience.daemon = True
            patience.start()
            try:
                alive = self.heartbeat()
                ended = {k: json.loads(value) for k, value in self.collect("ended").items()}
            except Exception as error:
                if not self.ending:
                    exit_now(
                        LOST, f"error: {lost_process_message(self.describe(0))} ({str(error).splitlines()[0][:120]})"
                    )
                return
            finally:
                patience.cancel()
            if self.ending:
                return
            found = self._find_failure(alive, ended, time.monotonic())
            if found is not None:
                with contextlib.suppress(Exception):
                    self.publish(f"ended/{self.me}", "null")
                    if self.me == 0:
                        time.sleep(2 * BEAT)  # the others read the same in its store
                exit_now(*found)
            time.sleep(BEAT)

    def _find_failure(self, alive: dict[int, list[Any]], ended: dict[int, Any], now: float) -> tuple[int, str] | None:
        """Exit code and line for the end of this process where another has failed, is silent or is stuck."""
        first = max((passed for _, passed, *_ in alive.values()), default=0)
        for k, (beat, passed, *_) in alive.items():
            if self._seen.get(k, (None,))[0] != beat:
                self._seen[k] = beat, now
            if passed == first or self._behind.get(k, (None,))[0] != passed:
                self._behind[k] = passed, now
        for k, told in ended.items():
            if told is not None and k != self.me:
                return told[0], f"{self.describe(k)} ended the run: {told[1]}"
        for k in alive:
            if k != self.me and now - self._seen[k][1] > SILENCE:
                return LOST, f"error: {lost_process_message(self.describe(k))}"
        moved = sum(passed for _, passed, *_ in alive.values())
        if moved != self._moved[0]:
            self._moved = moved, now
        if now - self._moved[1] > QUIET * self.timeout:
            return STUCK, (
                f"error: no process has gone on for {QUIET * self.timeout:g} seconds after {alive[self.me][2]}: they "
                "wait for each other's devices, or all for a disk or store; start all again with --config.resume=auto, "
                "or raise config.processes.timeout"
            )
        for k, (_, passed, place, _) in alive.items():
            if passed < first and now - self._behind[k][1] > self.timeout:
                return STUCK, (
                    f"error: {self.describe(k)} has not gone on for {self.timeout:g} seconds after {place}, and the "
                    "others wait for it; look at what it does there, or raise config.processes.timeout"
                )
        return None


def call_in_thread(call: Callable[[], T]) -> T:
    """`call()`, made by another thread: while C++ waits in the main one, Python hears no signal, Ctrl-C among them."""
    found: Future[T] = Future()

    def make() -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    return found.result()


def lost_process_message(name: str) -> str:
    return (
        f"{name} is gone or cannot be reached: it was killed or frozen, its host stopped, or the network broke; start "
        "all processes again with --config.resume=auto"
    )


def explain_jax_abort(why: Callable[[], tuple[int, str] | None]) -> Callable[[], Any]:
    """Lets an abort of this process, as JAX forces it where the coordinator is lost, end in the code and line `why()`.

    It comes from a thread of C++, at once; a handler of Python's own signal module would never get to run. Returns what
    takes it back, which must be done before the interpreter is taken down: without one, it would abort again, for ever.
    """

    def explain(_: int) -> None:
        told = why()
        if told is not None:
            exit_now(*told)

    _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(explain))
    handle = ctypes.CDLL(None).signal
    handle.argtypes, handle.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    before = handle(int(signal.SIGABRT), ctypes.cast(_kept[-1], ctypes.c_void_p))
    return lambda: handle(int(signal.SIGABRT), before)


def wait_for_watchdog() -> None:
    """As long as a watch may take to find a dead process, and to end this one for it."""
    time.sleep(SILENCE + 3 * BEAT)


def exit_now(code: int, line: str) -> None:
    """Ends this process at once: JAX's orderly end would wait for the others, in collectives that never come."""
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # another thread says why, and ends this one too
    try:
        sys.stdout.flush()
        os.write(2, f"{line}\n".encode())
    finally:
        os._exit(code)


def exit_in_order(code: int) -> None:
    """Ends this process in order, all of it but the interpreter.

    A thread that comes back from C++, such as a watch from the coordinator, into an interpreter that is being taken
    down is ended by Python (before 3.14) in a way that C++ answers with an abort.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
