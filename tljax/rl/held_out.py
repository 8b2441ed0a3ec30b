"""Rewards of greedy replies to prompts and queries that no update trains on."""

from collections.abc import Mapping, Sequence

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


def held_out_rewards(
    replies: Sequence[ScoredReply], queries: Sequence[Query], prompts: PromptTable, reward_function: RewardFunction
) -> list[Reward]:
    """Returns the rewards of replies to queries that were made from held-out prompts."""
    return reward_function.score([reply.text for reply in replies], [prompts[query.example.index] for query in queries])


def reward_metrics(rewards: Sequence[Reward]) -> dict[str, float]:
    """Returns the mean reward and the share of each error kind: of all KINDS, and of any other that occurs."""
    kinds = [reward.kind for reward in rewards]
    metrics = {"reward": float(np.mean([reward.value for reward in rewards]))}
    return metrics | {f"share_{kind}": kinds.count(kind) / len(kinds) for kind in sorted({*KINDS, *kinds})}


def rewards_by_set(folder: RunFolder, step: int, sets: in_training.EvalSets) -> dict[str, list[float]]:
    """Returns the rewards of the replies after update `step`, by set, under the rule "table".

    The rule needs one golden call and compares all its arguments, so queries with several golden calls, with arguments
    that are not compared, or with a renamed finish are left out. Returns {} if the file of replies answers other
    queries.
    """
    rows = in_training.read_scored_replies(folder, step, sets)
    queries = [query for members in sets.values() for query in members] if rows else []
    rewards: dict[str, list[float]] = {}
    for row, query in zip(rows, queries, strict=True):
        example = query.example
        plain = len(example.golden) == 1 and not example.ignored and example.golden[0].name != example.finish
        if plain and row["golden"] is not None:
            rewards.setdefault(row["set"], []).append(reward(row["prediction"], row["golden"], query.tools).value)
    return rewards


def format_reward_table(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> str:
    """Returns a line for each set: the mean reward before and after, and the gain with its 95 % paired interval."""
    lines = []
    for name, rewards in after.items():
        mean_before, mean_after = float(np.mean(before[name])), float(np.mean(rewards))
        gain, low, high = paired_difference(before[name], rewards)
        lines.append(
            f"  {name:<12} {mean_before:+.3f} -> {mean_after:+.3f}, gain {gain:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"{len(rewards):,} queries"
        )
    return "\n".join(lines)


def format_metrics(metrics: Mapping[str, float], step: int, count: int) -> str:
    """Returns a line with the metrics of `count` held-out prompts after update `step`."""
    shares = ", ".join(f"{kind} {100 * metrics[f'share_{kind}']:.1f}" for kind in KINDS)
    return f"step {step}: greedy reward on {count:,} held-out prompts {metrics['reward']:+.4f}; percent {shares}"
