"""Model and benchmark sets -> greedy replies in a predictions file that an interrupted run continues -> report."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from tljax.core.errors import InputError, locate_errors
from tljax.data.dialect import open_dialect
from tljax.data.reader import format_first_errors
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.distributed.mesh import make_mesh
from tljax.evaluate.benchmarks import scoring
from tljax.evaluate.benchmarks.predictions import Replies, lacks_golden, match_replies
from tljax.evaluate.benchmarks.sets import UNKNOWN, EvalSet, Example, example_prompt
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.run import TokenizedPrompts, check_devices, write_missing_replies
from tljax.generate.sampling import SampleOptions
from tljax.storage.resumable import ResumableWriter, check_new_output, claim_output
from tljax.training import model_source
from tljax.training.fingerprint import fingerprint


def run(config: Any) -> None:
    """Generates replies of the model that `config` (configs/evaluate.py) names, and scores them.

    The replies are written beside config.out, into a partial file until all results are written: an interrupted run
    continues when the same command is started again. Raises InputError for a mistake of the user, before any device
    work where possible, and SystemExit if a signal stopped the run.
    """
    sets = scoring.load_sets(config)
    if not config.out:
        raise InputError(
            "config.out is empty; name a new report, --config.out=report.json: the replies are written beside it, "
            "and an interrupted run continues from them"
        )
    out = scoring.path_beside_report(config.out, "predictions.jsonl")
    processes.run_on_primary(lambda: check_new_predictions(out))
    processes.run_on_primary(lambda: scoring.check(config, begun=out.with_name(f"{out.name}.partial").exists()))
    # A joined set takes the replies of its parts.
    rows = [
        (eval_set, example)
        for eval_set in sets
        if not eval_set.parts
        for example in eval_set.examples
        if example.expected_reply != UNKNOWN
    ]
    if not rows:
        raise InputError(
            f"config.data {config.data}: no row has a golden answer, so there are no scores of single turns"
        )
    scoring.check_scored_sets(config, [eval_set for eval_set in sets if not lacks_golden(eval_set)])
    model_source.check_trained(config.model.path)
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.tokenizer)
    dialect, tokenizer = open_dialect(config.dialect, config.chat_template, tokenizer, "chat_template")
    with jax.set_mesh(make_mesh(**config.mesh)), claim_output(out, "file"):
        check_devices(config, model.config)
        prompts = [example_prompt(example, dialect) for _, example in rows]
        content = {
            "model": fingerprint(model),
            "tokenizer": tokenizer.fingerprint,
            "set of prompts (config.data, config.noise)": _hash(rows, prompts),
        }
        fields = {name: config[name] for name in ("dialect", "new_tokens")}
        with ResumableWriter(out, fields | {"model.compute_dtype": config.model.compute_dtype}, content) as partial:
            generate_missing_replies(config, model, tokenizer, rows, prompts, partial)
            processes.run_on_primary(
                lambda: scoring.report_results(config, sets, *match_replies(replies_by_set(rows, partial), sets))
            )
            tokens, ended = partial.finish(lambda index, reply: _prediction_row(rows[index], reply))
    log(f"answered      {len(rows):,} rows with {tokens:,} tokens, {100 * ended / len(rows):.1f} % ended, in {out}")


def check_new_predictions(out: Path) -> None:
    """Raises InputError if the file of replies exists already; it can be scored without a model."""
    if out.exists():
        raise InputError(
            f"{out} is there already; score it without a model by --config.predictions={out}, or move it away to "
            "generate new replies, or name another config.out"
        )
    check_new_output(out, "file")


def generate_missing_replies(
    config: Any,
    model: model_source.ModelSource,
    tokenizer: Tokenizer,
    rows: Sequence[tuple[EvalSet, Example]],
    prompts: Sequence[str],
    partial: ResumableWriter,
) -> None:
    """Adds to `partial` the replies it lacks, in batches; a prompt that is too long for the model gets a null reply."""
    tokenized, too_long = TokenizedPrompts([], [], [], []), []
    for position, ((eval_set, example), prompt) in enumerate(zip(rows, prompts, strict=True)):
        with locate_errors(f"set {eval_set.name}, row {example.index}"):
            ids = array("i", tokenizer.encode(prompt)[0])
        if len(ids) + config.new_tokens > model.config.max_tokens:
            tokenized.skipped.append(f"set {eval_set.name}, row {example.index}: a prompt of {len(ids):,} tokens")
            too_long.append(position)
        else:
            tokenized.ids.append(example.id)
            tokenized.rows.append(position + 1)  # from 1; the partial file counts from 0
            tokenized.tokens.append(ids)
    lengths = [len(ids) for ids in tokenized.tokens]
    if not lengths:
        raise InputError(f"no prompt fits the model's {model.config.max_tokens:,} tokens; {tokenized.skipped[0]}")
    log(f"prompts: {len(lengths):,} rows with {sum(lengths):,} tokens, the longest {max(lengths):,}")
    if tokenized.skipped:
        heading = f"not asked, over the model's {model.config.max_tokens:,} tokens with the reply, and scored as errors"
        log("\n".join([f"{heading}: {len(tokenized.skipped):,}", *format_first_errors(tokenized.skipped)]))
    options = SampleOptions.greedy(config.model, config.new_tokens, tokenizer.eos_ids)
    sampling = ConfigDict({"samples": 1, "seed": 0, "rows": config.rows})
    write_missing_replies(sampling, model, tokenizer, tokenized, options, partial)
    no_reply = {"completion": None, "tokens": [], "ended": False}
    partial.append([(position, no_reply) for position in too_long if position not in partial])


def replies_by_set(rows: Sequence[tuple[EvalSet, Example]], partial: ResumableWriter) -> dict[str, Replies]:
    """Returns the replies in `partial` by set and row."""
    replies: dict[str, Replies] = {}
    for position, reply in partial.entries():
        eval_set, example = rows[position]
        replies.setdefault(eval_set.name, {})[example.index] = reply["completion"]
    return replies


def _prediction_row(row: tuple[EvalSet, Example], reply: dict[str, Any]) -> dict[str, Any]:
    eval_set, example = row
    prediction = {"set": eval_set.name, "index": example.index, "id": example.id, "prediction": reply["completion"]}
    return prediction | {"ended": reply["ended"]}


def _hash(rows: Sequence[tuple[EvalSet, Example]], prompts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for (eval_set, example), prompt in zip(rows, prompts, strict=True):
        digest.update(f"{eval_set.name}\0{example.index}\0{prompt}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()
