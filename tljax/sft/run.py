"""The SFT run: raw trajectories and a model in, checkpoints and a Hugging Face folder out."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.core import config as checks
from tljax.core import run_folder
from tljax.core.checkpoint import Checkpoints
from tljax.core.errors import InputError
from tljax.core.mesh import check_rows, global_batch, make_mesh, process_rows
from tljax.core.metrics import RunLog, cut
from tljax.core.state import SCHEDULES, TrainState, abstract_state, init_state, make_optimizer, make_schedule
from tljax.data import pkt
from tljax.data.batch import Batches
from tljax.data.examples import Examples, load_examples
from tljax.data.prompt import DIALECTS, chat_template
from tljax.data.reader import ON_BAD_ROW
from tljax.data.tokens import Tokenizer, load_tokenizer
from tljax.model import llama, source
from tljax.sft.samples import write_samples
from tljax.sft.step import StepOptions, make_eval_step, make_sft_step, means
from tljax.toolbox.embedded import BASE, toolbox_file

ROUND_TO = 128  # TPU lanes; a row length that is a multiple keeps the kernels' blocks whole


def run(config: Any) -> None:
    """Fine-tunes the model that `config` (configs/sft.py) describes.

    Raises InputError for what the user can mend, before any device work where it can be known by then, and
    FloatingPointError when loss or gradient is not finite; the last checkpoint stays.
    """
    check(config)
    folder = run_folder.choose(config.out, config.name, config.resume)
    run_folder.check_config(folder, config)
    model = source.open_model(config.model.path, config.model.preset)
    tokenizer = load_tokenizer(config.data.tokenizer or str(model.folder or BASE))
    model = source.fit_vocabulary(model, config.model.preset, tokenizer.vocab_size, tokenizer.folder)
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        llama.check_mesh(model.config)
        llama.check_length(model.config, config.data.max_tokens)
        check_rows(config.batch.rows // config.batch.accumulate, "batch.rows / batch.accumulate")
        examples = load_examples(config.data, _source_file(config), tokenizer, config.seed)
        say(examples.summary)
        batches, held_out = make_batches(config, examples)
        run_folder.make(folder, config)
        template = chat_template(config.data.dialect, bos=tokenizer.bos_id is not None)
        source.keep_files(model, tokenizer.folder, template, folder)
        say(describe(config, model.config, batches, mesh, folder))
        train(config, model, tokenizer, batches, held_out, folder)


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed."""
    for field, allowed in {
        "resume": run_folder.RESUME,
        "data.pkt": pkt.RULES,
        "data.rows": ("trajectory", "step"),
        "data.on_bad_row": ON_BAD_ROW,
        "data.dialect": DIALECTS,
        "model.compute_dtype": ("bfloat16", "float32"),
        "model.remat": ("none", "dots", "attention", "full"),
        "model.attention": ("auto", "reference", "splash", "cudnn"),
        "optim.schedule": SCHEDULES,
        "export.dtype": ("auto", "float32", "bfloat16", "float16"),
    }.items():
        checks.check_choice(field, _field(config, field), allowed)
    for field, least in {
        "batch.rows": 1,
        "batch.tokens": 0,
        "batch.accumulate": 1,
        "data.max_tokens": 2,
        "data.w_max": 1,
        "model.loss_chunk": 1,
        "optim.epochs": 1,
        "optim.max_steps": 0,
        "eval.every": 0,
        "eval.samples": 0,
        "checkpoint.every": 0,
        "checkpoint.keep": 1,
        "checkpoint.keep_best": 0,
        "log.every": 1,
        "toolbox.trajectories": 1,
        "export.max_shard_bytes": 1,
    }.items():
        checks.check_least(field, _field(config, field), least)
    if not 0 <= config.data.eval_fraction < 1:
        raise InputError(f"config.data.eval_fraction is {config.data.eval_fraction}; it must be at least 0 and below 1")
    if config.batch.rows % config.batch.accumulate:
        raise InputError(
            f"config.batch.rows is {config.batch.rows}, which does not divide into batch.accumulate = "
            f"{config.batch.accumulate} parts; use a multiple of {config.batch.accumulate}"
        )
    if config.batch.tokens and config.batch.tokens < config.data.max_tokens:
        raise InputError(
            f"config.batch.tokens is {config.batch.tokens}, less than data.max_tokens = {config.data.max_tokens}: "
            "a step could be longer than its row; raise the first or lower the second"
        )


