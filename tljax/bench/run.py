"""Runs a benchmark: every side in turn, each in a process of its own; then the table, and the report as JSON."""

import contextlib
import importlib.util
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tljax.bench import machine, report
from tljax.bench.compare import compare
from tljax.bench.reply_times import batch_sizes
from tljax.bench.side import Side, SideFailed, run_side
from tljax.bench.sides import COLD, OURS, PEERS, SIDES, list_sides
from tljax.core.config import check_choice, check_minimums
from tljax.core.errors import InputError, explain_disk_errors
from tljax.storage.atomic import write_json
from tljax.storage.resumable import check_new_output

INSTALL_PEERS = "pip install 'tljax[peers]'"
FOLDER = "benchmarks"  # of the report, where config.out names none
BLOCKS = ("sft", "ppo", "generate")
MINIMUMS = {"repeats": 1, "warmup": 0, "generate.sample.max_new_tokens": 2}

Results = dict[str, dict[str, Any]]  # of each side by its name, as run_side returns them


def run(config: Any) -> None:
    """Measures config.what (configs/bench.py), prints a table and writes a report.

    Raises InputError for what the user can correct, and SystemExit if tljax's own process ends without a result.
    """
    check(config)
    out = output_file(config)
    config = prepare(config)
    load, notes = machine.OtherLoad(), []
    sides = installed(list_sides(config), notes)
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="tljax-bench-") as folder:
        results = measure_sides(config, sides, Path(folder), notes)
    benchmark = report.Benchmark(
        what=config.what,
        model=config.model.path,
        sides=results,
        comparisons=[compare(results[OURS], name, side) for name, side in results.items() if name != OURS],
        other_load=load.processors(),
        notes=notes,
    )
    with explain_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report.to_json(benchmark))
    print(f"{report.format_report(benchmark)}\nreport: {out}", flush=True)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Turns SIGTERM, such as that of `timeout`, into SystemExit, so that no side and no folder is left behind."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check(config: Any) -> None:
    """Raises InputError for a field of the benchmark itself; the blocks are checked by the process that reads them."""
    check_choice("what", config.what, SIDES)
    check_minimums(config, MINIMUMS)
    if config.peer and config.what not in PEERS:
        raise InputError(
            f"config.peer is set, but config.what is {config.what!r}, which no peer does in the same way; allowed with "
            f"{', '.join(PEERS)}"
        )
    if config.peer and config.what == "sft" and config.sft.lora.rank:
        raise InputError(
            f"config.peer is set, and config.sft.lora.rank is {config.sft.lora.rank}; the peers train all weights: set "
            "it to 0"
        )
    for block in BLOCKS:
        if config[block].model.path:
            raise InputError(
                f"config.{block}.model.path is {config[block].model.path!r}; one model is measured: set "
                "config.model.path instead"
            )
    batch_sizes(config)


def output_file(config: Any) -> Path:
    """Returns the report's path: config.out, or the first free one of benchmarks/WHAT-MODEL.json, WHAT-MODEL-2.json.

    Raises InputError if config.out exists, or if its folder does not.
    """
    if config.out:
        out = Path(config.out).expanduser()
        check_new_output(out)
        return out
    stem = f"{config.what}-{Path(config.model.path).stem}"
    names = (f"{stem}{f'-{n}' * (n > 1)}.json" for n in range(1, 10**6))
    return next(path for path in (Path(FOLDER) / name for name in names) if not path.exists())


def prepare(config: Any) -> Any:
    """Returns the config with the fields of its blocks that a benchmark decides."""
    config = config.copy_and_resolve_references()
    for block in BLOCKS:
        config[block].model.path = config.model.path
    for block in (config.sft, config.ppo):
        block.eval.sets = ""  # an evaluation has its own time, and is no part of an update's
    config.sft.optim.max_steps = config.warmup + config.repeats
    return config


def installed(sides: list[Side], notes: list[str]) -> list[Side]:
    """Returns the sides whose modules are installed. Adds one note on all others."""
    absent = {side: [name for name in side.needs if importlib.util.find_spec(name) is None] for side in sides}
    left_out = [side.name for side, modules in absent.items() if modules]
    if left_out:
        modules = ", ".join(dict.fromkeys(name for names in absent.values() for name in names))
        notes.append(f"not measured: {', '.join(left_out)}, since not installed: {modules}; {INSTALL_PEERS}")
        print(f"note: {notes[-1]}", flush=True)
    return [side for side, modules in absent.items() if not modules]


def measure_sides(config: Any, sides: list[Side], work: Path, notes: list[str]) -> Results:
    """Returns the result of each side. Adds a note on each peer that fails.

    work: an empty folder. Its cache of compiled programs and its prepared data are empty too, so that the first start
    is a cold one.
    """
    for block in (config.sft, config.ppo):
        block.data.cache = str(work / "data")
    (work / "config.json").write_text(config.to_json_best_effort(), encoding="utf-8")
    environment = {"JAX_COMPILATION_CACHE_DIR": str(work / "programs")}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    results: Results = {}
    for side in sides:
        print(f"measuring {side.name}: {config.what} of {config.model.path}", flush=True)
        try:
            results[side.name] = run_side(side, work, environment)
        except SideFailed as error:
            if not side.is_peer:
                print(f"error: {error}", file=sys.stderr, flush=True)
                raise SystemExit(1) from error
            notes.append(f"{side.name} is not measured: {error}")
    if COLD in results:
        name, cold, ours = "seconds to the first step", results.pop(COLD)["measurements"], results[OURS]["measurements"]
        ours["first step, cold start"] = cold[name]
        ours["first step, warm start"] = ours.pop(name)
    return results
