"""Benchmark sets and predictions -> printed tables, a report, a plot, BFCL's result files; without a model or JAX."""

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
from tljax.evaluate.benchmarks.sets import EvalSet, format_notes
from tljax.evaluate.benchmarks.tables import difference_table, result_table, robustness_table
from tljax.evaluate.benchmarks.training_rows import TrainingRowOptions
from tljax.storage.atomic import write_json
from tljax.storage.resumable import check_new_output, claim_output


def run(config: Any) -> None:
    """Scores the predictions that `config` (configs/evaluate.py) names, and reports them as `report_results` does.

    Raises InputError for a mistake of the user.
    """
    check(config)
    sets = load_sets(config)
    replies, notes = read_predictions(Path(config.predictions).expanduser(), sets)
    if not replies:
        raise InputError(f"config.data {config.data}: nothing to score; {notes[0] if notes else 'there is no row'}")
    check_scored_sets(config, [eval_set for eval_set in sets if eval_set.name in replies])
    if config.out:
        with claim_output(Path(config.out).expanduser()):
            report_results(config, sets, replies, notes)
    else:
        report_results(config, sets, replies, notes)


def check(config: Any, begun: bool = False) -> None:
    """Raises InputError if the value of a field is not allowed, an input is missing, or an output exists already.

    begun: an earlier run was stopped. Results that it wrote may exist and are written again.
    """
    check_no_tools(config)
    if config.data == "toolbox":
        raise InputError(
            "config.data is 'toolbox', for which config.predictions cannot be used; give the benchmark file or folder "
            "that the predictions answer, --config.data=RoTBench/Data"
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
    """Raises InputError if config.compare or config.bfcl_out does not fit the sets that are scored."""
    if config.bfcl_out and all(eval_set.benchmark != "bfcl" for eval_set in sets):
        raise InputError(f"config.bfcl_out is {config.bfcl_out!r}, but no set of BFCL is scored; leave it empty")
    if config.compare:
        read_other_scores(sets, Path(config.compare).expanduser())


def path_beside_report(report: str, ending: str) -> Path:
    """The path of a file that belongs to a report, such as report.robustness.png for report.json."""
    out = Path(report).expanduser()
    return out.with_name(f"{out.name.removesuffix('.json')}.{ending}")


def check_no_tools(config: Any) -> None:
    """Raises InputError if config.tools is set, as only dialogues run tools."""
    if config.tools:
        raise InputError(
            f"config.tools is {config.tools!r}, whose functions are called in dialogues only; give "
            "--config.turns=multi too, or leave it empty"
        )


def load_sets(config: Any) -> list[EvalSet]:
    """Returns the sets of config.data and their noisy versions.

    Prints which files of a folder are not sets, and the notes on sets of training rows.
    """
    sets, unread = discover_sets(config.data, training_rows=lambda: TrainingRowOptions.from_config(config))
    for line in [*(f"not read: {line}" for line in unread), *format_notes(sets)]:
        print(line)
    return add_noisy_sets(sets, parse_levels(config.noise), config.noise_seed)


def report_results(config: Any, sets: Sequence[EvalSet], replies: Mapping[str, Replies], notes: Sequence[str]) -> None:
    """Prints the tables of all sets that have replies, and writes config.bfcl_out, config.out and its plot.

    Existing files are overwritten. notes: lines on the sets that have no replies; at least one set must have some.
    """
    results = [score_set(eval_set, replies[eval_set.name]) for eval_set in sets if eval_set.name in replies]
    report, groups = benchmark_report(results), robustness_groups(results)
    blocks = [result_table(result) for result in results] + [robustness_table(group) for group in groups]
    if config.compare:
        compared = score_differences(results, Path(config.compare).expanduser())
        blocks.append(difference_table(compared, config.compare))
        report["compared"] = {"with": config.compare, "differences": [asdict(difference) for difference in compared]}
    print("\n\n".join(blocks))
    for line in [*notes, *unpaired(results)]:
        print(line)
    if config.bfcl_out:
        files = write_bfcl_results(Path(config.bfcl_out).expanduser(), sets, replies)
        print(f"written       {config.bfcl_out}: {len(files)} result files for BFCL's own checker")
    if config.out:
        if groups:
            report["robustness"] = [
                {"name": g.name, "policy": g.policy, "drops": [asdict(drop) for drop in g.drops]} for g in groups
            ]
        write_json(Path(config.out).expanduser(), report)
        print(f"written       {config.out}")
        if groups:
            plot_path = path_beside_report(config.out, "robustness.png")
            plot_drops(groups, plot_path)
            print(f"written       {plot_path}")