def _field(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _source_file(config: Any) -> str:
    embedded = config.data.source == "toolbox"
    return str(toolbox_file(config.toolbox, config.data.cache)) if embedded else config.data.source


def make_batches(config: Any, examples: Examples) -> tuple[Batches, Batches | None]:
    """Training batches, and those of the held-out trajectories where there are any."""
    longest = max(examples.train["length"])
    if examples.held_out is not None:
        longest = max(longest, *examples.held_out["length"])
    tokens = config.batch.tokens or -(-longest // ROUND_TO) * ROUND_TO
    shape = {"rows": config.batch.rows, "tokens": tokens, "packed": config.batch.pack}
    epochs = config.optim.epochs
    train = Batches(examples.train, epochs=epochs, seed=config.seed, **shape)
    if config.optim.max_steps > train.steps:
        # An epoch has a few more or fewer packed rows than another, so the shortest possible one is counted on.
        shortest = -(-int(train.lengths.sum()) // (tokens * config.batch.rows))
        epochs = max(epochs, -(-config.optim.max_steps // shortest))
        train = Batches(examples.train, epochs=epochs, seed=config.seed, **shape)
    if examples.held_out is None:
        return train, None
    return train, Batches(examples.held_out, epochs=1, seed=None, **shape)


def describe(config: Any, c: llama.LlamaConfig, batches: Batches, mesh: jax.sharding.Mesh, folder: Path) -> str:
    """What is about to run, in two lines."""
    weights = sum(int(np.prod(p.shape)) for p in jax.tree.leaves(llama.params_table(c), is_leaf=llama.is_param))
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    devices = mesh.devices.flat
    return (
        f"model: {config.model.path or config.model.preset + ' from scratch'}, {weights / 1e6:,.1f} M weights, "
        f"on {mesh.size} x {devices[0].device_kind} ({shape}), {config.model.compute_dtype}\n"
        f"train: {total_steps(config, batches):,} updates of {batches.rows} rows x {batches.tokens} tokens, in {folder}"
    )


def total_steps(config: Any, batches: Batches) -> int:
    """Updates of the run: optim.max_steps where it is set, else those of all epochs."""
    return config.optim.max_steps or batches.steps


def train(
    config: Any,
    model: source.Model,
    tokenizer: Tokenizer,
    batches: Batches,
    held_out: Batches | None,
    folder: Path,
) -> None:
    """The loop on the current mesh: restore or begin, update, evaluate, save, export."""
    c, total = model.config, total_steps(config, batches)
    options = StepOptions(
        max_targets=max(b.max_targets for b in (batches, held_out) if b is not None),
        loss_chunk=config.model.loss_chunk,
        compute_dtype=config.model.compute_dtype,
        remat=config.model.remat,
        attention=config.model.attention,
    )
    tx = make_optimizer(config.optim, total)
    update = make_sft_step(c, tx, make_schedule(config.optim, total), options)
    evaluate = make_eval_step(c, options)
    keep = {"keep": config.checkpoint.keep, "keep_best": config.checkpoint.keep_best}
    checkpoints = Checkpoints(folder / "checkpoints", **keep)
    state = begin(config, model, tx, checkpoints)
    start = int(state.step)
    if jax.process_index() == 0:
        cut(folder / "samples.jsonl", start)
    log = RunLog(
        folder,
        resume_step=start,
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        total_steps=total,
        every=config.log.every,
        flops_per_token=llama.flops_per_token(c, float(np.mean(batches.lengths))),
    )
    with checkpoints, log:
        if start:
            log.say(f"resumed at update {start} of {total}")
        for n in range(start, total):
            state, metrics = update(state, put(batches.build, n, config.batch.rows, config.batch.accumulate))
            log.push(n + 1, metrics, {"epoch": round(batches.epoch(n + 1), 4)})
            due = n + 1 == total
            loss = None
            if held_out is not None and (due or _every(config.eval.every, n + 1)):
                loss = evaluate_all(config, evaluate, state, held_out, tokenizer, log, folder, n + 1)
            if due or _every(config.checkpoint.every, n + 1):
                log.flush()
                checkpoints.save(n + 1, state, {"step": n + 1}, eval_loss=loss)
    finish(config, state, folder)


def _every(period: int, step: int) -> bool:
    return period > 0 and step % period == 0


def begin(config: Any, model: source.Model, tx, checkpoints: Checkpoints) -> TrainState:
    """The state of the last checkpoint when resuming, else that of update 0."""
    last = checkpoints.latest_step()
    if config.resume == "auto" and last is not None:
        return checkpoints.restore(last, abstract_state(llama.abstract_params(model.config, jnp.float32), tx))
    return init_state(source.load_params(model, jnp.float32, config.seed), tx)


def put(build, step: int, rows: int, accumulate: int) -> dict[str, jax.Array]:
    """Batch `step` on the mesh, arrays [accumulate, rows / accumulate, T]; this process builds its own rows only."""
    part = rows // accumulate
    own = process_rows(part)
    host = build(step, [a * part + int(r) for a in range(accumulate) for r in own])
    return global_batch({k: v.reshape(accumulate, len(own), *v.shape[1:]) for k, v in host.items()}, accumulate=True)


def evaluate_all(
    config: Any,
    evaluate,
    state: TrainState,
    held_out: Batches,
    tokenizer: Tokenizer,
    log: RunLog,
    folder: Path,
    step: int,
) -> float:
    """Metrics over all held-out rows, logged with the prefix "eval_"; returns the loss."""
    log.flush()
    total = None
    for n in range(held_out.steps):
        sums, scores = evaluate(state.params, put(held_out.build, n, held_out.rows, 1))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        if n == 0 and config.eval.samples:
            write_samples(folder / "samples.jsonl", step, held_out.build(0), scores, tokenizer, config.eval.samples)
    assert total is not None
    metrics = {f"eval_{name}": value for name, value in jax.device_get(means(total)).items()}
    log.log(step, metrics)
    log.say(
        f"step {step}: held-out loss {metrics['eval_loss']:.4f} (key tokens {metrics['eval_loss_key']:.4f}, others "
        f"{metrics['eval_loss_other']:.4f}), first name token right {100 * metrics['eval_name_accuracy']:.1f} %"
    )
    return float(metrics["eval_loss"])


def finish(config: Any, state: TrainState, folder: Path) -> None:
    """Exports OUT/hf and says what lies where."""
    lines = [f"done: checkpoints and metrics in {folder}"]
    if config.export.at_end:
        target = folder / "hf"
        if not target.is_dir():
            export = config.export
            source.export(folder, state.params, target, dtype=export.dtype, max_shard_bytes=export.max_shard_bytes)
        lines += [
            f"model: {target} in Hugging Face format; use it with",
            f"       transformers.AutoModelForCausalLM.from_pretrained('{target}')",
        ]
    if not config.model.path:
        lines.append(
            "note:  from scratch this shows the mechanics alone; for a model that helps, give config.model.path"
        )
    say("\n".join(lines))


def say(text: str) -> None:
    """Prints, on process 0 alone."""
    if jax.process_index() == 0:
        print(text, flush=True)
