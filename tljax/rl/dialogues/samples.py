"""Sampled dialogues for people to read: query, turns with their feedback and rewards, end, and answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tljax.agent.report import transcript
from tljax.rl.dialogues.rollout import SampledDialogue
from tljax.storage.atomic import append_jsonl
from tljax.training.metrics import MetricsLogger


def write_samples(
    path: Path, step: int, dialogues: Sequence[SampledDialogue], count: int, logger: MetricsLogger
) -> None:
    """Appends the first `count` dialogues of an update to a JSONL file, and shows them in TensorBoard as text."""
    chosen = dialogues[:count]
    append_jsonl(path, [_row(step, dialogue) for dialogue in chosen])
    texts = [f"```\n{transcript(one.row)}```\nrewards: {', '.join(_words(one))}" for one in chosen]
    logger.log_text(step, "samples", "\n\n".join(texts))


def _row(step: int, dialogue: SampledDialogue) -> dict[str, Any]:
    row = {key: value for key, value in dialogue.row.items() if key not in ("tokens", "exchanges", "set")}
    turns = [
        {key: value for key, value in exchange.items() if key != "call"}
        | {"ended": turn.reply.ended, "reward": reward.value, "kind": reward.kind, "detail": reward.detail}
        for exchange, turn, reward in zip(dialogue.row["exchanges"], dialogue.turns, dialogue.rewards, strict=True)
    ]
    return {"step": step} | row | {"reward": sum(reward.value for reward in dialogue.rewards), "turns": turns}


def _words(dialogue: SampledDialogue) -> list[str]:
    return [f"{reward.value:+g} {reward.kind}" for reward in dialogue.rewards]
