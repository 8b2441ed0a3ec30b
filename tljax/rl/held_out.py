"""Greedy rewards on what no update sees: held-out prompts, and the toolbox's held-out queries before and after."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data.compare import KINDS
from tljax.data.prompt_table import PromptTable
from tljax.evaluate import in_training
from tljax.evaluate.answers import Answer
from tljax.evaluate.score import paired_difference
from tljax.rl.irm import Reward, reward
from tljax.rl.reward import RewardFunction


def rewards_of(answers: Sequence[Answer], prompts: PromptTable, judge: RewardFunction) -> list[Reward]:
    """The rewards of answers to the first of `prompts`."""
    return judge.score([answer.text for answer in answers], [prompts[i] for i in range(len(answers))])


def reward_metrics(rewards: Sequence[Reward]) -> dict[str, float]:
    """The mean reward and the share of every kind of error that occurs, of those in KINDS also where it does not."""
    kinds = [reward.kind for reward in rewards]
    found = {"reward": float(np.mean([reward.value for reward in rewards]))}
    return found | {f"share_{kind}": kinds.count(kind) / len(kinds) for kind in sorted({*KINDS, *kinds})}


def answer_rewards(folder: Path, step: int, sets: in_training.Sets) -> dict[str, list[float]]:
    """The table's reward of every answer of update `step` to a query with one golden call, by set.

    Nothing where the file there is of other sets.
    """
    path = in_training.scores_file(folder, step)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    if Counter(row["set"] for row in rows) != {name: len(queries) for name, queries in sets.items()}:
        return {}
    found: dict[str, list[float]] = {}
    for row, query in zip(rows, (query for queries in sets.values() for query in queries), strict=True):
        if len(query.example.golden) == 1 and row["golden"] is not None:
            found.setdefault(row["set"], []).append(reward(row["prediction"], row["golden"], query.tools).value)
    return found


def reward_table(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> str:
    """A line a set: mean reward before and after, the gain with its 95 % paired interval."""
    lines = []
    for name, rewards in after.items():
        first, last = float(np.mean(before[name])), float(np.mean(rewards))
        gain, low, high = paired_difference(before[name], rewards)
        lines.append(
            f"  {name:<12} {first:+.3f} -> {last:+.3f}, gain {gain:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"{len(rewards):,} queries"
        )
    return "\n".join(lines)


def told(values: Mapping[str, Any], step: int, count: int) -> str:
    """Held-out metrics in a line."""
    shares = ", ".join(f"{kind} {100 * values[f'share_{kind}']:.1f}" for kind in KINDS)
    return f"step {step}: greedy reward on {count:,} held-out prompts {values['reward']:+.4f}; percent {shares}"
