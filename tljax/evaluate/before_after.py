"""What the toolbox's held-out queries say of a run: greedy scores before its first update and after its last."""

import time
from pathlib import Path
from typing import Any

from tljax.core.metrics import RunLog
from tljax.data.tokens import Tokenizer
from tljax.evaluate import answers, report
from tljax.evaluate.toolbox import held_out_sets, random_pick_of
from tljax.model import llama


def score(
    config: Any, c: llama.LlamaConfig, params: llama.Params, tokenizer: Tokenizer, step: int, folder: Path, log: RunLog
) -> None:
    """Answers eval.queries queries of each held-out split; writes the scores to OUT/scores/STEP.jsonl and the log.

    Nothing happens where a restart finds them there.
    """
    path = folder / "scores" / f"{step}.jsonl"
    if path.is_file() and all(len(found) == config.eval.queries for found in answers.read_scores(path).values()):
        return
    sets = held_out_sets(config.eval.queries, config.data.dialect)
    options = answers.greedy(
        tokenizer,
        new_tokens=config.eval.new_tokens,
        compute_dtype=config.model.compute_dtype,
        attention=config.model.attention,
    )
    begin = time.perf_counter()
    found = answers.answer(params, c, tokenizer, sets, options, config.eval.rows)
    log.say(f"step {step}: {answers.told(found, time.perf_counter() - begin)}")
    path.parent.mkdir(exist_ok=True)
    answers.write_answers(path, sets, found, config.data.dialect)
    metrics = answers.metrics_of(answers.scores_of(found))
    log.log(step, {f"eval_{name}": value for name, value in metrics.items()})


def table(config: Any, folder: Path, step: int) -> str:
    """The scores after update `step` beside those before the first, as a table.

    Without the latter (a run that began without scores, or with other queries) those of `step` alone.
    """
    sets = held_out_sets(config.eval.queries, config.data.dialect)
    picks = {name: random_pick_of(queries) for name, queries in sets.items()}
    after = answers.read_scores(folder / "scores" / f"{step}.jsonl")
    first = folder / "scores" / "0.jsonl"
    before = answers.read_scores(first) if first.is_file() else {}
    if {name: len(found) for name, found in before.items()} != {name: len(found) for name, found in after.items()}:
        return report.score_table(after, picks)
    return report.progress_table(before, after, picks)
