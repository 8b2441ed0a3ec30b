"""Batch inference: a file of prompts in, a file of replies out, continued where it was stopped."""

import dataclasses
import hashlib
import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from tljax.calls.render import DIALECTS
from tljax.core.config import MAX_INT32, check_choice, check_range
from tljax.core.errors import InputError, explain_out_of_memory
from tljax.data.queries import read_prompt_rows
from tljax.data.reader import format_first_errors
from tljax.data.tokens import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import has_terminal, log
from tljax.distributed.mesh import batch_shard_count, check_initialized, check_rows, make_mesh
from tljax.generate.batches import ROUND_TO, Reply, generate_in_batches, padded_length
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.progress import Progress
from tljax.generate.sampling import SampleOptions, check_sample_options
from tljax.model import llama
from tljax.model.attention import IMPLEMENTATIONS, choose_implementation, mesh_platform
from tljax.storage.resumable import ResumableWriter, check_new_output, claim_output
from tljax.training import model_source
from tljax.training.fingerprint import fingerprint
from tljax.training.stop import EXIT_CODES, StopRequest

ON_LONG = ("refuse", "skip")


@dataclasses.dataclass(frozen=True)
class TokenizedPrompts:
    """The rows to answer, as tokens; `skipped` names each that is too long.

    rows: from 1; tokens: begin with the first token where training does.
    """

    ids: list[str | int]
    rows: list[int]
    tokens: list[Sequence[int]]
    skipped: list[str]


