"""The PPO update: rewarded replies -> new actor and critic; pure functions, written for the global batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.distributed.mesh import spec
from tljax.model import llama
from tljax.model.value import predict_values
from tljax.rl.advantage import advantages_and_returns
from tljax.rl.gae import token_rewards
from tljax.rl.loss import kl_sums, policy_sums, value_sums
from tljax.rl.models import PPOModels
from tljax.rl.options import UpdateOptions
from tljax.rl.reply_scores import reply_hidden, reply_logprobs
from tljax.rl.state import Experience, PPOState, RolloutBatch
from tljax.training.state import TrainState, accumulate_gradients

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
        parts = _take_rows(batch, jnp.arange(len(batch.rewards)).reshape(options.minibatches * options.accumulate, -1))
        logprobs, ref_logprobs, entropy, value = (_join_parts(x) for x in jax.lax.map(score_part, parts))

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


def make_update(
    models: PPOModels, tx: optax.GradientTransformation, critic_tx: optax.GradientTransformation, options: UpdateOptions
) -> Callable[[PPOState, llama.Params, Experience, jax.Array], tuple[PPOState, Metrics]]:
    """Returns the jitted update (state, frozen, experience, key) -> (new state, metrics); `state` is donated.

    Every epoch shuffles the rows anew, with replies that share a prompt staying together, and makes one optimizer step
    per minibatch. Losses are means over the reply tokens of the whole minibatch, so neither `accumulate` nor the
    devices change them. Metrics are those means,
    averaged over all steps; "ratio_first" and "clipped_first" are those of the first step, where they must be 1 and 0.
    """
    c = models.config

    def policy_loss(params: Any, part: Experience, frozen: llama.Params, kl_coef: jax.Array):
        mask = part.batch.mask
        logprobs, entropy = reply_logprobs(models.actor(frozen, params), c, part.batch, options)
        sums = policy_sums(logprobs, part.logprobs, part.advantages, mask, options.clip)._asdict()
        sums["entropy"] = jnp.where(mask, entropy, 0.0).sum()
        loss = sums["loss"]
        if options.entropy_coef:
            loss -= options.entropy_coef * sums["entropy"]
        if options.advantage.kl_place == "loss":
            loss += kl_coef * kl_sums(logprobs, part.ref_logprobs, mask)[1]
        return loss, sums | {"objective": loss}

    def critic_loss(params: Any, part: Experience, frozen: llama.Params):
        trunk, head = models.critic(frozen, params)
        value = predict_values(head, reply_hidden(trunk, c, part.batch, options))
        sums = value_sums(value, part.values, part.returns, part.batch.mask, options.value_clip)._asdict()
        return sums["loss"], sums

    def update_actor(actor: TrainState, part: Experience, frozen: llama.Params, kl_coef: jax.Array):
        grads, sums = accumulate_gradients(lambda p, x: policy_loss(p, x, frozen, kl_coef), actor.params, part)
        tokens = jnp.maximum(sums["tokens"], 1.0)
        grads = jax.tree.map(lambda g: g / tokens, grads)
        updates, opt_state = tx.update(grads, actor.opt_state, actor.params)
        metrics = {
            "loss": sums["objective"] / tokens,
            "policy_loss": sums["loss"] / tokens,
            "ratio": sums["ratio"] / tokens,
            "clipped": sums["clipped"] / tokens,
            "policy_kl": sums["kl"] / tokens,
            "grad_norm": optax.tree.norm(grads),
        }
        return (
            dataclasses.replace(actor, params=optax.apply_updates(actor.params, updates), opt_state=opt_state),
            metrics,
            tokens,
        )

    def update_critic(critic: TrainState, part: Experience, frozen: llama.Params, tokens: jax.Array):
        grads, sums = accumulate_gradients(lambda p, x: critic_loss(p, x, frozen), critic.params, part)
        grads = jax.tree.map(lambda g: g / tokens, grads)
        updates, opt_state = critic_tx.update(grads, critic.opt_state, critic.params)
        metrics = {
            "value_loss": sums["loss"] / tokens,
            "value_clipped": sums["clipped"] / tokens,
            "critic_grad_norm": optax.tree.norm(grads),
        }
        return dataclasses.replace(
            critic, params=optax.apply_updates(critic.params, updates), opt_state=opt_state
        ), metrics

    def update(state: PPOState, frozen: llama.Params, experience: Experience, key: jax.Array):
        actor_learns = state.actor.step >= options.critic_warmup

        def minibatch(carry, rows):
            actor, critic = carry
            part = _take_rows(experience, rows)
            moved, metrics, tokens = update_actor(actor, part, frozen, state.kl_coef)
            actor = _where(actor_learns, moved, actor)
            if critic is not None:
                critic, critic_metrics = update_critic(critic, part, frozen, tokens)
                metrics |= critic_metrics
            return (actor, critic), metrics

        # The rows of every minibatch, [steps, accumulate, rows of a part].
        count = len(experience.batch.rewards)
        keys = jax.random.split(key, options.epochs)
        order = jax.vmap(lambda key: jax.random.permutation(key, count // options.shared))(keys)
        order = order[..., None] * options.shared + jnp.arange(options.shared)[None, None]
        order = order.reshape(options.epochs * options.minibatches, options.accumulate, -1)

        (actor, critic), steps = jax.lax.scan(minibatch, (state.actor, state.critic), order)

        metrics = {name: x.mean() for name, x in steps.items()}
        metrics |= {"ratio_first": steps["ratio"][0], "clipped_first": steps["clipped"][0], "kl_coef": state.kl_coef}
        reply_kl = kl_sums(experience.logprobs, experience.ref_logprobs, experience.batch.mask)[0] / count
        kl_coef = jnp.where(actor_learns, next_kl_coef(state.kl_coef, reply_kl, count, options), state.kl_coef)
        return PPOState(_count_rollout(actor), None if critic is None else _count_rollout(critic), kl_coef), metrics

    return jax.jit(update, donate_argnames="state")


def next_kl_coef(kl_coef: jax.Array, kl: jax.Array, replies: int, options: UpdateOptions) -> jax.Array:
    """Returns the next kl_coef, float32 []: fixed, or adapted as Ziegler et al. do (arXiv 1909.08593, section 2.2).

    kl: the KL to the reference in nats, summed over a reply's tokens, mean over the replies. replies: their number.
    """
    if not options.kl_target:
        return kl_coef
    error = jnp.clip(kl / options.kl_target - 1, -0.2, 0.2)
    return kl_coef * (1 + error * replies / options.kl_horizon)


def _count_rollout(state: TrainState) -> TrainState:
    return dataclasses.replace(state, step=state.step + 1)


def _take_rows(tree: Any, rows: jax.Array) -> Any:
    """Takes rows [A, R] of arrays [B, ...] that every device holds, and spreads them over the mesh: [A, R, ...]."""

    def take(x: jax.Array) -> jax.Array:
        tail = (None,) * (x.ndim - 1)
        return jax.reshard(x.at[rows].get(out_sharding=jax.P()), spec(None, "batch", *tail))

    return jax.tree.map(take, tree)


def _join_parts(array: jax.Array) -> jax.Array:
    """Joins parts [A, R, M] that are spread over the mesh into [A * R, M] on every device."""
    return jax.reshard(array, jax.P()).reshape(-1, array.shape[-1])


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
