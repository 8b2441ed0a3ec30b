"""What a run does with whole dialogues: an update, an evaluation, the tables at the end.

`single_turn` has the same functions for single replies to prompts.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tljax.agent.dialogues import DialogueRequest
from tljax.distributed.mesh import gather_to_host
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.rl.dialogues import held_out
from tljax.rl.dialogues.batch import pad_dialogues
from tljax.rl.dialogues.metrics import rollout_metrics
from tljax.rl.dialogues.rollout import (
    SampledDialogue,
    read_dialogues,
    sample_dialogues,
    sampling_key,
    score_dialogues,
    with_no_end,
    write_dialogues,
)
from tljax.rl.dialogues.samples import write_samples as write_dialogue_samples
from tljax.rl.rollout import prompt_indices
from tljax.rl.state import PPOState
from tljax.rl.train_iteration import PPOContext, Programs, learn
from tljax.training import exported_change
from tljax.training.metrics import MetricsLogger


def train_iteration(
    context: PPOContext, programs: Programs, frozen: llama.Params, state: PPOState, n: int
) -> tuple[PPOState, list[DialogueRequest], list[SampledDialogue], dict[str, Any]]:
    """Makes update `n`, from 0; returns the new state, the tasks of the rollout, the dialogues, and metrics.

    As with single replies it is a function of the state and `n`, as long as the tools are.
    """
    block = context.config.rollout
    sizes = {"prompts": block.prompts, "group": block.group}
    indices = prompt_indices(n, count=len(context.prompts.train), seed=context.config.seed, **sizes)
    requests = [context.prompts.train[index] for index in indices]
    actor = context.models.actor(frozen, state.actor.params)
    dialogues, seconds = sample(context, actor, n, indices, requests, programs.options.sample)
    # Metrics and samples show the rewards that are learned from; the stored rollout holds those of the rule.
    dialogues = with_no_end(dialogues, context.config.reward.no_end)
    begin = time.perf_counter()
    with_sampled = programs.options.importance_cap > 0
    batch = pad_dialogues(dialogues, block.round_to, block.mae, with_sampled=with_sampled)
    programs.widths.add(("update", batch.tokens.shape[1]))
    state, experience, metrics = learn(context, programs, frozen, state, batch, n)
    seconds["seconds_update"] = round(time.perf_counter() - begin, 6)
    metrics |= rollout_metrics(dialogues, block.group, np.asarray(gather_to_host(experience.logprobs))) | seconds
    if batch.learned is not None:
        metrics["learned"] = float(batch.learned.sum() / batch.mask.sum())
    return state, requests, dialogues, metrics | {"tokens": sum(len(one.row["tokens"]) for one in dialogues)}


def sample(
    context: PPOContext,
    actor: llama.Params,
    n: int,
    indices: list[int],
    requests: list[DialogueRequest],
    options: SampleOptions,
) -> tuple[list[SampledDialogue], dict[str, float]]:
    """Returns the dialogues of update `n` with their rewards, and the seconds of both.

    The rollout of an update that was interrupted is read back instead.
    """
    config, folder = context.config, context.folder / "rollouts"
    stored = read_dialogues(folder, n, indices)
    if stored is not None:
        return stored, {"seconds_rollout": 0.0, "seconds_reward": 0.0}
    begin = time.perf_counter()
    key = sampling_key(config.seed, n)
    sampler = Sampler(
        actor, context.model.config, options, key=key, rows=config.rollout.rows, round_to=config.rollout.round_to
    )
    limits = context.prompts.limits
    held = sample_dialogues(requests, sampler, context.tokenizer, limits, calls_at_once=config.tool_calls)
    sampled = time.perf_counter()
    dialogues = score_dialogues(indices, requests, held, context.reward_function)
    seconds = {"seconds_rollout": sampled - begin, "seconds_reward": time.perf_counter() - sampled}
    write_dialogues(folder, n, dialogues)
    return dialogues, {name: round(value, 6) for name, value in seconds.items()}


def evaluate(
    context: PPOContext, frozen: llama.Params, state: PPOState, logger: MetricsLogger, step: int
) -> float | None:
    """Holds greedy dialogues of the tasks of eval.sets, writes OUT/scores/STEP.jsonl, and logs their scores.

    Returns the value that best-checkpoint selection minimizes, None if it is not known.
    """
    config, params, sets = context.config, state.actor.params, context.sets
    if not sets:
        return None
    # Weights are scored as the export rounds them; an adapter is exported as it is.
    params = params if context.models.adapter else exported_change.as_exported(params, context.export_dtype)
    actor = context.models.actor(frozen, params)
    options = SampleOptions.greedy(config.model, config.eval.new_tokens, context.tokenizer.eos_ids)
    round_to = config.rollout.round_to
    sampler = Sampler(
        actor, context.model.config, options, key=jax.random.key(0), rows=config.eval.rows, round_to=round_to
    )
    limits = dataclasses.replace(context.prompts.limits, new_tokens=config.eval.new_tokens)
    requests = [request for members in sets.values() for request in members]
    held = sample_dialogues(requests, sampler, context.tokenizer, limits, calls_at_once=config.tool_calls)
    scored = score_dialogues(range(len(requests)), requests, held, context.reward_function)
    rows, first = {}, 0
    for name, members in sets.items():
        rows[name] = [held_out.scored_row(one) for one in scored[first : first + len(members)]]
        first += len(members)
    held_out.write_rows(context.folder, step, rows)
    metrics = held_out.eval_metrics(rows)
    logger.log_message(held_out.format_metrics(metrics, rows, step))
    logger.log_metrics(step, {f"eval_{name}": value for name, value in metrics.items()})
    return held_out.selection_loss(config.eval.best, metrics)


def format_scores(context: PPOContext, step: int) -> list[str]:
    """Returns the tables of scores after update `step` beside those before the first, [] if no set is scored."""
    before, after = (held_out.read_rows(context.folder, n, context.sets) for n in (0, step))
    return [held_out.format_table(before, after)] if before and after else []


def write_samples(
    path: Path,
    step: int,
    requests: Sequence[DialogueRequest],
    dialogues: Sequence[SampledDialogue],
    count: int,
    logger: MetricsLogger,
) -> None:
    """Writes the first `count` dialogues of an update for people; `requests` are their tasks."""
    del requests  # a dialogue holds its query
    write_dialogue_samples(path, step, dialogues, count, logger)
