"""One process of several, for test_processes.py: joins the others and does the task that its first argument names."""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from tljax.core.command import run_or_exit
from tljax.core.config import processes_block
from tljax.core.errors import InputError
from tljax.distributed import process_group, processes

TASK, FOLDER = sys.argv[1], Path(sys.argv[2])
process_group.HEARTBEAT_SECONDS, process_group.SILENCE_SECONDS = 0.3, 5.0


def agree(me: int) -> None:
    """Prints the results of the work that process 0 does alone or first, on each process."""
    made = FOLDER / "made"

    def make() -> str:
        if me == 0:
            made.touch(exist_ok=False)
        assert made.exists()
        return f"made on {me}"

    first = processes.run_on_primary(lambda: [me, "ä", None])
    processes.check_equal_on_all({"rows": "the same"})
    print("found", first, processes.primary_first(make), flush=True)


def fail(me: int) -> None:
    if me == 1:
        raise InputError("row 7 is bad")
    time.sleep(60)


def kill(me: int, dead: int) -> None:
    if me == dead:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def freeze(me: int, frozen: int) -> None:
    if me == frozen:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


def wait(me: int) -> None:
    """Process 1 never reaches the barrier at which process 0 waits."""
    if me == 1:
        time.sleep(60)
    processes.run_on_primary(lambda: None)
    processes.check_equal_on_all({})


def exchange(me: int) -> None:
    """Process 1 never enters the collective in which process 0 waits for its part of an array."""
    import jax

    from tljax.distributed.mesh import gather_to_host

    jax.devices()
    if me == 1:
        time.sleep(60)
    gather_to_host(np.ones(1))


def end_amid_requests(me: int) -> None:
    """Process 0 ends while threads read from its coordinator, as the watchdog does."""

    joined = processes._group
    assert joined is not None

    def read() -> None:
        while True:
            with contextlib.suppress(Exception):
                joined.collect("alive")

    for _ in range(8 if me == 0 else 0):
        threading.Thread(target=read, daemon=True).start()


def refuse(me: int) -> None:
    """Process 1 cannot write its part of a checkpoint, and both wait for its commit."""
    import jax

    from tljax.training.checkpoint import Checkpoints

    def upload() -> None:
        if me == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    jax.devices()
    with Checkpoints(FOLDER / "checkpoints", before_commit=upload) as checkpoints:
        checkpoints.save(1, {"weights": np.ones(3)}, {})
        checkpoints.wait()


TASKS = {
    "agree": agree,
    "differ": agree,
    "other-code": agree,
    "alone": agree,
    "late": agree,
    "fail": fail,
    "kill-0": lambda me: kill(me, 0),
    "kill-1": lambda me: kill(me, 1),
    "freeze-0": lambda me: freeze(me, 0),
    "freeze-1": lambda me: freeze(me, 1),
    "wait": wait,
    "exchange": exchange,
    "hang": lambda me: time.sleep(60),
    "end": end_amid_requests,
    "refuse": refuse,
}


def main() -> None:
    config: Any = ConfigDict({"lr": 1.0, "processes": processes_block()})
    config_flags.DEFINE_config_dict("config", config)
    flags.FLAGS(sys.argv[:1] + sys.argv[3:])
    me = config.processes.id
    if TASK == "differ":
        config.lr += me
    if TASK == "other-code":
        processes.code_versions = lambda: {"code of tljax": f"version {me}"}
    if TASK == "late":
        config.processes.update({"coordinator": "", "count": 0, "id": -1, "timeout": 2.0})
    if TASK == "alone":
        config.processes.update({"count": 2, "timeout": 2.0})
    if TASK in ("wait", "exchange", "hang"):
        config.processes.timeout = 2.0
    with processes.initialized(config):
        TASKS[TASK](me)


run_or_exit(main)