def run(config: Any) -> None:
    """Writes the replies that `config` (configs/generate.py) asks for to config.out.

    Raises InputError for what the user can mend, before any device work where it can be known by then, and SystemExit
    where a signal stopped it; what is finished then lies in OUT.partial, and the same command goes on from there.
    """
    check(config)
    out, file = Path(config.out).expanduser(), Path(config.prompts).expanduser()
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.tokenizer)
    options = _checked_options(config, model.config, tokenizer)
    with jax.set_mesh(make_mesh(**config.mesh)), claim_output(out):
        check_devices(config, model.config)
        content = {
            "model": fingerprint(model),
            "tokenizer": tokenizer.fingerprint,
            "content of config.prompts": _hash_file(file),
        }
        with ResumableWriter(out, resume_fields(config), content) as partial:
            prompts = read_prompts(config, file, model.config, tokenizer)
            write_missing_replies(config, model, tokenizer, prompts, options, partial)
            count, (tokens, ended) = len(partial), partial.finish()
    log(
        f"done: {count:,} replies with {tokens:,} tokens, {100 * ended / count:.1f} % ended before "
        f"sample.max_new_tokens, in {out}"
    )


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed, and for files that are not or should not be there."""
    for field in ("prompts", "out"):
        if not config[field]:
            raise InputError(f"config.{field} is empty; give a JSONL file, --config.{field}=FILE.jsonl")
    check_choice("dialect", config.dialect, DIALECTS)
    check_choice("on_long", config.on_long, ON_LONG)
    check_choice("model.compute_dtype", config.model.compute_dtype, ("bfloat16", "float32"))
    check_choice("model.attention", config.model.attention, IMPLEMENTATIONS)
    for field in ("samples", "rows"):
        check_range(field, config[field], 1)
    check_range("seed", config.seed, 0)
    check_range("sample.max_new_tokens", config.sample.max_new_tokens, 1)
    processes.run_on_primary(lambda: check_new_output(Path(config.out).expanduser()))
    if not Path(config.prompts).expanduser().is_file():
        raise InputError(f"config.prompts {config.prompts}: there is no such file; give a JSONL file with a row a line")
    model_source.check_trained(config.model.path)


def check_devices(config: Any, c: llama.LlamaConfig) -> None:
    """Raises InputError where rows, model and attention do not fit the current mesh."""
    check_initialized()
    check_rows(config.rows, "config.rows")
    llama.check_mesh(c)
    choose_implementation(config.model.attention, config.model.compute_dtype, c.head_dim, mesh_platform())


def _checked_options(config: Any, c: llama.LlamaConfig, tokenizer: Tokenizer) -> SampleOptions:
    """Returns the options of config.sample. Raises InputError for a value that is not allowed."""
    options = SampleOptions.from_config(config.model, config.sample, tokenizer.eos_id)
    try:
        check_sample_options(options, c.vocab_size)
    except InputError as error:
        raise InputError(f"config.sample.{error}") from None
    return options


def resume_fields(config: Any) -> dict[str, Any]:
    """The fields that decide what a reply is, by their dotted names; the others may change when it goes on."""
    fields = {f"sample.{name}": value for name, value in config.sample.items()}
    fields |= {name: config[name] for name in ("dialect", "samples", "seed")}
    return fields | {"model.compute_dtype": config.model.compute_dtype}


def read_prompts(config: Any, file: Path, c: llama.LlamaConfig, tokenizer: Tokenizer) -> TokenizedPrompts:
    """The rows of `file` as tokens. Raises InputError for the first bad row, and where none can be answered."""
    found, new = TokenizedPrompts([], [], [], []), config.sample.max_new_tokens
    hidden = not has_terminal()
    for query in tqdm(read_prompt_rows(str(file), config.dialect), desc="tokenizing", unit="row", disable=hidden):
        # 4 bytes a token, where a list of 100,000 long prompts would take gigabytes.
        ids = array("i", tokenizer.encode(query.prompt)[0])
        if len(ids) + new > c.max_tokens:
            found.skipped.append(
                f"file {file}, row {query.row} (id {query.id!r}): {len(ids):,} tokens with "
                f"config.sample.max_new_tokens = {new:,} are over the {c.max_tokens:,} that the model can read"
            )
            continue
        found.ids.append(query.id)
        found.rows.append(query.row)
        found.tokens.append(ids)
    if found.skipped and (config.on_long == "refuse" or not found.ids):
        count = len(found.skipped)
        more = f" (one of {count:,} such rows)" if count > 1 else ""
        remedy = "shorten it or lower max_new_tokens"
        if config.on_long == "refuse":
            remedy += ", or leave such rows out with config.on_long=skip"
        raise InputError(f"{found.skipped[0]}{more}; {remedy}")
    check_range("samples", config.samples, 1, MAX_INT32 // found.rows[-1])
    lengths = [len(ids) for ids in found.tokens]
    log(f"prompts: {len(lengths):,} rows with {sum(lengths):,} tokens, the longest {max(lengths):,}")
    if found.skipped:
        log("\n".join([f"rows skipped: {len(found.skipped):,}", *format_first_errors(found.skipped)]))
    return found


def write_missing_replies(
    config: Any,
    model: model_source.Model,
    tokenizer: Tokenizer,
    prompts: TokenizedPrompts,
    options: SampleOptions,
    partial: ResumableWriter,
) -> None:
    """Adds what is missing in `partial`, batch by batch on the current mesh.

    Reply k to row r has the index (r - 1) x samples + k, which decides what it draws. Raises SystemExit as `generate`
    does, and InputError where the device's memory is too small.
    """
    n = config.samples
    every = [(place, (row - 1) * n + k, k) for place, row in enumerate(prompts.rows) for k in range(n)]
    todo = [one for one in every if one[1] not in partial]
    if len(partial):
        log(f"resumed: {len(partial):,} of {len(every):,} replies are in {partial.path}")
    if not todo:
        return
    with explain_out_of_memory(
        f"with config.rows = {config.rows}; lower it (finished replies are kept, and the command continues), or the "
        "longest reply's tokens, or spread the model (config.mesh.fsdp)"
    ):
        params = model_source.load_with_adapter(model, jnp.dtype(options.compute_dtype), seed=0)
        generate(config, params, model.config, tokenizer, prompts, options, todo, len(every), partial)


def generate(
    config: Any,
    params: llama.Params,
    c: llama.LlamaConfig,
    tokenizer: Tokenizer,
    prompts: TokenizedPrompts,
    options: SampleOptions,
    todo: Sequence[tuple[int, int, int]],
    total: int,
    partial: ResumableWriter,
) -> None:
    """The loop over batches. todo: of each reply its prompt's place in `prompts`, its index and its sample.

    Raises SystemExit with the signal's code where one asked to stop.
    """
    # No more rows than there are replies; of all of them, so that a resumed run computes in the same shapes.
    shards = batch_shard_count()
    rows = min(config.rows, -(-total // shards) * shards)
    tokens = [prompts.tokens[place] for place, _, _ in todo]
    key, row_ids = jax.random.key(config.seed), [index for _, index, _ in todo]
    widths: set[int] = set()
    with StopRequest() as stop, Progress(total, len(partial)) as progress:
        for replies in generate_in_batches(params, c, tokens, options, key=key, rows=rows, row_ids=row_ids):
            answers = []
            for i, reply in replies.items():
                place, index, k = todo[i]
                number = {"sample": k} if config.samples > 1 else {}
                answers.append((index, {"id": prompts.ids[place]} | number | reply_to_row(reply, tokenizer)))
            partial.append(answers)
            widths.add(padded_length(max(len(tokens[i]) for i in replies), ROUND_TO))
            progress.add(replies)
            stopped_by = stop.after(len(partial), waits=True, what="reply")
            if stopped_by is not None and len(partial) < total:
                progress.close()
                told = f"{len(partial):,} of {total:,} replies, kept in {partial.path}"
                log(f"stopped by {stopped_by.name} after {told}; the same command continues")
                raise SystemExit(EXIT_CODES[stopped_by])
    log(progress.told(widths))


def reply_to_row(reply: Reply, tokenizer: Tokenizer) -> dict[str, Any]:
    """A reply as its row of the output has it."""
    text = tokenizer.decode(reply.tokens)
    # The blank between "Assistant:" and the reply; SentencePiece's decoders have dropped it already.
    first, both = tokenizer.encode("a")[0], tokenizer.encode("a a")[0]
    if tokenizer.decode(both[len(first) :]) == " a":
        text = text.removeprefix(" ")
    return {
        "completion": text,
        "tokens": reply.tokens,
        "logprob": math.fsum(reply.logprobs),
        "ended": reply.ended,
    }


def _hash_file(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
