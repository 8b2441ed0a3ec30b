"""One iteration of PPO: the rollout, its rewards and the update, with their times and metrics."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from tljax.data.prompt_table import Prompt
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.mesh import gather_to_host
from tljax.generate.batches import padded_length
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.rl.held_out import reward_metrics
from tljax.rl.models import PPOModels
from tljax.rl.options import UpdateOptions, rollouts_shared_replies
from tljax.rl.priorities import reply_priorities
from tljax.rl.rollout import (
    Rollout,
    equal_groups,
    gap_metrics,
    pad_rollout,
    prompt_indices,
    read_rollout,
    replacement_indices,
    sampled_logprobs,
    with_groups,
    with_no_end,
    write_rollout,
)
from tljax.rl.state import Experience, PPOState, RolloutBatch
from tljax.storage.run_folder import RunFolder
from tljax.training import model_source
from tljax.training.exported_change import export_dtype


@dataclasses.dataclass(frozen=True)
class PPOContext:
    """The parts of a run that stay the same from the first update to the last. total: the number of updates."""

    config: Any
    models: PPOModels
    model: model_source.ModelSource
    tokenizer: Tokenizer
    prompts: Any  # PromptDataset, or with rollout.turns = multi dialogues.tasks.DialogueTasks
    sets: Any  # EvalSets, or with rollout.turns = multi dialogues.tasks.DialogueSets
    reward_function: Any  # RewardFunction, or dialogues.rewards.DialogueRewards
    folder: RunFolder
    total: int

    @property
    def export_dtype(self) -> str:
        """The dtype of the model's export."""
        return export_dtype(self.model, self.config.export.dtype)


class Programs(NamedTuple):
    """The compiled functions of an iteration, their options, and the row widths that they were compiled for."""

    options: UpdateOptions
    experience: Callable[..., Any]  # experience.make_experience
    update: Callable[..., Any]  # ppo.make_update
    widths: set[tuple[str, int]]


def train_iteration(
    context: PPOContext, programs: Programs, frozen: llama.Params, state: PPOState, n: int
) -> tuple[PPOState, list[Prompt], Rollout, dict[str, Any]]:
    """Makes update `n`, from 0; returns the new state, the prompts of the rollout, the rollout, and metrics.

    It draws from two keys of its own, for sampling and for the order of minibatches, so the result is a function of the
    state and `n`.
    """
    rollout_block = context.config.rollout
    drawn = prompt_indices(
        n,
        count=len(context.prompts.train),
        prompts=rollout_block.prompts,
        group=rollout_block.group,
        seed=context.config.seed,
    )
    actor = context.models.actor(frozen, state.actor.params)
    rollout, seconds = sample(context, actor, n, drawn, programs.options.sample)
    prompts = [context.prompts.train[index] for index in rollout.prompt_indices]
    # Metrics and samples show the rewards that are learned from; the stored rollout holds those of the rule.
    rollout = with_no_end(rollout, context.config.reward.no_end)
    rewards = [reward.value for reward in rollout.rewards]
    begin = time.perf_counter()
    shared, room = programs.options.shared, (rollout_block.round_to, rollout_block.max_new_tokens)
    extras: dict[str, Any] = {"with_sampled": programs.options.importance_cap > 0}
    if context.config.ppo.token_weights == "pkt":
        extras["priorities"] = [
            reply_priorities(prompt.tokens, reply.tokens, prompt.tools, context.tokenizer, context.config.data.w_max)
            for reply, prompt in zip(rollout.replies, prompts, strict=True)
        ]
    batch = pad_rollout(prompts, rollout, rewards, *room, share_prompts=shared > 1, **extras)
    programs.widths.update(_widths(context, prompts, batch, shared))
    state, experience, metrics = learn(context, programs, frozen, state, batch, n)
    seconds["seconds_update"] = round(time.perf_counter() - begin, 6)
    metrics |= rollout_metrics(rollout, rollout_block.group, experience.logprobs, batch.mask) | seconds
    if rollout_block.resample:
        metrics["resampled"] = float(np.mean(np.asarray(rollout.prompt_indices) != np.asarray(drawn)))
    return state, prompts, rollout, metrics | {"tokens": int(batch.starts.sum() + batch.mask.sum())}


def learn(
    context: PPOContext, programs: Programs, frozen: llama.Params, state: PPOState, batch: RolloutBatch, n: int
) -> tuple[PPOState, Experience, dict[str, Any]]:
    """Makes update `n` from a rollout; returns the new state, the experience, and the metrics of both."""
    experience, metrics_before = programs.experience(state, frozen, batch)
    key = jax.random.fold_in(jax.random.key(context.config.seed), 2 * n + 1)
    state, metrics = programs.update(state, frozen, experience, key)
    processes.report_progress(f"the rewards of update {n + 1}")
    return state, experience, jax.device_get(metrics | metrics_before)


