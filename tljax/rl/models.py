"""Actor, critic and reference, made of trained and frozen weights in one of two ways.

`full`: actor and critic have all their weights to themselves, the reference is a frozen copy of the first actor.
`lora`: one frozen trunk for all three; actor and critic have an adapter each on it, the reference has none.
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
    """Which weights a role is made of; adapter None is the plan `full`, has_critic False leaves the critic out."""

    config: llama.LlamaConfig
    has_critic: bool
    adapter: lora.LoraOptions | None

    @property
    def remedy(self) -> str:
        less = "" if self.adapter else ", adapters alone (config.lora.rank)"
        return f"use more devices (config.mesh.fsdp, mesh.tensor){less} or a smaller model"

    def sizes(self) -> list[tuple[str, int, int]]:
        """Each role's name, numbers that are trained (in float32), numbers that are frozen (in the compute dtype)."""
        count, D = cost.count_weights(self.config), self.config.d_model
        if self.adapter is not None:
            own = cost.count_adapter(self.config, self.adapter)
            critic = [("critic", own + D, 0)] if self.has_critic else []
            return [("trunk", 0, count), ("actor", own, 0), *critic]
        head = 0 if self.config.tie_embeddings else self.config.vocab_size * D
        critic = [("critic", count - head + D, 0)] if self.has_critic else []
        return [("actor", count, 0), *critic, ("reference", 0, count)]

    def frozen(self, model: model_source.ModelSource, dtype: str, actor: llama.Params | None = None) -> llama.Params:
        """The weights that never change, in `dtype`; of the plan `full` those of the actor before its first update.

        actor: the latter, float32, where they have been read. Rounded from them as the forward pass rounds them, so
        that the actor's KL to the reference is 0 at first, also where the SFT model is an adapter.
        """
        if self.adapter is not None:
            return model_source.load_with_adapter(model, dtype, seed=0)
        first = model_source.load_params(model, jnp.float32, seed=0) if actor is None else actor
        return jax.jit(lambda p: jax.tree.map(lambda x: jnp.copy(x).astype(dtype), p))(first)

    def first(self, model: model_source.ModelSource, seed: int) -> tuple[Any, Any]:
        """What actor and critic train, float32, before the first update: the SFT model, and values of 0."""
        if self.adapter is not None:
            draw = jax.jit(lora.init_adapter, static_argnums=(1, 2))
            params, critic = (draw(key, self.config, self.adapter) for key in jax.random.split(jax.random.key(seed)))
        else:
            params = model_source.load_params(model, jnp.float32, seed=0)
            # A copy: actor and critic are donated apart.
            critic = jax.jit(lambda p: jax.tree.map(jnp.copy, p))(drop_lm_head(params))
        if not self.has_critic:
            return params, {}
        return params, {"trunk": critic, "head": jax.jit(init_value_head, static_argnums=0)(self.config)}

    def abstract(self) -> tuple[Any, Any]:
        """Shapes, dtypes and shardings of what actor and critic train, on the current mesh."""
        if self.adapter is not None:
            params = critic = lora.abstract_adapter(self.config, self.adapter)
        else:
            params = llama.abstract_params(self.config, jnp.float32)
            critic = drop_lm_head(params)
        return params, {"trunk": critic, "head": abstract_value_head(self.config)} if self.has_critic else {}

    def actor(self, frozen: llama.Params, params: Any) -> llama.Params:
        """The model that replies, of what it trains."""
        return lora.combine_with_trunk(params, frozen, self.adapter)

    def critic(self, frozen: llama.Params, critic: Any) -> tuple[llama.Params, jax.Array]:
        """The critic's trunk and value head, of what it trains."""
        return lora.combine_with_trunk(critic["trunk"], frozen, self.adapter), critic["head"]
