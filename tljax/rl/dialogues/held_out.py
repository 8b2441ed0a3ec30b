"""Greedy dialogues of held-out tasks: solved tasks, DE and CE, before and after, with paired intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tljax.agent.scores import dialogue_scores
from tljax.core.errors import InputError
from tljax.evaluate.in_training import HELD_OUT_ROWS, scores_path
from tljax.evaluate.intervals import paired_share_difference
from tljax.evaluate.score import paired_difference
from tljax.rl.dialogues.rollout import SampledDialogue
from tljax.rl.dialogues.tasks import DialogueSets
from tljax.storage.atomic import read_jsonl, write_jsonl
from tljax.storage.run_folder import RunFolder

ERRORS = {"DE": "documentation_errors", "CE": "call_errors"}
SHARES = ("success", "VA")  # of tasks

RowSets = dict[str, list[dict[str, Any]]]


def scored_row(dialogue: SampledDialogue) -> dict[str, Any]:
    """Returns a dialogue as a row of OUT/scores/STEP.jsonl, with the sum of its rewards."""
    return dialogue.row | {"reward": sum(reward.value for reward in dialogue.rewards)}


def write_rows(folder: RunFolder, step: int, sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes OUT/scores/STEP.jsonl, a dialogue per line, the sets one after the other."""
    path = scores_path(folder, step)
    path.parent.mkdir(exist_ok=True)
    write_jsonl(path, [{**row, "set": name} for name, rows in sets.items() for row in rows])


def read_rows(folder: RunFolder, step: int, sets: DialogueSets) -> RowSets:
    """Returns the rows of OUT/scores/STEP.jsonl by set, {} if the file is absent or holds other tasks."""
    path = scores_path(folder, step)
    rows = read_jsonl(path) if path.is_file() else []
    expected = [(name, request.id) for name, requests in sets.items() for request in requests]
    if [(row["set"], row["id"]) for row in rows] != expected:
        return {}
    return {name: [row for row in rows if row["set"] == name] for name in sets}


def eval_metrics(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Returns success, VA, DE and CE in percent and the mean reward of each set, named like "domain_success".

    The scores are those of `agent.scores.dialogue_scores`; a score without cases is left out. "reward" is that of
    held_out.
    """
    metrics = {}
    for name, rows in sets.items():
        scores = dialogue_scores(rows)
        for score in (*SHARES, *ERRORS):
            share = scores[score].share if score in scores else None
            if share is not None:
                metrics[f"{name}_{score}"] = share.percent
        metrics[f"{name}_reward"] = float(np.mean([row["reward"] for row in rows]))
    if HELD_OUT_ROWS in sets:
        metrics["reward"] = metrics[f"{HELD_OUT_ROWS}_reward"]
    return metrics


def check_best(config: Any, sets: Sequence[str]) -> None:
    """Raises InputError for a value of eval.best that dialogues of `sets` do not provide."""
    rewards = ["reward"] if HELD_OUT_ROWS in sets or not sets else []
    allowed = [*rewards, *(f"{name}_{score}" for name in sets for score in (*SHARES, *ERRORS, "reward"))]
    if config.eval.best not in allowed:
        raise InputError(
            f"config.eval.best is {config.eval.best!r}; allowed with rollout.turns = multi and "
            f"eval.sets={config.eval.sets!r}: {', '.join(allowed)}"
        )


def selection_loss(best: str, metrics: Mapping[str, float]) -> float | None:
    """Returns the value that best-checkpoint selection minimizes: DE and CE as they are, minus any other score."""
    if best not in metrics:
        return None
    return metrics[best] if best.rpartition("_")[2] in ERRORS else -metrics[best]


def format_metrics(metrics: Mapping[str, float], sets: Mapping[str, Sequence[Any]], step: int) -> str:
    """Returns a line with the scores of greedy dialogues after update `step`."""
    parts = []
    for name, rows in sets.items():
        scores = [
            f"{score} {metrics[f'{name}_{score}']:.1f}"
            for score in ("success", *ERRORS)
            if f"{name}_{score}" in metrics
        ]
        parts.append(f"{name} ({len(rows):,} tasks) {', '.join(scores)}, reward {metrics[f'{name}_reward']:+.3f}")
    return f"step {step}: greedy dialogues, percent: {'; '.join(parts)}"


def format_table(before: RowSets, after: RowSets) -> str:
    """Returns a line for each set and score: before and after, with the difference and its paired 95 % interval."""
    lines = ["greedy dialogues, one for each task; percent, and the mean reward [paired 95 % interval of the change]"]
    for name, rows in after.items():
        lines.append(f"  {name}, {len(rows):,} tasks")
        pairs = list(zip(before[name], rows, strict=True))
        for label, field in (("solved", "success"), ("VA", "valid")):
            lines += _share_line(label, [(a[field], b[field]) for a, b in pairs if field in a and field in b])
        for label, field in ERRORS.items():
            sides = [[(row[field], row["calls"]) for row in side] for side in (before[name], rows)]
            difference = paired_share_difference(*sides)
            if difference is not None:
                lines.append(_line(label, 100 * _share(sides[0]), 100 * _share(sides[1]), difference, 1))
        rewards = [[row["reward"] for row in side] for side in (before[name], rows)]
        means = [float(np.mean(side)) for side in rewards]
        lines.append(_line("reward", means[0], means[1], paired_difference(*rewards), 3))
    return "\n".join(lines)


def _share_line(label: str, pairs: Sequence[tuple[bool, bool]]) -> list[str]:
    """Returns the line of a share of tasks from each task's (before, after), [] if no task has it."""
    if not pairs:
        return []
    before, after = ([100.0 * value for value in side] for side in zip(*pairs, strict=True))
    return [_line(label, float(np.mean(before)), float(np.mean(after)), paired_difference(before, after), 1)]


def _line(label: str, before: float, after: float, change: tuple[float, float, float], digits: int) -> str:
    value, low, high = (f"{x:+.{digits}f}" for x in change)
    return f"    {label:<8}{before:>8.{digits}f} -> {after:>7.{digits}f}, change {value} [{low}, {high}]"


def _share(side: Sequence[tuple[float, float]]) -> float:
    return sum(total for total, _ in side) / sum(count for _, count in side)
