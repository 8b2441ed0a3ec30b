"""The PPO update: scored replies -> new actor and critic; pure functions, written for the global batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from tljax.distributed.mesh import spec
from tljax.generate.sampling import SampleOptions, sampled_token_logprobs
from tljax.model import llama
from tljax.model.head import chunked_head
from tljax.model.sequence import take_positions
from tljax.model.value import predict_values
from tljax.rl.advantage import AdvantageOptions, advantages_and_returns
from tljax.rl.loss import kl_sums, policy_sums, value_sums
from tljax.rl.models import PPOModels
from tljax.training.state import TrainState, accumulate_gradients

Metrics = dict[str, jax.Array]


@struct.dataclass
class PPOState:
    """What a run carries from update to update. The frozen weights are not in it: they never change.

    step: int32 [], rollouts learned from so far. params: the actor's weights, or its adapter. critic: the critic's,
    {} without one. kl_coef: float32 [].
    """

    step: Any
    params: Any
    opt_state: optax.OptState
    critic: Any
    critic_opt_state: Any
    kl_coef: Any


def ppo_state(actor: TrainState, critic: TrainState | None, kl_coef: Any) -> PPOState:
    """The state of a run with these, arrays or their shapes; critic: None without one."""
    return PPOState(
        step=actor.step,
        params=actor.params,
        opt_state=actor.opt_state,
        critic={} if critic is None else critic.params,
        critic_opt_state=() if critic is None else critic.opt_state,
        kl_coef=kl_coef,
    )


@struct.dataclass
class RolloutBatch:
    """Prompts with their replies, right-padded; on every device the whole of them.

    tokens: int32 [B, T], prompt and reply; starts: int32 [B], length of the prompt; replies: int32 [B, M], the reply's
    tokens, its end token among them; mask: bool [B, M], True on them; scores: float32 [B], the rewards.
    """

    tokens: jax.Array
    starts: jax.Array
    replies: jax.Array
    mask: jax.Array
    scores: jax.Array


@struct.dataclass
class Experience:
    """Rows with what the models thought of them when they were sampled; float32 [B, M] all."""

    rows: RolloutBatch
    logprobs: jax.Array
    ref_logprobs: jax.Array
    values: jax.Array
    advantages: jax.Array
    returns: jax.Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """What of the config shapes the compiled programs. A static pytree."""

    advantage: AdvantageOptions
    sample: SampleOptions  # the distribution that replies were drawn from and are scored under
    epochs: int  # passes over one rollout
    minibatches: int  # updates of one pass
    accumulate: int  # parts a minibatch is computed in
    clip: float
    value_clip: float
    entropy_coef: float
    critic_warmup: int  # first rollouts, from which the critic alone learns
    kl_target: float  # 0: kl_coef stays; else the KL of a reply, in nats, that an adaptive kl_coef steers to
    kl_horizon: float  # replies in which an adaptive kl_coef may change about e-fold, at a full clipped error of 1
    remat: str
    loss_chunk: int


def reply_hidden(params: llama.Params, c: llama.LlamaConfig, rows: RolloutBatch, options: UpdateOptions) -> jax.Array:
    """Hidden states [B, M, D] from which each reply token is predicted; garbage off the mask."""
    (B, T), M = rows.tokens.shape, rows.replies.shape[1]
    columns = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T), out_sharding=spec("batch", None))
    ends = rows.starts + rows.mask.sum(axis=1, dtype=jnp.int32)
    hidden = llama.forward(
        params,
        c,
        rows.tokens,
        columns,
        (columns < ends[:, None]).astype(jnp.int32),
        compute_dtype=jnp.dtype(options.sample.compute_dtype),
        remat=options.remat,
        attention=options.sample.attention,
    )
    places = rows.starts[:, None] - 1 + jnp.arange(M, dtype=jnp.int32)[None]
    return take_positions(hidden, jnp.minimum(places, T - 1))


def reply_scores(
    params: llama.Params, c: llama.LlamaConfig, rows: RolloutBatch, options: UpdateOptions
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the reply tokens under the sampling distribution, and its entropy there: float32 [B, M].

    The entropy is the model's own at temperature 1, in nats. Both are garbage off the mask.
    """

    def score(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        normal = jax.nn.logsumexp(logits, axis=-1)
        entropy = normal - (jnp.exp(logits - normal[..., None]) * logits).sum(-1)
        return sampled_token_logprobs(logits, targets, options.sample), entropy

    hidden = reply_hidden(params, c, rows, options)
    M = rows.replies.shape[1]
    chunk = min(options.loss_chunk, M)
    room = ((0, 0), (0, -M % chunk))
    hidden, targets = jnp.pad(hidden, (*room, (0, 0))), jnp.pad(rows.replies, room)
    logprobs, entropy = chunked_head(params, c, hidden, targets, chunk, score)
    return logprobs[:, :M], entropy[:, :M]


def make_experience(
    plan: PPOModels, options: UpdateOptions
) -> Callable[[PPOState, llama.Params, RolloutBatch], tuple[Experience, Metrics]]:
    """The jitted judgement of sampled rows: (state, frozen, rows) -> Experience and metrics."""
    c = plan.config

    def experience(state: PPOState, frozen: llama.Params, rows: RolloutBatch) -> tuple[Experience, Metrics]:
        def judge(part: RolloutBatch) -> tuple[jax.Array, ...]:
            logprobs, entropy = reply_scores(plan.actor(frozen, state.params), c, part, options)
            ref_logprobs, _ = reply_scores(frozen, c, part, options)
            if not plan.has_critic:
                return logprobs, ref_logprobs, entropy, jnp.zeros_like(logprobs)
            trunk, head = plan.critic(frozen, state.critic)
            return logprobs, ref_logprobs, entropy, predict_values(head, reply_hidden(trunk, c, part, options))

        parts = _parts(rows, jnp.arange(len(rows.scores)).reshape(options.minibatches * options.accumulate, -1))
        judged = jax.lax.map(judge, parts)
        logprobs, ref_logprobs, entropy, critic = (_whole(x) for x in judged)
        advantages, returns = advantages_and_returns(
            logprobs, ref_logprobs, critic, rows.scores, rows.mask, state.kl_coef, options.advantage
        )
        tokens = jnp.maximum(rows.mask.sum(dtype=jnp.float32), 1.0)
        k1, k3 = kl_sums(logprobs, ref_logprobs, rows.mask)

        def mean(x: jax.Array) -> jax.Array:
            return jnp.where(rows.mask, x, 0.0).sum() / tokens

        metrics = {
            "kl": k1 / tokens,
            "kl_k3": k3 / tokens,
            "kl_reply": k1 / len(rows.scores),
            "entropy": mean(entropy),
            "advantage": mean(advantages),
            "advantage_deviation": jnp.sqrt(mean((advantages - mean(advantages)) ** 2)),
        }
        if plan.has_critic:
            spread = mean((returns - mean(returns)) ** 2)
            metrics |= {
                "value": mean(critic),
                "return": mean(returns),
                "explained_variance": 1 - mean((returns - critic) ** 2) / jnp.maximum(spread, 1e-8),
            }
        return Experience(rows, logprobs, ref_logprobs, critic, advantages, returns), metrics

    return jax.jit(experience)


def make_update(
    plan: PPOModels, tx: optax.GradientTransformation, critic_tx: optax.GradientTransformation, options: UpdateOptions
) -> Callable[[PPOState, llama.Params, Experience, jax.Array], tuple[PPOState, Metrics]]:
    """The jitted update: (state, frozen, experience, key) -> new state and metrics; `state` is donated.

    Every epoch shuffles the rows anew and makes one optimizer step a minibatch. Losses are means over the reply tokens
    of the whole minibatch, so neither `accumulate` nor the devices change them. Metrics are those means, averaged over
    all steps; "ratio_first" and "clipped_first" are of the first step alone, where they must be 1 and 0.
    """
    c = plan.config

    def policy_loss(params: Any, part: Experience, frozen: llama.Params, kl_coef: jax.Array):
        rows = part.rows
        logprobs, entropy = reply_scores(plan.actor(frozen, params), c, rows, options)
        sums = policy_sums(logprobs, part.logprobs, part.advantages, rows.mask, options.clip)._asdict()
        sums["entropy"] = jnp.where(rows.mask, entropy, 0.0).sum()
        loss = sums["loss"]
        if options.entropy_coef:
            loss -= options.entropy_coef * sums["entropy"]
        if options.advantage.kl_place == "loss":
            loss += kl_coef * kl_sums(logprobs, part.ref_logprobs, rows.mask)[1]
        return loss, sums | {"objective": loss}

    def critic_loss(params: Any, part: Experience, frozen: llama.Params):
        trunk, head = plan.critic(frozen, params)
        found = predict_values(head, reply_hidden(trunk, c, part.rows, options))
        sums = value_sums(found, part.values, part.returns, part.rows.mask, options.value_clip)._asdict()
        return sums["loss"], sums

    def update(state: PPOState, frozen: llama.Params, experience: Experience, key: jax.Array):
        learns = state.step >= options.critic_warmup

        def minibatch(carry, picks):
            params, opt_state, critic, critic_opt_state = carry
            part = _parts(experience, picks)
            grads, sums = accumulate_gradients(lambda p, x: policy_loss(p, x, frozen, state.kl_coef), params, part)
            tokens = jnp.maximum(sums["tokens"], 1.0)
            grads = jax.tree.map(lambda g: g / tokens, grads)
            updates, new = tx.update(grads, opt_state, params)
            moved = optax.apply_updates(params, updates)
            params, opt_state = _where(learns, (moved, new), (params, opt_state))
            metrics = {
                "loss": sums["objective"] / tokens,
                "policy_loss": sums["loss"] / tokens,
                "ratio": sums["ratio"] / tokens,
                "clipped": sums["clipped"] / tokens,
                "policy_kl": sums["kl"] / tokens,
                "grad_norm": optax.tree.norm(grads),
            }
            if plan.has_critic:
                grads, sums = accumulate_gradients(lambda p, x: critic_loss(p, x, frozen), critic, part)
                grads = jax.tree.map(lambda g: g / tokens, grads)
                updates, critic_opt_state = critic_tx.update(grads, critic_opt_state, critic)
                critic = optax.apply_updates(critic, updates)
                metrics |= {
                    "value_loss": sums["loss"] / tokens,
                    "value_clipped": sums["clipped"] / tokens,
                    "critic_grad_norm": optax.tree.norm(grads),
                }
            return (params, opt_state, critic, critic_opt_state), metrics

        count = len(experience.rows.scores)
        keys = jax.random.split(key, options.epochs)
        order = jax.vmap(lambda key: jax.random.permutation(key, count))(keys)
        order = order.reshape(options.epochs * options.minibatches, options.accumulate, -1)
        carry = state.params, state.opt_state, state.critic, state.critic_opt_state
        (params, opt_state, critic, critic_opt_state), steps = jax.lax.scan(minibatch, carry, order)
        metrics = {name: found.mean() for name, found in steps.items()}
        metrics |= {"ratio_first": steps["ratio"][0], "clipped_first": steps["clipped"][0], "kl_coef": state.kl_coef}
        reply_kl = kl_sums(experience.logprobs, experience.ref_logprobs, experience.rows.mask)[0] / count
        return PPOState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            critic=critic,
            critic_opt_state=critic_opt_state,
            kl_coef=jnp.where(learns, adapted(state.kl_coef, reply_kl, count, options), state.kl_coef),
        ), metrics

    return jax.jit(update, donate_argnames="state")


def adapted(kl_coef: jax.Array, kl: jax.Array, replies: int, options: UpdateOptions) -> jax.Array:
    """The next kl_coef, float32 []: the fixed one, or the adaptive one of Ziegler et al. (arXiv 1909.08593, 2.2).

    kl: mean over replies of the KL to the reference, summed over a reply's tokens, nats; replies: how many of them.
    """
    if not options.kl_target:
        return kl_coef
    error = jnp.clip(kl / options.kl_target - 1, -0.2, 0.2)
    return kl_coef * (1 + error * replies / options.kl_horizon)


def _parts(tree: Any, picks: jax.Array) -> Any:
    """Rows picks [A, R] of arrays [B, ...] that every device holds, spread over the mesh: [A, R, ...]."""

    def pick(x: jax.Array) -> jax.Array:
        tail = (None,) * (x.ndim - 1)
        return jax.reshard(x.at[picks].get(out_sharding=jax.P()), spec(None, "batch", *tail))

    return jax.tree.map(pick, tree)


def _whole(array: jax.Array) -> jax.Array:
    """[A, R, M], spread over the mesh -> [A * R, M] on every device."""
    return jax.reshard(array, jax.P()).reshape(-1, array.shape[-1])


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
