"""Sampled dialogues -> RolloutBatch: one row each, in which the tools' outputs are context alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tljax.distributed.mesh import row_length_multiple
from tljax.generate.batches import padded_length
from tljax.rl.dialogues.rollout import SampledDialogue
from tljax.rl.state import RolloutBatch


def pad_dialogues(
    dialogues: Sequence[SampledDialogue], round_to: int, mae: str = "off", *, with_sampled: bool = False
) -> RolloutBatch:
    """Returns the rows of dialogues, which every device holds.

    A row's `tokens` are those that were sampled and read, as they are: prompt, replies without end tokens, feedback.
    The end token of a reply is no input where the dialect writes none, but it is a target all the same: it is predicted
    from the reply's last token, as the feedback's first token is not. `replies` hold the sampled tokens of all turns
    without what lies between, so the next token after a call is the first one after its output, in GAE too. Rows have
    the `padded_length` T of the longest, and room for T / 2 sampled tokens, or for T if a dialogue has more: two
    lengths of their own would compile a program for each pair. mae: one of checks.MAE_RULES; the policy does not learn
    from turns without a readable call ("void"), from turns whose feedback is an error ("failed"), or from both.
    with_sampled: adds the log-probabilities of the sampler.
    """
    sampled = [[token for turn in one.turns for token in turn.reply.all_tokens] for one in dialogues]
    rows = [one.row["tokens"] for one in dialogues]
    B, T = len(rows), padded_length(max(map(len, rows)), row_length_multiple(round_to))
    half = -(-T // 2)
    width = half * max(1, -(-max(map(len, sampled)) // half))
    host = {
        "tokens": np.zeros((B, T), np.int32),
        # A dialogue whose environment could not begin has no turn, and nothing is learned from it.
        "starts": np.asarray([one.turns[0].start if one.turns else 1 for one in dialogues], np.int32),
        "replies": np.zeros((B, width), np.int32),
        "mask": np.zeros((B, width), np.bool_),
        "rewards": np.zeros((B, width), np.float32),
        "columns": np.zeros((B, width), np.int32),
        "learned": np.zeros((B, width), np.bool_),
    }
    for b, one in enumerate(dialogues):
        host["tokens"][b, : len(rows[b])] = rows[b]
        host["replies"][b, : len(sampled[b])] = sampled[b]
        host["mask"][b, : len(sampled[b])] = True
        first = 0
        for i, (turn, reward) in enumerate(zip(one.turns, one.rewards, strict=True)):
            end = first + len(turn.reply.all_tokens)
            host["columns"][b, first:end] = turn.start - 1 + np.arange(end - first)
            host["rewards"][b, end - 1] = reward.value
            host["learned"][b, first:end] = is_learned(reward.kind, one.row["exchanges"][i], mae)
            first = end
    if mae == "off":
        del host["learned"]
    if with_sampled:
        host["sampled_logprobs"] = sampled_logprobs(dialogues, width)
    return RolloutBatch(**jax.device_put(host, jax.NamedSharding(jax.sharding.get_mesh(), jax.P())))


def is_learned(kind: str, exchange: Mapping[str, Any], mae: str) -> bool:
    """Returns False for a turn that the rule `mae` keeps out of the policy's loss.

    kind: that of the turn's reward; "format" is a void turn. exchange: the turn as JSON, with "call_error" if it made a
    call.
    """
    if kind == "format":
        return mae not in ("void", "void_or_failed")
    return not (exchange.get("call_error", False) and mae in ("failed", "void_or_failed"))


def sampled_logprobs(dialogues: Sequence[SampledDialogue], width: int) -> np.ndarray:
    """Returns the sampler's log-probability of each sampled token, float32 [B, width], 0 after the last one."""
    logprobs = np.zeros((len(dialogues), width), np.float32)
    for row, one in zip(logprobs, dialogues, strict=True):
        values = [value for turn in one.turns for value in turn.reply.logprobs]
        row[: len(values)] = values
    return logprobs
