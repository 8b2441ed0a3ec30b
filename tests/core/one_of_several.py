"""One process of several, for test_processes.py: joins the others and does what its first argument says."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from tljax.core import group, processes
from tljax.core.command import guard
from tljax.core.config import processes_block
from tljax.core.errors import InputError

WHAT, FOLDER = sys.argv[1], Path(sys.argv[2])
group.BEAT, group.SILENCE = 0.3, 5.0


def agree(me: int) -> None:
    """Everything that one process does first or alone, told by each."""
    made = FOLDER / "made"

    def make() -> str:
        if me == 0:
            made.touch(exist_ok=False)
        assert made.exists()
        return f"made on {me}"

    first = processes.on_first(lambda: [me, "ä", None])
    processes.check_same({"rows": "the same"})
    print("found", first, processes.first_then_others(make), flush=True)


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
    """Process 1 never gets to where process 0 waits."""
    if me == 1:
        time.sleep(60)
    processes.on_first(lambda: None)
    processes.check_same({})


WORK = {
    "agree": agree,
    "differ": agree,
    "other-code": agree,
    "alone": agree,
    "fail": fail,
    "kill-0": lambda me: kill(me, 0),
    "kill-1": lambda me: kill(me, 1),
    "freeze-0": lambda me: freeze(me, 0),
    "freeze-1": lambda me: freeze(me, 1),
    "wait": wait,
}


def main() -> None:
    config: Any = ConfigDict({"lr": 1.0, "processes": processes_block()})
    config_flags.DEFINE_config_dict("config", config)
    flags.FLAGS(sys.argv[:1] + sys.argv[3:])
    me = config.processes.id
    if WHAT == "differ":
        config.lr += me
    if WHAT == "other-code":
        processes.versions = lambda: {"code of tljax": f"version {me}"}
    if WHAT == "alone":
        config.processes.update({"count": 2, "timeout": 2.0})
    if WHAT == "wait":
        config.processes.timeout = 2.0
    with processes.joined(config):
        WORK[WHAT](me)


guard(main)
