"""The options of PPO's compiled programs."""

import dataclasses
import math
from typing import Any

import jax

from tljax.generate.sampling import SampleOptions
from tljax.model.shared_prompt import shared_replies
from tljax.rl.advantage import AdvantageOptions

SINGLE, MULTI = TURNS = ("single", "multi")  # of rollout.turns: single replies to prompts, or whole dialogues


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """The fields of a config that shape the compiled programs. A static pytree: a plain argument of jit."""

    advantage: AdvantageOptions
    sample: SampleOptions  # the distribution that replies were drawn from and are scored under
    epochs: int  # passes over one rollout
    minibatches: int  # optimizer steps of one pass
    accumulate: int  # parts in which a minibatch is computed
    turns: int = 1  # the maximum number of replies in a row, those of a dialogue
    shared: int = 1  # replies that are computed in one row with their prompt; minibatches are made of such rows
    clip: float
    clip_high: float = 0.0  # 0: clip
    loss_mean: str = "token"  # one of loss.LOSS_MEANS
    importance_cap: float = 0.0  # the maximum of a token's importance weight; 0: none are applied
    value_clip: float
    entropy_coef: float
    critic_epochs: int  # the critic's passes over one rollout
    critic_minibatches: int  # the critic's optimizer steps of one pass
    critic_warmup: int  # number of first rollouts from which only the critic learns
    kl_target: float  # the KL of a reply, in nats, that an adaptive kl_coef aims at; 0: kl_coef is fixed
    kl_horizon: float  # replies within which an adaptive kl_coef changes by a factor of at most e^0.2
    remat: str
    loss_chunk: int

    @classmethod
    def from_config(cls, config: Any, sample: SampleOptions) -> "UpdateOptions":
        """Returns the options of configs/ppo.py on the current mesh; sample: the options by which replies are drawn."""
        critic_epochs, critic_minibatches = critic_passes(config)
        return cls(
            advantage=AdvantageOptions.from_config(config),
            sample=sample,
            epochs=config.ppo.epochs,
            minibatches=config.ppo.minibatches,
            accumulate=config.ppo.accumulate,
            turns=config.rollout.max_turns if config.rollout.turns == MULTI else 1,
            shared=updates_shared_replies(config),
            clip=config.ppo.clip,
            clip_high=config.ppo.clip_high,
            loss_mean=config.ppo.loss_mean,
            importance_cap=config.ppo.importance_cap,
            value_clip=config.ppo.value_clip,
            entropy_coef=config.ppo.entropy_coef,
            critic_epochs=critic_epochs,
            critic_minibatches=critic_minibatches,
            critic_warmup=config.critic.warmup,
            kl_target=config.kl.target,
            kl_horizon=config.kl.horizon,
            remat=config.model.remat,
            loss_chunk=config.model.loss_chunk,
        )

    @property
    def max_reply_tokens(self) -> int:
        """The maximum number of tokens that the model has sampled in a row."""
        return self.turns * self.sample.max_new_tokens


def critic_passes(config: Any) -> tuple[int, int]:
    """Returns the critic's passes over one rollout and its optimizer steps of one pass."""
    return config.critic.epochs or config.ppo.epochs, config.critic.minibatches or config.ppo.minibatches


def minibatch_counts(config: Any) -> tuple[int, ...]:
    """Returns the optimizer steps of one pass of the actor and, where there is one, of the critic."""
    if config.algorithm != "ppo":
        return (config.ppo.minibatches,)
    return config.ppo.minibatches, critic_passes(config)[1]


def part_replies(config: Any) -> tuple[int, ...]:
    """Returns the numbers of replies that the actor and, where there is one, the critic compute at a time."""
    replies = config.rollout.prompts * config.rollout.group
    return tuple(replies // (count * config.ppo.accumulate) for count in minibatch_counts(config))


def updates_shared_replies(config: Any) -> int:
    """Returns the number of replies that share a row with their prompt in the update of configs/ppo.py.

    Dialogues have rows of their own: their replies are followed by the outputs of tools.
    """
    rollout = config.rollout
    if rollout.turns == MULTI:
        return 1
    return shared_replies(rollout.group, math.gcd(*part_replies(config))) if rollout.share_prompts else 1


def rollouts_shared_replies(config: Any) -> int:
    """Returns the number of replies for which the rollout of configs/ppo.py computes a prompt once."""
    rollout = config.rollout
    return shared_replies(rollout.group, rollout.rows) if rollout.share_prompts else 1
