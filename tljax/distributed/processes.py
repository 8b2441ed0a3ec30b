"""Runs of several processes, one per host: they join, agree, and end together if one of them fails.

With one process every function here does its own work and nothing else. Processes exchange values through the key-value
store of JAX's coordinator, which process 0 runs; arrays go through the collectives of distributed/mesh.py.
"""

import contextlib
import hashlib
import json
import os
import platform
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tljax.core.config import flatten_fields
from tljax.core.errors import InputError, exit_code_and_line, one_line
from tljax.distributed.exit import FAILED, exit_in_order, exit_now
from tljax.distributed.initialize import initialize
from tljax.distributed.process_group import WAIT_MS, ProcessGroup, call_in_thread, wait_for_watchdog

T = TypeVar("T")

_group: ProcessGroup | None = None


@contextlib.contextmanager
def initialized(config: Any) -> Iterator[None]:
    """Joins this process to the others of the run, by config.processes or by what a TPU pod or SLURM says.

    It must be entered before JAX uses a device. If the run has several processes, this one ends with the body, and an
    error in one ends all of them, each with a message that names it. Raises InputError if the processes do not come
    together, or if they differ in code or config.
    """
    global _group
    _group = initialize(config.processes)
    if _group is None:
        yield
        return
    try:
        _group.barrier("the meeting of all processes")
        _group.heartbeat()  # from here on each process knows where the others run
        fields = flatten_fields(json.loads(config.to_json_best_effort()))
        shared = {f"config.{name}": value for name, value in fields.items() if not name.startswith("processes.")}
        check_equal_on_all(shared | code_versions())
        code = 0
        try:
            yield
        except SystemExit as stop:
            code = int(stop.code or 0)
        _group.barrier("the end of the run")
        _group.is_ending = True
        exit_in_order(code)
    except KeyboardInterrupt:
        _group.publish_failure(130, "interrupted")
        raise
    except Exception as error:
        abort_all(error)


def abort_all(error: Exception) -> None:
    """Ends this process and all others because of an error in one of its threads; returns if this is the only process.

    A thread calls it when the main thread would learn of the error too late, because it waits for the other processes.
    """
    if _group is None:
        return
    failure = exit_code_and_line(error)
    if failure is None:
        traceback.print_exception(error)
        # A collective whose partner died raises an error that names nobody; the watchdog then finds the dead process.
        wait_for_watchdog()
        failure = FAILED, f"error: {type(error).__name__}: {one_line(error)[:200]}"
    _group.publish_failure(*failure)
    exit_now(*failure)


def code_versions() -> dict[str, str]:
    """Returns the versions of tljax, JAX and Python, which must be the same on all processes."""
    import jax

    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return {"code of tljax": code[:12], "version of jax": jax.__version__, "Python": platform.python_version()}


def is_primary() -> bool:
    """Returns True for process 0, and for the only process."""
    return _group is None or _group.process_id == 0


def process_index() -> int:
    """Returns the number of this process in the run, from 0."""
    return 0 if _group is None else _group.process_id


def is_multiprocess() -> bool:
    """Returns True if the run has more than one process."""
    return _group is not None


def check_single_process(task: str) -> None:
    """Raises InputError if this is one of several processes, since `task` is work for one process alone."""
    if _group is not None or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise InputError(
            f"{task}: several processes were started, but one process does this; start one process, on one host"
        )


def check_equal_on_all(facts: Mapping[str, Any]) -> None:
    """Raises InputError, on every process, that names the first fact in which a process differs from process 0."""
    if _group is None:
        return
    folder = f"facts/{_group.next_exchange()}"
    _group.publish(f"{folder}/{_group.process_id}", json.dumps(dict(facts)))
    _group.barrier("a comparison of all processes")
    facts_of = {k: json.loads(value) for k, value in _group.collect(folder).items()}
    for k, theirs in sorted(facts_of.items()):
        for name, value in facts_of[0].items():
            if theirs.get(name) != value:
                raise InputError(
                    f"{_group.describe(k)} has {name} = {theirs.get(name)!r}, process 0 has {value!r}; start all "
                    "processes by the same command, with the same code and data"
                )


def run_on_primary(make: Callable[[], T]) -> T:
    """Calls `make()` on process 0 alone, and returns its result on all processes; JSON must be able to hold it."""
    if _group is None:
        return make()
    key = f"first/{_group.next_exchange()}"
    if is_primary():
        result = make()
        _group.publish(key, json.dumps(result))
        _group.report_progress("work of process 0 alone")
        return result
    _group.report_progress("work of process 0 alone")
    client = _group.client
    return json.loads(call_in_thread(lambda: client.blocking_key_value_get(f"tljax/{key}", WAIT_MS)))


def primary_first(make: Callable[[], T]) -> T:
    """Calls `make()` on process 0, then on the others, which find the files of process 0 on a shared disk."""
    if _group is None:
        return make()
    result = make() if is_primary() else None
    _group.barrier("work that process 0 does first")
    return make() if result is None else result


def report_progress(milestone: str) -> None:
    """Notes that this process reached a milestone that all pass, such as "update 3"; see config.processes.timeout."""
    if _group is not None:
        _group.report_progress(milestone)
