"""The programs that PPO, GRPO and RLOO compile: update, experience and rollout."""

from typing import Any

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import batch_shard_count, check_rows
from tljax.generate import decode
from tljax.generate.batches import padded_length
from tljax.generate.sampler import prompts_at_a_time
from tljax.generate.sampling import SampleOptions
from tljax.generate.slots import PromptBatch
from tljax.model import cost, llama, lora
from tljax.plan.programs import (
    NUM_UPDATES,
    Program,
    RunPrograms,
    abstract_array,
    abstract_train_state,
    recomputed_flops_per_token,
)
from tljax.rl.experience import make_experience
from tljax.rl.memory import update_row_tokens
from tljax.rl.models import PPOModels
from tljax.rl.optimizers import make_optimizers
from tljax.rl.options import UpdateOptions, critic_passes, part_replies, rollouts_shared_replies
from tljax.rl.ppo import make_update
from tljax.rl.rollout import shared_reply_length
from tljax.rl.state import Experience, PPOState, RolloutBatch

END_TOKEN = 2  # the id of Llama 2; no figure of a plan depends on it


def make_ppo_programs(config: Any, c: llama.LlamaConfig) -> RunPrograms:
    """Returns update, experience and rollout on the current mesh, for the longest prompts and replies allowed.

    Raises InputError if model or rows do not divide over the mesh.
    """
    llama.check_mesh(c)
    rollout = config.rollout
    max_tokens = rollout.max_prompt_tokens + rollout.max_new_tokens
    llama.check_length(c, max_tokens, "rollout.max_prompt_tokens + max_new_tokens")
    replies = rollout.prompts * rollout.group
    check_rows(rollout.rows, "rollout.rows")
    for part in part_replies(config):
        check_rows(part, "replies of one part (rollout.prompts x rollout.group / minibatches / accumulate)")

    # The models and the state of their optimizers.
    adapter = lora.LoraOptions.from_config(config.lora)
    models = PPOModels(c, has_critic=config.algorithm == "ppo", adapter=adapter)
    sample = SampleOptions.from_config(config.model, rollout, eos_id=END_TOKEN)
    options = UpdateOptions.from_config(config, sample)
    tx, critic_tx = make_optimizers(config, NUM_UPDATES + config.optim.warmup_steps)
    frozen = llama.abstract_params(c, jnp.dtype(config.model.compute_dtype))
    actor, critic = models.abstract_params()
    critic_state = abstract_train_state(critic, critic_tx) if models.has_critic else None
    state = PPOState(abstract_train_state(actor, tx), critic_state, abstract_array((), jnp.float32))
    train_states = [x for x in (state.actor, state.critic) if x is not None]

    # The inputs.
    prompt_tokens = padded_length(rollout.max_prompt_tokens, rollout.round_to)
    shared, copies = options.shared, rollouts_shared_replies(config)
    rows, row_tokens = replies // shared, update_row_tokens(config, rollout.max_prompt_tokens, shared)
    reply_tokens = rollout.max_new_tokens if shared == 1 else shared_reply_length(rollout.max_new_tokens)
    prompt_columns = row_tokens if shared == 1 else row_tokens - shared * reply_tokens
    batch = _abstract_batch(config, replies, prompt_columns, reply_tokens)
    experience = Experience(batch, *(abstract_array((replies, reply_tokens), jnp.float32) for _ in range(5)))
    shards = batch_shard_count()
    together = shards * prompts_at_a_time(rollout.rows // copies // shards, prompt_tokens)
    prompts = PromptBatch(
        tokens=abstract_array((together, prompt_tokens), jnp.int32, "batch", None),
        lengths=abstract_array((together,), jnp.int32, "batch"),
        row_ids=abstract_array((together, copies), jnp.int32, "batch", None),
    )
    key = abstract_array((), jax.eval_shape(lambda: jax.random.key(0)).dtype)

    # The programs.
    policy = models.actor(frozen, actor) if adapter is None else _attach_adapter(frozen, actor)
    update, score = make_update(models, tx, critic_tx, options), make_experience(models, options)
    context = float(row_tokens)
    forward_flops = cost.flops_per_token(c, context) / 3
    epochs = config.ppo.epochs + models.has_critic * critic_passes(config)[0]
    trained_tokens = rows * row_tokens * epochs
    programs = (
        Program(
            name="update",
            lower=lambda: update.lower(state, frozen, experience, key),
            flops=trained_tokens * cost.flops_per_token(c, context, adapter),
            recomputed_flops=trained_tokens * recomputed_flops_per_token(c, context, config.model.remat),
            trained_params=(actor, critic) if models.has_critic else (actor,),
            inputs=experience,
        ),
        Program(
            name="experience",
            lower=lambda: score.lower(state, frozen, batch),
            flops=(2 + models.has_critic) * rows * row_tokens * forward_flops,
            recomputed_flops=0.0,
            trained_params=(),
            inputs=batch,
        ),
        Program(
            name="rollout",
            lower=lambda: decode.generate.lower(policy, c, prompts, key, sample, rows=rollout.rows),
            flops=rollout.rows * (prompt_tokens / copies + rollout.max_new_tokens) * forward_flops,
            recomputed_flops=0.0,
            trained_params=(),
            inputs=prompts,
        ),
    )
    resident = {
        "weights": [x.params for x in train_states],
        "optimizer": [x.opt_state for x in train_states],
        "frozen weights": frozen,
    }
    description = (
        f"{replies} replies of {rollout.max_new_tokens} tokens to prompts of {prompt_tokens} tokens, sampled "
        f"{rollout.rows} at a time, trained on {max(part_replies(config))} at a time"
        + (f", {shared} of which share their prompt" if shared > 1 else "")
        + f", remat {config.model.remat}"
    )
    return RunPrograms(programs, resident, description)


def _attach_adapter(frozen: Any, adapter: Any) -> Any:
    """Returns the shapes of frozen weights with an adapter beside them, whose scale is folded into one half."""
    return frozen | {"layers": frozen["layers"] | adapter}


def _abstract_batch(config: Any, replies: int, row_tokens: int, reply_tokens: int) -> RolloutBatch:
    weights = abstract_array((replies, reply_tokens), jnp.float32)
    return RolloutBatch(
        tokens=abstract_array((replies, row_tokens), jnp.int32),
        starts=abstract_array((replies,), jnp.int32),
        replies=abstract_array((replies, reply_tokens), jnp.int32),
        mask=abstract_array((replies, reply_tokens), jnp.bool_),
        rewards=abstract_array((replies,), jnp.float32),
        priorities=weights if config.ppo.token_weights == "pkt" else None,
        sampled_logprobs=weights if config.ppo.importance_cap else None,
    )
