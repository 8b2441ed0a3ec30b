"""Batch inference: reads a file of prompts, writes a file of replies, and resumes where it was stopped."""

import dataclasses
import hashlib
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from tljax.core.config import MAX_INT32, check_choice, check_range
from tljax.core.errors import InputError, explain_out_of_memory, locate_errors
from tljax.data.dialect import DIALECT_NAMES, open_dialect
from tljax.data.model_template import ModelTemplate
from tljax.data.prompt import Dialect
from tljax.data.prompt_records import read_prompt_records
from tljax.data.reader import format_first_errors
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import has_terminal, log
from tljax.distributed.mesh import batch_shard_count, check_initialized, check_rows, make_mesh, mesh_platform
from tljax.generate.batches import ROUND_TO, Reply, padded_length
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.progress import Progress
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions, check_sample_options
from tljax.model import llama
from tljax.model.attention import IMPLEMENTATIONS, choose_implementation
from tljax.storage.resumable import ResumableWriter, check_new_output, claim_output
from tljax.training import model_source
from tljax.training.fingerprint import fingerprint
from tljax.training.stop import EXIT_CODES, StopRequest

ON_LONG = ("refuse", "skip")


@dataclasses.dataclass(frozen=True)
class TokenizedPrompts:
    """The prompts of a file as tokens, in the file's order. `rows` counts the file's rows from 1.

    `tokens` begin with the tokenizer's first token where training prepends it. `skipped` has a message for each row
    that is too long.
    """

    ids: list[str | int]
    rows: list[int]
    tokens: list[Sequence[int]]
    skipped: list[str]


class _Request(NamedTuple):
    """A reply that is asked for: the prompt's index in TokenizedPrompts, the reply's index and its sample number."""

    prompt: int
    index: int
    sample: int


def run(config: Any) -> None:
    """Generates replies to the prompts of config.prompts and writes them to config.out (configs/generate.py).

    Raises InputError for what the user can correct, before any device work where possible. Raises SystemExit when a
    signal stops the run: finished replies are then in OUT.partial, and the same command continues from them.
    """
    check(config)
    out, file = Path(config.out).expanduser(), Path(config.prompts).expanduser()
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.tokenizer)
    dialect, tokenizer = open_dialect(config.dialect, config.chat_template, tokenizer, "chat_template")
    options = _checked_options(config, model.config, tokenizer)
    with jax.set_mesh(make_mesh(**config.mesh)), claim_output(out):
        check_devices(config, model.config)
        content = {
            "model": fingerprint(model),
            "tokenizer": tokenizer.fingerprint,
            "content of config.prompts": _hash_file(file),
        }
        with ResumableWriter(out, resume_fields(config), content) as writer:
            prompts = read_prompts(config, file, model.config, tokenizer, dialect)
            write_missing_replies(config, model, tokenizer, prompts, options, writer)
            count, (tokens, ended) = len(writer), writer.finish()
    log(
        f"done: {count:,} replies with {tokens:,} tokens, {100 * ended / count:.1f} % ended before "
        f"sample.max_new_tokens, in {out}"
    )


def check(config: Any) -> None:
    """Raises InputError for a field with a wrong value, an input that does not exist or an output that exists."""
    for field in ("prompts", "out"):
        if not config[field]:
            raise InputError(f"config.{field} is empty; give a JSONL file, --config.{field}=FILE.jsonl")
    check_choice("dialect", config.dialect, DIALECT_NAMES)
    check_choice("on_long", config.on_long, ON_LONG)
    check_choice("model.compute_dtype", config.model.compute_dtype, llama.COMPUTE_DTYPES)
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
    """Raises InputError where config.rows, the model or the attention does not fit the current mesh."""
    check_initialized()
    check_rows(config.rows, "config.rows")
    llama.check_mesh(c)
    choose_implementation(config.model.attention, config.model.compute_dtype, c.head_dim, mesh_platform())


def _checked_options(config: Any, c: llama.LlamaConfig, tokenizer: Tokenizer) -> SampleOptions:
    """Returns the options of config.sample. Raises InputError for a value that is not allowed."""
    options = SampleOptions.from_config(config.model, config.sample, tokenizer.eos_ids)
    try:
        check_sample_options(options, c.vocab_size)
    except InputError as error:
        raise InputError(f"config.sample.{error}") from None
    return options


def resume_fields(config: Any) -> dict[str, Any]:
    """Returns the fields that replies depend on, by dotted name; a resumed run may change all others."""
    fields = {f"sample.{name}": value for name, value in config.sample.items()}
    fields |= {name: config[name] for name in ("dialect", "samples", "seed", "special_tokens")}
    return fields | {"model.compute_dtype": config.model.compute_dtype}


