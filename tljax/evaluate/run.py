"""The evaluation command: a model's greedy replies to held-out queries or benchmarks, scored and printed."""

import time
from pathlib import Path
from typing import Any

import jax

from tljax.core.config import check_choice, check_range
from tljax.core.errors import InputError
from tljax.data.dialect import DIALECT_NAMES, open_dialect
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.distributed.mesh import check_initialized, check_rows, make_mesh
from tljax.evaluate import benchmark_run, report, scored_replies
from tljax.evaluate.benchmarks.scoring import check_no_tools
from tljax.evaluate.toolbox_queries import held_out_sets, random_tool_ts_of
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.model.attention import IMPLEMENTATIONS
from tljax.storage.resumable import check_new_output
from tljax.training import model_source


def run(config: Any) -> None:
    """Prints the scores of the model that `config` (configs/evaluate.py) names, and writes config.out.

    Raises InputError for a mistake of the user, before any device work.
    """
    check(config)
    if config.data == "toolbox":
        run_toolbox(config)
    else:
        benchmark_run.run(config)


def run_toolbox(config: Any) -> None:
    """Prints the scores on the toolbox's held-out queries, and writes the replies to config.out."""
    out = Path(config.out).expanduser() if config.out else None
    if out is not None:
        processes.run_on_primary(lambda: check_new_output(out))
    model_source.check_trained(config.model.path)
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.tokenizer)
    dialect, tokenizer = open_dialect(config.dialect, config.chat_template, tokenizer, "chat_template")
    sets = held_out_sets(config.queries, dialect)
    with jax.set_mesh(make_mesh(**config.mesh)):
        check_initialized()
        check_rows(config.rows, "rows")
        options = SampleOptions.greedy(config.model, config.new_tokens, tokenizer.eos_ids)
        params = model_source.load_with_adapter(model, config.model.compute_dtype, seed=0)
        start = time.perf_counter()
        replies = scored_replies.score_replies(params, model.config, tokenizer, sets, options, config.rows)
        seconds = time.perf_counter() - start
    if out is not None:
        processes.run_on_primary(lambda: scored_replies.write_scored_replies(out, sets, replies, config.dialect))
    random_ts = {name: random_tool_ts_of(queries) for name, queries in sets.items()}
    table = report.score_table(scored_replies.scores_by_set(replies), random_ts)
    log(f"{scored_replies.format_summary(replies, seconds)}\n{table}")


def check(config: Any) -> None:
    """Raises InputError if the value of a field is not allowed."""
    if config.data == "toolbox" and (config.noise or config.compare or config.bfcl_out):
        raise InputError("config.noise, compare and bfcl_out are for benchmarks, but config.data is 'toolbox'")
    check_no_tools(config)
    check_choice("dialect", config.dialect, DIALECT_NAMES)
    check_choice("model.compute_dtype", config.model.compute_dtype, llama.COMPUTE_DTYPES)
    check_choice("model.attention", config.model.attention, IMPLEMENTATIONS)
    for field in ("queries", "new_tokens", "rows"):
        check_range(field, config[field], 1)
