"""One iteration of PPO: a rollout, its rewards, the update; timed, and told in metrics."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from tljax.data.prompt_table import Prompt, PromptDataset
from tljax.data.tokens import Tokenizer
from tljax.distributed import processes
from tljax.distributed.mesh import gather_to_host
from tljax.evaluate import in_training
from tljax.generate.batches import batch_by_length, generate_replies
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.rl.held_out import reward_metrics
from tljax.rl.models import PPOModels
from tljax.rl.ppo import PPOState, RolloutBatch, UpdateOptions
from tljax.rl.reward import RewardFunction
from tljax.rl.rollout import Rollout, pad_rollout, prompt_indices, read_rollout, sampled_logprobs, write_rollout
from tljax.storage.run_folder import RunFolder
from tljax.training import model_source


@dataclasses.dataclass(frozen=True)
class PPOContext:
    """What stays the same from the first update to the last."""

    config: Any
    plan: PPOModels
    model: model_source.Model
    tokenizer: Tokenizer
    prompts: PromptDataset
    sets: in_training.EvalSets
    judge: RewardFunction
    folder: RunFolder
    total: int


class Programs(NamedTuple):
    """The compiled parts of an iteration, what shaped them, and the widths of rows that they were compiled for."""

    options: UpdateOptions
    judge: Callable[..., Any]  # ppo.make_experience
    update: Callable[..., Any]  # ppo.make_update
    widths: set[tuple[str, int]]


def train_iteration(
    stage: PPOContext, programs: Programs, frozen: llama.Params, state: PPOState, n: int
) -> tuple[PPOState, list[Prompt], Rollout, dict[str, Any]]:
    """Update `n`, from 0: the new state, the rollout with the prompts of its rows, and metrics of all of it.

    Two keys of its own, for sampling and for the order of minibatches, make it a function of the state and `n`.
    """
    rollout_block = stage.config.rollout
    picks = prompt_indices(
        n,
        count=len(stage.prompts.train),
        prompts=rollout_block.prompts,
        group=rollout_block.group,
        seed=stage.config.seed,
    )
    prompts = [stage.prompts.train[pick] for pick in picks]
    actor = stage.plan.actor(frozen, state.params)
    rollout, seconds = sample(stage, actor, n, picks, prompts, programs.options.sample)
    scores = [
        reward.value + (0.0 if reply.ended else stage.config.reward.no_end)
        for reward, reply in zip(rollout.rewards, rollout.replies, strict=True)
    ]
    begun = time.perf_counter()
    rows = pad_rollout(prompts, rollout, scores, rollout_block.round_to, rollout_block.max_new_tokens)
    programs.widths.update(_widths(stage, prompts, rows))
    experience, judged = programs.judge(state, frozen, rows)
    key = jax.random.fold_in(jax.random.key(stage.config.seed), 2 * n + 1)
    state, metrics = programs.update(state, frozen, experience, key)
    processes.report_progress(f"the rewards of update {n + 1}")
    metrics = jax.device_get(metrics | judged)
    seconds["seconds_update"] = round(time.perf_counter() - begun, 6)
    metrics |= rollout_metrics(rollout, experience.logprobs, rows.mask) | seconds
    return state, prompts, rollout, metrics | {"tokens": int(rows.starts.sum() + rows.mask.sum())}


def format_widths(widths: set[tuple[str, int]]) -> str:
    """Which programs were compiled, in a line."""
    found = {what: sorted(width for name, width in widths if name == what) for what, _ in widths}
    parts = (f"{what} for {', '.join(map(str, found[what]))} tokens" for what in sorted(found))
    return f"compiled: {'; '.join(parts)}"


def _widths(stage: PPOContext, prompts: list[Prompt], rows: RolloutBatch) -> set[tuple[str, int]]:
    """The widths that an iteration's programs are compiled for: of padded prompts, and of prompts with replies."""
    block = stage.config.rollout
    batches = batch_by_length([len(prompt.tokens) for prompt in prompts], block.rows, block.round_to)
    return {("rollout", width) for width, _ in batches} | {("update", rows.tokens.shape[1])}


def sample(
    stage: PPOContext, actor: llama.Params, n: int, picks: list[int], prompts: list[Prompt], options: SampleOptions
) -> tuple[Rollout, dict[str, float]]:
    """The rollout of update `n` with its rewards, and the seconds of both; an interrupted update's is read back."""
    config, folder = stage.config, stage.folder / "rollouts"
    stored = read_rollout(folder, n, picks)
    if stored is not None:
        return stored, {"seconds_rollout": 0.0, "seconds_reward": 0.0}
    begun = time.perf_counter()
    replies = generate_replies(
        actor,
        stage.model.config,
        [prompt.tokens for prompt in prompts],
        options,
        key=jax.random.fold_in(jax.random.key(config.seed), 2 * n),
        rows=config.rollout.rows,
        round_to=config.rollout.round_to,
    )
    sampled = time.perf_counter()
    texts = [stage.tokenizer.decode(reply.tokens).strip() for reply in replies]
    rollout = Rollout(picks, replies, texts, stage.judge.score(texts, prompts))
    seconds = {"seconds_rollout": sampled - begun, "seconds_reward": time.perf_counter() - sampled}
    write_rollout(folder, n, rollout)
    return rollout, {name: round(value, 6) for name, value in seconds.items()}


def rollout_metrics(rollout: Rollout, logprobs: jax.Array, mask: jax.Array) -> dict[str, float]:
    """What a rollout says by itself, and `sampler_gap`: how far its log-probabilities lie from the scorer's at most."""
    logprobs, mask = gather_to_host((logprobs, mask))
    gap = np.abs(sampled_logprobs(rollout, mask.shape[1]) - logprobs) * mask
    ended = [reply.ended for reply in rollout.replies]
    lengths = [len(reply.logprobs) for reply in rollout.replies]
    return reward_metrics(rollout.rewards) | {
        "reply_tokens": float(np.mean(lengths)),
        "ended": float(np.mean(ended)),
        "sampler_gap": float(gap.max()),
    }
