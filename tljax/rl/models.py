"""Actor, critic and reference, made from trained and frozen weights in one of two ways.

Without an adapter, actor and critic train all their weights, and the reference is a frozen copy of the initial actor.
With adapters, the three share one frozen trunk: actor and critic train an adapter each, and the reference has none.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tljax.model import cost, llama, lora
from tljax.model.value import abstract_value_head, drop_lm_head, init_value_head
from tljax.training import model_source


@dataclasses.dataclass(frozen=True)
class PPOModels:
    """The way that actor, critic and reference are made from weights."""

    config: llama.LlamaConfig
    has_critic: bool
    adapter: lora.LoraOptions | None  # None: actor and critic train all their weights

    @property
    def remedy(self) -> str:
        """The advice for a run whose weights do not fit the devices."""
        less = "" if self.adapter else ", adapters alone (config.lora.rank)"
        return f"use more devices (config.mesh.fsdp, mesh.tensor){less} or a smaller model"

    def sizes(self) -> list[tuple[str, int, int]]:
        """Returns each model's name, its number of trained weights (float32) and of frozen ones (compute dtype)."""
        count, D = cost.count_weights(self.config), self.config.d_model
        if self.adapter is not None:
            adapter = cost.count_adapter(self.config, self.adapter)
            critic = [("critic", adapter + D, 0)] if self.has_critic else []
            return [("trunk", 0, count), ("actor", adapter, 0), *critic]
        head = 0 if self.config.tie_embeddings else self.config.vocab_size * D
        critic = [("critic", count - head + D, 0)] if self.has_critic else []
        return [("actor", count, 0), *critic, ("reference", 0, count)]

    def frozen(self, model: model_source.ModelSource, dtype: str, actor: llama.Params | None = None) -> llama.Params:
        """Returns the weights that never change, in `dtype`: the trunk of the adapters, or the reference's weights.

        actor: the initial weights of the actor, float32, if they are in memory; they are loaded otherwise. The
        reference is rounded from them in the way the forward pass rounds them, so that the actor's KL to the reference
        is 0 at first, even if the SFT model is an adapter.
        """
        if self.adapter is not None:
            return model_source.load_with_adapter(model, dtype, seed=0)
        params = model_source.load_params(model, jnp.float32, seed=0) if actor is None else actor
        return jax.jit(lambda p: jax.tree.map(lambda x: jnp.copy(x).astype(dtype), p))(params)

    def init_params(self, model: model_source.ModelSource, seed: int) -> tuple[Any, Any]:
        """Returns the initial trained weights of actor and critic, float32, {} without a critic.

        The actor is the SFT model, and the critic predicts values of 0.
        """
        if self.adapter is not None:
            draw = jax.jit(lora.init_adapter, static_argnums=(1, 2))
            params, critic = (draw(key, self.config, self.adapter) for key in jax.random.split(jax.random.key(seed)))
        else:
            params = model_source.load_params(model, jnp.float32, seed=0)
            # A copy, since an update donates the arrays of actor and critic separately.
            critic = jax.jit(lambda p: jax.tree.map(jnp.copy, p))(drop_lm_head(params))
        if not self.has_critic:
            return params, {}
        return params, {"trunk": critic, "head": jax.jit(init_value_head, static_argnums=0)(self.config)}

    def abstract_params(self) -> tuple[Any, Any]:
        """Returns shapes, dtypes and shardings of the trained weights of actor and critic, on the current mesh."""
        if self.adapter is not None:
            params = critic = lora.abstract_adapter(self.config, self.adapter)
        else:
            params = llama.abstract_params(self.config, jnp.float32)
            critic = drop_lm_head(params)
        return params, {"trunk": critic, "head": abstract_value_head(self.config)} if self.has_critic else {}

    def actor(self, frozen: llama.Params, params: Any) -> llama.Params:
        """Returns the weights of the model that replies, from the actor's trained weights."""
        return lora.combine_with_trunk(params, frozen, self.adapter)

    def critic(self, frozen: llama.Params, critic: Any) -> tuple[llama.Params, jax.Array]:
        """Returns the critic's trunk and value head, from its trained weights."""
        return lora.combine_with_trunk(critic["trunk"], frozen, self.adapter), critic["head"]
