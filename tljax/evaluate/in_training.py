"""Greedy scores while a model trains: queries of eval.sets, answered with the current weights, scored and written."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.data.prompt import Dialect
from tljax.data.prompt_table import Prompt, PromptTable
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.evaluate import report, scored_replies
from tljax.evaluate.benchmarks.discover import discover_sets
from tljax.evaluate.benchmarks.sets import UNKNOWN, Example, Query, example_prompt, format_notes
from tljax.evaluate.benchmarks.training_rows import TrainingRowOptions
from tljax.evaluate.score import METRICS
from tljax.evaluate.scored_replies import ScoredReply
from tljax.evaluate.toolbox_queries import held_out_sets, random_tool_ts_of
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.storage.atomic import read_jsonl
from tljax.storage.remote import ALL_FILES, local_path
from tljax.storage.run_folder import RunFolder
from tljax.training.metrics import MetricsLogger

# The two names that eval.sets may contain besides files and folders of benchmarks.
HELD_OUT_ROWS, TOOLBOX = "held_out", "toolbox"

EvalSets = dict[str, list[Query]]


@dataclass(frozen=True)
class EvalContext:
    """The parts of a training run that scoring reads or writes."""

    config: Any
    tokenizer: Tokenizer
    folder: RunFolder
    logger: MetricsLogger


def open_eval_sets(config: Any, dialect: Dialect | None = None) -> EvalSets:
    """Returns at most eval.queries queries of every set that eval.sets names; each call returns the same ones.

    "toolbox" stands for the toolbox's two held-out splits, and a file or folder for the sets in it. "held_out" stays
    empty until `add_held_out_rows` fills it. Raises InputError for any other name, and for a value of eval.best that
    none of the sets can provide. dialect: the opened data.dialect, None for a dialect that needs no opening.
    """
    written: Dialect = config.data.dialect if dialect is None else dialect
    sets: EvalSets = {}
    for name in dict.fromkeys(name.strip() for name in config.eval.sets.split(",") if name.strip()):
        if name == HELD_OUT_ROWS:
            added: EvalSets = {HELD_OUT_ROWS: []}
        elif name == TOOLBOX:
            added = held_out_sets(config.eval.queries, written)
        else:
            added = _benchmark_sets(name, config, written)
        for duplicate in sets.keys() & added.keys():
            raise InputError(
                f"config.eval.sets names two sets called {duplicate!r}; leave one out, or give their common folder"
            )
        sets |= added
    _check_best(config, sets)
    return sets


def _check_best(config: Any, sets: EvalSets) -> None:
    if config.eval.best == "reward" and sets and HELD_OUT_ROWS not in sets:
        raise InputError(
            f"config.eval.best is 'reward', which is measured on held_out, but eval.sets={config.eval.sets!r} does not "
            "contain it; add it, or choose a score"
        )
    training_metric = "reward" if config.run == "ppo" else "loss"
    allowed = [training_metric, *(f"{name}_{metric}" for name in sets for metric in METRICS)]
    if config.eval.best not in allowed:
        raise InputError(
            f"config.eval.best is {config.eval.best!r}; allowed with eval.sets={config.eval.sets!r}: "
            f"{', '.join(allowed)}"
        )


def _benchmark_sets(name: str, config: Any, dialect: Dialect) -> EvalSets:
    """The queries of the file or folder that eval.sets names, by set."""
    path = local_path(name, "config.eval.sets", ALL_FILES)
    if not path.exists():
        raise InputError(
            f"config.eval.sets names {name!r}; allowed, separated by commas: {HELD_OUT_ROWS} (rows that "
            f"data.eval_fraction holds out), {TOOLBOX}, a file or a folder of benchmarks or training rows"
        )
    benchmark_sets = discover_sets(
        path, "config.eval.sets", training_rows=lambda: TrainingRowOptions.from_data(config.data)
    ).sets
    for line in format_notes(benchmark_sets):
        log(line)
    # A joined set contains the rows of its parts, so the parts are left out.
    parts = {name for eval_set in benchmark_sets for name, _ in eval_set.parts}
    sets: EvalSets = {}
    for eval_set in benchmark_sets:
        examples = [example for example in eval_set.examples if example.expected_reply != UNKNOWN]
        if examples and eval_set.name not in parts:
            indices = _evenly_spread(len(examples), config.eval.queries)
            sets[eval_set.name] = [Query(example_prompt(examples[i], dialect), examples[i]) for i in indices]
    if not sets:
        raise InputError(f"config.eval.sets names {path}, in which no row has a golden answer; leave it out")
    return sets


def _evenly_spread(count: int, max_count: int) -> list[int]:
    """At most `max_count` of the numbers below `count`, evenly spread, as neighbouring rows resemble each other."""
    chosen = min(count, max_count)
    return [i * count // chosen for i in range(chosen)]


def add_held_out_rows(config: Any, sets: EvalSets, held_out: PromptTable) -> EvalSets:
    """Returns the sets with "held_out" filled from the held-out prompts, or without it where there are no such prompts.

    Raises InputError if best-checkpoint selection depends on held-out rows and there are none.
    """
    if HELD_OUT_ROWS not in sets:
        return sets
    queries = [_query(i, held_out[i]) for i in _evenly_spread(len(held_out), config.eval.queries)]
    if queries:
        return sets | {HELD_OUT_ROWS: queries}
    log("note:  no row is held out, so eval.sets=held_out has no queries; data.eval_fraction holds rows out")
    if config.eval.best.startswith(f"{HELD_OUT_ROWS}_"):
        raise InputError(f"config.eval.best is {config.eval.best!r}, but no row is held out; raise data.eval_fraction")
    return {name: queries for name, queries in sets.items() if name != HELD_OUT_ROWS}


def _query(index: int, prompt: Prompt) -> Query:
    golden = prompt.tools.parse(prompt.golden).calls[:1]
    return Query(prompt.text, Example(index, str(prompt.id), prompt.tools.tools, (), golden))


def score_eval_sets(
    context: EvalContext, sets: EvalSets, c: llama.LlamaConfig, params: llama.Params, step: int
) -> dict[str, list[ScoredReply]]:
    """Answers and scores all queries on the current mesh, logs the scores and writes OUT/scores/STEP.jsonl."""
    if not sets:
        return {}
    config = context.config
    options = SampleOptions.greedy(config.model, config.eval.new_tokens, context.tokenizer.eos_ids)
    start = time.perf_counter()
    replies = scored_replies.score_replies(params, c, context.tokenizer, sets, options, config.eval.rows)
    seconds = time.perf_counter() - start
    path = scores_path(context.folder, step)
    processes.run_on_primary(lambda: _write(path, sets, replies, config.data.dialect))
    scores = report.score_line(scored_replies.scores_by_set(replies))
    context.logger.log_message(f"step {step}: {scored_replies.format_summary(replies, seconds)}; TS / PI / CF {scores}")
    return replies


def _write(path: Path, sets: EvalSets, replies: Mapping[str, Sequence[ScoredReply]], dialect: str) -> None:
    path.parent.mkdir(exist_ok=True)
    scored_replies.write_scored_replies(path, sets, replies, dialect)


def eval_metrics(replies: Mapping[str, Sequence[ScoredReply]]) -> dict[str, float]:
    """TS, PI, CF and the share of every error kind in percent, named like "eval_domain_TS"."""
    metrics = scored_replies.score_metrics(scored_replies.scores_by_set(replies))
    return {f"eval_{name}": value for name, value in metrics.items()}


def selection_loss(
    config: Any, metrics: Mapping[str, float], replies: Mapping[str, Sequence[ScoredReply]]
) -> float | None:
    """Returns the value that best-checkpoint selection minimizes: a loss, or minus the reward or score in eval.best.

    metrics: holds "loss" or "reward" where it was measured. Returns None where the value was not measured.
    """
    if config.eval.best == "loss":
        return metrics.get("loss")
    if config.eval.best == "reward":
        return -metrics["reward"] if "reward" in metrics else None
    return -eval_metrics(replies)[f"eval_{config.eval.best}"]


def scores_path(folder: RunFolder, step: int) -> Path:
    """The path of the file with the scored replies after an update."""
    return folder / "scores" / f"{step}.jsonl"


def read_scored_replies(folder: RunFolder, step: int, sets: EvalSets) -> list[dict[str, Any]]:
    """The rows of OUT/scores/STEP.jsonl, one for each query of the sets; empty if the file answers other queries."""
    path = scores_path(folder, step)
    rows = read_jsonl(path) if path.is_file() else []
    expected = [(name, query.example.index) for name, queries in sets.items() for query in queries]
    return rows if [(row["set"], row["index"]) for row in rows] == expected else []


def score_report(sets: EvalSets, folder: RunFolder, step: int) -> str:
    """A table, with a heading, of the scores after update `step` beside those before the first update.

    It has the scores of `step` alone if the run began without scores or with other queries, and is "" if there are no
    scores for `step`.
    """
    before, after = (scored_replies.scores_from_rows(read_scored_replies(folder, n, sets)) for n in (0, step))
    if not after:
        return ""
    random_ts = {name: random_tool_ts_of(queries) for name, queries in sets.items()}
    heading = "greedy replies, one for each query; percent of queries [95 % interval], and of each kind of error"
    body = report.progress_table(before, after, random_ts) if before else report.score_table(after, random_ts)
    return f"{heading}\n{body}"
