"""The metrics of a rollout of dialogues."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tljax.agent.loop import OUTCOMES
from tljax.rl.dialogues.batch import sampled_logprobs
from tljax.rl.dialogues.rollout import SampledDialogue
from tljax.rl.dialogues.step_rewards import STEP_KINDS
from tljax.rl.rollout import equal_groups, gap_metrics


def rollout_metrics(dialogues: Sequence[SampledDialogue], group: int, logprobs: np.ndarray) -> dict[str, float]:
    """Returns metrics of dialogues, `group` of which begin with one task.

    logprobs: float32 [B, M], of the sampled tokens as they are scored. "reward" is the mean of the sums over turns,
    "success" the share of solved tasks where the tasks tell, "DE" and "CE" shares of calls (`agent.scores`), "share_*"
    shares of turns by kind, "end_*" shares of dialogues by their end, "equal_groups" the share of groups whose rewards
    are all equal, and "ended" the share of replies with an end token. Those of the sampler are `gap_metrics`.
    """
    totals = np.asarray([sum(reward.value for reward in one.rewards) for one in dialogues], np.float32)
    replies = [turn.reply for one in dialogues for turn in one.turns]
    sampled = sampled_logprobs(dialogues, logprobs.shape[1])
    tokens = [sum(len(turn.reply.logprobs) for turn in one.turns) for one in dialogues]
    inside = np.arange(logprobs.shape[1])[None] < np.asarray(tokens)[:, None]
    metrics = {"reward": float(totals.mean())} | row_metrics([one.row for one in dialogues])
    if group > 1:
        metrics["equal_groups"] = float(equal_groups(totals.tolist(), group).mean())
    kinds = [reward.kind for one in dialogues for reward in one.rewards]
    metrics |= {f"share_{kind}": kinds.count(kind) / len(kinds) for kind in sorted({*STEP_KINDS, *kinds})}
    return metrics | {
        "turns": float(np.mean([len(one.turns) for one in dialogues])),
        "reply_tokens": float(np.mean(tokens)),
        "ended": float(np.mean([reply.ended for reply in replies])),
        **gap_metrics(sampled, logprobs, inside),
    }


def row_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the shares of solved tasks and of each end, DE and CE, of dialogues as JSON; all are from 0 to 1."""
    calls = max(1, sum(row["calls"] for row in rows))
    metrics = {f"end_{outcome}": sum(row["outcome"] == outcome for row in rows) / len(rows) for outcome in OUTCOMES}
    judged = [row["success"] for row in rows if "success" in row]
    if judged:
        metrics["success"] = sum(judged) / len(judged)
    return metrics | {
        "DE": sum(row["documentation_errors"] for row in rows) / calls,
        "CE": sum(row["call_errors"] for row in rows) / calls,
    }
