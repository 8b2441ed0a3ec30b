"""What PPO and its relatives compile: update, experience and rollout."""

from typing import Any

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import check_rows, row_length_multiple
from tljax.generate import decode
from tljax.generate.batches import padded_length
from tljax.generate.sampling import SampleOptions
from tljax.model import cost, llama, lora
from tljax.plan.programs import UPDATES, Program, Work, array, recomputed, state_of
from tljax.rl.models import PPOModels
from tljax.rl.optimizers import make_optimizers
from tljax.rl.ppo import UpdateOptions, make_experience, make_update
from tljax.rl.state import Experience, PPOState, RolloutBatch

END_TOKEN = 2  # of Llama 2; the plan is the same for any


def ppo_work(config: Any, c: llama.LlamaConfig) -> Work:
    """PPO and its relatives: rollout, experience and update for the longest prompts and replies allowed.

    Raises InputError where model and rows do not fit the mesh.
    """
    llama.check_mesh(c)
    block = config.rollout
    llama.check_length(c, block.max_prompt_tokens + block.max_new_tokens, "rollout.max_prompt_tokens + max_new_tokens")
    count, group = block.prompts * block.group, config.ppo.minibatches * config.ppo.accumulate
    check_rows(block.rows, "rollout.rows")
    check_rows(count // group, "replies of one part (rollout.prompts x rollout.group / minibatches / accumulate)")
    dtype = jnp.dtype(config.model.compute_dtype)
    models = PPOModels(c, has_critic=config.algorithm == "ppo", adapter=lora.LoraOptions.from_config(config.lora))
    sample = SampleOptions.from_config(config.model, config.rollout, eos_id=END_TOKEN)
    options = UpdateOptions.from_config(config, sample)
    tx, critic_tx = make_optimizers(config, UPDATES + config.optim.warmup_steps)
    frozen = llama.abstract_params(c, dtype)
    actor, critic = models.abstract_params()
    learner = state_of(critic, critic_tx) if models.has_critic else None
    state = PPOState(state_of(actor, tx), learner, array((), jnp.float32))
    prompt, reply = padded_length(block.max_prompt_tokens, block.round_to), block.max_new_tokens
    width = padded_length(block.max_prompt_tokens + reply, row_length_multiple(block.round_to))
    rows, key = _rows(count, width, reply), array((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    scores = [array((count, reply), jnp.float32) for _ in range(5)]
    experience = Experience(rows, *scores)
    prompt_batch = decode.PromptBatch(
        tokens=array((block.rows, prompt), jnp.int32, "batch", None),
        lengths=array((block.rows,), jnp.int32, "batch"),
        row_ids=array((block.rows,), jnp.int32, "batch"),
    )
    policy = models.actor(frozen, actor) if models.adapter is None else _attached(frozen, actor)
    update, score = make_update(models, tx, critic_tx, options), make_experience(models, options)
    context, learners = float(width), 1 + models.has_critic
    trained = cost.flops_per_token(c, context, models.adapter)
    forward = cost.flops_per_token(c, context) / 3
    seen = count * width * config.ppo.epochs
    programs = (
        Program(
            "update",
            lambda: update.lower(state, frozen, experience, key),
            learners * seen * trained,
            learners * seen * recomputed(c, context, config.model.remat),
            (actor, critic) if models.has_critic else (actor,),
            experience,
        ),
        Program(
            "experience",
            lambda: score.lower(state, frozen, rows),
            (2 + models.has_critic) * count * width * forward,
            0.0,
            (),
            rows,
        ),
        Program(
            "rollout",
            lambda: decode.generate.lower(policy, c, prompt_batch, key, sample),
            block.rows * (prompt + reply) * forward,
            0.0,
            (),
            prompt_batch,
        ),
    )
    states = [train_state for train_state in (state.actor, state.critic) if train_state is not None]
    kept = {"weights": [x.params for x in states], "optimizer": [x.opt_state for x in states]}
    says = f"{count} replies of {reply} to prompts of {prompt} tokens, sampled {block.rows} at a time, learned from "
    says += f"{count // group} at a time, remat {config.model.remat}"
    return Work(programs, kept | {"frozen weights": frozen}, says)


def _attached(frozen: Any, adapter: Any) -> Any:
    """The shapes of frozen weights with an adapter beside them, whose scale is folded into one half."""
    return frozen | {"layers": frozen["layers"] | adapter}


def _rows(count: int, width: int, reply: int) -> RolloutBatch:
    return RolloutBatch(
        tokens=array((count, width), jnp.int32),
        starts=array((count,), jnp.int32),
        replies=array((count, reply), jnp.int32),
        mask=array((count, reply), jnp.bool_),
        rewards=array((count,), jnp.float32),
    )
