"""Benchmark sets and replies to them -> tables on the screen, a report, a plot, BFCL's files; no model, no JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tljax.core.config import check_range
from tljax.core.errors import InputError
from tljax.core.run_folder import write_json
from tljax.evaluate.benchmarks.bfcl_results import check_new_folder, write_bfcl_results
from tljax.evaluate.benchmarks.find import find_sets
from tljax.evaluate.benchmarks.noisy import parse_levels, with_noise
from tljax.evaluate.benchmarks.predictions import Replies, read_predictions
from tljax.evaluate.benchmarks.results import differences, read_report, report_of, score_set
from tljax.evaluate.benchmarks.robustness import groups, plot
from tljax.evaluate.benchmarks.sets import EvalSet
from tljax.evaluate.benchmarks.tables import difference_table, result_table, robustness_table
from tljax.evaluate.partial import check_new, claim


def run(config: Any) -> None:
    """Scores the predictions that `config` (configs/evaluate.py) names, as `conclude` tells.

    Raises InputError for what the user can mend.
    """
    check(config)
    sets = load(config)
    replies, untold = read_predictions(Path(config.predictions).expanduser(), sets)
    if config.out:
        with claim(Path(config.out).expanduser()):
            conclude(config, sets, replies, untold)
    else:
        conclude(config, sets, replies, untold)


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed, and for files that are not or should not be there."""
    check_single(config)
    if config.data == "toolbox":
        raise InputError(
            "config.data is 'toolbox', which config.predictions is not for; give the benchmark's file or folder that "
            "they answer, --config.data=RoTBench/Data"
        )
    parse_levels(config.noise)
    check_range("noise_seed", config.noise_seed, 0)
    if config.out:
        check_new(Path(config.out).expanduser())
        check_new(plot_file(config), "file")
    if config.compare:
        read_report(Path(config.compare).expanduser())
    if config.bfcl_out:
        check_new_folder(Path(config.bfcl_out).expanduser())


def check_single(config: Any) -> None:
    """Raises InputError for tools to be run, which only dialogues do."""
    if config.tools:
        raise InputError(
            f"config.tools is {config.tools!r}, whose functions are called in dialogues alone; give "
            "--config.turns=multi too, or leave it empty"
        )


def plot_file(config: Any) -> Path:
    """Where the plot of robustness lies: beside the report."""
    return Path(config.out).expanduser().with_suffix(".robustness.png")


def load(config: Any) -> list[EvalSet]:
    """The sets of config.data, those with noise included; prints which files of a folder are none."""
    sets, unread = find_sets(config.data)
    for line in unread:
        print(f"not read: {line}")
    return with_noise(sets, parse_levels(config.noise), config.noise_seed)


def conclude(config: Any, sets: Sequence[EvalSet], replies: Mapping[str, Replies], untold: Sequence[str]) -> None:
    """Prints the tables of all sets that have replies; writes config.out, its plot, and config.bfcl_out.

    untold: lines on the sets that have none. Raises InputError where no set can be scored.
    """
    results = [score_set(one, replies[one.name]) for one in sets if one.name in replies]
    if not results:
        raise InputError(f"config.data {config.data}: nothing to score; {untold[0] if untold else 'there is no row'}")
    if config.bfcl_out and all(result.set.benchmark != "bfcl" for result in results):
        raise InputError(f"config.bfcl_out is {config.bfcl_out!r}, but no set of BFCL is scored; leave it empty")
    report, found = report_of(results), groups(results)
    blocks = [result_table(result) for result in results] + [robustness_table(group) for group in found]
    if config.compare:
        compared = differences(results, Path(config.compare).expanduser())
        blocks.append(difference_table(compared, config.compare))
        report["compared"] = {"with": config.compare, "differences": [asdict(one) for one in compared]}
    print("\n\n".join(blocks))
    for line in untold:
        print(line)
    if config.bfcl_out:
        files = write_bfcl_results(Path(config.bfcl_out).expanduser(), sets, replies)
        print(f"written       {config.bfcl_out}: {len(files)} result files for BFCL's own checker")
    if config.out:
        if found:
            report["robustness"] = [
                {"name": g.name, "policy": g.policy, "drops": [asdict(drop) for drop in g.drops]} for g in found
            ]
            plot(found, plot_file(config))
            print(f"written       {plot_file(config)}")
        write_json(Path(config.out).expanduser(), report)
        print(f"written       {config.out}")