def read_prompts(
    config: Any, file: Path, c: llama.LlamaConfig, tokenizer: Tokenizer, dialect: Dialect
) -> TokenizedPrompts:
    """Returns the prompts of `file` as tokens.

    Raises InputError for the first bad row, for a row that is too long unless config.on_long is "skip", and where all
    rows are too long.
    """
    prompts, new = TokenizedPrompts([], [], [], []), config.sample.max_new_tokens
    reader = tokenizer.reading_special_tokens() if config.special_tokens else tokenizer
    reads_special = config.special_tokens or isinstance(dialect, ModelTemplate)
    special = [] if reads_special else tokenizer.special_tokens()
    spelled: list[str] = []  # special tokens that are read as text, one for each prompt that spells one
    hidden = not has_terminal()
    for query in tqdm(read_prompt_records(str(file), dialect), desc="tokenizing", unit="row", disable=hidden):
        # 4 bytes a token, where a list of 100,000 long prompts would take gigabytes.
        with locate_errors(f"file {file}, row {query.row}"):
            ids = array("i", (tokenizer if query.rendered else reader).encode(query.prompt)[0])
        if not query.rendered:
            spelled += [token for token in special if token in query.prompt][:1]
        if len(ids) + new > c.max_tokens:
            prompts.skipped.append(
                f"file {file}, row {query.row} (id {query.id!r}): {len(ids):,} tokens with "
                f"config.sample.max_new_tokens = {new:,} are over the {c.max_tokens:,} that the model can read"
            )
            continue
        prompts.ids.append(query.id)
        prompts.rows.append(query.row)
        prompts.tokens.append(ids)
    if prompts.skipped and (config.on_long == "refuse" or not prompts.ids):
        count = len(prompts.skipped)
        more = f" (one of {count:,} such rows)" if count > 1 else ""
        remedy = "shorten it or lower max_new_tokens"
        if config.on_long == "refuse":
            remedy += ", or leave such rows out with config.on_long=skip"
        raise InputError(f"{prompts.skipped[0]}{more}; {remedy}")
    check_range("samples", config.samples, 1, MAX_INT32 // prompts.rows[-1])
    lengths = [len(ids) for ids in prompts.tokens]
    log(f"prompts: {len(lengths):,} rows with {sum(lengths):,} tokens, the longest {max(lengths):,}")
    if spelled:
        log(
            f"note: {len(spelled):,} prompts spell special tokens, such as {spelled[0]}, which are read as text; "
            "--config.special_tokens=true reads them as tokens"
        )
    if prompts.skipped:
        log("\n".join([f"rows skipped: {len(prompts.skipped):,}", *format_first_errors(prompts.skipped)]))
    return prompts


def write_missing_replies(
    config: Any,
    model: model_source.ModelSource,
    tokenizer: Tokenizer,
    prompts: TokenizedPrompts,
    options: SampleOptions,
    writer: ResumableWriter,
) -> None:
    """Generates the replies that `writer` does not have yet, and adds them batch by batch, on the current mesh.

    Reply k to row r has the index (r - 1) x samples + k, which determines what it samples. Raises SystemExit with the
    signal's code when a signal stops the run, and InputError where the device's memory is too small.
    """
    samples = config.samples
    requests = [_Request(i, (row - 1) * samples + k, k) for i, row in enumerate(prompts.rows) for k in range(samples)]
    missing = [request for request in requests if request.index not in writer]
    if len(writer):
        log(f"resumed: {len(writer):,} of {len(requests):,} replies are in {writer.path}")
    if not missing:
        return
    # No more rows than replies of the whole run: a resumed run so computes in the same shapes, and gives the same bits.
    shards = batch_shard_count()
    rows = min(config.rows, -(-len(requests) // shards) * shards)
    with explain_out_of_memory(
        f"with config.rows = {config.rows}; lower it (finished replies are kept, and the command continues), or the "
        "longest reply's tokens, or spread the model (config.mesh.fsdp)"
    ):
        params = model_source.load_with_adapter(model, jnp.dtype(options.compute_dtype), seed=0)
        sampler = Sampler(params, model.config, options, key=jax.random.key(config.seed), rows=rows)
        batches = sampler.generate_batches(
            [prompts.tokens[request.prompt] for request in missing],
            row_ids=[request.index for request in missing],
            run_lengths=[len(prompts.tokens[request.prompt]) for request in requests],
        )
        _write_batches(config, batches, missing, prompts, tokenizer, writer)


def _write_batches(
    config: Any,
    batches: Iterator[dict[int, Reply]],
    missing: Sequence[_Request],
    prompts: TokenizedPrompts,
    tokenizer: Tokenizer,
    writer: ResumableWriter,
) -> None:
    """Adds each batch {index in `missing`: reply} to `writer`. Raises SystemExit when a signal asks to stop."""
    total = len(prompts.rows) * config.samples
    lengths: set[int] = set()
    with StopRequest() as stop, Progress(total, len(writer)) as progress:
        for replies in batches:
            rows = []
            for i, reply in replies.items():
                request = missing[i]
                sample = {"sample": request.sample} if config.samples > 1 else {}
                row = {"id": prompts.ids[request.prompt]} | sample | reply_to_row(reply, tokenizer)
                rows.append((request.index, row))
            writer.append(rows)
            lengths.update(padded_length(len(prompts.tokens[missing[i].prompt]), ROUND_TO) for i in replies)
            progress.add(replies)
            signal = stop.after(len(writer), devices_idle=True, unit="reply")
            if signal is not None and len(writer) < total:
                progress.close()
                count = f"{len(writer):,} of {total:,} replies, kept in {writer.path}"
                log(f"stopped by {signal.name} after {count}; the same command continues")
                raise SystemExit(EXIT_CODES[signal])
    log(progress.format_summary(lengths))


def reply_to_row(reply: Reply, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns a reply as a row of the output file: completion, tokens, logprob (their sum) and ended."""
    text = tokenizer.decode(reply.tokens)
    # Removes the blank between "Assistant:" and the reply, which SentencePiece's decoders have removed already.
    start, both = tokenizer.encode("a")[0], tokenizer.encode("a a")[0]
    if tokenizer.decode(both[len(start) :]) == " a":
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
