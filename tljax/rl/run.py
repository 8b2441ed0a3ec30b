"""The PPO run: prompts and an SFT model in, a folder of results out. With iteration.py the impure part of the stage."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data.prompt import chat_template
from tljax.data.prompt_table import PromptDataset, load_prompts
from tljax.data.tokens import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import log
from tljax.distributed.mesh import make_mesh
from tljax.evaluate import in_training
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.sampling import SampleOptions, check_sample_options
from tljax.model import cost, llama, lora
from tljax.rl import held_out, memory
from tljax.rl.check import check, check_devices, check_total
from tljax.rl.held_out import reward_metrics
from tljax.rl.models import PPOModels
from tljax.rl.options import optimizers, total_updates, update_options
from tljax.rl.ppo import PPOState, UpdateOptions, make_experience, make_update, ppo_state
from tljax.rl.reward import RewardFunction
from tljax.rl.rollout import forget_rollouts
from tljax.rl.samples import write_samples
from tljax.rl.train_iteration import PPOContext, Programs, format_widths, train_iteration
from tljax.toolbox.embedded import source_file
from tljax.training import export, resume
from tljax.training.checkpoint import Checkpoints
from tljax.training.fingerprint import fingerprint
from tljax.training.metrics import MetricsLogger, should_run, truncate_after
from tljax.training.state import abstract_state, init_state
from tljax.training.stop import StopRequest, exit_after_stop


def run(config: Any) -> None:
    """Trains the policy that `config` (configs/ppo.py) describes.

    Raises InputError for what the user can mend, before any device work where it can be known by then, and
    FloatingPointError when a loss or gradient is not finite; the last checkpoint stays.
    """
    check(config)
    sets = in_training.open_eval_sets(config)
    folder = resume.choose_run_folder(config.out, config.name, config.resume)
    resume.check_same_config(folder, config)
    model, tokenizer = open_model_and_tokenizer(config.model.path, config.data.tokenizer)
    with reward_function(config.reward) as judge, jax.set_mesh(make_mesh(**config.mesh)):
        check_devices(config, model.config)
        prompts = processes.primary_first(lambda: load(config, tokenizer))
        log(prompts.summary)
        plan = PPOModels(
            model.config, has_critic=config.algorithm == "ppo", adapter=lora.LoraOptions.from_config(config.lora)
        )
        log(memory.format_memory(config, plan, prompts.longest))
        total = total_updates(config, len(prompts.train))
        check_total(config, total)
        sample = SampleOptions.from_config(config.model, config.rollout, tokenizer.eos_id)
        check_sample_options(sample, model.config.vocab_size)
        txs = optimizers(config, total)
        sets = in_training.add_held_out_rows(config, sets, prompts.held_out)
        stage = PPOContext(config, plan, model, tokenizer, prompts, sets, judge, folder, total)
        with resume.claim_run_folder(folder, config) as begun:
            if not begun:
                template = chat_template(config.data.dialect, bos=tokenizer.bos_id is not None)
                processes.run_on_primary(
                    lambda: export.save_model_files(model, tokenizer.folder, template, folder, plan.adapter)
                )
            log(describe(stage))
            train(stage, update_options(config, sample), txs)


def load(config: Any, tokenizer: Tokenizer) -> PromptDataset:
    """The prompts that the config names or that are made for it."""
    file = source_file(config.data.source, config.toolbox, config.data.cache)
    limit = config.rollout.max_prompt_tokens
    return load_prompts(config.data, file, tokenizer, seed=config.seed, max_prompt_tokens=limit)


def reward_function(reward: Any) -> RewardFunction:
    """What a config's `reward` block describes."""
    return RewardFunction(rule=reward.rule, clip=reward.clip, timeout=reward.timeout, workers=reward.workers)


def describe(stage: PPOContext) -> str:
    """What is about to run, in two lines."""
    config, c = stage.config, stage.model.config
    group = f" x {config.rollout.group} replies" if config.rollout.group > 1 else ""
    steps = config.ppo.epochs * config.ppo.minibatches
    return (
        f"model: {config.model.path}, {cost.count_weights(c) / 1e6:,.1f} M weights, {config.model.compute_dtype}\n"
        f"train: {config.algorithm}, {stage.total:,} updates of {config.rollout.prompts} prompts{group}, {steps} "
        f"optimizer step{'s' * (steps > 1)} each, in {stage.folder}"
    )


