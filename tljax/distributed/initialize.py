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
from tljax.distributed.exit import BAD_INPUT, STUCK, exit_now, explain_jax_abort
from tljax.distributed.process_group import ProcessGroup, call_in_thread

NOTICE_SECONDS = 5.0  # of waiting for the other processes, after which a line says so
MAX_JOIN_SECONDS = 300.0  # the longest wait for the other processes: a TPU pod may start its hosts one after the other


def initialize(options: Any) -> ProcessGroup | None:
    """Joins the processes of the run, and returns them when all are there; returns None if this is the only process.

    options: a config's `processes`. Raises InputError if the processes do not come together, or if the options fit no
    process.
    """
    check_range("processes.timeout", options.timeout, 1, 10**9)
    flags = _jax_arguments(options)
    if flags is None and not in_cluster():
        return None
    arguments = gpus_of_task() if flags is None else flags
    if arguments.get("num_processes") == 1:
        return None
    import jax

    # The store and its barriers have no public name. multihost_utils makes computations on all devices, so that the
    # others waited with a stuck process (JAX 0.10.2), jax.process_index() waited for the devices of a late one, and
    # orbax.checkpoint.multihost reads this attribute itself.
    from jax._src import distributed

    # JAX's preemption service takes SIGTERM for itself, the one notice that jaxlib knows, and Orbax, which asks it
    # about older updates too, spoils what the processes agree on. training/stop.py does its work.
    jax.config.update("jax_enable_preemption_service", False)
    timeout = round(min(options.timeout, MAX_JOIN_SECONDS))
    address = options.coordinator or "its coordinator"
    message = (
        f"the processes did not come together at {address}; start as many as config.processes.count says, all within "
        f"{timeout} seconds, and see that each can reach that address"
    )
    # Flags may be wrong. A cluster may bring its hosts late, and starts them again.
    code = STUCK if flags is None else BAD_INPUT
    waiting = f"waits for the run's other processes at {address}, for {timeout} seconds at most"
    try:
        with _abort_replaced((code, f"error: {message}"), waiting):
            call_in_thread(lambda: jax.distributed.initialize(**arguments, initialization_timeout=timeout))
    except (RuntimeError, ValueError) as error:
        if flags is None and isinstance(error, ValueError):
            return None  # a TPU of one host, which nothing describes as a part of more
        message = f"{message} ({one_line(error)[:160]})"
        if code == STUCK:
            exit_now(code, f"error: {message}")
        raise InputError(message) from error
    state = distributed.global_state
    if state.num_processes == 1:
        return None
    # These numbers, since jax.process_count() would wait for the others' devices before the watchdog runs, and since a
    # TPU numbers its hosts by itself, where the coordinator need not be the first.
    group = ProcessGroup(
        state.client, state.process_id, state.num_processes, str(state.coordinator_address), options.timeout
    )
    if group.process_id:
        explain_jax_abort(group.explain_abort)
    return group


def _jax_arguments(options: Any) -> dict[str, Any] | None:
    """Returns the arguments of jax.distributed.initialize that `options` set, or None if they leave all to the cluster.

    Raises InputError if only some are set, if one is out of range, or if process 0 cannot listen at the port.
    """
    is_set = (options.coordinator != "", options.count != 0, options.id != -1)
    if not any(is_set):
        return None
    if not all(is_set):
        raise InputError(
            "config.processes needs coordinator (HOST:PORT of process 0), count and id together; leave all three out "
            "on a TPU pod, under SLURM's srun, and for one process"
        )
    host, _, port = options.coordinator.rpartition(":")
    is_address = host and port.isdecimal() and 0 < int(port) < 2**16
    if options.count < 1 or not 0 <= options.id < options.count or not is_address:
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
    arguments = {"coordinator_address": options.coordinator, "num_processes": options.count, "process_id": options.id}
    return arguments | {"cluster_detection_method": "deactivate"}


def in_cluster() -> bool:
    """Returns True for one of several SLURM tasks that srun started, and on a TPU host."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return True
    if (os.environ.get("JAX_PLATFORMS") or "tpu").partition(",")[0] != "tpu":
        return False
    return any(device for pattern in ("accel[0-9]*", "vfio/[0-9]*") for device in Path("/dev").glob(pattern))


def gpus_of_task() -> dict[str, Any]:
    """Returns the arguments of jax.distributed.initialize for the only SLURM task of a node: it takes all GPUs.

    JAX would take the first GPU alone: it expects a task for every GPU.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return {"local_device_ids": [*range(int(gpus))]} if tasks == "1" and gpus.isdecimal() else {}


@contextlib.contextmanager
def _abort_replaced(exit_code_and_message: tuple[int, str], waiting: str) -> Iterator[None]:
    """Ends the process by this exit code and message if JAX aborts it in the body, without JAX's trace.

    waiting: the line that stderr shows after a while. Other output to stderr is held back: it is shown at the end, or
    never if the body raises.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    notice = threading.Timer(NOTICE_SECONDS, os.write, (stderr, f"{waiting}\n".encode()))
    notice.daemon = True

    def explain() -> tuple[int, str]:
        os.dup2(stderr, 2)
        return exit_code_and_message

    with tempfile.TemporaryFile() as held_back:
        remove_handler = explain_jax_abort(explain)
        os.dup2(held_back.fileno(), 2)
        notice.start()
        try:
            yield
            held_back.seek(0)
            os.write(stderr, held_back.read())
        finally:
            notice.cancel()
            sys.stderr.flush()
            os.dup2(stderr, 2)
            remove_handler()
            os.close(stderr)
