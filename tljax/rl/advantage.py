"""Rewards of tokens -> advantages of tokens, by algorithm: PPO with a critic, GRPO and RLOO with groups."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tljax.rl.gae import gae, whiten

ALGORITHMS = ("ppo", "grpo", "rloo")
KL_PLACES = ("reward", "loss")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageOptions:
    """The fields of a config that shape advantages. A static pytree: a plain argument of jit."""

    algorithm: str
    gamma: float
    lam: float
    whiten: bool
    group: int  # replies to each prompt, which lie side by side in the batch
    kl_place: str  # "reward": a penalty on every token's reward; "loss": a term of the policy's loss

    @classmethod
    def from_config(cls, config: Any) -> "AdvantageOptions":
        """Returns the options of configs/ppo.py."""
        return cls(
            algorithm=config.algorithm,
            gamma=config.ppo.gamma,
            lam=config.ppo.lam,
            whiten=config.ppo.whiten,
            group=config.rollout.group,
            kl_place=config.kl.place,
        )


def advantages_and_returns(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, options: AdvantageOptions
) -> tuple[jax.Array, jax.Array]:
    """Returns advantages and returns, float32 [B, M], 0 off the mask.

    rewards: float32 [B, M], of tokens (`gae.token_rewards`). values: float32 [B, M]. mask: bool [B, M], True on reply
    tokens. PPO computes GAE. GRPO and RLOO give every token of a reply one advantage, from the sum of the reply's
    rewards among those of its group (`group_advantages`); they read no values, and their returns are 0.
    """
    if options.algorithm == "ppo":
        advantages, returns = gae(rewards, values, mask, options.gamma, options.lam)
    else:
        per_reply = group_advantages(rewards.sum(axis=1), options.group, options.algorithm)
        advantages = jnp.where(mask, per_reply[:, None], 0.0)
        returns = jnp.zeros_like(advantages)
    return (whiten(advantages, mask) if options.whiten else advantages), returns


def group_advantages(rewards: jax.Array, group: int, algorithm: str) -> jax.Array:
    """Returns each reply's advantage over the other replies to its prompt; rewards and result are float32 [B].

    Rows i * group to i * group + group - 1 answer one prompt. "grpo": (r - mean) / deviation, deviation with n - 1
    below and 1e-4 added (DeepSeekMath, arXiv 2402.03300, section 4.1.2; a group of equal rewards gives 0). "rloo":
    r minus the mean of the other replies' rewards (arXiv 2402.14740, equation 9).
    """
    groups = rewards.reshape(-1, group)
    # The group's first reward is subtracted, so that equal rewards differ by exactly 0: their mean is rounded, and
    # dividing that rounding by 1e-4 below would make it 1e-3.
    groups = groups - groups[:, :1]
    centered = groups - groups.mean(axis=1, keepdims=True)
    if algorithm == "grpo":
        advantages = centered / (jnp.sqrt((centered**2).sum(axis=1, keepdims=True) / (group - 1)) + 1e-4)
    else:
        advantages = centered * (group / (group - 1))
    return advantages.reshape(-1)
