"""A model's greedy replies to benchmark sets, kept as predictions and continued where they were stopped, and scored."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from tljax.core.errors import InputError
from tljax.data.reader import format_first_errors
from tljax.data.tokens import Tokenizer
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
    """Asks the model that `config` (configs/evaluate.py) names, keeps its replies beside config.out, and scores them.

    Raises InputError for what the user can mend, before any device work where it can be known by then, and SystemExit
    where a signal stopped it. The replies lie in a partial file until all results are written: wherever it is stopped,
    the same command goes on from there.
    """
    sets = scoring.load_sets(config)
    if not config.out:
        raise InputError(
            "config.out is empty; name a new report, --config.out=report.json: the replies are kept beside it, and a "
            "run that was stopped goes on from them"
        )
    out = scoring.path_beside_report(config.out, "predictions.jsonl")
    processes.run_on_primary(lambda: check_new_predictions(out))
    processes.run_on_primary(lambda: scoring.check(config, begun=out.with_name(f"{out.name}.partial").exists()))
    asked = [
        (one, example) for one in sets if not one.parts for example in one.examples if example.expected_reply != UNKNOWN
    ]
    if not asked:
        raise InputError(
            f"config.data {config.data}: no row has a golden answer, so there are no scores of single turns"
        )
    scoring.check_scored_sets(config, [one for one in sets if not lacks_golden(one)])
    model_source.check_trained(config.model.path)
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.tokenizer)
    with jax.set_mesh(make_mesh(**config.mesh)), claim_output(out, "file"):
        check_devices(config, model.config)
        prompts = [example_prompt(example, config.dialect) for _, example in asked]
        content = {
            "model": fingerprint(model),
            "tokenizer": tokenizer.fingerprint,
            "set of prompts (config.data, config.noise)": _hash(asked, prompts),
        }
        fields = {name: config[name] for name in ("dialect", "new_tokens")}
        with ResumableWriter(out, fields | {"model.compute_dtype": config.model.compute_dtype}, content) as partial:
            generate_missing_replies(config, model, tokenizer, asked, prompts, partial)
            processes.run_on_primary(
                lambda: scoring.report_results(config, sets, *match_replies(replies_by_set(asked, partial), sets))
            )
            tokens, ended = partial.finish(lambda index, reply: _row(asked[index], reply))
    log(f"answered      {len(asked):,} rows with {tokens:,} tokens, {100 * ended / len(asked):.1f} % ended, in {out}")


def check_new_predictions(out: Path) -> None:
    """Raises InputError where replies are there already, which can be scored without a model."""
    if out.exists():
        raise InputError(
            f"{out} is there already; score it without a model by --config.predictions={out}, or move it away to ask "
            "again, or name another config.out"
        )
    check_new_output(out, "file")


def generate_missing_replies(
    config: Any,
    model: model_source.Model,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[EvalSet, Example]],
    prompts: Sequence[str],
    partial: ResumableWriter,
) -> None:
    """Adds to `partial` the replies it lacks, in batches; a prompt that is too long for the model gets none."""
    found, unasked = TokenizedPrompts([], [], [], []), []
    for place, ((one, example), prompt) in enumerate(zip(asked, prompts, strict=True)):
        ids = array("i", tokenizer.encode(prompt)[0])
        if len(ids) + config.new_tokens > model.config.max_tokens:
            found.skipped.append(f"set {one.name}, row {example.index}: a prompt of {len(ids):,} tokens")
            unasked.append(place)
        else:
            found.ids.append(example.id)
            found.rows.append(place + 1)  # from 1; the partial file counts from 0
            found.tokens.append(ids)
    lengths = [len(ids) for ids in found.tokens]
    if not lengths:
        raise InputError(f"no prompt fits the model's {model.config.max_tokens:,} tokens; {found.skipped[0]}")
    log(f"prompts: {len(lengths):,} rows with {sum(lengths):,} tokens, the longest {max(lengths):,}")
    if found.skipped:
        told = f"not asked, over the model's {model.config.max_tokens:,} tokens with the reply, and scored as errors"
        log("\n".join([f"{told}: {len(found.skipped):,}", *format_first_errors(found.skipped)]))
    options = SampleOptions.greedy(config.model, config.new_tokens, tokenizer.eos_id)
    how = ConfigDict({"samples": 1, "seed": 0, "rows": config.rows})
    write_missing_replies(how, model, tokenizer, found, options, partial)
    nothing = {"completion": None, "tokens": [], "ended": False}
    partial.append([(place, nothing) for place in unasked if place not in partial])


def replies_by_set(asked: Sequence[tuple[EvalSet, Example]], partial: ResumableWriter) -> dict[str, Replies]:
    """The replies in `partial` by set."""
    found: dict[str, Replies] = {}
    for place, reply in partial.answers():
        one, example = asked[place]
        found.setdefault(one.name, {})[example.index] = reply["completion"]
    return found


def _row(asked: tuple[EvalSet, Example], reply: dict[str, Any]) -> dict[str, Any]:
    one, example = asked
    row = {"set": one.name, "index": example.index, "id": example.id, "prediction": reply["completion"]}
    return row | {"ended": reply["ended"]}


def _hash(asked: Sequence[tuple[EvalSet, Example]], prompts: Sequence[str]) -> str:
    found = hashlib.sha256()
    for (one, example), prompt in zip(asked, prompts, strict=True):
        found.update(f"{one.name}\0{example.index}\0{prompt}\0".encode(errors="surrogatepass"))
    return found.hexdigest()
