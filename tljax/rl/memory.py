"""What a PPO run will hold on each device, told before anything is allocated."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tljax.core.errors import InputError
from tljax.distributed.mesh import batch_shard_count, device_bytes, row_length_multiple, shard_count, weight_shard_count
from tljax.generate.batches import padded_length
from tljax.model.activations import Activations
from tljax.rl.models import PPOModels


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


def need(config: Any, plan: PPOModels, longest: int) -> Need:
    """The bytes on one device of the current mesh for prompts of at most `longest` tokens; activations are estimated.

    See model/activations.py. Of adapters and norms, small parts that the mesh does not divide count as if it did.
    """
    parts, tensor, c = weight_shard_count(), shard_count("heads"), plan.config
    width = jnp.dtype(config.model.compute_dtype).itemsize
    roles = tuple(
        Role(name, trained * 4 / parts, trained * 4 / parts, trained * 8 / parts)
        if trained
        else Role(name, frozen * width / parts)
        for name, trained, frozen in plan.sizes()
    )
    of = Activations(c, tensor, shard_count("positions"), width)
    prompt = padded_length(longest, config.rollout.round_to)
    rows = max(config.rollout.rows, config.eval.rows) / batch_shard_count()
    rollout = of.replying(rows, prompt, max(config.rollout.max_new_tokens, config.eval.new_tokens), parts)
    here = config.rollout.prompts * config.rollout.group / (config.ppo.minibatches * config.ppo.accumulate)
    unit = row_length_multiple(config.rollout.round_to)
    tokens = padded_length(longest + config.rollout.max_new_tokens, unit) / shard_count("positions")
    chunk = min(config.model.loss_chunk, config.rollout.max_new_tokens)
    table = 8 if plan.adapter is None else width  # a trained embedding is gathered in float32, as is its gradient
    update = of.learning(here / batch_shard_count(), tokens, chunk, config.model.remat, table)
    return Need(roles, rollout, update)


def format_memory(config: Any, plan: PPOModels, longest: int) -> str:
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
