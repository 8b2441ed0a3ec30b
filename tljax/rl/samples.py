"""Sampled replies for people to read: query, prediction, golden call, reward and error kind."""

from collections.abc import Sequence
from pathlib import Path

from tljax.data.prompt_table import Prompt
from tljax.distributed import processes
from tljax.rl.rollout import Rollout
from tljax.storage.atomic import append_jsonl
from tljax.training.metrics import MetricsLogger

MAX_QUERY_CHARACTERS = 400  # of a prompt's end, which holds the query


def write_samples(
    path: Path, step: int, prompts: Sequence[Prompt], rollout: Rollout, count: int, logger: MetricsLogger
) -> None:
    """Appends the first `count` replies of an update to a JSONL file, and logs them as a table in TensorBoard."""
    samples = list(zip(prompts, rollout.texts, rollout.replies, rollout.rewards, strict=True))[:count]
    rows = [
        {
            "step": step,
            "id": prompt.id,
            "of_step": prompt.step,
            "query": prompt.text[-MAX_QUERY_CHARACTERS:],
            "prediction": text,
            "golden": prompt.golden,
            "ended": reply.ended,
            "reward": reward.value,
            "kind": reward.kind,
            "detail": reward.detail,
        }
        for prompt, text, reply, reward in samples
    ]
    processes.run_on_primary(lambda: append_jsonl(path, rows))
    columns = ("query", "prediction", "golden", "reward", "kind", "detail")
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(str(row[column])) for column in columns) + " |" for row in rows]
    logger.log_text(step, "samples", "\n".join(lines))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ⏎ ")
