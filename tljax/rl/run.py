"""The PPO run: prompts and an SFT model in, a folder of results out."""

import functools
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data.dialect import open_dialect
from tljax.data.prompt import Dialect
from tljax.data.response_template import chat_facts
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.distributed.mesh import make_mesh
from tljax.evaluate import in_training
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.sampling import SampleOptions, check_sample_options
from tljax.model import cost, llama, lora
from tljax.model.hf.export import ChatFacts, WeightsFormat
from tljax.rl import memory, single_turn
from tljax.rl.alarms import Alarms
from tljax.rl.check import check, check_devices, check_total, start_notes
from tljax.rl.dialogues import multi_turn
from tljax.rl.dialogues.held_out import check_best
from tljax.rl.dialogues.rewards import DialogueRewards
from tljax.rl.dialogues.tasks import DialogueTasks, dialogue_limits, load_tasks
from tljax.rl.experience import make_experience
from tljax.rl.models import PPOModels
from tljax.rl.optimizers import make_optimizers, total_updates
from tljax.rl.options import MULTI, UpdateOptions, critic_passes
from tljax.rl.ppo import make_update
from tljax.rl.reward import RewardFunction
from tljax.rl.rollout import forget_rollouts
from tljax.rl.state import PPOState
from tljax.rl.train_iteration import PPOContext, Programs, format_widths
from tljax.storage.run_folder import RunFolder
from tljax.training import exported_change, model_source, resume
from tljax.training.checkpoint import Checkpoints
from tljax.training.export import export_results, save_model_files
from tljax.training.fingerprint import fingerprint
from tljax.training.metrics import LogOptions, MetricsLogger, should_run, truncate_after
from tljax.training.state import abstract_state, init_state
from tljax.training.stop import StopRequest, exit_after_stop


def run(config: Any) -> None:
    """Trains the policy that `config` (configs/ppo.py) describes.

    Raises InputError for what the user can correct, before any device work where possible, and FloatingPointError if a
    loss or gradient is not finite; the last checkpoint remains.
    """
    # Everything that needs no device.
    check(config)
    folder = resume.choose_run_folder(config.out, config.name, config.resume)
    resume.check_same_config(folder, config)
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.data.tokenizer)
    dialect, tokenizer = open_dialect(config.data.dialect, config.data.chat_template, tokenizer, "data.chat_template")
    multi = config.rollout.turns == MULTI
    sets = {} if multi else in_training.open_eval_sets(config, dialect)
    rewards = DialogueRewards(config.reward) if multi else make_reward_function(config.reward)
    with rewards as reward_function, jax.set_mesh(make_mesh(**config.mesh)):
        context = load_context(config, PPOInputs(model, tokenizer, dialect, sets, reward_function), folder)
        models, sample = context.models, sample_options(context)
        txs = make_optimizers(config, context.total)
        with resume.lock_run_folder(folder, config) as begun:
            if not begun:
                chat = ChatFacts(*chat_facts(dialect, tokenizer))
                processes.run_on_primary(
                    lambda: save_model_files(model, tokenizer.folder, chat, folder, models.adapter)
                )
            log("\n".join([describe(context), *start_notes(config)]))
            train(context, UpdateOptions.from_config(config, sample), txs)


class PPOInputs(NamedTuple):
    """The opened inputs of a config: the model, its tokenizer, the dialect, the sets that are scored, the reward."""

    model: model_source.ModelSource
    tokenizer: Tokenizer
    dialect: Dialect
    sets: in_training.EvalSets  # {} with rollout.turns = multi, whose tasks `load_context` makes
    reward_function: RewardFunction | DialogueRewards


