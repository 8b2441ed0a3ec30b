"""Joins the processes of a run, by config.processes or by what a TPU host or SLURM's srun says."""

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tljax.core.config import check_range
from tljax.core.errors import InputError, one_line
from tljax.distributed.process_group import STUCK, ProcessGroup, call_in_thread, exit_now, explain_jax_abort

QUIET = 5.0  # seconds of waiting for the others after which it is said
BAD_INPUT = 2  # exit code, as of InputError, which names other places that cannot be
LONGEST = 300.0  # seconds of it at most, which a TPU pod's hosts may take one after the other


def initialize(options: Any) -> ProcessGroup | None:
    """The run's processes by `options`, a config's `processes`; None where this is the only one.

    Returns when all are there. Raises InputError where they do not come together, or where a process is that cannot be.
    """
    check_range("processes.timeout", options.timeout, 1, 10**9)
    given = _given(options)
    if given is None and not in_cluster():
        return None
    found = gpus_of_task() if given is None else given
    if found.get("num_processes") == 1:
        return None
    import jax
    from jax._src import distributed  # the store and its barriers have no public name

    # It knows of a preemption by SIGTERM alone ("sigterm" is the one notifier that jaxlib has), which it takes for
    # itself, and Orbax, which asks it about older updates too, spoils what it agrees on.
    # training/stop.py does its work.
    jax.config.update("jax_enable_preemption_service", False)
    seconds = round(min(options.timeout, LONGEST))
    where = options.coordinator or "its coordinator"
    apart = (
        f"the processes did not come together at {where}; start as many as config.processes.count says, all within "
        f"{seconds} seconds, and see that each can reach that place"
    )
    # Flags may be wrong; a cluster may bring its hosts late, and starts them again.
    code = BAD_INPUT if given is not None else STUCK
    try:
        with _only(
            (code, f"error: {apart}"), f"waits for the run's other processes at {where}, for {seconds} seconds at most"
        ):
            call_in_thread(lambda: jax.distributed.initialize(**found, initialization_timeout=seconds))
    except (RuntimeError, ValueError) as error:
        if given is None and isinstance(error, ValueError):
            return None  # a TPU of one host, which nothing describes as a part of more
        if code == STUCK:
            exit_now(code, f"error: {apart} ({one_line(error)[:160]})")
        raise InputError(f"{apart} ({one_line(error)[:160]})") from error
    state = distributed.global_state
    if state.num_processes == 1:
        return None
    # These numbers, since jax.process_count() would begin to wait for the others' devices before anyone watches, and
    # since a TPU numbers its hosts by itself, where the coordinator need not be the first.
    group = ProcessGroup(
        state.client, state.process_id, state.num_processes, str(state.coordinator_address), options.timeout
    )
    if group.me:
        explain_jax_abort(group.explain_abort)
    return group


def _given(options: Any) -> dict[str, Any] | None:
    """What jax.distributed.initialize takes of `options`, None where they leave it to what the cluster tells."""
    given = (options.coordinator != "", options.count != 0, options.id != -1)
    if not any(given):
        return None
    if not all(given):
        raise InputError(
            "config.processes needs coordinator (HOST:PORT of process 0), count and id together; leave all three out "
            "on a TPU pod, under SLURM's srun, and for one process"
        )
    host, _, port = options.coordinator.rpartition(":")
    right = host and port.isdecimal() and 0 < int(port) < 2**16
    if options.count < 1 or not 0 <= options.id < options.count or not right:
        raise InputError(
            f"config.processes is coordinator={options.coordinator!r}, count={options.count}, id={options.id}; "
            "allowed: HOST:PORT, 1 or more, 0 to below count"
        )
    if options.id == 0 and options.count > 1:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise InputError(
                f"config.processes.coordinator is {options.coordinator!r}, but process 0 cannot listen at port {port} "
                f"({os.strerror(error.errno or 0)}); end what uses it, or give another port to all processes"
            ) from None
    found = {"coordinator_address": options.coordinator, "num_processes": options.count, "process_id": options.id}
    return found | {"cluster_detection_method": "deactivate"}


def in_cluster() -> bool:
    """Returns True for one of several SLURM tasks that srun started, and on a TPU host."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return True
    if (os.environ.get("JAX_PLATFORMS") or "tpu").partition(",")[0] != "tpu":
        return False
    return any(found for pattern in ("accel[0-9]*", "vfio/[0-9]*") for found in Path("/dev").glob(pattern))


def gpus_of_task() -> dict[str, Any]:
    """What jax.distributed.initialize must be told in a SLURM task that has its node for itself: to take all its GPUs.

    JAX would take the first alone: it counts on a task for every GPU.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return {"local_device_ids": [*range(int(gpus))]} if tasks == "1" and gpus.isdecimal() else {}


@contextlib.contextmanager
def _only(end: tuple[int, str], waiting: str) -> Iterator[None]:
    """Shows of stderr `waiting`, after a while; where JAX aborts the process, with a trace, it ends by `end` instead.

    What else is written there is shown at the end, unless the body raises.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    said = threading.Timer(QUIET, os.write, (screen, f"{waiting}\n".encode()))
    said.daemon = True

    def show() -> tuple[int, str]:
        os.dup2(screen, 2)
        return end

    with tempfile.TemporaryFile() as held:
        take_back = explain_jax_abort(show)
        os.dup2(held.fileno(), 2)
        said.start()
        try:
            yield
            held.seek(0)
            os.write(screen, held.read())
        finally:
            said.cancel()
            sys.stderr.flush()
            os.dup2(screen, 2)
            take_back()
            os.close(screen)
