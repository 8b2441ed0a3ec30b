"""Rollouts: the prompts of an update, the policy's replies to them, and both as arrays."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tljax.data.prompt_table import Prompt
from tljax.distributed import processes
from tljax.distributed.mesh import row_length_multiple
from tljax.generate.batches import Reply, padded_length
from tljax.rl.irm import Reward
from tljax.rl.state import RolloutBatch
from tljax.storage.atomic import read_jsonl, write_jsonl

GAP_PERCENTILES = (50, 90, 99)
REPLIES_ROUND_TO = 16  # tokens; a row holds several padded replies, so it is smaller than rollout.round_to


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Replies to prompts and their rewards; all lists have one length."""

    prompt_indices: list[int]  # in the table of prompts: of the prompts that were answered
    replies: list[Reply]
    texts: list[str]  # the replies as text, as the reward function got them
    rewards: list[Reward]


def prompt_indices(step: int, *, count: int, prompts: int, group: int, seed: int) -> list[int]:
    """Returns the indices of the prompts of update `step`, counted from 0, each `group` times in a row.

    Every epoch goes through all `count` prompts in another order, and an update may span two epochs. The result is a
    pure function of the arguments.
    """
    positions = range(step * prompts, (step + 1) * prompts)
    epochs = {position // count for position in positions}
    orders = {epoch: np.random.default_rng([seed, 1, epoch]).permutation(count) for epoch in epochs}
    return [int(orders[k // count][k % count]) for k in positions for _ in range(group)]


def replacement_indices(
    step: int, attempt: int, taken: Sequence[int], *, count: int, needed: int, seed: int
) -> list[int]:
    """Returns the indices of at most `needed` prompts that replace others of update `step`, none of them `taken`.

    attempt: the number of the attempt to replace prompts of this update, from 1. count: the number of all prompts.
    The result is a pure function of the arguments.
    """
    order = np.random.default_rng([seed, 2, step, attempt]).permutation(count)
    free = np.isin(order, list(taken), invert=True)
    return [int(index) for index in order[free][:needed]]


def equal_groups(rewards: Sequence[float], group: int) -> np.ndarray:
    """Returns True for each group whose rewards are all equal, bool [len(rewards) / group]."""
    values = np.asarray(rewards, np.float32).reshape(-1, group)
    return (values == values[:, :1]).all(axis=1)


def with_groups(rollout: Rollout, groups: Sequence[int], others: Rollout, chosen: Sequence[int], group: int) -> Rollout:
    """Returns the rollout with some of its groups replaced by the `chosen` groups of another rollout, in order."""
    parts = []
    for field in dataclasses.fields(Rollout):
        old, new = list(getattr(rollout, field.name)), getattr(others, field.name)
        for place, other in zip(groups, chosen, strict=True):
            old[place * group : (place + 1) * group] = new[other * group : (other + 1) * group]
        parts.append(old)
    return Rollout(*parts)


def with_no_end(rollout: Rollout, no_end: float) -> Rollout:
    """Returns the rollout with the rewards that the update learns from.

    `no_end` is added to the reward of every reply that did not end within the maximum number of tokens.
    """
    rewards = [
        reward if reply.ended else dataclasses.replace(reward, value=reward.value + no_end)
        for reply, reward in zip(rollout.replies, rollout.rewards, strict=True)
    ]
    return dataclasses.replace(rollout, rewards=rewards)


def pad_rollout(
    prompts: Sequence[Prompt],
    rollout: Rollout,
    rewards: Sequence[float],
    round_to: int,
    max_new_tokens: int,
    *,
    share_prompts: bool = False,
    priorities: Sequence[np.ndarray] | None = None,
    with_sampled: bool = False,
) -> RolloutBatch:
    """Returns the rollout as arrays; every device of the current mesh holds all of them.

    prompts, rewards: one for each reply; the rewards are those that the update uses. Replies are padded to
    `max_new_tokens`, so that only the width of the rows, the `padded_length` of the longest, decides which program is
    compiled. With `share_prompts` the tokens are the prompts alone, and replies are padded to the `shared_reply_length`
    of the longest, as a row holds several of them. priorities: the weights of each reply's tokens, which may be longer
    than the reply. with_sampled: adds the log-probabilities of the sampler.
    """
    replies = [reply.all_tokens for reply in rollout.replies]
    texts, width = [prompt.tokens for prompt in prompts], max_new_tokens
    if share_prompts:
        width = shared_reply_length(max(map(len, replies)))
    else:
        texts = [[*text, *reply] for text, reply in zip(texts, replies, strict=True)]
    host = {
        "tokens": _pad(texts, padded_length(max(map(len, texts)), row_length_multiple(round_to))),
        "starts": np.asarray([len(prompt.tokens) for prompt in prompts], np.int32),
        "replies": _pad(replies, width),
        "mask": np.arange(width)[None] < np.asarray([len(reply) for reply in replies])[:, None],
        "rewards": np.asarray(rewards, np.float32),
    }
    if priorities is not None:
        weights = [row[: len(reply)] for row, reply in zip(priorities, replies, strict=True)]
        host["priorities"] = _pad(weights, width, np.float32)
    if with_sampled:
        host["sampled_logprobs"] = sampled_logprobs(rollout, width)
    return RolloutBatch(**jax.device_put(host, jax.NamedSharding(jax.sharding.get_mesh(), jax.P())))


def shared_reply_length(tokens: int) -> int:
    """Returns the length that replies of at most `tokens` are padded to in rows that they share with others."""
    return padded_length(tokens, row_length_multiple(REPLIES_ROUND_TO))


def sampled_logprobs(rollout: Rollout, width: int) -> np.ndarray:
    """Returns the sampler's log-probability of each reply token, float32 [B, width], 0 after the end."""
    return _pad([reply.logprobs for reply in rollout.replies], width, np.float32)


def gap_metrics(sampled: np.ndarray, scored: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Returns how far log-probabilities as they were sampled are from those as they are scored, in nats.

    "sampler_gap" is the largest difference, and "sampler_gap_p50" to "sampler_gap_p99" are percentiles over the tokens.
    sampled, scored: float32 [B, M]; mask: bool [B, M], True on the sampled tokens.
    """
    gap = np.abs(sampled - scored)[mask]
    percentiles = {f"sampler_gap_p{percent}": float(np.percentile(gap, percent)) for percent in GAP_PERCENTILES}
    return {"sampler_gap": float(gap.max())} | percentiles


def _pad(rows: Sequence[Any], width: int, dtype: type = np.int32) -> np.ndarray:
    array = np.zeros((len(rows), width), dtype)
    for row, values in zip(array, rows, strict=True):
        row[: len(values)] = values
    return array


def write_rollout(folder: Path, step: int, rollout: Rollout, drawn: Sequence[int]) -> None:
    """Writes FOLDER/STEP.jsonl, one reply per line, so that a restart need not sample and reward them again.

    drawn: the `prompt_indices` of the update, some of which may have been replaced.
    """
    rows = zip(rollout.prompt_indices, drawn, rollout.replies, rollout.texts, rollout.rewards, strict=True)
    lines = [
        {
            "prompt": index,
            "drawn": first,
            "text": text,
            **dataclasses.asdict(reply),
            "reward": reward.value,
            "kind": reward.kind,
            "detail": reward.detail,
        }
        for index, first, reply, text, reward in rows
    ]
    processes.run_on_primary(lambda: _write(folder, step, lines))


def _write(folder: Path, step: int, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / f"{step}.jsonl", lines)


def read_rollout(folder: Path, step: int, drawn: list[int]) -> Rollout | None:
    """Returns what `write_rollout` wrote for this update and these `drawn` prompts, or None."""
    path = folder / f"{step}.jsonl"
    if not processes.run_on_primary(path.is_file):
        return None
    rows: list[dict[str, Any]] = read_jsonl(path)
    if [row.get("drawn") for row in rows] != drawn:
        return None
    replies = [Reply(tokens=row["tokens"], logprobs=row["logprobs"], end=row["end"]) for row in rows]
    rewards = [Reward(row["reward"], row["kind"], row["detail"]) for row in rows]
    return Rollout([row["prompt"] for row in rows], replies, [row["text"] for row in rows], rewards)


def forget_rollouts(folder: Path, before: int) -> None:
    """Removes the rollouts of updates that a restart does not repeat."""
    for path in folder.glob("*.jsonl"):
        if path.stem.isdigit() and int(path.stem) < before:
            path.unlink()
