"""Sampled replies -> the experience that an update learns from, with the rollout's metrics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tljax.model import llama
from tljax.model.value import predict_values
from tljax.rl.advantage import advantages_and_returns
from tljax.rl.gae import token_rewards
from tljax.rl.loss import kl_sums
from tljax.rl.minibatches import join_parts, take_rows
from tljax.rl.models import PPOModels
from tljax.rl.options import UpdateOptions
from tljax.rl.reply_scores import reply_hidden, reply_logprobs
from tljax.rl.state import Experience, PPOState, RolloutBatch

Metrics = dict[str, jax.Array]


def make_experience(
    models: PPOModels, options: UpdateOptions
) -> Callable[[PPOState, llama.Params, RolloutBatch], tuple[Experience, Metrics]]:
    """Returns the jitted function (state, frozen, batch) -> (Experience, metrics), which scores sampled replies."""
    c = models.config

    def experience(state: PPOState, frozen: llama.Params, batch: RolloutBatch) -> tuple[Experience, Metrics]:
        def score_part(part: RolloutBatch) -> tuple[jax.Array, ...]:
            logprobs, entropy = reply_logprobs(models.actor(frozen, state.actor.params), c, part, options)
            ref_logprobs, _ = reply_logprobs(frozen, c, part, options)
            if state.critic is None:
                return logprobs, ref_logprobs, entropy, jnp.zeros_like(logprobs)
            trunk, head = models.critic(frozen, state.critic.params)
            return logprobs, ref_logprobs, entropy, predict_values(head, reply_hidden(trunk, c, part, options))

        # Actor, reference and critic, part by part.
        parts = take_rows(batch, jnp.arange(len(batch.rewards)).reshape(options.minibatches * options.accumulate, -1))
        logprobs, ref_logprobs, entropy, value = (join_parts(x) for x in jax.lax.map(score_part, parts))

        kl_coef = state.kl_coef if options.advantage.kl_place == "reward" else 0.0
        rewards = token_rewards(logprobs, ref_logprobs, batch.rewards, batch.mask, kl_coef)
        advantages, returns = advantages_and_returns(rewards, value, batch.mask, options.advantage)

        # Metrics are means over the reply tokens of the whole batch.
        tokens = jnp.maximum(batch.mask.sum(dtype=jnp.float32), 1.0)
        k1, k3 = kl_sums(logprobs, ref_logprobs, batch.mask)

        def mean(x: jax.Array) -> jax.Array:
            return jnp.where(batch.mask, x, 0.0).sum() / tokens

        metrics = {
            "kl": k1 / tokens,
            "kl_k3": k3 / tokens,
            "kl_reply": k1 / len(batch.rewards),
            "entropy": mean(entropy),
            "advantage": mean(advantages),
            "advantage_deviation": jnp.sqrt(mean((advantages - mean(advantages)) ** 2)),
        }
        if state.critic is not None:
            variance = mean((returns - mean(returns)) ** 2)
            metrics |= {
                "value": mean(value),
                "return": mean(returns),
                "explained_variance": 1 - mean((returns - value) ** 2) / jnp.maximum(variance, 1e-8),
            }
        return Experience(batch, logprobs, ref_logprobs, value, advantages, returns), metrics

    return jax.jit(experience)
