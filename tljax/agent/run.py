"""The multi-turn command: a model's dialogues with tools that run, written as they end, scored and printed."""

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tljax.agent import report as dialogue_report
from tljax.agent.dialogues import DialogueRequest, benchmark_requests, query_requests, toolbox_requests, tools_hash
from tljax.agent.files import DialogueFiles, InMemoryDialogues, check_new_files, open_dialogue_files
from tljax.agent.loop import DialogueLimits, Policy, has_room_for_reply, run_dialogues
from tljax.agent.scores import dialogue_row
from tljax.core.config import check_choice, check_range
from tljax.core.errors import InputError, explain_out_of_memory, locate_errors
from tljax.data.dialect import DIALECT_NAMES, open_dialect
from tljax.data.prompt import Dialect
from tljax.data.reader import format_first_errors
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.distributed.mesh import batch_shard_count, make_mesh
from tljax.evaluate.benchmarks.discover import is_benchmark
from tljax.generate.batches import Reply
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.progress import Progress
from tljax.generate.run import check_devices
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.model.attention import IMPLEMENTATIONS
from tljax.training import model_source
from tljax.training.fingerprint import fingerprint
from tljax.training.stop import EXIT_CODES, StopRequest

# The fields on which dialogues depend; the others may change when an interrupted run continues.
DECIDING = ("dialect", "new_tokens", "max_turns", "max_tokens", "max_repeats", "finish", "tool_seconds")
DAY = 86_400  # seconds


@dataclasses.dataclass(frozen=True)
class DialogueContext:
    """The parts of a run that are the same for all dialogues."""

    config: Any
    model: model_source.ModelSource
    tokenizer: Tokenizer
    options: SampleOptions
    limits: DialogueLimits


def run(config: Any) -> None:
    """Generates the dialogues of `config` (configs/evaluate.py, turns = "multi") and prints their scores.

    Scores are written to config.out = R.json, dialogues to R.dialogues.jsonl, transcripts to R.dialogues.txt. Raises
    InputError for a mistake of the user, before any device work where possible, and SystemExit if a signal stopped the
    run; ended dialogues are kept then, and the same command continues.
    """
    processes.check_single_process("config.turns=multi")
    check(config)
    out = Path(config.out).expanduser() if config.out else None
    if out is not None:
        check_new_files(out)
    model_source.check_trained(config.model.path)
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.tokenizer)
    dialect, tokenizer = open_dialect(config.dialect, config.chat_template, tokenizer, "chat_template")
    requests = read_requests(config, dialect)
    llama.check_length(model.config, config.new_tokens + 1, "config.new_tokens and a prompt")
    longest = min(config.max_tokens or model.config.max_tokens, model.config.max_tokens)
    limits = DialogueLimits(config.max_turns, longest, config.new_tokens, config.max_repeats)
    check_prompt_lengths(requests, tokenizer, limits)
    with jax.set_mesh(make_mesh(**config.mesh)):
        check_devices(config, model.config)
        options = SampleOptions.greedy(config.model, config.new_tokens, tokenizer.eos_ids)
        context = DialogueContext(config, model, tokenizer, options, limits)
        fields = deciding_fields(config)
        with (
            InMemoryDialogues()
            if out is None
            else open_dialogue_files(out, fields, content_hashes(context, requests)) as files
        ):
            generate_dialogues(context, requests, files)
            sets = dialogue_report.rows_by_set(files.rows())
            notes = [dialogue_report.NOTE, *([dialogue_report.MOCK] if uses_mock(config) else [])]
            facts = {"model": config.model.path, "data": config.data, "tools": config.tools, "made_with": fields}
            files.finish(dialogue_report.report_json(sets, notes, facts), dialogue_report.transcripts(sets))
    print(dialogue_report.dialogue_table(sets, notes))


def check(config: Any) -> None:
    """Raises InputError if the value of a field is not allowed."""
    for field in ("predictions", "noise", "compare", "bfcl_out"):
        if config[field]:
            raise InputError(f"config.{field} is {config[field]!r}, which is for config.turns=single; leave it empty")
    check_choice("dialect", config.dialect, DIALECT_NAMES)
    check_choice("model.compute_dtype", config.model.compute_dtype, llama.COMPUTE_DTYPES)
    check_choice("model.attention", config.model.attention, IMPLEMENTATIONS)
    for field in ("queries", "new_tokens", "rows", "max_turns", "tool_calls"):
        check_range(field, config[field], 1)
    check_range("max_tokens", config.max_tokens, 0)
    if 0 < config.max_tokens <= config.new_tokens:
        raise InputError(
            f"config.max_tokens is {config.max_tokens}, but a reply may have config.new_tokens = {config.new_tokens} "
            "tokens and a prompt comes before it; raise max_tokens, or leave it 0 for as many as the model can read"
        )
    check_range("max_repeats", config.max_repeats, 2)
    if not 0 < config.tool_seconds <= DAY:
        raise InputError(f"config.tool_seconds is {config.tool_seconds}; it must be above 0 and at most {DAY:,}, a day")
    if config.data == "toolbox" and (config.tools or config.finish != "finish"):
        field = "tools" if config.tools else "finish"
        raise InputError(
            f"config.{field} is {config[field]!r}, but config.data is 'toolbox', which has its own; name a file of "
            "queries in config.data, or leave the field as it is"
        )


