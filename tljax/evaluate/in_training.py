"""Greedy scores while a model trains: the sets of eval.sets, answered with the weights as they are."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.data.prompt_table import Prompt, PromptTable
from tljax.data.tokens import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.evaluate import report, scored_replies
from tljax.evaluate.benchmarks.discover import read_sets
from tljax.evaluate.benchmarks.sets import UNKNOWN, Example, Query, example_prompt
from tljax.evaluate.score import METRICS
from tljax.evaluate.scored_replies import ScoredReply
from tljax.evaluate.toolbox_queries import held_out_sets, random_tool_ts_of
from tljax.model import llama
from tljax.storage.atomic import read_jsonl
from tljax.storage.remote import ALL_FILES, local_path
from tljax.storage.run_folder import RunFolder
from tljax.training.metrics import MetricsLogger

HELD_OUT_ROWS, TOOLBOX = "held_out", "toolbox"  # what eval.sets may name besides files and folders of benchmarks

EvalSets = dict[str, list[Query]]


def open_eval_sets(config: Any) -> EvalSets:
    """At most eval.queries queries of every set that eval.sets asks for, the same ones whenever they are asked for.

    "toolbox" stands for its held-out splits, a file or folder for the sets in it, and "held_out" stays empty until
    `with_rows`. Raises InputError for what is none of these, and an eval.best that no set can give.
    """
    sets: EvalSets = {}
    for name in dict.fromkeys(name.strip() for name in config.eval.sets.split(",") if name.strip()):
        if name == HELD_OUT_ROWS:
            found: EvalSets = {HELD_OUT_ROWS: []}
        elif name == TOOLBOX:
            found = held_out_sets(config.eval.queries, config.data.dialect)
        else:
            found = _benchmarks(name, config)
        for twice in sets.keys() & found.keys():
            raise InputError(
                f"config.eval.sets gives two sets of the name {twice!r}; leave one out, or give their common folder"
            )
        sets |= found
    own = "reward" if config.run == "ppo" else "loss"
    if config.eval.best == "reward" and sets and HELD_OUT_ROWS not in sets:
        raise InputError(
            f"config.eval.best is 'reward', that of held_out, which eval.sets={config.eval.sets!r} does not ask; add "
            "it, or choose a score"
        )
    allowed = [own, *(f"{name}_{metric}" for name in sets for metric in METRICS)]
    if config.eval.best not in allowed:
        raise InputError(
            f"config.eval.best is {config.eval.best!r}; allowed with eval.sets={config.eval.sets!r}: "
            f"{', '.join(allowed)}"
        )
    return sets


def _benchmarks(path: str, config: Any) -> EvalSets:
    place = local_path(path, "config.eval.sets", ALL_FILES)
    if not place.exists():
        raise InputError(
            f"config.eval.sets names {path!r}; allowed, separated by commas: {HELD_OUT_ROWS} (rows "
            f"that data.eval_fraction holds out), {TOOLBOX}, a file or a folder of benchmarks"
        )
    found: EvalSets = {}
    sets = read_sets(place, "config.eval.sets")
    parts = {name for one in sets for name, _ in one.parts}
    for one in sets:
        asked = [example for example in one.examples if example.wants != UNKNOWN]
        picked = [asked[i] for i in _spread(len(asked), config.eval.queries)]
        if picked and one.name not in parts:
            found[one.name] = [Query(example_prompt(example, config.data.dialect), example) for example in picked]
    if not found:
        raise InputError(f"config.eval.sets names {path}, of which no row has a golden answer; leave it out")
    return found


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread: neighbours of a set are much alike."""
    picked = min(count, most)
    return [i * count // picked for i in range(picked)]


def add_held_out_rows(config: Any, sets: EvalSets, held_out: PromptTable) -> EvalSets:
    """The sets with prompts of the held-out trajectories, where they are asked for and there are some.

    Raises InputError where the best checkpoint depends on held-out rows and there are none.
    """
    if HELD_OUT_ROWS not in sets:
        return sets
    rows = [_query(i, held_out[i]) for i in _spread(len(held_out), config.eval.queries)]
    if not rows:
        log("note:  no row is held out, so that eval.sets=held_out asks none; data.eval_fraction holds some out")
    if not rows and config.eval.best.startswith(f"{HELD_OUT_ROWS}_"):
        raise InputError(f"config.eval.best is {config.eval.best!r}, but no row is held out; raise data.eval_fraction")
    return {
        name: rows if name == HELD_OUT_ROWS else queries
        for name, queries in sets.items()
        if rows or name != HELD_OUT_ROWS
    }


def _query(index: int, prompt: Prompt) -> Query:
    golden = prompt.tools.parse(prompt.golden).calls[:1]
    return Query(prompt.text, Example(index, str(prompt.id), prompt.tools.tools, (), golden))


def score_eval_sets(
    config: Any,
    sets: EvalSets,
    c: llama.LlamaConfig,
    params: llama.Params,
    tokenizer: Tokenizer,
    step: int,
    folder: RunFolder,
    log: MetricsLogger,
) -> dict[str, list[ScoredReply]]:
    """Answers all sets on the current mesh, tells their scores and writes OUT/scores/STEP.jsonl."""
    if not sets:
        return {}
    options = scored_replies.greedy_options(
        tokenizer,
        new_tokens=config.eval.new_tokens,
        compute_dtype=config.model.compute_dtype,
        attention=config.model.attention,
    )
    begin = time.perf_counter()
    found = scored_replies.score_replies(params, c, tokenizer, sets, options, config.eval.rows)
    seconds = time.perf_counter() - begin
    path = scores_path(folder, step)
    processes.run_on_primary(lambda: _keep(path, sets, found, config.data.dialect))
    scores = report.score_line(scored_replies.scores_by_set(found))
    log.say(f"step {step}: {scored_replies.format_summary(found, seconds)}; TS / PI / CF {scores}")
    return found


def _keep(path: Path, sets: EvalSets, found: Mapping[str, Sequence[ScoredReply]], dialect: str) -> None:
    path.parent.mkdir(exist_ok=True)
    scored_replies.write_scored_replies(path, sets, found, dialect)


def eval_metrics(answered: Mapping[str, Sequence[ScoredReply]]) -> dict[str, float]:
    """TS, PI, CF and the share of every kind in percent, as "eval_domain_TS"."""
    return {
        f"eval_{name}": value
        for name, value in scored_replies.score_metrics(scored_replies.scores_by_set(answered)).items()
    }


def selection_loss(
    config: Any, metrics: Mapping[str, float], answered: Mapping[str, Sequence[ScoredReply]]
) -> float | None:
    """What the best checkpoint has least of, by eval.best: a loss, or minus a reward or score; None: not known.

    metrics: "loss" or "reward", where there is one.
    """
    if config.eval.best == "loss":
        return metrics.get("loss")
    if config.eval.best == "reward":
        return -metrics["reward"] if "reward" in metrics else None
    return -eval_metrics(answered)[f"eval_{config.eval.best}"]


def scores_path(folder: RunFolder, step: int) -> Path:
    """Where the answers of an update are kept."""
    return folder / "scores" / f"{step}.jsonl"


def read_scored_replies(folder: RunFolder, step: int, sets: EvalSets) -> list[dict[str, Any]]:
    """The rows of OUT/scores/STEP.jsonl, an answer to every query of the sets; nothing where they are to others."""
    path = scores_path(folder, step)
    rows = read_jsonl(path) if path.is_file() else []
    asked = [(name, query.example.index) for name, queries in sets.items() for query in queries]
    return rows if [(row["set"], row["index"]) for row in rows] == asked else []


def score_report(sets: EvalSets, folder: RunFolder, step: int) -> str:
    """The scores after update `step` beside those before the first, as a table with a heading.

    Where the run began without scores, or with other queries, those of `step` alone; "" where there are none of them.
    """
    before, after = (scored_replies.scores_from_rows(read_scored_replies(folder, n, sets)) for n in (0, step))
    if not after:
        return ""
    picks = {name: random_tool_ts_of(queries) for name, queries in sets.items()}
    heading = "greedy answers, called once a query; percent of queries [95 % interval], and of each kind of error"
    body = report.progress_table(before, after, picks) if before else report.score_table(after, picks)
    return f"{heading}\n{body}"
