"""Runs of several processes, one a host: how they find each other, agree, and end together where one of them fails.

With one process every function here does its work at once and nothing else. What they tell each other goes through the
key-value store of JAX's coordinator, process 0; arrays go through collectives, which is distributed/mesh.py's part.
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
from tljax.distributed.initialize import initialize
from tljax.distributed.process_group import (
    DAY,
    FAILED,
    ProcessGroup,
    call_in_thread,
    exit_in_order,
    exit_now,
    wait_for_watchdog,
)

T = TypeVar("T")

_group: ProcessGroup | None = None


@contextlib.contextmanager
def initialized(config: Any) -> Iterator[None]:
    """Joins this process to the run's others, by config.processes or what TPU pods and SLURM tell; holds until all end.

    To be entered before JAX touches a device. Where there are several processes this one ends with the body, and an
    error in one ends all of them, each with the line that names it. Raises InputError where they do not come together,
    or differ in code or config.
    """
    global _group
    _group = initialize(config.processes)
    if _group is None:
        yield
        return
    try:
        _group.barrier("the meeting of all processes")
        _group.heartbeat()  # from here on each knows where the others run
        fields = {
            f"config.{name}": value for name, value in flatten_fields(json.loads(config.to_json_best_effort())).items()
        }
        own = {name: value for name, value in fields.items() if not name.startswith("config.processes.")}
        check_equal_on_all(own | code_versions())
        code = 0
        try:
            yield
        except SystemExit as stop:
            code = int(stop.code or 0)
        _group.barrier("the end of the run")
        _group.ending = True
        exit_in_order(code)
    except KeyboardInterrupt:
        _group.publish_failure(130, "interrupted")
        raise
    except Exception as error:
        abort_all(error)


def abort_all(error: Exception) -> None:
    """Ends this process and all others for an error of one of its threads; returns where there is only this one.

    For what the main thread would learn too late, since it waits for the others.
    """
    if _group is None:
        return
    told = exit_code_and_line(error)
    if told is None:
        traceback.print_exception(error)
        # A collective whose partner died raises what no user understands; the watch then knows more.
        wait_for_watchdog()
        told = FAILED, f"error: {type(error).__name__}: {one_line(error)[:200]}"
    _group.publish_failure(*told)
    exit_now(*told)


def code_versions() -> dict[str, str]:
    """Returns the versions of tljax, JAX and Python, which must be the same on all processes."""
    import jax

    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return {"code of tljax": code[:12], "version of jax": jax.__version__, "Python": platform.python_version()}


def is_primary() -> bool:
    """Returns True for process 0, and for the only process."""
    return _group is None or _group.me == 0


def process_index() -> int:
    """Returns the number of this process in the run, from 0."""
    return 0 if _group is None else _group.me


def is_multiprocess() -> bool:
    """Returns True if the run has more than one process."""
    return _group is not None


def check_single_process(what: str) -> None:
    """Raises InputError where this is one of several processes, which `what` cannot be of."""
    if _group is not None or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise InputError(f"{what}: several processes were started, and it is done by one; start it on one host, as one")


def check_equal_on_all(facts: Mapping[str, Any]) -> None:
    """Raises InputError, on every process, naming the first fact in which one of them differs from process 0."""
    if _group is None:
        return
    folder = f"facts/{_group.next_exchange()}"
    _group.publish(f"{folder}/{_group.me}", json.dumps(dict(facts)))
    _group.barrier("a comparison of all processes")
    found = {k: json.loads(value) for k, value in _group.collect(folder).items()}
    for k, theirs in sorted(found.items()):
        for name, value in found[0].items():
            if theirs.get(name) != value:
                raise InputError(
                    f"{_group.describe(k)} has {name} = {theirs.get(name)!r}, process 0 has {value!r}; start all "
                    "processes by the same command, with the same code and data"
                )


def run_on_primary(make: Callable[[], T]) -> T:
    """Calls `make()` on process 0 alone and returns its result on all processes; JSON must be able to hold it."""
    if _group is None:
        return make()
    key = f"first/{_group.next_exchange()}"
    if _group.me == 0:
        made = make()
        _group.publish(key, json.dumps(made))
        _group.report_progress("work of process 0 alone")
        return made
    _group.report_progress("work of process 0 alone")
    group = _group
    return json.loads(call_in_thread(lambda: group.client.blocking_key_value_get(f"tljax/{key}", DAY)))


def primary_first(make: Callable[[], T]) -> T:
    """Calls `make()` on process 0, then on the others, which find on a shared disk what process 0 left there."""
    if _group is None:
        return make()
    made = make() if _group.me == 0 else None
    _group.barrier("work that process 0 does first")
    return make() if made is None else made


def report_progress(place: str) -> None:
    """Notes that this process got to a place that all pass, such as "update 3"; see config.processes.timeout."""
    if _group is not None:
        _group.report_progress(place)
