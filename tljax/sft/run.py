"""The SFT run: raw trajectories and a model in, checkpoints and a Hugging Face folder out."""

import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.data.dialect import open_dialect
from tljax.data.examples import Examples, load_examples
from tljax.data.prompt import Dialect
from tljax.data.prompt_table import load_prompts
from tljax.data.response_template import chat_facts
from tljax.data.tokenizer import Tokenizer, load_tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.distributed.mesh import describe_mesh, make_mesh
from tljax.evaluate import in_training
from tljax.evaluate.scored_replies import ScoredReply
from tljax.model import cost, llama, lora
from tljax.model.hf.export import ChatFacts, WeightsFormat
from tljax.sft.batches import load_batch, make_batches
from tljax.sft.check import check, check_devices
from tljax.sft.context import SFTContext
from tljax.sft.held_out import evaluate_loss
from tljax.sft.step import StepOptions, make_eval_step, make_sft_step
from tljax.storage.run_folder import RunFolder
from tljax.toolbox.embedded import BASE_FOLDER, resolve_model_path, resolve_source_file
from tljax.training import exported_change, model_source, resume
from tljax.training.checkpoint import Checkpoints
from tljax.training.export import export_results, save_model_files
from tljax.training.fingerprint import fingerprint
from tljax.training.metrics import LogOptions, MetricsLogger, should_run, truncate_after
from tljax.training.optimizer import make_optimizer, make_schedule
from tljax.training.state import TrainState, abstract_state, init_state
from tljax.training.stop import StopRequest, exit_after_stop
from tljax.training.tokenizer_source import tokenizer_folder


def run(config: Any) -> None:
    """Fine-tunes the model that `config` (configs/sft.py) describes.

    Raises InputError for what the user can correct, before any device work where possible, and FloatingPointError if a
    loss or gradient is not finite; the last checkpoint remains.
    """
    # Everything that needs no device.
    check(config)
    folder = resume.choose_run_folder(config.out, config.name, config.resume)
    resume.check_same_config(folder, config)
    inputs = open_inputs(config)
    sets = in_training.open_eval_sets(config, inputs.dialect)

    with jax.set_mesh(make_mesh(**config.mesh)):
        context = load_context(config, inputs, sets, folder)
        tx = make_optimizer(config.optim, context.total)
        with resume.lock_run_folder(folder, config) as begun:
            if not begun:
                chat = ChatFacts(*chat_facts(inputs.dialect, inputs.tokenizer))
                processes.run_on_primary(
                    lambda: save_model_files(inputs.model, inputs.tokenizer.folder, chat, folder, context.adapter)
                )
            log(describe(context))
            train(context, tx)


class Inputs(NamedTuple):
    """The model, its tokenizer and the dialect that a config names, opened; no weight and no row is read yet."""

    model: model_source.ModelSource
    tokenizer: Tokenizer
    dialect: Dialect


def open_inputs(config: Any) -> Inputs:
    """Returns the inputs of a config. Raises InputError for those that do not exist or do not belong together."""
    model = model_source.open_model(resolve_model_path(config.model.path), config.model.preset)
    named = config.data.tokenizer
    folder = tokenizer_folder(resolve_model_path(named)) if named else str(model.folder or BASE_FOLDER)
    tokenizer = load_tokenizer(folder, model.config_folder)
    if model.folder is not None:
        tokenizer = tokenizer.fit_to_rows(model.config.vocab_size)
    if tokenizer.lacking:
        log(tokenizer.format_lacking())
    model = model_source.fit_to_vocabulary(model, config.model.preset, tokenizer.vocab_size, tokenizer.folder)
    dialect, tokenizer = open_dialect(config.data.dialect, config.data.chat_template, tokenizer, "data.chat_template")
    return Inputs(model, tokenizer, dialect)