def load_context(config: Any, inputs: PPOInputs, folder: RunFolder) -> PPOContext:
    """Prepares the prompts for the current mesh, logs the memory that the run takes, and returns the run's parts.

    Raises InputError for a config that does not fit the mesh, the model or the prompts.
    """
    model, tokenizer, dialect, sets, reward_function = inputs
    check_devices(config, model.config)
    if config.rollout.turns == MULTI:
        limits = dialogue_limits(config, model.config)
        prompts = load_tasks(config, tokenizer, dialect, limits)
    else:
        prompts = processes.primary_first(lambda: single_turn.load(config, tokenizer, dialect))
    log(prompts.summary)
    models = PPOModels(
        model.config, has_critic=config.algorithm == "ppo", adapter=lora.LoraOptions.from_config(config.lora)
    )
    log(memory.format_memory(config, models, prompts.longest))
    total = total_updates(config, len(prompts.train))
    check_total(config, total)
    if isinstance(prompts, DialogueTasks):
        sets = prompts.sets
        check_best(config, list(sets))
    else:
        sets = in_training.add_held_out_rows(config, sets, prompts.held_out)
    return PPOContext(config, models, model, tokenizer, prompts, sets, reward_function, folder, total)


def sample_options(context: PPOContext) -> SampleOptions:
    """Returns the options that replies are sampled with. Raises InputError for one out of range."""
    options = SampleOptions.from_config(context.config.model, context.config.rollout, context.tokenizer.eos_ids)
    check_sample_options(options, context.model.config.vocab_size)
    return options


def make_reward_function(reward: Any) -> RewardFunction:
    """Returns the reward function that a config's `reward` block describes."""
    return RewardFunction(rule=reward.rule, clip=reward.clip, timeout=reward.timeout, workers=reward.workers)


def describe(context: PPOContext) -> str:
    """Returns two lines about the run that begins."""
    config, c = context.config, context.model.config
    what = "dialogues" if config.rollout.turns == MULTI else "replies"
    group = f" x {config.rollout.group} {what}" if config.rollout.group > 1 else ""
    steps = config.ppo.epochs * config.ppo.minibatches
    critic_steps = math.prod(critic_passes(config)) if context.models.has_critic else steps
    critic = f" and {critic_steps} of the critic" if critic_steps != steps else ""
    return (
        f"model: {config.model.path}, {cost.count_weights(c) / 1e6:,.1f} M weights, {config.model.compute_dtype}\n"
        f"train: {config.algorithm}, {context.total:,} updates of {config.rollout.prompts} prompts{group}, {steps} "
        f"optimizer step{'s' * (steps > 1)}{critic} each, in {context.folder}"
    )


def turns_of(config: Any) -> Any:
    """Returns the module of what a run does with single replies or with dialogues; both have the same functions."""
    return multi_turn if config.rollout.turns == MULTI else single_turn


