"""The arrays of PPO: the state of a run, a batch of replies, and the experience from which an update learns."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from tljax.training.state import TrainState


@struct.dataclass
class PPOState:
    """The state that a run carries from update to update, without the frozen weights, which never change.

    actor: its params are the actor's weights, or its adapter; its step counts the rollouts learned from so far.
    critic: the critic's, None without one. kl_coef: float32 [].
    """

    actor: TrainState
    critic: TrainState | None
    kl_coef: Any

    def to_checkpoint(self) -> dict[str, Any]:
        """Returns the state under the names of a checkpoint on disk.

        "step" and "params" are those of every training run, so that exports and generation read the actor alone.
        """
        return {
            "step": self.actor.step,
            "params": self.actor.params,
            "opt_state": self.actor.opt_state,
            "critic": {} if self.critic is None else self.critic.params,
            "critic_opt_state": () if self.critic is None else self.critic.opt_state,
            "kl_coef": self.kl_coef,
        }

    @classmethod
    def from_checkpoint(cls, tree: dict[str, Any]) -> "PPOState":
        """Returns the state that `to_checkpoint` gave these names."""
        step, critic = tree["step"], None
        if tree["critic"]:
            # A step of its own, since an update donates the arrays of actor and critic apart.
            critic = TrainState(jnp.copy(step), tree["critic"], tree["critic_opt_state"])
        return cls(TrainState(step, tree["params"], tree["opt_state"]), critic, tree["kl_coef"])


@struct.dataclass
class RolloutBatch:
    """Prompts with their replies, right-padded; every device holds all of them.

    tokens: int32 [B, T], prompt and reply, or the prompt alone if replies share it (UpdateOptions.shared above 1).
    starts: int32 [B], length of the prompt. replies: int32 [B, M], the reply's tokens with its end token. mask: bool
    [B, M], True on them. rewards: float32 [B], of the whole reply. priorities: float32 [B, M], the weights of tokens in
    the policy's loss, None for equal ones. sampled_logprobs: float32 [B, M], the log-probabilities with which the
    sampler drew the tokens, None where no update needs them.

    A whole dialogue is one row too: `tokens` hold its prompt, all its replies and the outputs of tools between them,
    and `replies` hold the tokens that the model has sampled, one turn after the other, without what lies between. Then
    columns: int32 [B, M], the column of `tokens` from which each of them is predicted; rewards: float32 [B, M], each on
    the last token of its turn; learned: bool [B, M], True on the tokens that the policy learns from, or None for all of
    `mask`.
    """

    tokens: jax.Array
    starts: jax.Array
    replies: jax.Array
    mask: jax.Array
    rewards: jax.Array
    priorities: jax.Array | None = None
    sampled_logprobs: jax.Array | None = None
    columns: jax.Array | None = None
    learned: jax.Array | None = None

    @property
    def policy_mask(self) -> jax.Array:
        """bool [B, M], True on the tokens that the policy learns from; the critic learns from all of `mask`."""
        return self.mask if self.learned is None else self.learned


@struct.dataclass
class Experience:
    """A batch, and the results of the models at the time of sampling; all arrays but `batch` are float32 [B, M]."""

    batch: RolloutBatch
    logprobs: jax.Array
    ref_logprobs: jax.Array
    values: jax.Array
    advantages: jax.Array
    returns: jax.Array