def format_widths(widths: set[tuple[str, int]]) -> str:
    """Returns a line that lists the compiled programs by their row widths."""
    by_program = {program: sorted(width for name, width in widths if name == program) for program, _ in widths}
    parts = (f"{name} for {', '.join(map(str, by_program[name]))} tokens" for name in sorted(by_program))
    return f"compiled: {'; '.join(parts)}"


def _widths(context: PPOContext, prompts: list[Prompt], batch: RolloutBatch, shared: int) -> set[tuple[str, int]]:
    """Returns the row widths of an iteration: of the rollout's padded prompts, and of prompts with replies.

    shared: the number of replies in a row with a prompt; 1 for rows of `batch` that hold prompt and reply.
    """
    block, copies = context.config.rollout, rollouts_shared_replies(context.config)
    rollout = {padded_length(len(prompt.tokens), block.round_to) for prompt in prompts[::copies]}
    update = batch.tokens.shape[1] + (shared * batch.replies.shape[1] if shared > 1 else 0)
    return {("rollout", width) for width in rollout} | {("update", update)}


def sample(
    context: PPOContext, actor: llama.Params, n: int, drawn: list[int], options: SampleOptions
) -> tuple[Rollout, dict[str, float]]:
    """Returns the rollout of update `n` with its rewards, and the seconds of both.

    drawn: the prompts of the update. With rollout.resample, groups whose rewards are all equal, as the update would
    learn from them, are replaced by groups of other prompts, as long as there are such groups and attempts.
    The rollout of an update that was interrupted is read back instead.
    """
    config, folder = context.config, context.folder / "rollouts"
    stored = read_rollout(folder, n, drawn)
    if stored is not None:
        return stored, {"seconds_rollout": 0.0, "seconds_reward": 0.0}
    key, group = jax.random.fold_in(jax.random.key(config.seed), 2 * n), config.rollout.group
    rollout, seconds = _answer(context, actor, key, drawn, options)
    taken = set(drawn)
    for attempt in range(1, config.rollout.resample + 1):
        groups = np.flatnonzero(_equal(rollout, config)).tolist()
        many = {"count": len(context.prompts.train), "needed": len(groups), "seed": config.seed}
        others = replacement_indices(n, attempt, sorted(taken), **many)
        if not others:
            break
        taken |= set(others)
        indices = [index for index in others for _ in range(group)]
        fresh, more = _answer(context, actor, jax.random.fold_in(key, attempt), indices, options)
        chosen = np.flatnonzero(~_equal(fresh, config)).tolist()
        rollout = with_groups(rollout, groups[: len(chosen)], fresh, chosen, group)
        seconds = {name: value + more[name] for name, value in seconds.items()}
    write_rollout(folder, n, rollout, drawn)
    return rollout, {name: round(value, 6) for name, value in seconds.items()}


def _equal(rollout: Rollout, config: Any) -> np.ndarray:
    rewards = with_no_end(rollout, config.reward.no_end).rewards
    return equal_groups([reward.value for reward in rewards], config.rollout.group)


def _answer(
    context: PPOContext, actor: llama.Params, key: jax.Array, indices: list[int], options: SampleOptions
) -> tuple[Rollout, dict[str, float]]:
    """Returns sampled replies to prompts with their rewards, and the seconds of both."""
    config, begin = context.config, time.perf_counter()
    prompts = [context.prompts.train[index] for index in indices]
    sampler = Sampler(
        actor,
        context.model.config,
        options,
        key=key,
        rows=config.rollout.rows,
        round_to=config.rollout.round_to,
        copies=rollouts_shared_replies(config),
    )
    replies = sampler.generate([prompt.tokens for prompt in prompts])
    sampled = time.perf_counter()
    texts = [context.tokenizer.decode(reply.tokens).strip() for reply in replies]
    rollout = Rollout(indices, replies, texts, context.reward_function.score(texts, prompts))
    return rollout, {"seconds_rollout": sampled - begin, "seconds_reward": time.perf_counter() - sampled}


def rollout_metrics(rollout: Rollout, group: int, logprobs: jax.Array, mask: jax.Array) -> dict[str, float]:
    """Returns metrics of a rollout with `group` replies to each prompt.

    "equal_groups" is the share of groups whose rewards are all equal: they have no advantage over each other. Those of
    the sampler are `gap_metrics`.
    """
    scored, inside = (np.asarray(x) for x in gather_to_host((logprobs, mask)))
    ended = [reply.ended for reply in rollout.replies]
    lengths = [len(reply.logprobs) for reply in rollout.replies]
    metrics = reward_metrics(rollout.rewards)
    if group > 1:
        metrics["equal_groups"] = float(equal_groups([reward.value for reward in rollout.rewards], group).mean())
    metrics |= gap_metrics(sampled_logprobs(rollout, inside.shape[1]), scored, inside)
    return metrics | {
        "reply_tokens": float(np.mean(lengths)),
        "ended": float(np.mean(ended)),
    }