def train(context: PPOContext, options: UpdateOptions, txs: tuple[Any, Any]) -> None:
    """Runs the loop on the current mesh: restores or begins, trains, evaluates, saves and exports.

    txs: the optimizers of actor and critic. Raises SystemExit if a signal stopped the run.
    """
    config, folder, total = context.config, context.folder, context.total
    turns = turns_of(config)

    # The compiled programs.
    experience, update = make_experience(context.models, options), make_update(context.models, *txs, options)
    programs = Programs(options, experience, update, widths=set())
    alarms = Alarms(config.critic.warmup)

    # The facts that every checkpoint stores, and that a resumed run must share.
    facts = {"rows": context.prompts.content, "updates": total, "model": fingerprint(context.model)}
    resume.record_first_start(folder, facts)
    metadata = facts | {"config": json.loads(config.to_json_best_effort())}

    keep = {"keep": config.checkpoint.keep, "keep_best": config.checkpoint.keep_best}
    checkpoint_folder = folder.path / "checkpoints"
    with Checkpoints(checkpoint_folder, before_commit=folder.upload, **keep) as checkpoints, StopRequest() as stop:
        state, frozen = begin(context, txs, checkpoints)
        start = saved = int(state.actor.step)
        processes.run_on_primary(lambda: truncate_after(folder / "samples.jsonl", start))
        log_options = LogOptions.from_config(config.log, shown=("reward", "kl", "loss"))
        logger = MetricsLogger(folder, log_options, resume_step=start, total_steps=total)
        with logger:
            if start:
                logger.log_message(f"resumed at update {start} of {total}")
            elif not logger.has_step(0):
                turns.evaluate(context, frozen, state, logger, 0)
            for n in range(start, total):
                # One update.
                state, prompts, rollout, metrics = turns.train_iteration(context, programs, frozen, state, n)
                logger.push(n + 1, {}, metrics)
                logger.flush()
                for note in alarms.notes(n + 1, metrics):
                    logger.log_message(note)
                if config.log.samples and (n + 1 == total or (n + 1) % config.log.every == 0):
                    turns.write_samples(folder / "samples.jsonl", n + 1, prompts, rollout, config.log.samples, logger)

                # Evaluation. A checkpoint without it could never be the best one.
                finished = n + 1 == total
                planned = finished or should_run(config.checkpoint.every, n + 1)
                selection_loss = None
                if finished or should_run(config.eval.every, n + 1) or (planned and config.checkpoint.keep_best > 0):
                    selection_loss = turns.evaluate(context, frozen, state, logger, n + 1)

                # The checkpoint.
                stopped_by = stop.after(n + 1, devices_idle=True)
                if planned or stopped_by is not None:
                    logger.flush()
                    checkpoints.save(
                        n + 1, state.to_checkpoint(), metadata | {"step": n + 1}, selection_loss=selection_loss
                    )
                    # The previous checkpoint is committed by now, so no rollout before it is needed again.
                    processes.run_on_primary(functools.partial(forget_rollouts, folder / "rollouts", saved))
                    saved = n + 1
                if stopped_by is not None and not finished:
                    checkpoints.wait()
                    exit_after_stop(stopped_by, n + 1, total, folder, logger.log_message)
            checkpoints.wait()
            processes.run_on_primary(lambda: forget_rollouts(folder / "rollouts", total))
            if programs.widths:
                logger.log_message(format_widths(programs.widths))
        best = checkpoints.best_step()
    step, params = int(state.actor.step), state.actor.params
    # The comparison with the first weights needs the memory of the critic and of the moments.
    del state
    adapter = context.models.adapter
    change = exported_change.measure_run(context.model, context.export_dtype, params, frozen, adapter, seed=0)
    # The export loads the weights again to fold an adapter into them; both copies might not fit into the memory.
    del frozen
    finish(context, step, params, best, change)


def begin(context: PPOContext, txs: tuple[Any, Any], checkpoints: Checkpoints) -> tuple[PPOState, llama.Params]:
    """Returns the state and the frozen weights; the state is that of the last checkpoint when resuming, or new."""
    models, dtype = context.models, context.config.model.compute_dtype
    last = checkpoints.latest_step()
    replicated = jax.NamedSharding(jax.sharding.get_mesh(), jax.P())
    if context.config.resume == "never" or last is None:
        actor, critic = models.init_params(context.model, context.config.seed)
        frozen = models.frozen(context.model, dtype, actor)
        learner = init_state(critic, txs[1]) if models.has_critic else None
        kl_coef = jax.device_put(np.float32(context.config.kl.coef), replicated)
        return PPOState(init_state(actor, txs[0]), learner, kl_coef), frozen
    actor, critic = models.abstract_params()
    learner = abstract_state(critic, txs[1]) if models.has_critic else None
    abstract = PPOState(
        abstract_state(actor, txs[0]), learner, jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated)
    )
    state = PPOState.from_checkpoint(checkpoints.restore(last, abstract.to_checkpoint()))
    return state, models.frozen(context.model, dtype)


def finish(
    context: PPOContext, step: int, params: Any, best: int | None, change: exported_change.ExportedChange | None
) -> None:
    """Exports OUT/hf from the last weights, and logs the scores and the paths of all results."""
    config, folder = context.config, context.folder
    exported = export_results(
        folder,
        params,
        WeightsFormat.from_config(config.export),
        adapter=context.models.adapter is not None,
        model=config.export.at_end,
    )
    turns = turns_of(config)
    lines = processes.run_on_primary(lambda: turns.format_scores(context, step))
    lines.append(f"done:  checkpoints, metrics and samples in {folder}")
    if best is not None and best != step:
        lines.append(
            f"best:  update {best} by eval.best={config.eval.best}; launch/export_hf.py --config.step=-1 exports it"
        )
    lines += exported_change.format_change(
        change, adapter=context.models.adapter is not None, scored=bool(context.sets)
    )
    log("\n".join([*lines, *exported]))
