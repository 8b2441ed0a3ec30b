"""The SFT run: raw trajectories and a model in, checkpoints and a Hugging Face folder out."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.data.batch import Batches
from tljax.data.examples import Examples, load_examples
from tljax.data.prompt import chat_template
from tljax.data.prompt_table import load_prompts
from tljax.data.tokenizer import Tokenizer, load_tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.distributed.mesh import describe_mesh, global_batch, make_mesh, process_rows, row_length_multiple
from tljax.evaluate import in_training
from tljax.evaluate.scored_replies import ScoredReply
from tljax.model import cost, llama, lora
from tljax.sft.check import check, check_devices
from tljax.sft.samples import write_samples
from tljax.sft.step import StepOptions, make_eval_step, make_sft_step, mean_metrics
from tljax.storage.run_folder import RunFolder
from tljax.toolbox.embedded import BASE_FOLDER, resolve_model_path, resolve_source_file
from tljax.training import model_source, resume
from tljax.training.checkpoint import Checkpoints
from tljax.training.export import export_results, save_model_files
from tljax.training.fingerprint import fingerprint
from tljax.training.metrics import MetricsLogger, should_run, truncate_after
from tljax.training.optimizer import make_optimizer, make_schedule
from tljax.training.state import TrainState, abstract_state, init_state
from tljax.training.stop import StopRequest, exit_after_stop

ROUND_TO = 128  # TPU lanes; a row length that is a multiple keeps the kernels' blocks whole


def run(config: Any) -> None:
    """Fine-tunes the model that `config` (configs/sft.py) describes.

    Raises InputError for what the user can mend, before any device work where it can be known by then, and
    FloatingPointError when loss or gradient is not finite; the last checkpoint stays.
    """
    check(config)
    sets = in_training.open_eval_sets(config)
    folder = resume.choose_run_folder(config.out, config.name, config.resume)
    resume.check_same_config(folder, config)
    model = model_source.open_model(resolve_model_path(config.model.path), config.model.preset)
    tokenizer = load_tokenizer(config.data.tokenizer or str(model.folder or BASE_FOLDER))
    model = model_source.fit_to_vocabulary(model, config.model.preset, tokenizer.vocab_size, tokenizer.folder)
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        check_devices(config, model.config)
        file, examples = processes.primary_first(lambda: load(config, tokenizer))
        log(examples.summary)
        batches, held_out = make_batches(config, examples)
        if in_training.HELD_OUT_ROWS in sets:
            limit = config.data.max_tokens
            among = {"seed": config.seed, "max_prompt_tokens": limit}
            prompts = processes.primary_first(lambda: load_prompts(config.data, file, tokenizer, **among))
            sets = in_training.add_held_out_rows(config, sets, prompts.held_out)
        tx = make_optimizer(config.optim, total_steps(config, batches))
        with resume.lock_run_folder(folder, config) as begun:
            if not begun:
                template = chat_template(config.data.dialect, bos=tokenizer.bos_id is not None)
                kept = tokenizer.folder, template, folder, lora.LoraOptions.from_config(config.lora)
                processes.run_on_primary(lambda: save_model_files(model, *kept))
            log(describe(config, model.config, batches, mesh, folder))
            train(config, model, tokenizer, batches, held_out, sets, tx, examples.content, folder)


def load(config: Any, tokenizer: Tokenizer) -> tuple[str, Examples]:
    """The file of trajectories that the config names or that is made for it, and its rows."""
    file = resolve_source_file(config.data.source, config.toolbox, config.data.cache)
    return file, load_examples(config.data, file, tokenizer, config.seed)


def make_batches(config: Any, examples: Examples) -> tuple[Batches, Batches | None]:
    """Training batches, and those of the held-out trajectories where there are any."""
    longest = max(examples.train["length"])
    if examples.held_out is not None:
        longest = max(longest, *examples.held_out["length"])
    unit = row_length_multiple(ROUND_TO)
    tokens = config.batch.tokens or -(-longest // unit) * unit
    shape = {"rows": config.batch.rows, "tokens": tokens, "packed": config.batch.pack}
    epochs = config.optim.epochs
    seed = config.seed if config.batch.shuffle else None
    train = Batches(examples.train, epochs=epochs, seed=seed, **shape)
    if config.optim.max_steps > train.steps:
        # An epoch has a few more or fewer packed rows than another, so the shortest possible one is counted on.
        shortest = -(-int(train.lengths.sum()) // (tokens * config.batch.rows))
        epochs = max(epochs, -(-config.optim.max_steps // shortest))
        train = Batches(examples.train, epochs=epochs, seed=seed, **shape)
    if examples.held_out is None:
        return train, None
    # Evaluation has no parts, so its batches are as small as one part of an update.
    shape["rows"] = config.batch.rows // config.batch.accumulate
    return train, Batches(examples.held_out, epochs=1, seed=None, **shape)


def describe(config: Any, c: llama.LlamaConfig, batches: Batches, mesh: jax.sharding.Mesh, folder: RunFolder) -> str:
    """What is about to run, in two lines."""
    scratch = config.model.path == model_source.SCRATCH
    name = f"{config.model.preset} from scratch" if scratch else config.model.path
    devices = mesh.devices.flat
    options = lora.LoraOptions.from_config(config.lora)
    trained = "" if options is None else f" frozen, {cost.count_adapter(c, options) / 1e6:,.1f} M trained"
    return (
        f"model: {name}, {cost.count_weights(c) / 1e6:,.1f} M weights{trained}, "
        f"on {mesh.size} x {devices[0].device_kind} ({describe_mesh(mesh)}), {config.model.compute_dtype}\n"
        f"train: {total_steps(config, batches):,} updates of {batches.rows} rows x {batches.tokens} tokens, in {folder}"
    )


def total_steps(config: Any, batches: Batches) -> int:
    """Updates of the run: optim.max_steps where it is set, else those of all epochs."""
    return config.optim.max_steps or batches.steps


def train(
    config: Any,
    model: model_source.ModelSource,
    tokenizer: Tokenizer,
    batches: Batches,
    held_out: Batches | None,
    sets: in_training.EvalSets,
    tx: optax.GradientTransformation,
    content: str,
    folder: RunFolder,
) -> None:
    """The loop on the current mesh: restore or begin, update, evaluate, save, export.

    content: hash of the training rows, kept in every checkpoint. Ends with SystemExit where a signal stopped the run.
    """
    c, total = model.config, total_steps(config, batches)
    options = StepOptions(
        max_targets=max(b.max_targets for b in (batches, held_out) if b is not None),
        loss_chunk=config.model.loss_chunk,
        compute_dtype=config.model.compute_dtype,
        remat=config.model.remat,
        attention=config.model.attention,
        lora=lora.LoraOptions.from_config(config.lora),
    )
    update = make_sft_step(c, tx, make_schedule(config.optim, total), options)
    evaluate = make_eval_step(c, options)
    facts = {"rows": content, "updates": total} | ({"model": fingerprint(model)} if model.folder else {})
    resume.record_first_start(folder, facts)
    kept = facts | {"config": json.loads(config.to_json_best_effort())}
    keep = {"keep": config.checkpoint.keep, "keep_best": config.checkpoint.keep_best}
    place = folder.path / "checkpoints"
    with Checkpoints(place, before_commit=folder.upload, **keep) as checkpoints, StopRequest() as stop:
        state, trunk = begin(config, model, tx, checkpoints)
        start = int(state.step)
        processes.run_on_primary(lambda: truncate_after(folder / "samples.jsonl", start))
        logger = MetricsLogger(
            folder,
            resume_step=start,
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb,
            total_steps=total,
            every=config.log.every,
            flops_per_token=cost.flops_per_token(c, float(np.mean(batches.lengths)), options.lora),
        )

        def answer(params: Any, step: int) -> dict[str, list[ScoredReply]]:
            whole = lora.combine_with_trunk(params, trunk, options.lora)
            context = in_training.EvalContext(config, tokenizer, folder, logger)
            found = in_training.score_eval_sets(context, sets, c, whole, step)
            if found:
                logger.log_metrics(step, in_training.eval_metrics(found))
            return found

        with logger:
            if start:
                logger.log_message(f"resumed at update {start} of {total}")
            elif not logger.has_step(0):
                answer(state.params, 0)
            for n in range(start, total):
                batch = put(batches.build, n, config.batch.rows, config.batch.accumulate)
                state, metrics = update(state, batch, trunk)
                logger.push(n + 1, metrics, {"epoch": round(batches.epoch(n + 1), 4)})
                stopped_by = stop.after(n + 1)
                planned = n + 1 == total or should_run(config.checkpoint.every, n + 1)
                selection_loss = None
                # A checkpoint that was not evaluated could never be the best one.
                if (
                    n + 1 == total
                    or should_run(config.eval.every, n + 1)
                    or (planned and config.checkpoint.keep_best > 0)
                ):
                    metrics = {}
                    if held_out is not None:
                        judge = functools.partial(evaluate, state.params, trunk=trunk)
                        metrics["loss"] = evaluate_all(config, judge, held_out, tokenizer, logger, folder, n + 1)
                    selection_loss = in_training.selection_loss(config, metrics, answer(state.params, n + 1))
                if planned or stopped_by is not None:
                    logger.flush()
                    checkpoints.save(n + 1, state, kept | {"step": n + 1}, selection_loss=selection_loss)
                if stopped_by is not None and n + 1 < total:
                    checkpoints.wait()
                    exit_after_stop(stopped_by, n + 1, total, folder, logger.log_message)
            checkpoints.wait()
        best = checkpoints.best_step()
    finish(config, sets, state, folder, best)


def begin(
    config: Any, model: model_source.ModelSource, tx: optax.GradientTransformation, checkpoints: Checkpoints
) -> tuple[TrainState, llama.Params | None]:
    """The state of the last checkpoint when resuming, else that of update 0, and the frozen trunk of an adapter."""
    c, options = model.config, lora.LoraOptions.from_config(config.lora)
    last = checkpoints.latest_step() if config.resume != "never" else None
    trunk = None if options is None else model_source.load_with_adapter(model, config.model.compute_dtype, config.seed)
    if last is None:
        if options is None:
            return init_state(model_source.load_params(model, jnp.float32, config.seed), tx), None
        return init_state(jax.jit(lora.init_adapter)(jax.random.key(config.seed), c, options), tx), trunk
    abstract = llama.abstract_params(c, jnp.float32) if options is None else lora.abstract_adapter(c, options)
    return checkpoints.restore(last, abstract_state(abstract, tx)), trunk


def put(build, step: int, rows: int, accumulate: int) -> dict[str, jax.Array]:
    """Batch `step` on the mesh, arrays [accumulate, rows / accumulate, T]; this process builds its own rows only."""
    part = rows // accumulate
    own = process_rows(part)
    host = build(step, [a * part + int(r) for a in range(accumulate) for r in own])
    return global_batch({k: v.reshape(accumulate, len(own), *v.shape[1:]) for k, v in host.items()}, accumulate=True)


def evaluate_all(
    config: Any,
    evaluate: Callable[..., Any],
    held_out: Batches,
    tokenizer: Tokenizer,
    logger: MetricsLogger,
    folder: RunFolder,
    step: int,
) -> float:
    """Metrics over all held-out rows, logged with the prefix "eval_"; returns the loss.

    evaluate: a batch to what make_eval_step's function returns of it.
    """
    logger.flush()
    total = None
    for n in range(held_out.steps):
        sums, scores = evaluate(put(held_out.build, n, held_out.rows, 1))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        if n == 0 and config.eval.samples:
            write_samples(folder / "samples.jsonl", step, held_out.build(0), scores, tokenizer, config.eval.samples)
    assert total is not None
    processes.report_progress("the evaluation's batches")
    metrics = {f"eval_{name}": value for name, value in jax.device_get(mean_metrics(total)).items()}
    logger.log_metrics(step, metrics)
    logger.log_message(
        f"step {step}: held-out loss {metrics['eval_loss']:.4f} a step; a key token {metrics['eval_loss_key']:.4f}, "
        f"another {metrics['eval_loss_other']:.4f}; first name token right {100 * metrics['eval_name_accuracy']:.1f} %"
    )
    return float(metrics["eval_loss"])


def finish(config: Any, sets: in_training.EvalSets, state: TrainState, folder: RunFolder, best: int | None) -> None:
    """Exports OUT/hf, the last weights, and says what lies where."""
    lines = [f"done:  checkpoints and metrics in {folder}"]
    if table := processes.run_on_primary(lambda: in_training.score_report(sets, folder, int(state.step))):
        lines.insert(0, table)
    if best is not None and best != int(state.step):
        lines.append(
            f"best: step {best} by eval.best={config.eval.best}; launch/export_hf.py with --config.step=-1 exports it"
        )
    adapter = lora.LoraOptions.from_config(config.lora) is not None
    export = config.export
    size = export.max_shard_bytes
    lines += export_results(
        folder, state.params, adapter=adapter, model=export.at_end, dtype=export.dtype, max_shard_bytes=size
    )
    if config.model.path == model_source.SCRATCH:
        lines.append(
            "note:  from scratch this shows the mechanics alone; for a model that helps, give config.model.path"
        )
    log("\n".join(lines))
