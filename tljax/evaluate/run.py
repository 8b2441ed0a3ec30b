"""The evaluation run: a model's greedy answers to held-out queries or benchmarks, scored and printed."""

import time
from pathlib import Path
from typing import Any

import jax

from tljax.core import processes
from tljax.core.config import check_choice, check_range
from tljax.core.errors import InputError
from tljax.core.mesh import check_joined, check_rows, make_mesh
from tljax.core.metrics import say
from tljax.data.prompt import DIALECTS
from tljax.evaluate import answers, ask, report
from tljax.evaluate.agent import run as multi_turn
from tljax.evaluate.benchmarks.scoring import check_single
from tljax.evaluate.partial import check_new
from tljax.evaluate.toolbox import held_out_sets, random_pick_of
from tljax.evaluate.trained import open_trained
from tljax.model import source
from tljax.model.attention import IMPLEMENTATIONS


def run(config: Any) -> None:
    """Prints the scores of the model that `config` (configs/evaluate.py) names, and writes what config.out is for.

    Raises InputError for what the user can mend, before any device work.
    """
    check_choice("turns", config.turns, ("single", "multi"))
    if config.turns == "multi":
        return multi_turn.run(config)
    check(config)
    if config.data == "toolbox":
        run_toolbox(config)
    else:
        ask.run(config)


def run_toolbox(config: Any) -> None:
    """Prints the scores on the toolbox's held-out queries, and writes the answers to config.out."""
    out = Path(config.out).expanduser() if config.out else None
    if out is not None:
        processes.on_first(lambda: check_new(out))
    source.check_trained(config.model.path)
    model, tokenizer = open_trained(config.model.path, config.tokenizer)
    sets = held_out_sets(config.queries, config.dialect)
    with jax.set_mesh(make_mesh(**config.mesh)):
        check_joined()
        check_rows(config.rows, "rows")
        options = answers.greedy(
            tokenizer,
            new_tokens=config.new_tokens,
            compute_dtype=config.model.compute_dtype,
            attention=config.model.attention,
        )
        params = source.load_attached(model, config.model.compute_dtype, seed=0)
        begin = time.perf_counter()
        found = answers.answer(params, model.config, tokenizer, sets, options, config.rows)
        seconds = time.perf_counter() - begin
    if out is not None:
        processes.on_first(lambda: answers.write_answers(out, sets, found, config.dialect))
    picks = {name: random_pick_of(queries) for name, queries in sets.items()}
    say(f"{answers.told(found, seconds)}\n{report.score_table(answers.scores_of(found), picks)}")


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed."""
    if config.data == "toolbox" and (config.noise or config.compare or config.bfcl_out):
        raise InputError("config.noise, compare and bfcl_out are for benchmarks, but config.data is 'toolbox'")
    check_single(config)
    check_choice("dialect", config.dialect, DIALECTS)
    check_choice("model.compute_dtype", config.model.compute_dtype, ("bfloat16", "float32"))
    check_choice("model.attention", config.model.attention, IMPLEMENTATIONS)
    for field in ("queries", "new_tokens", "rows"):
        check_range(field, config[field], 1)
