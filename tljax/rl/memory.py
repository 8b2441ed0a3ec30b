"""The memory that a PPO run will take on each device, as a table that is printed before anything is allocated."""

from dataclasses import dataclass
from typing import Any

import jax

from tljax.core.units import format_bytes
from tljax.distributed.mesh import batch_shard_count, device_bytes, row_length_multiple, shard_count
from tljax.generate.batches import padded_length
from tljax.model.memory import ActivationMemory, DeviceBatch, StateBytes, check_state_fits, state_bytes
from tljax.rl.models import PPOModels
from tljax.rl.options import part_replies, updates_shared_replies
from tljax.rl.rollout import shared_reply_length


@dataclass(frozen=True, slots=True)
class PPOMemory:
    """The bytes on one device: the state of each model, by name, and the work space of a rollout and of an update.

    A rollout and an update never run at the same time.
    """

    states: dict[str, StateBytes]
    rollout: float
    update: float

    @property
    def state_total(self) -> float:
        return sum(state.total for state in self.states.values())

    @property
    def peak(self) -> float:
        return self.state_total + max(self.rollout, self.update)


def device_batch(config: Any, prompt_tokens: int) -> DeviceBatch:
    """Returns the part of an update that a device computes at a time, with prompts of at most `prompt_tokens`."""
    rollout, shared = config.rollout, updates_shared_replies(config)
    part = max(part_replies(config))
    return DeviceBatch(
        rows=part / shared / batch_shard_count(),
        tokens=update_row_tokens(config, prompt_tokens, shared) // shard_count("positions"),
        loss_chunk=min(config.model.loss_chunk, rollout.max_new_tokens) * shared,
    )


def update_row_tokens(config: Any, prompt_tokens: int, shared: int) -> int:
    """Returns the length of an update's rows of a prompt of `prompt_tokens` with `shared` replies."""
    rollout = config.rollout
    multiple = row_length_multiple(rollout.round_to)
    if shared == 1:
        return padded_length(prompt_tokens + rollout.max_new_tokens, multiple)
    return padded_length(prompt_tokens, multiple) + shared * shared_reply_length(rollout.max_new_tokens)


def estimate_memory(config: Any, models: PPOModels, max_prompt: int) -> PPOMemory:
    """Estimates the memory on one device of the current mesh if no prompt is longer than `max_prompt` tokens."""
    dtype = config.model.compute_dtype
    activations = ActivationMemory.on_current_mesh(models.config, dtype)
    rows = max(config.rollout.rows, config.eval.rows) / batch_shard_count()
    new_tokens = max(config.rollout.max_new_tokens, config.eval.new_tokens)
    batch = device_batch(config, max_prompt)
    return PPOMemory(
        states={name: state_bytes(trained, frozen, dtype) for name, trained, frozen in models.sizes()},
        rollout=activations.generate(rows, padded_length(max_prompt, config.rollout.round_to), new_tokens),
        update=activations.train(batch, config.model.remat, trains_embedding=models.adapter is None),
    )


def format_memory(config: Any, models: PPOModels, max_prompt: int) -> str:
    """Returns the memory of a run as a table. Raises InputError if weights and moments alone exceed a device."""
    memory, mesh = estimate_memory(config, models, max_prompt), jax.sharding.get_mesh()
    check_state_fits(memory.state_total, "weights, gradients and moments take", models.remedy)
    device = mesh.local_devices[0]
    capacity = device_bytes(device)
    # The state of each model.
    lines = [f"memory on each of {mesh.size} x {device.device_kind}" + (f" ({_format(capacity)})" if capacity else "")]
    lines.append(f"  {'':<10}{'weights':>10}{'gradients':>10}{'moments':>10}")
    for name, state in memory.states.items():
        cells = (_format(count) if count else "-" for count in (state.weights, state.gradients, state.moments))
        lines.append(f"  {name:<10}" + "".join(f"{cell:>10}" for cell in cells))
    # The work space, and advice if it is too large.
    lines.append(
        f"  rollout {_format(memory.rollout)} (weights again, cache), update about {_format(memory.update)}; "
        f"peak about {_format(memory.peak)}"
    )
    if capacity is not None and memory.peak > capacity:
        advice = "lower rollout.rows and eval.rows" if memory.rollout >= memory.update else "raise ppo.accumulate"
        lines.append(f"  note: that is more than the device has; {advice}, or use more devices")
    return "\n".join(lines)


def _format(count: float) -> str:
    return format_bytes(count, digits=1, min_unit="MB")
