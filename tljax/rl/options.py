"""From the config's fields to what the compiled programs take: sampling, update, optimizers."""

from typing import Any

import optax

from tljax.generate.sampling import SampleOptions
from tljax.rl.advantage import AdvantageOptions
from tljax.rl.ppo import UpdateOptions
from tljax.training.optimizer import make_optimizer


def update_options(config: Any, sample: SampleOptions) -> UpdateOptions:
    """What shapes the update."""
    ppo = config.ppo
    return UpdateOptions(
        advantage=AdvantageOptions(
            algorithm=config.algorithm,
            gamma=ppo.gamma,
            lam=ppo.lam,
            whiten=ppo.whiten,
            group=config.rollout.group,
            kl_place=config.kl.place,
        ),
        sample=sample,
        epochs=ppo.epochs,
        minibatches=ppo.minibatches,
        accumulate=ppo.accumulate,
        clip=ppo.clip,
        value_clip=ppo.value_clip,
        entropy_coef=ppo.entropy_coef,
        critic_warmup=config.critic.warmup,
        kl_target=config.kl.target,
        kl_horizon=config.kl.horizon,
        remat=config.model.remat,
        loss_chunk=config.model.loss_chunk,
    )


def total_updates(config: Any, prompts: int) -> int:
    """Rollouts of the run: ppo.updates where it is set, else as many as take all prompts ppo.prompt_epochs times."""
    return config.ppo.updates or max(1, round(config.ppo.prompt_epochs * prompts / config.rollout.prompts))


def optimizers(config: Any, updates: int) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The actor's optimizer and the critic's, which differ in learning rate alone. Raises InputError as they do."""
    of_one = config.ppo.epochs * config.ppo.minibatches
    critic = config.optim.copy_and_resolve_references()
    critic.lr = config.critic.lr
    actor_steps = (updates - config.critic.warmup) * of_one
    return make_optimizer(config.optim, actor_steps), make_optimizer(critic, updates * of_one)
