"""The PPO update: rewarded replies -> new actor and critic; pure functions, written for the global batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.model import llama
from tljax.model.value import predict_values
from tljax.rl.experience import Metrics
from tljax.rl.loss import importance_weights, kl_sums, policy_sums, token_weights, value_sums
from tljax.rl.minibatches import shuffle_rows, take_rows
from tljax.rl.models import PPOModels
from tljax.rl.options import UpdateOptions
from tljax.rl.reply_scores import reply_hidden, reply_logprobs
from tljax.rl.state import Experience, PPOState
from tljax.training.state import TrainState, accumulate_gradients

Loss = Callable[[Any, Experience], tuple[jax.Array, dict[str, jax.Array]]]


def make_update(
    models: PPOModels, tx: optax.GradientTransformation, critic_tx: optax.GradientTransformation, options: UpdateOptions
) -> Callable[[PPOState, llama.Params, Experience, jax.Array], tuple[PPOState, Metrics]]:
    """Returns the jitted update (state, frozen, experience, key) -> (new state, metrics); `state` is donated.

    Actor and critic pass over the rollout one after the other, each as often and in as many steps as its options say.
    Losses are means over the reply tokens or the replies of a whole minibatch, so neither `accumulate` nor the devices
    change them. Metrics are those means, averaged over all steps; "ratio_first" and "clipped_first" are those of the
    actor's first step, where they must be 1 and 0. While the critic warms up, the actor makes no steps: its ratio is 1,
    and its other metrics are 0.
    """
    c = models.config

    def policy_loss(params: Any, part: Experience, frozen: llama.Params, kl_coef: jax.Array):
        mask = part.batch.policy_mask
        room, priorities = options.max_reply_tokens, part.batch.priorities
        weights, divisor = token_weights(mask, options.loss_mean, room, priorities)
        ratio_weights = weights
        if options.importance_cap:
            sampled = part.batch.sampled_logprobs
            if sampled is None:
                raise ValueError("importance weights need a batch with sampled_logprobs")
            ratio_weights = weights * importance_weights(part.logprobs, sampled, mask, options.importance_cap)
        logprobs, entropy = reply_logprobs(models.actor(frozen, params), c, part.batch, options)
        limits = {"clip": options.clip, "clip_high": options.clip_high}
        sums = policy_sums(logprobs, part.logprobs, part.advantages, mask, **limits, weights=ratio_weights)._asdict()
        loss = sums["loss"]
        if options.entropy_coef:
            loss -= options.entropy_coef * jnp.where(mask, entropy * weights, 0.0).sum()
        if options.advantage.kl_place == "loss":
            loss += kl_coef * kl_sums(logprobs, part.ref_logprobs, mask, weights)[1]
        return loss, sums | {"objective": loss, "divisor": divisor}

    def critic_loss(params: Any, part: Experience, frozen: llama.Params):
        trunk, head = models.critic(frozen, params)
        value = predict_values(head, reply_hidden(trunk, c, part.batch, options))
        sums = value_sums(value, part.values, part.returns, part.batch.mask, options.value_clip)._asdict()
        return sums["loss"], sums | {"divisor": sums["tokens"]}

    def rows_of(experience: Experience, key: jax.Array, epochs: int, minibatches: int) -> jax.Array:
        shape = {"epochs": epochs, "minibatches": minibatches, "accumulate": options.accumulate}
        return shuffle_rows(key, len(experience.batch.rewards), **shape, shared=options.shared)

    def update(state: PPOState, frozen: llama.Params, experience: Experience, key: jax.Array):
        actor_learns = state.actor.step >= options.critic_warmup
        rows = rows_of(experience, key, options.epochs, options.minibatches)

        def move(actor: TrainState) -> tuple[TrainState, Metrics]:
            return _make_steps(actor, tx, lambda p, part: policy_loss(p, part, frozen, state.kl_coef), experience, rows)

        def stay(actor: TrainState) -> tuple[TrainState, Metrics]:
            _, steps = jax.eval_shape(move, actor)
            still = {name: jnp.zeros(x.shape, x.dtype) for name, x in steps.items()}
            return actor, still | {"ratio": jnp.ones_like(still["ratio"])}

        if options.critic_warmup:
            actor, steps = jax.lax.cond(actor_learns, move, stay, state.actor)
        else:
            actor, steps = move(state.actor)
        metrics = {
            "loss": steps["objective"].mean(),
            "policy_loss": steps["loss"].mean(),
            "ratio": steps["ratio"].mean(),
            "clipped": steps["clipped"].mean(),
            "policy_kl": steps["kl"].mean(),
            "grad_norm": steps["grad_norm"].mean(),
            "ratio_first": steps["ratio"][0],
            "clipped_first": steps["clipped"][0],
            "kl_coef": state.kl_coef,
        }

        critic = state.critic
        if critic is not None:
            # The same key: with as many passes and steps as the actor, the critic learns from the same minibatches.
            rows = rows_of(experience, key, options.critic_epochs, options.critic_minibatches)
            critic, steps = _make_steps(
                critic, critic_tx, lambda p, part: critic_loss(p, part, frozen), experience, rows
            )
            metrics |= {
                "value_loss": steps["loss"].mean(),
                "value_clipped": steps["clipped"].mean(),
                "critic_grad_norm": steps["grad_norm"].mean(),
            }
            critic = _count_rollout(critic)

        count = len(experience.batch.rewards)
        reply_kl = kl_sums(experience.logprobs, experience.ref_logprobs, experience.batch.mask)[0] / count
        kl_coef = jnp.where(actor_learns, next_kl_coef(state.kl_coef, reply_kl, count, options), state.kl_coef)
        return PPOState(_count_rollout(actor), critic, kl_coef), metrics

    return jax.jit(update, donate_argnames="state")


def _make_steps(
    state: TrainState, tx: optax.GradientTransformation, loss: Loss, experience: Experience, rows: jax.Array
) -> tuple[TrainState, Metrics]:
    """Makes one optimizer step for each minibatch of `rows`, int32 [steps, parts, rows of a part].

    loss: (params, part) -> (a sum over reply tokens, sums for metrics with "tokens" and "divisor"). The divisor divides
    the gradient and the sums "loss" and "objective", and the number of tokens the other sums. Returns the new state and
    these quotients of each step, float32 [steps], with "grad_norm".
    """

    def minibatch(state: TrainState, rows: jax.Array):
        grads, sums = accumulate_gradients(loss, state.params, take_rows(experience, rows))
        tokens, divisor = jnp.maximum(sums["tokens"], 1.0), jnp.maximum(sums["divisor"], 1.0)
        grads = jax.tree.map(lambda g: g / divisor, grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = {name: x / (divisor if name in ("loss", "objective") else tokens) for name, x in sums.items()}
        metrics["grad_norm"] = optax.tree.norm(grads)
        params = optax.apply_updates(state.params, updates)
        return dataclasses.replace(state, params=params, opt_state=opt_state), metrics

    return jax.lax.scan(minibatch, state, rows)


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
