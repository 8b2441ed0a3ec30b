"""Sampled replies for people: query, prediction, golden call, reward and the kind of error."""

from collections.abc import Sequence
from pathlib import Path

from tljax.data.prompt_table import Prompt
from tljax.distributed import processes
from tljax.rl.rollout import Rollout
from tljax.storage.atomic import append_jsonl
from tljax.training.metrics import MetricsLogger

SHOWN = 400  # characters of a prompt's end, where the query is


def write_samples(
    path: Path, step: int, prompts: Sequence[Prompt], rollout: Rollout, count: int, logger: MetricsLogger
) -> None:
    """Appends the first `count` replies of an update to a JSONL file, and shows them in TensorBoard as a table."""
    rows = []
    shown = zip(prompts, rollout.texts, rollout.replies, rollout.rewards, strict=True)
    for prompt, text, reply, reward in list(shown)[:count]:
        what = {"step": step, "id": prompt.id, "of_step": prompt.step, "query": prompt.text[-SHOWN:]}
        what |= {"prediction": text, "golden": prompt.golden, "ended": reply.ended}
        rows.append(what | {"reward": reward.value, "kind": reward.kind, "detail": reward.detail})
    processes.run_on_primary(lambda: append_jsonl(path, rows))
    columns = ("query", "prediction", "golden", "reward", "kind", "detail")
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(str(row[column])) for column in columns) + " |" for row in rows]
    logger.log_text(step, "samples", "\n".join(lines))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ⏎ ")