def load_context(config: Any, inputs: Inputs, sets: in_training.EvalSets, folder: RunFolder) -> SFTContext:
    """Prepares the data for the current mesh, and returns the parts of the run; sets: those of config.eval.sets.

    Raises InputError for a config that does not fit the mesh or the model, and for bad data.
    """
    model, tokenizer, dialect = inputs
    check_devices(config, model.config)
    file, examples = processes.primary_first(lambda: load(config, tokenizer, dialect))
    log(examples.summary)
    batches, held_out = make_batches(config, examples)
    if in_training.HELD_OUT_ROWS in sets:
        limits = {"seed": config.seed, "max_prompt_tokens": config.data.max_tokens}
        prompts = processes.primary_first(lambda: load_prompts(config.data, file, tokenizer, **limits, dialect=dialect))
        sets = in_training.add_held_out_rows(config, sets, prompts.held_out)
    return SFTContext(
        config=config,
        model=model,
        tokenizer=tokenizer,
        batches=batches,
        held_out=held_out,
        content=examples.content,
        sets=sets,
        folder=folder,
    )


def load(config: Any, tokenizer: Tokenizer, dialect: Dialect) -> tuple[str, Examples]:
    """Returns the path of the file of trajectories, which is made first if it is generated data, and its rows."""
    file = resolve_source_file(config.data.source, config.toolbox, config.data.cache)
    return file, load_examples(config.data, file, tokenizer, config.seed, dialect)


def describe(context: SFTContext) -> str:
    """Returns two lines about the run that begins."""
    config, c, batches, mesh = context.config, context.model.config, context.batches, jax.sharding.get_mesh()
    scratch = config.model.path == model_source.SCRATCH
    name = f"{config.model.preset} from scratch" if scratch else config.model.path
    adapter = context.adapter
    trained = "" if adapter is None else f" frozen, {cost.count_adapter(c, adapter) / 1e6:,.1f} M trained"
    device = mesh.devices.flat[0].device_kind
    return (
        f"model: {name}, {cost.count_weights(c) / 1e6:,.1f} M weights{trained}, "
        f"on {mesh.size} x {device} ({describe_mesh(mesh)}), {config.model.compute_dtype}\n"
        f"train: {context.total:,} updates of {batches.rows} rows x {batches.tokens} tokens, in {context.folder}"
    )


def train(context: SFTContext, tx: optax.GradientTransformation) -> None:
    """Runs the loop on the current mesh: restores or begins, updates, evaluates, saves and exports.

    Raises SystemExit if a signal stopped the run.
    """
    config, c, folder, total = context.config, context.model.config, context.folder, context.total

    # The compiled programs.
    batches, held_out = context.batches, context.held_out
    options = step_options(context)
    update = make_sft_step(c, tx, make_schedule(config.optim, total), options)
    eval_step = make_eval_step(c, options)

    # The facts that every checkpoint stores, and that a resumed run must share.
    facts = {"rows": context.content, "updates": total}
    if context.model.folder:
        facts["model"] = fingerprint(context.model)
    resume.record_first_start(folder, facts)
    metadata = facts | {"config": json.loads(config.to_json_best_effort())}

    keep = {"keep": config.checkpoint.keep, "keep_best": config.checkpoint.keep_best}
    checkpoint_folder = folder.path / "checkpoints"
    with Checkpoints(checkpoint_folder, before_commit=folder.upload, **keep) as checkpoints, StopRequest() as stop:
        state, trunk = begin(context, tx, checkpoints)
        start = int(state.step)
        processes.run_on_primary(lambda: truncate_after(folder / "samples.jsonl", start))
        flops_per_token = cost.flops_per_token(c, float(np.mean(batches.lengths)), options.lora)
        log_options = LogOptions.from_config(config.log, flops_per_token=flops_per_token)
        logger = MetricsLogger(folder, log_options, resume_step=start, total_steps=total)
        with logger:
            if start:
                logger.log_message(f"resumed at update {start} of {total}")
            elif not logger.has_step(0):
                score_eval_sets(context, state.params, trunk, logger, 0)
            for n in range(start, total):
                # One update.
                batch = load_batch(batches, n, config.batch.accumulate)
                state, metrics = update(state, batch, trunk)
                logger.push(n + 1, metrics, {"epoch": round(batches.epoch(n + 1), 4)})

                # Evaluation. A checkpoint without it could never be the best one.
                stopped_by = stop.after(n + 1)
                finished = n + 1 == total
                planned = finished or should_run(config.checkpoint.every, n + 1)
                selection_loss = None
                if finished or should_run(config.eval.every, n + 1) or (planned and config.checkpoint.keep_best > 0):
                    metrics = {}
                    logger.flush()  # names the step of a loss that is not finite, before replies are generated
                    if held_out is not None:
                        metrics["loss"] = evaluate_loss(
                            context, held_out, functools.partial(eval_step, state.params, trunk=trunk), logger, n + 1
                        )
                    replies = score_eval_sets(context, state.params, trunk, logger, n + 1)
                    selection_loss = in_training.selection_loss(config, metrics, replies)

                # The checkpoint.
                if planned or stopped_by is not None:
                    logger.flush()
                    checkpoints.save(n + 1, state, metadata | {"step": n + 1}, selection_loss=selection_loss)
                if stopped_by is not None and not finished:
                    checkpoints.wait()
                    exit_after_stop(stopped_by, n + 1, total, folder, logger.log_message)
            checkpoints.wait()
        best = checkpoints.best_step()
    step, params = int(state.step), state.params
    # The comparison with the first weights and the export need the memory of the moments and of the trunk.
    del state
    change = exported_change.measure_run(
        context.model, context.export_dtype, params, trunk, context.adapter, config.seed
    )
    del trunk
    finish(context, step, params, best, change)


