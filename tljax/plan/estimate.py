"""Estimates memory and traffic of a program by arithmetic: for GPUs, and to decide what a search compiles first."""

from typing import Any

import jax.numpy as jnp

from tljax.distributed.mesh import batch_shard_count, row_length_multiple, shard_count
from tljax.generate.batches import padded_length
from tljax.model import cost, llama
from tljax.model.memory import ActivationMemory, DeviceBatch
from tljax.rl import memory as rl_memory


def work_space(config: Any, c: llama.LlamaConfig, program: str) -> float:
    """Estimates the bytes on one device of the current mesh that a program takes besides arguments and gradients.

    program: "step", "update", "experience" or "rollout". Within a third of what the TPU compiler reserves.
    """
    activations = ActivationMemory.on_current_mesh(c, config.model.compute_dtype)
    if program == "rollout":
        rollout = config.rollout
        prompt_tokens = padded_length(rollout.max_prompt_tokens, rollout.round_to)
        return activations.generate(rollout.rows / batch_shard_count(), prompt_tokens, rollout.max_new_tokens)
    if program == "experience":
        return activations.forward(_device_batch(config))
    return activations.train(_device_batch(config), config.model.remat, trains_embedding=not config.lora.rank)


def movement(config: Any, c: llama.LlamaConfig, program: str) -> tuple[float, float]:
    """Bytes that one device reads and writes in its memory, and that it receives from others, in a program; at least.

    Where weights are split, every pass gathers them, written once and read once, and a backward pass reduces their
    gradients, also over the places that hold the same ones; where rows are, every layer gathers keys and values, and
    reduces their gradients. A rollout reads a device's own share of the weights, and half the cache, at every token.
    """
    parts, tensor, width = shard_count("embed"), shard_count("heads"), jnp.dtype(config.model.compute_dtype).itemsize
    whole = cost.count_weights(c) * width / tensor
    away = whole * (parts - 1) / parts
    token = ActivationMemory.on_current_mesh(c, config.model.compute_dtype).cache_per_token()
    if program == "rollout":
        block = config.rollout
        cache = block.rows / batch_shard_count() * (block.max_prompt_tokens + block.max_new_tokens / 2) * token
        return block.max_new_tokens * (whole / parts + cache) + 2 * whole, away
    batch = _device_batch(config)
    rows, tokens = batch.rows, batch.tokens
    # Attention and feed-forward each end in a sum over "tensor", and begin with one in a backward pass.
    summed = 2 * c.num_layers * rows * tokens * c.d_model * width * 2 * (tensor - 1) / tensor
    summed += rows * tokens * token * (shard_count("positions") - 1)
    if program == "experience":
        passes = (2 + (config.algorithm == "ppo")) * config.ppo.minibatches * config.ppo.accumulate
        return passes * 2 * whole, passes * (away + summed)
    passes = _parts(config) if program == "step" else (1 + (config.algorithm == "ppo")) * _parts(config)
    copies = shard_count("batch", "positions") // parts
    reduced = 0.0 if config.lora.rank else 2 * away + 2 * whole / parts * (copies - 1) / copies
    again = config.model.remat in ("full", "attention")
    return passes * 6 * whole, passes * (2 * away + reduced + (2 + again) * summed)


def _device_batch(config: Any) -> DeviceBatch:
    if config.run == "ppo":
        return rl_memory.device_batch(config, config.rollout.max_prompt_tokens)
    rows = config.batch.rows / config.batch.accumulate / batch_shard_count()
    tokens = sft_tokens(config) // shard_count("positions")
    return DeviceBatch(rows, tokens, loss_chunk=min(config.model.loss_chunk, tokens))


def _parts(config: Any) -> int:
    """How often a program that learns goes through the layers."""
    if config.run == "sft":
        return config.batch.accumulate
    return config.ppo.epochs * config.ppo.minibatches * config.ppo.accumulate


def sft_tokens(config: Any, round_to: int = 128) -> int:
    """The length of a packed row; where the config leaves it to the data, the longest that it allows."""
    unit = row_length_multiple(round_to)
    return config.batch.tokens or -(-config.data.max_tokens // unit) * unit