def read_requests(config: Any, dialect: Dialect) -> list[DialogueRequest]:
    """Returns the dialogues to generate. Raises InputError as the readers do."""
    if config.data == "toolbox":
        return toolbox_requests(config.queries, dialect)
    if not config.tools and is_benchmark(config.data):
        return benchmark_requests(config.data, dialect, config.finish)
    tools = os.path.expanduser(config.tools)
    return query_requests(config.data, dialect, config.finish, tools, config.tool_seconds)


def uses_mock(config: Any) -> bool:
    return config.data != "toolbox" and not config.tools


def check_prompt_lengths(requests: Sequence[DialogueRequest], tokenizer: Tokenizer, limits: DialogueLimits) -> None:
    """Prints which prompts leave no room for a first reply. Raises InputError if none leaves room."""
    lengths = []
    for request in requests:
        with locate_errors(f"set {request.set}, {request.id}"):
            lengths.append(len(tokenizer.encode(request.opening.prompt)[0]))
    long = [
        f"set {request.set}, {request.id}: {length:,} tokens"
        for request, length in zip(requests, lengths, strict=True)
        if not has_room_for_reply(length, limits)
    ]
    if long and len(long) == len(requests):
        raise InputError(
            f"no dialogue has room for a reply: the shortest begins with {min(lengths):,} tokens, and with "
            f"config.new_tokens = {limits.new_tokens:,} more they may have {limits.tokens:,} (config.max_tokens, or "
            "what the model can read); lower new_tokens, or raise max_tokens where it is set"
        )
    if long:
        heading = f"dialogues that end before they begin, over {limits.tokens:,} tokens with a reply: {len(long):,}"
        log("\n".join([heading, *format_first_errors(long)]))


def deciding_fields(config: Any) -> dict[str, Any]:
    """Returns the fields on which dialogues depend, by their dotted names."""
    return {name: config[name] for name in DECIDING} | {"model.compute_dtype": config.model.compute_dtype}


def content_hashes(context: DialogueContext, requests: Sequence[DialogueRequest]) -> dict[str, str]:
    """Returns hashes of the inputs on which dialogues depend: model, tokenizer, data, and the file of tools."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update(repr((request.set, request.id, request.opening.prompt)).encode())
    content = {"model": fingerprint(context.model), "tokenizer": context.tokenizer.fingerprint}
    content["content of data"] = digest.hexdigest()
    if context.config.tools:
        content["content of tools"] = tools_hash(context.config.tools)
    return content


def generate_dialogues(
    context: DialogueContext, requests: Sequence[DialogueRequest], files: DialogueFiles | InMemoryDialogues
) -> None:
    """Generates the dialogues that `files` lacks on the current mesh, and adds them as they end.

    Raises SystemExit with the signal's exit code if a signal asked to stop.
    """
    config, model, limits = context.config, context.model, context.limits
    # The dialogues that are missing, the longest first: prompts of similar length share a round, and memory runs out in
    # the first round or never.
    todo = [(number, request.opening) for number, request in enumerate(requests) if number not in files]
    todo.sort(key=lambda item: -len(item[1].prompt))
    log(f"dialogues: {len(requests):,}, with up to {limits.turns} replies and {limits.tokens:,} tokens")
    if len(todo) < len(requests):
        log(f"resumed: {len(requests) - len(todo):,} of {len(requests):,} dialogues are in {files.path}")
    if not todo:
        return
    # No more rows than dialogues. Finished ones count too, so that a resumed run compiles the same shapes.
    shards = batch_shard_count()
    rows = min(config.rows, -(-len(requests) // shards) * shards)
    params = model_source.load_with_adapter(model, jnp.dtype(context.options.compute_dtype), seed=0)
    begin, replies = time.perf_counter(), 0
    with StopRequest() as stop, Progress(len(requests), len(files), "dialogue", "dialogues") as progress:
        policy = greedy_policy(params, model.config, context.options, rows, progress)
        rounds = run_dialogues(todo, policy, context.tokenizer, limits, rows=rows, calls_at_once=config.tool_calls)
        with contextlib.closing(rounds):
            for ended in rounds:
                files.append(
                    [(dialogue.number, dialogue_row(requests[dialogue.number], dialogue)) for dialogue in ended]
                )
                replies += sum(len(dialogue.exchanges) for dialogue in ended)
                progress.advance(len(ended))
                if stop.signal is not None and len(files) < len(requests):
                    progress.close()
                    log(
                        f"stopped by {stop.signal.name} after {len(files):,} of {len(requests):,} dialogues, "
                        f"{files.status}"
                    )
                    raise SystemExit(EXIT_CODES[stop.signal])
    log(f"held {len(todo):,} dialogues with {replies:,} replies in {time.perf_counter() - begin:,.0f} s")


def greedy_policy(
    params: llama.Params, c: llama.LlamaConfig, options: SampleOptions, rows: int, progress: Progress
) -> Policy:
    """Returns the model's greedy policy, which generates `rows` replies side by side."""
    sampler = Sampler(params, c, options, key=jax.random.key(0), rows=rows)

    def policy(prompts: list[list[int]]) -> list[Reply]:
        with explain_out_of_memory(
            f"with config.rows = {rows} and dialogues of up to {max(map(len, prompts)):,} tokens; lower config.rows or "
            "config.max_tokens (the latter begins anew), or spread the model over more devices (config.mesh.fsdp)"
        ):
            replies = sampler.generate(prompts)
        progress.advance(0, sum(len(reply.logprobs) for reply in replies))
        return replies

    return policy