def step_options(context: SFTContext) -> StepOptions:
    """Returns the options of the compiled programs, which training and evaluation share."""
    batches = (b for b in (context.batches, context.held_out) if b is not None)
    return StepOptions.from_config(context.config, max(b.max_targets for b in batches))


def begin(
    context: SFTContext, tx: optax.GradientTransformation, checkpoints: Checkpoints
) -> tuple[TrainState, llama.Params | None]:
    """Returns the state and, if an adapter is trained, the frozen trunk.

    The state is that of the last checkpoint when resuming, else that of update 0.
    """
    config, model, adapter = context.config, context.model, context.adapter
    last = checkpoints.latest_step() if config.resume != "never" else None
    trunk = None if adapter is None else model_source.load_with_adapter(model, config.model.compute_dtype, config.seed)
    if last is None and adapter is None:
        params = model_source.load_params(model, jnp.float32, config.seed)
    elif last is None:
        params = jax.jit(lora.init_adapter)(jax.random.key(config.seed), model.config, adapter)
    elif adapter is None:
        params = llama.abstract_params(model.config, jnp.float32)
    else:
        params = lora.abstract_adapter(model.config, adapter)
    return (init_state(params, tx) if last is None else checkpoints.restore(last, abstract_state(params, tx))), trunk


def score_eval_sets(
    context: SFTContext, params: Any, trunk: llama.Params | None, logger: MetricsLogger, step: int
) -> dict[str, list[ScoredReply]]:
    """Generates replies to the sets of eval.sets, logs their scores and returns the replies by set."""
    # Weights are scored as the export rounds them; an adapter is exported as it is.
    params = params if context.adapter else exported_change.as_exported(params, context.export_dtype)
    weights = lora.combine_with_trunk(params, trunk, context.adapter)
    eval_context = in_training.EvalContext(context.config, context.tokenizer, context.folder, logger)
    replies = in_training.score_eval_sets(eval_context, context.sets, context.model.config, weights, step)
    if replies:
        logger.log_metrics(step, in_training.eval_metrics(replies))
    return replies


def finish(
    context: SFTContext, step: int, params: Any, best: int | None, change: exported_change.ExportedChange | None
) -> None:
    """Exports OUT/hf from the last weights, and logs the scores and the paths of all results."""
    config, folder = context.config, context.folder
    lines = [f"done:  checkpoints and metrics in {folder}"]
    if table := processes.run_on_primary(lambda: in_training.score_report(context.sets, folder, step)):
        lines.insert(0, table)
    if best is not None and best != step:
        lines.append(
            f"best: step {best} by eval.best={config.eval.best}; launch/export_hf.py with --config.step=-1 exports it"
        )
    lines += exported_change.format_change(change, adapter=context.adapter is not None, scored=bool(context.sets))
    lines += export_results(
        folder,
        params,
        WeightsFormat.from_config(config.export),
        adapter=context.adapter is not None,
        model=config.export.at_end,
    )
    if config.model.path == model_source.SCRATCH:
        lines.append(
            "note:  from scratch this shows the mechanics alone; for a model that helps, give config.model.path"
        )
    log("\n".join(lines))
