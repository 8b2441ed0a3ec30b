"""The processes of a run: their heartbeats, their barriers, and the search for one that is dead or stuck."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from tljax.distributed.exit import LOST, STUCK, exit_now

T = TypeVar("T")

HEARTBEAT_SECONDS = 2.0  # between two heartbeats
SILENCE_SECONDS = 40.0  # without a heartbeat, after which a process counts as dead; JAX would abort all after 100
WAIT_MS = 86_400_000  # JAX's limit of a wait, a day: SILENCE_SECONDS and processes.timeout end a run before
ALL_STUCK_FACTOR = 4  # times `timeout` without progress of any process, after which all of them are stuck


class Heartbeat(NamedTuple):
    """A heartbeat of a process: its number, the milestones passed so far, the last of them, and the host and pid."""

    number: int
    num_milestones: int
    milestone: str
    address: str


class ProcessGroup:
    """The processes of a run. A watchdog thread publishes heartbeats, and ends this process when another one fails."""

    # JAX's own heartbeats (heartbeat_timeout_seconds) find a dead or frozen process too. Tried with JAX 0.10.2 and
    # 0.12.0: they name a number but no host and pid, end the other processes by an abort with a trace, which schedulers
    # do not take for a lost host, and cannot see a process that is alive and stuck.

    def __init__(self, client: Any, process_id: int, num_processes: int, coordinator: str, timeout: float):
        """client: JAX's client of the coordinator. timeout: seconds without progress that make a process stuck."""
        self.client, self.process_id, self.num_processes = client, process_id, num_processes
        self.coordinator, self.timeout = coordinator, timeout
        self.is_ending = False  # this process has published its own failure, or has finished
        self._failure: tuple[int, str] | None = None  # the failure that this process has published
        self._num_heartbeats = 0
        self._num_exchanges = 0  # all processes make the same exchanges in the same order
        self._num_milestones, self._milestone = 0, "its start"
        self._names = {k: f"process {k}" for k in range(num_processes)}
        self._last_heartbeat: dict[int, tuple[int, float]] = {}  # process -> (number of its last heartbeat, since when)
        self._behind: dict[int, tuple[int, float]] = {}  # process -> (its milestones, since when others have more)
        self._total_milestones = (-1, 0.0)  # of all processes together, since when
        self.heartbeat()
        threading.Thread(target=self._watch, daemon=True).start()

    def heartbeat(self) -> dict[int, Heartbeat]:
        """Publishes this process's heartbeat, and returns those of all processes."""
        self._num_heartbeats += 1
        address = f"{socket.gethostname()}, pid {os.getpid()}"
        own = Heartbeat(self._num_heartbeats, self._num_milestones, self._milestone, address)
        self.publish(f"alive/{self.process_id}", json.dumps(own))
        heartbeats = {k: Heartbeat(*json.loads(value)) for k, value in self.collect("alive").items()}
        self._names |= {k: f"process {k} ({heartbeat.address})" for k, heartbeat in heartbeats.items()}
        return heartbeats

    def describe(self, process: int) -> str:
        """Returns "process K (HOST, pid PID)", or "process K" before its first heartbeat."""
        return self._names[process]

    def report_progress(self, milestone: str) -> None:
        """Notes that this process reached a milestone, a point that all processes pass; it shows which one is stuck."""
        self._num_milestones, self._milestone = self._num_milestones + 1, milestone

    def explain_abort(self) -> tuple[int, str] | None:
        """Returns the exit code and message for an abort by JAX, or None if the coordinator still answers."""
        if self._failure is not None:
            return self._failure  # it is printed already; process 0 left sooner, and the coordinator with it
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
        """Returns the value that each process has published as FOLDER/PROCESS, by the number of the process."""
        entries = self.client.key_value_dir_get(f"tljax/{folder}/")
        return {int(key.rpartition("/")[2]): value for key, value in entries}

    def next_exchange(self) -> int:
        """Returns the number of the next exchange, which is the same on all processes."""
        self._num_exchanges += 1
        return self._num_exchanges

    def barrier(self, milestone: str) -> None:
        """Returns when every process has called it."""
        self.report_progress(milestone)
        key = f"tljax/barrier/{self.next_exchange()}"
        call_in_thread(lambda: self.client.wait_at_barrier(key, WAIT_MS))

    def publish_failure(self, code: int, message: str) -> None:
        """Publishes why this process ends, and waits until the others have read it: the store ends with process 0."""
        self.is_ending, self._failure = True, (code, message)
        with contextlib.suppress(Exception):
            self.publish(f"ended/{self.process_id}", json.dumps([code, message]))
            deadline = time.monotonic() + SILENCE_SECONDS
            while len(self.collect("ended")) < self.num_processes and time.monotonic() < deadline:
                time.sleep(HEARTBEAT_SECONDS / 10)
            if self.process_id == 0:
                time.sleep(HEARTBEAT_SECONDS)  # the others leave first: JAX aborts them when the store ends

    def _watch(self) -> None:
        while True:
            # A request to a coordinator that is frozen or cut off never returns.
            message = f"error: {lost_process_message(self.describe(0))}"
            limit = threading.Timer(SILENCE_SECONDS, exit_now, (LOST, message))
            limit.daemon = True
            limit.start()
            try:
                heartbeats = self.heartbeat()
                failures = {k: json.loads(value) for k, value in self.collect("ended").items()}
            except Exception as error:
                if not self.is_ending:
                    exit_now(LOST, f"{message} ({str(error).splitlines()[0][:120]})")
                return
            finally:
                limit.cancel()
            if self.is_ending:
                return
            failure = self._find_failure(heartbeats, failures, time.monotonic())
            if failure is not None:
                with contextlib.suppress(Exception):
                    self.publish(f"ended/{self.process_id}", "null")
                    if self.process_id == 0:
                        time.sleep(2 * HEARTBEAT_SECONDS)  # the others read the same in its store
                exit_now(*failure)
            time.sleep(HEARTBEAT_SECONDS)

    def _find_failure(
        self, heartbeats: dict[int, Heartbeat], failures: dict[int, Any], now: float
    ) -> tuple[int, str] | None:
        """Returns this process's exit code and message if another process has failed, is silent, or is stuck."""
        self._note_progress(heartbeats, now)
        # A process has published its failure. (null comes from a process that ends because of another one's.)
        for k, failure in failures.items():
            if failure is not None and k != self.process_id:
                code, message = failure
                return code, f"{self.describe(k)} ended the run: {message}"
        # A process is silent.
        for k in heartbeats:
            if k != self.process_id and now - self._last_heartbeat[k][1] > SILENCE_SECONDS:
                return LOST, f"error: {lost_process_message(self.describe(k))}"
        # No process makes progress.
        limit = ALL_STUCK_FACTOR * self.timeout
        if now - self._total_milestones[1] > limit:
            return STUCK, (
                f"error: no process has made progress for {limit:g} seconds after "
                f"{heartbeats[self.process_id].milestone}: they wait for each other's devices, or all of them for a "
                "disk or store; start all again with --config.resume=auto, or raise config.processes.timeout"
            )
        # One process makes no progress, and others are ahead of it.
        for k, heartbeat in heartbeats.items():
            if k in self._behind and now - self._behind[k][1] > self.timeout:
                return STUCK, (
                    f"error: {self.describe(k)} has made no progress for {self.timeout:g} seconds after "
                    f"{heartbeat.milestone}, and the others wait for it; find out what it does there, or raise "
                    "config.processes.timeout"
                )
        return None

    def _note_progress(self, heartbeats: dict[int, Heartbeat], now: float) -> None:
        """Notes since when each process has been silent and behind the others, and since when none has gone on."""
        most = max((heartbeat.num_milestones for heartbeat in heartbeats.values()), default=0)
        for k, (number, num_milestones, *_) in heartbeats.items():
            if self._last_heartbeat.get(k, (None,))[0] != number:
                self._last_heartbeat[k] = number, now
            if num_milestones == most:
                self._behind.pop(k, None)
            elif self._behind.get(k, (None,))[0] != num_milestones:
                self._behind[k] = num_milestones, now
        total = sum(heartbeat.num_milestones for heartbeat in heartbeats.values())
        if total != self._total_milestones[0]:
            self._total_milestones = total, now


def call_in_thread(call: Callable[[], T]) -> T:
    """Returns `call()`, made by another thread.

    While the main thread waits in C++, Python handles no signal, Ctrl-C among them.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result()


def lost_process_message(name: str) -> str:
    """Returns the message for a process, described by `name`, that is gone."""
    return (
        f"{name} is gone or cannot be reached: it was killed or frozen, its host stopped, or the network broke; start "
        "all processes again with --config.resume=auto"
    )


def wait_for_watchdog() -> None:
    """Waits as long as a watchdog may take to find a dead process, and to end this one because of it."""
    time.sleep(SILENCE_SECONDS + 3 * HEARTBEAT_SECONDS)
