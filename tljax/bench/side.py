"""One side of a benchmark, which is measured in a process of its own: tljax, or a peer.

A side is a module with a function `measure(config, work, options)`, which returns a dict: "measurements" {name:
Measurement}, "device", a text, "shapes", and what the comparison needs. The parent calls `run_side`. Its child, `python
-m tljax.bench.side MODULE FOLDER NAME PARENT`, reads FOLDER/config.json and FOLDER/NAME.options.json, and writes
FOLDER/NAME.json. A process of its own has its own peak of memory and its own start, and leaves no memory to the next.
"""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tljax.bench import machine
from tljax.bench.measurement import Measurement
from tljax.core.command import run_or_exit
from tljax.core.errors import InputError
from tljax.storage.atomic import write_json

BAD_INPUT = 2  # the exit code of InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """A side to measure.

    name: as in the report. module: the last part of its name in tljax.bench. options: for `measure`. needs: the modules
    that have to be installed for it.
    """

    name: str
    module: str
    options: Mapping[str, Any]
    needs: tuple[str, ...] = ()

    @property
    def is_peer(self) -> bool:
        return bool(self.needs)


class SideFailed(Exception):
    """A side's process ended without a result; the message is one line."""


def run_side(side: Side, work: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Measures a side in a child process and returns its result.

    work: the folder with config.json, which all sides of a benchmark share. environment: variables beside those of this
    process. Raises InputError as tljax's side does, and SideFailed if a process ends without a result in any other way.
    """
    stem = re.sub(r"\W+", "-", side.name)
    write_json(work / f"{stem}.options.json", {**side.options, "begun": time.time()})
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "tljax.bench.side", side.module, str(work), stem, str(os.getpid())]
    log = work / f"{stem}.log"
    with open(log, "w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=variables) as process:
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code == 0:
        result = json.loads((work / f"{stem}.json").read_text(encoding="utf-8"))
        result["measurements"] = {k: Measurement.from_json(v) for k, v in result["measurements"].items()}
        return result
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
    if code == BAD_INPUT and not side.is_peer:
        raise InputError(lines[-1].removeprefix("error: "))
    if not side.is_peer:
        print("\n".join(lines), file=sys.stderr)
    reason = f"signal {-code} (9: the machine may be out of memory)" if code < 0 else f"code {code}"
    raise SideFailed(f"the process of {side.name} ended with {reason}: {lines[-1]}")


def end_with_parent(parent: int) -> None:
    """Ends this process soon after the process `parent`, which may be killed before it can end its sides."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(module: str, folder: str, stem: str) -> None:
    """Measures in this process, and writes the result."""
    work = Path(folder)
    config = ConfigDict(json.loads((work / "config.json").read_text(encoding="utf-8")))
    options = json.loads((work / f"{stem}.options.json").read_text(encoding="utf-8"))
    result = importlib.import_module(f"tljax.bench.{module}").measure(config, work, options)
    result["measurements"] = {name: m.to_json() for name, m in result["measurements"].items()}
    write_json(work / f"{stem}.json", result | {"versions": machine.library_versions()})


if __name__ == "__main__":
    end_with_parent(int(sys.argv[4]))
    run_or_exit(lambda: main(*sys.argv[1:4]))
