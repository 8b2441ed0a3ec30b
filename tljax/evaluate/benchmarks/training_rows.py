"""A file of training rows, in any format of data/formats -> a set with a query for each message whose calls MAE keeps.

The messages of the assistant are numbered through the file, from 0, whether they are queries or not. So the `index` of
a query does not depend on the rule of MAE, and is the row's number, from 0, where every row has one such message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tljax.calls.compare import Comparison, as_tool_list
from tljax.calls.render import render_call
from tljax.calls.tool import Call, Tool
from tljax.core.config import check_choice
from tljax.core.errors import InputError
from tljax.data.examples import format_counts
from tljax.data.formats.read import AUTO, FORMAT_NAMES, read_record
from tljax.data.mae import Decision, check_rule, load_rule
from tljax.data.reader import ON_BAD_ROW, format_first_errors, open_trajectories
from tljax.data.records import read_records
from tljax.data.trajectory import Trajectory
from tljax.evaluate.benchmarks.sets import EvalSet, Example, Skipped, golden_call_remarks

TRAINING_ROWS = "training rows"  # stands in place of a benchmark's name
NO_CALL = "text without a call"
PEEKED = 20  # the number of rows that decide whether a file holds training rows


@dataclass(frozen=True, slots=True)
class TrainingRowOptions:
    """The options for reading training rows, which have the meaning of those in a config's `data` block."""

    data_format: str
    mae: str
    on_bad_row: str
    cache: str

    @classmethod
    def from_config(cls, config: Any) -> TrainingRowOptions:
        """Returns the options of configs/evaluate.py. Raises InputError for a value that is not allowed."""
        check_choice("format", config.format, FORMAT_NAMES)
        check_choice("on_bad_row", config.on_bad_row, ON_BAD_ROW)
        return cls(config.format, config.mae, config.on_bad_row, config.cache)

    @classmethod
    def from_data(cls, data: Any) -> TrainingRowOptions:
        """Returns the options of a training run's `data` block, for a file of eval.sets.

        data.format and a file of verdicts are about the rows of data.source alone: here the shape of a row decides, and
        the default rule takes the place of the verdicts.
        """
        mae = "default" if data.mae.strip().endswith(".jsonl") else data.mae
        return cls(AUTO, mae, data.on_bad_row, data.cache)


def why_no_training_rows(source: str | Path, options: TrainingRowOptions) -> str | None:
    """Returns the reason why none of the first rows of a file is a training row; None if one of them is."""
    reason = None
    try:
        for number, row in islice(read_records(str(source)), PEEKED):
            try:
                if isinstance(row, InputError):
                    raise row
                read_record(row, f"file {source}, row {number}", number, options.data_format)
                return None
            except InputError as error:
                reason = reason or str(error)
    except InputError as error:
        reason = reason or str(error)
    return reason and reason.removeprefix(f"file {source}, ").removeprefix(f"file {source}: ")


def read_training_rows(name: str, source: str | Path, options: TrainingRowOptions) -> EvalSet:
    """Reads a file, or a folder with a dataset. Its notes tell how many messages of the assistant are queries.

    Raises InputError for a malformed row, as options.on_bad_row says, and if no message is a query.
    """
    rows = open_trajectories(str(source), options.on_bad_row, options.cache or None, options.data_format)
    rule = load_rule(options.mae)
    rule_note = check_rule(rule, rows)
    examples, skipped, remarks = [], [], []
    for trajectory in rows.trajectories():
        decisions = rule(trajectory)
        for message in _messages(trajectory):
            index = len(examples) + len(skipped)
            outcome = _query(trajectory, message, decisions, index)
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
            else:
                examples.append(outcome)
                remarks += golden_call_remarks(index, outcome.golden, outcome.tools)
    reasons = Counter(row.reason.partition(":")[0] for row in skipped)
    counts = f"{len(examples) + len(skipped):,} messages of the assistant in {len(rows):,} rows"
    if not examples:
        raise InputError(
            f"file {source}: none of its {counts} has a call to score ({format_counts(reasons)}); give rows with "
            "calls, or choose another rule of MAE"
        )
    notes = [
        f"{TRAINING_ROWS}, {counts}: {len(examples):,} queries"
        + (f"; not scored: {format_counts(reasons)}" if skipped else ""),
        "\n".join(rows.format_lines()),
    ]
    notes += [rule_note] if rule_note else []
    if rows.skipped:
        notes.append("\n".join([f"malformed rows left out: {len(rows.skipped):,}", *format_first_errors(rows.skipped)]))
    return EvalSet(
        name, TRAINING_ROWS, tuple(examples), tuple(skipped), tuple(remarks), file=str(source), notes=tuple(notes)
    )


def _messages(trajectory: Trajectory) -> Iterator[list[tuple[int, int]]]:
    """Yields, for each message of the assistant, its turns: their numbers among all turns, and among the assistant's.

    The turns are the parallel calls of the message.
    """
    message: list[tuple[int, int]] = []
    steps = 0
    for position, turn in enumerate(trajectory.turns):
        if turn.role != "assistant":
            continue
        if message and not turn.parallel:
            yield message
            message = []
        message.append((position, steps))
        steps += 1
    if message:
        yield message


def _query(
    trajectory: Trajectory, message: list[tuple[int, int]], decisions: list[Decision], index: int
) -> Example | Skipped:
    """Returns the query that a message answers, or the reason why it is not scored.

    The prompt ends before the message. The golden calls are the calls that MAE keeps.
    """
    position, step = message[0]
    identity = f"{trajectory.id}, step {step + 1}"
    if trajectory.turns[position].call is None:
        return Skipped(index, identity, f"{NO_CALL}: there is nothing to compare")
    kept = [(turn, decisions[k]) for turn, k in message if decisions[k].kept]
    if not kept:
        kind, _, excerpt = (decisions[step].reason or "").partition(":")
        return Skipped(index, identity, f"blocked ({kind}):{excerpt}")
    golden = tuple(call for turn, _ in kept if (call := trajectory.turns[turn].call) is not None)
    unreadable = _unreadable(golden, trajectory.tools)
    if unreadable:
        return Skipped(index, identity, f"golden call cannot be read: {unreadable}")
    return Example(index, identity, trajectory.tools, trajectory.turns[:position], golden, system=trajectory.system)


def _unreadable(golden: tuple[Call, ...], tools: tuple[Tool, ...]) -> str:
    """Returns the reason why no reply could equal one of the golden calls, or ""."""
    listed = as_tool_list(tools)
    issues = (listed.parse(render_call(call, "mae")).issue for call in golden)
    return next((Comparison("format", issue=issue).detail for issue in issues if issue is not None), "")
