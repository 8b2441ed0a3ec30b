"""Token rewards, generalized advantage estimation and whitening, over reply tokens only."""

import jax
import jax.numpy as jnp


def token_rewards(
    logprobs: jax.Array, ref_logprobs: jax.Array, rewards: jax.Array, mask: jax.Array, kl_coef: jax.Array | float
) -> jax.Array:
    """Returns -kl_coef * (logprob - ref_logprob) on every reply token, plus the reply's reward on the last one.

    logprobs, ref_logprobs: float32 [B, T]. rewards: float32 [B], of whole replies, or [B, T], of tokens, as the turns
    of a dialogue have them. mask: bool [B, T], True on reply tokens with the end token. Returns float32 [B, T], 0 off
    the mask; a row without reply tokens gets no reward. The last reply token gets the reply's reward whether the reply
    has ended or ran out of room (released code: reward_last_token=1).
    """
    if rewards.ndim == 2:
        penalties = -jnp.asarray(kl_coef, jnp.float32) * (logprobs - ref_logprobs)
        return jnp.where(mask, penalties + rewards, 0.0)
    positions = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
    last = jnp.max(jnp.where(mask, positions, -1), axis=1, keepdims=True)
    penalties = -jnp.asarray(kl_coef, jnp.float32) * (logprobs - ref_logprobs)
    return jnp.where(mask, penalties + jnp.where(positions == last, rewards[:, None], 0.0), 0.0)


def gae(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, gamma: float, lam: float
) -> tuple[jax.Array, jax.Array]:
    """Returns advantages and returns (Schulman et al., arXiv 1506.02438, equation 16), float32 [B, T], 0 off the mask.

    rewards, values: float32 [B, T], values[t] the critic's estimate before token t; mask: bool [B, T]. With t' the next
    reply token after t (tokens between, such as a tool's output, cost no discount),

        delta_t = rewards[t] + gamma * values[t'] - values[t]
        A_t     = delta_t + gamma * lam * A_t'
        R_t     = A_t + values[t]

    and both values[t'] and A_t' are 0 after the last reply token, also if the reply ran out of room: it is rewarded as
    it stands, so nothing is left to estimate.
    """

    def back(carry: tuple[jax.Array, jax.Array], at: tuple[jax.Array, ...]):
        next_value, next_advantage = carry
        reward, value, inside = at
        advantage = reward + gamma * next_value - value + gamma * lam * next_advantage
        carry = jnp.where(inside, value, next_value), jnp.where(inside, advantage, next_advantage)
        return carry, jnp.where(inside, advantage, 0.0)

    values = values.astype(jnp.float32)
    zeros = jnp.zeros_like(values[:, 0])
    columns = (rewards.astype(jnp.float32).T, values.T, mask.T)
    _, advantages = jax.lax.scan(back, (zeros, zeros), columns, reverse=True)
    return advantages.T, jnp.where(mask, advantages.T + values, 0.0)


def whiten(advantages: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns (A - mean) / deviation over all reply tokens of the global batch, float32 [B, T], 0 off the mask.

    A single reply token, or equal advantages, give 0. This is an option: neither the paper nor its code whitens.
    """
    count = jnp.maximum(mask.sum(dtype=jnp.float32), 1.0)
    mean = jnp.where(mask, advantages, 0.0).sum() / count
    centered = jnp.where(mask, advantages - mean, 0.0)
    return centered * jax.lax.rsqrt((centered**2).sum() / count + 1e-8)
