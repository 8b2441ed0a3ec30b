"""What a PPO run will hold on each device, told before anything is allocated."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tljax.core.errors import InputError
from tljax.core.mesh import batch_shards, device_bytes, shards, weight_shards
from tljax.model import cost
from tljax.model.replies import padded_width
from tljax.rl.roles import Plan


@dataclass(frozen=True, slots=True)
class Role:
    """Bytes on one device that live as long as the run does."""

    name: str
    weights: float
    gradients: float = 0.0
    moments: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.moments


@dataclass(frozen=True, slots=True)
class Need:
    """A run's memory on one device: its roles, and what each phase takes besides; the two never coincide."""

    roles: tuple[Role, ...]
    rollout: float
    update: float

    @property
    def peak(self) -> float:
        return sum(role.total for role in self.roles) + max(self.rollout, self.update)


def need(config: Any, plan: Plan, longest: int) -> Need:
    """The bytes on one device of the current mesh for prompts of at most `longest` tokens; activations are estimated.

    Rollout: the weights in the compute dtype once more, the cache of the longest prompts with their replies, and the
    working set of one layer over the prompts. Update: what `model.remat` keeps of one part's rows, the working set of
    one layer with its gradient, and the logits of one chunk with theirs. Of adapters and norms, small parts that the
    mesh does not divide count as if it did.
    """
    parts, tensor, c = weight_shards(), shards("heads"), plan.config
    width = jnp.dtype(config.model.compute_dtype).itemsize
    roles = tuple(
        Role(name, trained * 4 / parts, trained * 4 / parts, trained * 8 / parts)
        if trained
        else Role(name, frozen * width / parts)
        for name, trained, frozen in plan.sizes()
    )
    layer = (8 * c.d_model + (3 * c.d_ff + 2 * c.num_heads * c.head_dim) / tensor) * width  # of one token
    prompt = padded_width(longest, config.rollout.round_to)
    rows = max(config.rollout.rows, config.eval.rows) / batch_shards()
    token = 2 * c.num_layers * c.num_kv_heads * c.head_dim * width / tensor
    cache = rows * (prompt + max(config.rollout.max_new_tokens, config.eval.new_tokens)) * token
    copy = cost.count_weights(c) * width / parts
    here = config.rollout.prompts * config.rollout.group / (config.ppo.minibatches * config.ppo.accumulate)
    here /= batch_shards()
    tokens = here * padded_width(longest + config.rollout.max_new_tokens, config.rollout.round_to) / shards("positions")
    kept = {"full": c.d_model * width, "attention": 2 * c.d_model * width}
    saved = tokens * c.num_layers * (kept[config.model.remat] if config.model.remat in kept else layer)
    logits = here * min(config.model.loss_chunk, config.rollout.max_new_tokens) * c.vocab_size * 4 / tensor
    return Need(roles, copy + cache + rows * prompt * layer, saved + 2 * tokens * layer + 3 * logits)


def told(config: Any, plan: Plan, longest: int) -> str:
    """The memory plan as a table for people. Raises InputError where weights and moments alone exceed a device."""
    found, mesh = need(config, plan, longest), jax.sharding.get_mesh()
    device = mesh.local_devices[0]
    room = device_bytes(device)
    held = sum(role.total for role in found.roles)
    if room is not None and held > room:
        raise InputError(
            f"weights, gradients and moments take {_size(held)} on each of {mesh.size} device{'s' * (mesh.size > 1)}, "
            f"which has {_size(room)}; {plan.remedy}"
        )
    lines = [f"memory on each of {mesh.size} x {device.device_kind}" + (f" ({_size(room)})" if room else "")]
    lines.append(f"  {'':<10}{'weights':>10}{'gradients':>10}{'moments':>10}")
    for role in found.roles:
        cells = (_size(x) if x else "-" for x in (role.weights, role.gradients, role.moments))
        lines.append(f"  {role.name:<10}" + "".join(f"{cell:>10}" for cell in cells))
    lines.append(
        f"  rollout {_size(found.rollout)} (weights again, cache), update about {_size(found.update)}; "
        f"peak about {_size(found.peak)}"
    )
    if room is not None and found.peak > room:
        rollout = found.rollout >= found.update
        lower = "lower rollout.rows and eval.rows" if rollout else "raise ppo.accumulate"
        lines.append(f"  note: that is more than the device has; {lower}, or use more devices")
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
