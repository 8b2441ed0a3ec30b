"""The number of updates of a PPO run, and the optimizers of actor and critic."""

import math
from typing import Any

import optax

from tljax.rl.options import critic_passes
from tljax.training.optimizer import make_optimizer


def total_updates(config: Any, prompts: int) -> int:
    """Returns the number of rollouts: ppo.updates if it is set, else enough for ppo.prompt_epochs passes."""
    return config.ppo.updates or max(1, round(config.ppo.prompt_epochs * prompts / config.rollout.prompts))


def make_optimizers(config: Any, updates: int) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Returns the actor's and the critic's optimizer, which differ in learning rate and number of steps.

    updates: rollouts of the run; the actor does not learn from the first `critic.warmup`. Raises InputError as
    make_optimizer does.
    """
    steps_per_update, critic_steps = config.ppo.epochs * config.ppo.minibatches, math.prod(critic_passes(config))
    critic = config.optim.copy_and_resolve_references()
    critic.lr = config.critic.lr
    actor_steps = (updates - config.critic.warmup) * steps_per_update
    return make_optimizer(config.optim, actor_steps), make_optimizer(critic, updates * critic_steps)
