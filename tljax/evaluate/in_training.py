"""Greedy scores while a model trains: the sets of eval.sets, answered with the weights as they are."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.core.metrics import RunLog
from tljax.data.prompt_table import PromptTable
from tljax.data.tokens import Tokenizer
from tljax.evaluate import answers, report
from tljax.evaluate.answers import Answer
from tljax.evaluate.score import METRICS
from tljax.evaluate.toolbox import HELD_OUT, Query, held_out_sets, random_pick_of
from tljax.model import llama

ROWS, TOOLBOX = "held_out", "toolbox"  # what eval.sets may name

Sets = dict[str, list[Query]]


def names_of(config: Any) -> list[str]:
    """The sets that eval.sets asks for: "toolbox" stands for its held-out splits.

    Raises InputError for a name that is none, and an eval.best that no set can give.
    """
    asked = [name.strip() for name in config.eval.sets.split(",") if name.strip()]
    for name in asked:
        if name not in (ROWS, TOOLBOX):
            raise InputError(
                f"config.eval.sets names {name!r}; allowed, separated by commas: {ROWS} (rows that data.eval_fraction "
                f"holds out), {TOOLBOX}"
            )
    found = [part for name in dict.fromkeys(asked) for part in (HELD_OUT if name == TOOLBOX else [name])]
    own = "reward" if config.run == "ppo" else "loss"
    allowed = [own, *(f"{name}_{metric}" for name in found for metric in METRICS)]
    if config.eval.best not in allowed:
        raise InputError(
            f"config.eval.best is {config.eval.best!r}; allowed with eval.sets={config.eval.sets!r}: "
            f"{', '.join(allowed)}"
        )
    return found


def load_sets(config: Any, held_out: PromptTable | None) -> Sets:
    """At most eval.queries queries of every set that the config asks for, each set the same whenever it is asked for.

    held_out: prompts of the held-out trajectories, of which the first ones are taken.
    Raises InputError where the best checkpoint depends on held-out rows and there are none.
    """
    names, most = names_of(config), config.eval.queries
    toolbox = held_out_sets(most, config.data.dialect) if set(names) & set(HELD_OUT) else {}
    sets = {name: _queries(held_out, most) if name == ROWS else toolbox[name] for name in names}
    if ROWS in sets and not sets[ROWS]:
        del sets[ROWS]
        if config.eval.best.startswith(f"{ROWS}_"):
            raise InputError(
                f"config.eval.best is {config.eval.best!r}, but no row is held out; raise data.eval_fraction"
            )
    return sets


def _queries(prompts: PromptTable | None, most: int) -> list[Query]:
    found = []
    for i in range(min(most, 0 if prompts is None else len(prompts))):
        assert prompts is not None
        prompt = prompts[i]
        found.append(Query(prompt.text, prompt.tools.parse(prompt.golden).calls[0], prompt.tools.tools))
    return found


def score(
    config: Any,
    sets: Sets,
    c: llama.LlamaConfig,
    params: llama.Params,
    tokenizer: Tokenizer,
    step: int,
    folder: Path,
    log: RunLog,
) -> dict[str, list[Answer]]:
    """Answers all sets on the current mesh, tells their scores and writes OUT/scores/STEP.jsonl."""
    if not sets:
        return {}
    options = answers.greedy(
        tokenizer,
        new_tokens=config.eval.new_tokens,
        compute_dtype=config.model.compute_dtype,
        attention=config.model.attention,
    )
    begin = time.perf_counter()
    found = answers.answer(params, c, tokenizer, sets, options, config.eval.rows)
    seconds = time.perf_counter() - begin
    path = scores_file(folder, step)
    path.parent.mkdir(exist_ok=True)
    answers.write_answers(path, sets, found, config.data.dialect)
    log.say(f"step {step}: {answers.told(found, seconds)}; TS / PI / CF {report.score_line(answers.scores_of(found))}")
    return found


def metrics_of(answered: Mapping[str, Sequence[Answer]]) -> dict[str, float]:
    """TS, PI, CF and the share of every kind in percent, as "eval_domain_TS"."""
    return {f"eval_{name}": value for name, value in answers.metrics_of(answers.scores_of(answered)).items()}


def badness(config: Any, metrics: Mapping[str, float], answered: Mapping[str, Sequence[Answer]]) -> float | None:
    """What the best checkpoint has least of, by eval.best: a loss, or minus a reward or score; None: not known.

    metrics: "loss" or "reward", where there is one.
    """
    if config.eval.best == "loss":
        return metrics.get("loss")
    if config.eval.best == "reward":
        return -metrics["reward"] if "reward" in metrics else None
    return -metrics_of(answered)[f"eval_{config.eval.best}"]


def scores_file(folder: Path, step: int) -> Path:
    """Where the answers of an update are kept."""
    return folder / "scores" / f"{step}.jsonl"


def table(sets: Sets, folder: Path, step: int) -> str:
    """The scores after update `step` beside those before the first, as a table.

    Where the run began without scores, or with other sets, those of `step` alone.
    """
    picks = {name: random_pick_of(queries) for name, queries in sets.items()}
    first, last = scores_file(folder, 0), scores_file(folder, step)
    after = answers.read_scores(last) if last.is_file() else {}
    before = answers.read_scores(first) if first.is_file() else {}
    picks = {name: picks[name] for name in after if name in picks}
    if _sizes(before) != _sizes(after):
        return report.score_table(after, picks)
    return report.progress_table(before, after, picks)


def _sizes(scores: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    return {name: len(found) for name, found in scores.items()}
