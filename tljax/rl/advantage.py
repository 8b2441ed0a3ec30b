"""Rewards of tokens -> advantages of tokens, by algorithm: PPO with a critic, GRPO, Dr. GRPO and RLOO with groups."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tljax.rl.gae import gae, whiten

ALGORITHMS = ("ppo", "grpo", "dr_grpo", "rloo")
KL_PLACES = ("reward", "loss")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageOptions:
    """The fields of a config that shape advantages. A static pytree: a plain argument of jit."""

    algorithm: str
    gamma: float
    lam: float
    critic_lam: float | None = None  # of the returns that the critic learns; None: lam
    whiten: bool
    group: int  # replies to each prompt, which lie side by side in the batch
    group_baseline: bool = False  # corrects PPO's values by the other replies to the prompt
    kl_place: str  # "reward": a penalty on every token's reward; "loss": a term of the policy's loss

    @classmethod
    def from_config(cls, config: Any) -> "AdvantageOptions":
        """Returns the options of configs/ppo.py."""
        return cls(
            algorithm=config.algorithm,
            gamma=config.ppo.gamma,
            lam=config.ppo.lam,
            critic_lam=config.critic.lam,
            whiten=config.ppo.whiten,
            group=config.rollout.group,
            group_baseline=config.ppo.group_baseline and config.rollout.group > 1,
            kl_place=config.kl.place,
        )


def advantages_and_returns(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, options: AdvantageOptions
) -> tuple[jax.Array, jax.Array]:
    """Returns advantages and returns, float32 [B, M], 0 off the mask.

    rewards: float32 [B, M], of tokens (`gae.token_rewards`). values: float32 [B, M]. mask: bool [B, M], True on reply
    tokens. PPO computes GAE, with a lambda of its own for the returns that the critic learns (VC-PPO, arXiv
    2503.01491, section 4.2: with lambda below 1 the reward at a reply's end hardly reaches its first values). GRPO and
    RLOO give every token of a reply one advantage, from the sum of the reply's rewards among those of its group
    (`group_advantages`); they read no values, and their returns are 0. With `group_baseline`, PPO does both: GAE, less
    the mean of the first advantages of the other replies to the prompt.
    """
    if options.algorithm == "ppo":
        advantages, returns = gae(rewards, values, mask, options.gamma, options.lam)
        if options.critic_lam not in (None, options.lam):
            _, returns = gae(rewards, values, mask, options.gamma, options.critic_lam)
        if options.group_baseline:
            advantages = jnp.where(mask, advantages - _others_mean(advantages[:, 0], options.group)[:, None], 0.0)
    else:
        per_reply = group_advantages(rewards.sum(axis=1), options.group, options.algorithm)
        advantages = jnp.where(mask, per_reply[:, None], 0.0)
        returns = jnp.zeros_like(advantages)
    return (whiten(advantages, mask) if options.whiten else advantages), returns


def _others_mean(first: jax.Array, group: int) -> jax.Array:
    """Returns, float32 [B], the mean of the advantages `first` [B] of the other replies to each prompt.

    The first advantage of a reply tells by how much the critic misjudged its prompt, as far as this reply shows. What
    the others show does not depend on the tokens of the reply itself, so subtracting it leaves the policy's gradient
    unbiased. With a critic whose values are equal at all tokens of a reply and lambda 1, the result is RLOO.
    """
    groups = first.reshape(-1, group)
    return ((groups.sum(axis=1, keepdims=True) - groups) / (group - 1)).reshape(-1)


def group_advantages(rewards: jax.Array, group: int, algorithm: str) -> jax.Array:
    """Returns each reply's advantage over the other replies to its prompt; rewards and result are float32 [B].

    Rows i * group to i * group + group - 1 answer one prompt. "grpo": (r - mean) / deviation, deviation with n - 1
    below and 1e-4 added (DeepSeekMath, arXiv 2402.03300, section 4.1.2; a group of equal rewards gives 0). "dr_grpo":
    r - mean (Dr. GRPO, arXiv 2503.20783, section 3.2), whose loss is a "constant" mean (`loss.token_weights`). "rloo":
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
        advantages = centered if algorithm == "dr_grpo" else centered * (group / (group - 1))
    return advantages.reshape(-1)
