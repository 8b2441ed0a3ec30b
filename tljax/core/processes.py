"""Runs of several processes, one a host: how they find each other, agree, and end together where one of them fails.

With one process every function here does its work at once and nothing else. What they tell each other goes through the
key-value store of JAX's coordinator, process 0; arrays go through collectives, which is core/mesh.py's part.
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

from tljax.core.config import flat
from tljax.core.errors import InputError, one_line, verdict
from tljax.core.group import DAY, FAILED, LOST, Group, explain_abort, leave, wait_for_watch

T = TypeVar("T")

_group: Group | None = None


@contextlib.contextmanager
def joined(config: Any) -> Iterator[None]:
    """Joins this process to the run's others, by config.processes or what TPU pods and SLURM tell; holds until all end.

    To be entered before JAX touches a device. Where there are several processes, an error in one ends all of them,
    each with the line that names it. Raises InputError where they do not come together, or differ in code or config.
    """
    global _group
    _group = _join(config.processes)
    if _group is None:
        yield
        return
    try:
        _group.meet("the meeting of all processes")
        fields = {f"config.{name}": value for name, value in flat(json.loads(config.to_json_best_effort())).items()}
        own = {name: value for name, value in fields.items() if not name.startswith("config.processes.")}
        check_same(own | versions())
        yield
        _group.meet("the end of the run")
        _group.ending = True
    except SystemExit:
        _group.meet("the end of the run")
        _group.ending = True
        raise
    except KeyboardInterrupt:
        _group.fail(130, "interrupted")
        raise
    except Exception as error:
        told = verdict(error)
        if told is None:
            traceback.print_exc()
            # A collective whose partner died raises what no user understands; the watch then knows more.
            wait_for_watch()
            told = FAILED, f"error: {type(error).__name__}: {one_line(error)[:200]}"
        _group.fail(*told)
        leave(*told)


def _join(options: Any) -> Group | None:
    """The run's processes, None where this is the only one."""
    given = (options.coordinator != "", options.count != 0, options.id != -1)
    if any(given) and not all(given):
        raise InputError(
            "config.processes needs coordinator (HOST:PORT of process 0), count and id together; leave all three out "
            "on a TPU pod, under SLURM's srun, and for one process"
        )
    if all(given):
        if options.count < 1 or not 0 <= options.id < options.count or ":" not in options.coordinator:
            raise InputError(
                f"config.processes is coordinator={options.coordinator!r}, count={options.count}, id={options.id}; "
                "allowed: HOST:PORT, 1 or more, 0 to below count"
            )
        if options.count == 1:
            return None
        found = {"coordinator_address": options.coordinator, "num_processes": options.count, "process_id": options.id}
        found["cluster_detection_method"] = "deactivate"
    elif in_cluster():
        found = gpus_of_task()
    else:
        return None
    found["initialization_timeout"] = round(min(options.timeout, 300))
    import jax
    from jax._src import distributed  # the store and its barriers have no public name

    # It knows of a preemption by SIGTERM alone ("sigterm" is the one notifier that jaxlib has), which it takes for
    # itself, and Orbax, which asks it about older updates too, spoils what it agrees on. core/stop.py does its work.
    jax.config.update("jax_enable_preemption_service", False)
    apart = (
        "the processes did not come together; start as many as config.processes.count says, all within "
        f"{found['initialization_timeout']} seconds, and see that each can reach the coordinator"
    )
    explain_abort(lambda: f"error: {apart}")
    try:
        jax.distributed.initialize(**found)
    except (RuntimeError, ValueError) as error:
        explain_abort(lambda: None)
        if not any(given) and isinstance(error, ValueError):
            return None  # a TPU of one host, which nothing describes as a part of more
        raise InputError(f"{apart} ({one_line(error)[:160]})") from error
    explain_abort(lambda: None)
    state = distributed.global_state
    if state.num_processes == 1:
        return None
    # These numbers, since jax.process_count() would begin to wait for the others' devices before anyone watches, and
    # since a TPU numbers its hosts by itself, where the coordinator need not be the first.
    coordinator = str(state.coordinator_address)
    group = Group(state.client, state.process_id, state.num_processes, coordinator, options.timeout)
    if group.me:
        explain_abort(group.why_aborted, LOST)
    return group


def in_cluster() -> bool:
    """Whether this is one of several SLURM tasks started by srun, or runs on a TPU host."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return True
    if (os.environ.get("JAX_PLATFORMS") or "tpu").partition(",")[0] != "tpu":
        return False
    return any(found for pattern in ("accel[0-9]*", "vfio/[0-9]*") for found in Path("/dev").glob(pattern))


def gpus_of_task() -> dict[str, list[int]]:
    """The devices of a SLURM task that has its node for itself, as jax.distributed takes them: all of the node's.

    JAX would take the first alone: it counts on a task for every GPU.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return {"local_device_ids": [*range(int(gpus))]} if tasks == "1" and gpus.isdecimal() else {}


def versions() -> dict[str, str]:
    """What must be the same code on all processes."""
    import jax

    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return {"code of tljax": code[:12], "version of jax": jax.__version__, "Python": platform.python_version()}


def first() -> bool:
    """Whether this is process 0, or the only one."""
    return _group is None or _group.me == 0


def several() -> bool:
    """Whether the run has more than this process."""
    return _group is not None


def check_same(facts: Mapping[str, Any]) -> None:
    """Raises InputError, on every process, naming the first fact in which one of them differs from process 0."""
    if _group is None:
        return
    folder = f"facts/{_group.turn()}"
    _group.give(f"{folder}/{_group.me}", json.dumps(dict(facts)))
    _group.meet("a comparison of all processes")
    found = {k: json.loads(value) for k, value in _group.given(folder).items()}
    for k, theirs in sorted(found.items()):
        for name, value in found[0].items():
            if theirs.get(name) != value:
                raise InputError(
                    f"{_group.name(k)} has {name} = {theirs.get(name)!r}, process 0 has {value!r}; start all processes "
                    "by the same command, with the same code and data"
                )


def on_first(make: Callable[[], T]) -> T:
    """What `make()` returns on process 0, where alone it is called, on all processes; it must be what JSON can hold."""
    if _group is None:
        return make()
    key = f"first/{_group.turn()}"
    if _group.me == 0:
        made = make()
        _group.give(key, json.dumps(made))
        _group.pass_by("work of process 0 alone")
        return made
    _group.pass_by("work of process 0 alone")
    return json.loads(_group.client.blocking_key_value_get(f"tljax/{key}", DAY))


def first_then_others(make: Callable[[], T]) -> T:
    """`make()` on process 0, and after that on the others, which find on a shared disk what it left there."""
    if _group is None:
        return make()
    made = make() if _group.me == 0 else None
    _group.meet("work that process 0 does first")
    return make() if made is None else made


def pass_by(place: str) -> None:
    """Notes that this process got to a place that all pass, such as "update 3"; see config.processes.timeout."""
    if _group is not None:
        _group.pass_by(place)
