"""Benchmark sets and replies to them -> tables on the screen, a report, a plot, BFCL's files; no model, no JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tljax.core.config import check_range
from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.bfcl_results import check_new_folder, write_bfcl_results
from tljax.evaluate.benchmarks.discover import discover_sets
from tljax.evaluate.benchmarks.noisy import add_noisy_sets, parse_levels
from tljax.evaluate.benchmarks.predictions import Replies, read_predictions
from tljax.evaluate.benchmarks.results import (
    benchmark_report,
    read_other_scores,
    read_report,
    score_differences,
    score_set,
)
from tljax.evaluate.benchmarks.robustness import plot_drops, robustness_groups, unpaired
from tljax.evaluate.benchmarks.sets import EvalSet
from tljax.evaluate.benchmarks.tables import difference_table, result_table, robustness_table
from tljax.storage.atomic import write_json
from tljax.storage.resumable import check_new_output, claim_output


def run(config: Any) -> None:
    """Scores the predictions that `config` (configs/evaluate.py) names, as `conclude` tells.

    Raises InputError for what the user can mend.
    """
    check(config)
    sets = load_sets(config)
    replies, untold = read_predictions(Path(config.predictions).expanduser(), sets)
    if not replies:
        raise InputError(f"config.data {config.data}: nothing to score; {untold[0] if untold else 'there is no row'}")
    check_scored_sets(config, [one for one in sets if one.name in replies])
    if config.out:
        with claim_output(Path(config.out).expanduser()):
            report_results(config, sets, replies, untold)
    else:
        report_results(config, sets, replies, untold)


def check(config: Any, begun: bool = False) -> None:
    """Raises InputError for a field whose value is not allowed, and for files that are not or should not be there.

    begun: an earlier run was stopped; what it has written of the results may be there, and is written again.
    """
    check_no_tools(config)
    if config.data == "toolbox":
        raise InputError(
            "config.data is 'toolbox', which config.predictions is not for; give the benchmark's file or folder that "
            "they answer, --config.data=RoTBench/Data"
        )
    parse_levels(config.noise)
    check_range("noise_seed", config.noise_seed, 0)
    if config.out and not begun:
        check_new_output(Path(config.out).expanduser())
    if config.compare:
        read_report(Path(config.compare).expanduser())
    if config.bfcl_out:
        check_new_folder(Path(config.bfcl_out).expanduser(), begun)


def check_scored_sets(config: Any, sets: Sequence[EvalSet]) -> None:
    """Raises InputError where config.compare or config.bfcl_out does not fit the sets that are scored."""
    if config.bfcl_out and all(one.benchmark != "bfcl" for one in sets):
        raise InputError(f"config.bfcl_out is {config.bfcl_out!r}, but no set of BFCL is scored; leave it empty")
    if config.compare:
        read_other_scores(sets, Path(config.compare).expanduser())


def path_beside_report(report: str, ending: str) -> Path:
    """Where a file that belongs to a report lies: report.robustness.png for report.json."""
    out = Path(report).expanduser()
    return out.with_name(f"{out.name.removesuffix('.json')}.{ending}")


def check_no_tools(config: Any) -> None:
    """Raises InputError for tools to be run, which only dialogues do."""
    if config.tools:
        raise InputError(
            f"config.tools is {config.tools!r}, whose functions are called in dialogues alone; give "
            "--config.turns=multi too, or leave it empty"
        )


def load_sets(config: Any) -> list[EvalSet]:
    """The sets of config.data, those with noise included; prints which files of a folder are none."""
    sets, unread = discover_sets(config.data)
    for line in unread:
        print(f"not read: {line}")
    return add_noisy_sets(sets, parse_levels(config.noise), config.noise_seed)


def report_results(config: Any, sets: Sequence[EvalSet], replies: Mapping[str, Replies], untold: Sequence[str]) -> None:
    """Prints the tables of all sets that have replies; writes config.bfcl_out, config.out and its plot.

    What it writes may be there already. untold: lines on the sets that have no replies; one at least has some.
    """
    results = [score_set(one, replies[one.name]) for one in sets if one.name in replies]
    report, found = benchmark_report(results), robustness_groups(results)
    blocks = [result_table(result) for result in results] + [robustness_table(group) for group in found]
    if config.compare:
        compared = score_differences(results, Path(config.compare).expanduser())
        blocks.append(difference_table(compared, config.compare))
        report["compared"] = {"with": config.compare, "differences": [asdict(one) for one in compared]}
    print("\n\n".join(blocks))
    for line in [*untold, *unpaired(results)]:
        print(line)
    if config.bfcl_out:
        files = write_bfcl_results(Path(config.bfcl_out).expanduser(), sets, replies)
        print(f"written       {config.bfcl_out}: {len(files)} result files for BFCL's own checker")
    if config.out:
        if found:
            report["robustness"] = [
                {"name": g.name, "policy": g.policy, "drops": [asdict(drop) for drop in g.drops]} for g in found
            ]
        write_json(Path(config.out).expanduser(), report)
        print(f"written       {config.out}")
        if found:
            picture = path_beside_report(config.out, "robustness.png")
            plot_drops(found, picture)
            print(f"written       {picture}")
