"""Rollouts: which prompts an update learns from, what the policy replies to them, and both as arrays."""

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
from tljax.rl.ppo import RolloutBatch
from tljax.storage.atomic import read_jsonl, write_jsonl


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Replies to prompts, by the prompts' numbers, and what they are worth; all of one length."""

    picks: list[int]
    replies: list[Reply]
    texts: list[str]  # of the replies, as they were rewarded
    rewards: list[Reward]


def prompt_indices(step: int, *, count: int, prompts: int, group: int, seed: int) -> list[int]:
    """Numbers of the prompts of update `step`, from 0, each `group` times in a row: a function of its arguments alone.

    Epoch after epoch goes through all `count` prompts in an order of its own; an update may lie across two of them.
    """
    places = range(step * prompts, (step + 1) * prompts)
    epochs = {place // count for place in places}
    orders = {epoch: np.random.default_rng([seed, 1, epoch]).permutation(count) for epoch in epochs}
    return [int(orders[place // count][place % count]) for place in places for _ in range(group)]


def pad_rollout(
    prompts: Sequence[Prompt], rollout: Rollout, scores: Sequence[float], round_to: int, most: int
) -> RolloutBatch:
    """The rollout's rows on the current mesh, the whole of them on every device.

    prompts: of each row. scores: its reward as the update takes it. most: the longest reply there may be, for which
    room is made, so that the rows' width alone, `padded_length` of the longest, decides what is compiled.
    """
    replies = [[*reply.tokens, *([] if reply.end is None else [reply.end])] for reply in rollout.replies]
    texts = [[*prompt.tokens, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
    host = {
        "tokens": _padded(texts, padded_length(max(map(len, texts)), row_length_multiple(round_to))),
        "starts": np.asarray([len(prompt.tokens) for prompt in prompts], np.int32),
        "replies": _padded(replies, most),
        "mask": np.arange(most)[None] < np.asarray([len(reply) for reply in replies])[:, None],
        "scores": np.asarray(scores, np.float32),
    }
    return RolloutBatch(**jax.device_put(host, jax.NamedSharding(jax.sharding.get_mesh(), jax.P())))


def sampled_logprobs(rollout: Rollout, width: int) -> np.ndarray:
    """What the sampler gave each reply token, float32 [B, width], 0 after the end."""
    found = np.zeros((len(rollout.replies), width), np.float32)
    for row, reply in enumerate(rollout.replies):
        found[row, : len(reply.logprobs)] = reply.logprobs
    return found


def _padded(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    array = np.zeros((len(rows), width), np.int32)
    for row, tokens in zip(array, rows, strict=True):
        row[: len(tokens)] = tokens
    return array


def write_rollout(folder: Path, step: int, rollout: Rollout) -> None:
    """Writes FOLDER/STEP.jsonl, a reply a line, so that a restart need not sample and reward it again."""
    rows = zip(rollout.picks, rollout.replies, rollout.texts, rollout.rewards, strict=True)
    lines = [
        {
            "prompt": pick,
            "text": text,
            **dataclasses.asdict(reply),
            "reward": reward.value,
            "kind": reward.kind,
            "detail": reward.detail,
        }
        for pick, reply, text, reward in rows
    ]
    processes.run_on_primary(lambda: _write(folder, step, lines))


def _write(folder: Path, step: int, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / f"{step}.jsonl", lines)


def read_rollout(folder: Path, step: int, picks: list[int]) -> Rollout | None:
    """What `write_rollout` left for this update and these prompts, or None."""
    path = folder / f"{step}.jsonl"
    if not processes.run_on_primary(path.is_file):
        return None
    rows: list[dict[str, Any]] = read_jsonl(path)
    if [row["prompt"] for row in rows] != picks:
        return None
    replies = [Reply(tokens=row["tokens"], logprobs=row["logprobs"], end=row["end"]) for row in rows]
    rewards = [Reward(row["reward"], row["kind"], row["detail"]) for row in rows]
    return Rollout(picks, replies, [row["text"] for row in rows], rewards)


def forget_rollouts(folder: Path, before: int) -> None:
    """Removes the rollouts of updates that a restart will not make again."""
    for path in folder.glob("*.jsonl"):
        if path.stem.isdigit() and int(path.stem) < before:
            path.unlink()
