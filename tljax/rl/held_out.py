"""Greedy rewards on what no update sees: held-out prompts, and the toolbox's held-out queries before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tljax.calls.compare import KINDS
from tljax.data.prompt_table import PromptTable
from tljax.evaluate import in_training
from tljax.evaluate.benchmarks.sets import Query
from tljax.evaluate.score import paired_difference
from tljax.evaluate.scored_replies import ScoredReply
from tljax.rl.irm import Reward, reward
from tljax.rl.reward import RewardFunction
from tljax.storage.run_folder import RunFolder


def rewards_of(
    answers: Sequence[ScoredReply], queries: Sequence[Query], prompts: PromptTable, judge: RewardFunction
) -> list[Reward]:
    """The rewards of answers to queries that stand for held-out prompts."""
    return judge.score([answer.text for answer in answers], [prompts[query.example.index] for query in queries])


def reward_metrics(rewards: Sequence[Reward]) -> dict[str, float]:
    """The mean reward and the share of every kind of error that occurs, of those in KINDS also where it does not."""
    kinds = [reward.kind for reward in rewards]
    found = {"reward": float(np.mean([reward.value for reward in rewards]))}
    return found | {f"share_{kind}": kinds.count(kind) / len(kinds) for kind in sorted({*KINDS, *kinds})}


def answer_rewards(folder: RunFolder, step: int, sets: in_training.EvalSets) -> dict[str, list[float]]:
    """The table's reward of every answer of update `step` to a query with one golden call, by set.

    Rows where a score knows better are left out: with arguments that are not compared, or a renamed finish. Nothing
    where the file there is of other queries.
    """
    rows = in_training.read_scored_replies(folder, step, sets)
    queries = [query for members in sets.values() for query in members] if rows else []
    found: dict[str, list[float]] = {}
    for row, query in zip(rows, queries, strict=True):
        example = query.example
        plain = len(example.golden) == 1 and not example.ignored and example.golden[0].name != example.finish
        if plain and row["golden"] is not None:
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


def format_metrics(values: Mapping[str, Any], step: int, count: int) -> str:
    """Held-out metrics in a line."""
    shares = ", ".join(f"{kind} {100 * values[f'share_{kind}']:.1f}" for kind in KINDS)
    return f"step {step}: greedy reward on {count:,} held-out prompts {values['reward']:+.4f}; percent {shares}"
