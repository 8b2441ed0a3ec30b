"""Greedy rewards on what no update sees: held-out prompts, and the toolbox's held-out queries before and after."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tljax.data.compare import KINDS
from tljax.data.prompt import render_call
from tljax.data.prompt_table import Prompt
from tljax.data.tokens import Tokenizer
from tljax.evaluate.score import paired_difference
from tljax.evaluate.toolbox import held_out_sets
from tljax.model import llama
from tljax.model.replies import generate_all
from tljax.model.sampling import SampleOptions
from tljax.rl.irm import Reward, reward
from tljax.rl.reward import RewardFunction


def greedy_rewards(
    params: llama.Params,
    c: llama.LlamaConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    judge: RewardFunction,
    options: SampleOptions,
    rows: int,
    round_to: int,
) -> list[Reward]:
    """The rewards of the replies to held-out prompts, `rows` at a time."""
    tokens = [prompt.tokens for prompt in prompts]
    replies = generate_all(params, c, tokens, options, key=jax.random.key(0), rows=rows, round_to=round_to)
    return judge.score([tokenizer.decode(reply.tokens).strip() for reply in replies], prompts)


def reward_metrics(rewards: Sequence[Reward], prefix: str = "") -> dict[str, float]:
    """The mean reward and the share of every kind of error that occurs, of those in KINDS also where it does not."""
    kinds = [reward.kind for reward in rewards]
    found = {f"{prefix}reward": float(np.mean([reward.value for reward in rewards]))}
    return found | {f"{prefix}share_{kind}": kinds.count(kind) / len(kinds) for kind in sorted({*KINDS, *kinds})}


def evaluated(folder: Path, step: int) -> bool:
    """Whether OUT/metrics.jsonl has the held-out reward of an update: a run killed before its first checkpoint does."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return any("eval_reward" in line and json.loads(line)["step"] == step for line in lines)


def query_rewards(folder: Path, step: int, queries: int, dialect: str) -> dict[str, list[float]]:
    """The table's reward of every answer that OUT/scores/STEP.jsonl holds to the toolbox's queries, by set.

    Nothing where the run began without them, or with another number of queries.
    """
    path = folder / "scores" / f"{step}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    sets = held_out_sets(queries, dialect)
    if len(lines) != sum(map(len, sets.values())):
        return {}
    found: dict[str, list[float]] = {name: [] for name in sets}
    for line in lines:
        row = json.loads(line)
        query = sets[row["set"]][row["index"]]
        found[row["set"]].append(reward(row["prediction"], render_call(query.golden, dialect), query.tools).value)
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
    shares = ", ".join(f"{kind} {100 * values[f'eval_share_{kind}']:.1f}" for kind in KINDS)
    return f"step {step}: greedy reward on {count:,} held-out prompts {values['eval_reward']:+.4f}; percent {shares}"