def train(stage: PPOContext, options: UpdateOptions, txs: tuple[Any, Any]) -> None:
    """The loop on the current mesh: restore or begin, sample, reward, update, evaluate, save, export.

    Ends with SystemExit where a signal stopped the run.
    """
    config, folder, total = stage.config, stage.folder, stage.total
    judge, update = make_experience(stage.plan, options), make_update(stage.plan, *txs, options)
    programs = Programs(options, judge, update, widths=set())
    facts = {"rows": stage.prompts.content, "updates": total, "model": fingerprint(stage.model)}
    resume.record_first_start(folder, facts)
    kept = facts | {"config": json.loads(config.to_json_best_effort())}
    keep = {"keep": config.checkpoint.keep, "keep_best": config.checkpoint.keep_best}
    place = folder.kept / "checkpoints"
    with Checkpoints(place, before_commit=folder.mirror, **keep) as checkpoints, StopRequest() as stop:
        state, frozen = begin(stage, txs, checkpoints)
        start = saved = int(state.step)
        processes.run_on_primary(lambda: truncate_after(folder / "samples.jsonl", start))
        log = MetricsLogger(
            folder,
            resume_step=start,
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb,
            total_steps=total,
            every=config.log.every,
            shown=("reward", "kl", "loss"),
        )
        with log:
            if start:
                log.say(f"resumed at update {start} of {total}")
            elif not log.holds(0):
                evaluate(stage, frozen, state, log, 0)
            for n in range(start, total):
                state, prompts, rollout, metrics = train_iteration(stage, programs, frozen, state, n)
                log.push(n + 1, {}, metrics)
                log.flush()
                if config.log.samples and (n + 1 == total or (n + 1) % config.log.every == 0):
                    write_samples(folder / "samples.jsonl", n + 1, prompts, rollout, config.log.samples, log)
                finished = n + 1 == total
                planned = finished or should_run(config.checkpoint.every, n + 1)
                badness = None
                if finished or should_run(config.eval.every, n + 1) or (planned and config.checkpoint.keep_best > 0):
                    badness = evaluate(stage, frozen, state, log, n + 1)
                stopped_by = stop.after(n + 1, waits=True)
                if planned or stopped_by is not None:
                    log.flush()
                    checkpoints.save(n + 1, state, kept | {"step": n + 1}, badness=badness)
                    # By then the save before is committed, and no rollout that led to it is needed again.
                    processes.run_on_primary(functools.partial(forget_rollouts, folder / "rollouts", saved))
                    saved = n + 1
                if stopped_by is not None and not finished:
                    checkpoints.wait()
                    exit_after_stop(stopped_by, n + 1, total, folder, log.say)
            checkpoints.wait()
            processes.run_on_primary(lambda: forget_rollouts(folder / "rollouts", total))
            if programs.widths:
                log.say(format_widths(programs.widths))
        best = checkpoints.best_step()
    # An adapter is folded into weights that are loaded anew: what updates needed must not lie beside them.
    del frozen
    finish(stage, int(state.step), state.params, best)


def evaluate(stage: PPOContext, frozen: llama.Params, state: PPOState, log: MetricsLogger, step: int) -> float | None:
    """Answers the sets of eval.sets, logs scores and rewards; returns what keep_best goes by, if known."""
    config, actor = stage.config, stage.plan.actor(frozen, state.params)
    context = in_training.EvalContext(config, stage.tokenizer, stage.folder, log)
    answered = in_training.score_eval_sets(context, stage.sets, stage.model.config, actor, step)
    if not answered:
        return None
    metrics, judged = in_training.eval_metrics(answered), {}
    if in_training.HELD_OUT_ROWS in answered:
        queries = stage.sets[in_training.HELD_OUT_ROWS]
        rewards = held_out.rewards_of(answered[in_training.HELD_OUT_ROWS], queries, stage.prompts.held_out, stage.judge)
        judged = reward_metrics(rewards)
        log.say(held_out.format_metrics(judged, step, len(rewards)))
        metrics |= {f"eval_{name}": value for name, value in judged.items()}
    log.log(step, metrics)
    return in_training.selection_loss(config, judged, answered)


def begin(stage: PPOContext, txs: tuple[Any, Any], checkpoints: Checkpoints) -> tuple[PPOState, llama.Params]:
    """The state of the last checkpoint when resuming, else that of update 0, and the frozen weights."""
    plan, dtype = stage.plan, stage.config.model.compute_dtype
    last = checkpoints.latest_step()
    replicated = jax.NamedSharding(jax.sharding.get_mesh(), jax.P())
    kl_coef = jax.device_put(np.float32(stage.config.kl.coef), replicated)
    if stage.config.resume == "never" or last is None:
        params, critic = plan.first(stage.model, stage.config.seed)
        frozen = plan.frozen(stage.model, dtype, params)
        return ppo_state(init_state(params, txs[0]), init_state(critic, txs[1]) if critic else None, kl_coef), frozen
    actor, value = plan.abstract()
    coef = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated)
    abstract = ppo_state(abstract_state(actor, txs[0]), abstract_state(value, txs[1]) if value else None, coef)
    return checkpoints.restore(last, abstract), plan.frozen(stage.model, dtype)


def finish(stage: PPOContext, step: int, params: Any, best: int | None) -> None:
    """Exports OUT/hf, the last weights, and says what lies where."""
    config, folder = stage.config, stage.folder
    exported = export.export_results(
        folder,
        params,
        adapter=stage.plan.adapter is not None,
        model=config.export.at_end,
        dtype=config.export.dtype,
        max_shard_bytes=config.export.max_shard_bytes,
    )
    lines = processes.run_on_primary(lambda: told_scores(stage, step))
    lines.append(f"done:  checkpoints, metrics and samples in {folder}")
    if best is not None and best != step:
        lines.append(
            f"best:  update {best} by eval.best={config.eval.best}; launch/export_hf.py --config.step=-1 exports it"
        )
    log("\n".join([*lines, *exported]))


def told_scores(stage: PPOContext, step: int) -> list[str]:
    """The tables of the scores and rewards after update `step`, where there are sets to score."""
    table = in_training.score_report(stage.sets, stage.folder, step)
    if not table:
        return []
    before, after = (held_out.answer_rewards(stage.folder, n, stage.sets) for n in (0, step))
    if not before or not after:
        return [table]
    told = "mean reward of the same answers by IRM's table [95 % interval]"
    return [table, told, held_out.reward_table(before, after)]
