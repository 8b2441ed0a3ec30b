"""Estimates memory and traffic of a program by arithmetic: for GPUs, and to choose what a search compiles next."""

import math
from typing import Any

import jax.numpy as jnp

from tljax.distributed.mesh import batch_shard_count, row_length_multiple, shard_count
from tljax.generate.batches import padded_length
from tljax.model import cost, llama
from tljax.model.memory import ActivationMemory, DeviceBatch
from tljax.plan.roofline import Traffic
from tljax.rl import memory as rl_memory
from tljax.rl.options import critic_passes


def estimate_workspace(config: Any, c: llama.LlamaConfig, program: str) -> float:
    """Estimates the bytes on one device of the current mesh that a program takes besides arguments and gradients.

    program: "step", "update", "experience" or "rollout". The estimate is within a third of what the TPU compiler
    reserves.
    """
    activations = ActivationMemory.on_current_mesh(c, config.model.compute_dtype)
    if program == "rollout":
        rollout = config.rollout
        prompt_tokens = padded_length(rollout.max_prompt_tokens, rollout.round_to)
        return activations.generate(rollout.rows / batch_shard_count(), prompt_tokens, rollout.max_new_tokens)
    if program == "experience":
        return activations.forward(_device_batch(config))
    return activations.train(_device_batch(config), config.model.remat, trains_embedding=not config.lora.rank)


def estimate_traffic(config: Any, c: llama.LlamaConfig, program: str) -> Traffic:
    """Estimates the traffic of one run of a program from below.

    If the weights are split over devices, every pass through the layers gathers them, which writes them once and reads
    them once, and a backward pass reduces their gradients, also over the devices that hold the same part. If the tokens
    of a row are split, every layer gathers keys and values, and reduces their gradients. A rollout reads for every
    token the device's own part of the weights, and half of the cache on average.
    """
    itemsize = jnp.dtype(config.model.compute_dtype).itemsize
    weight_shards, tensor_shards = shard_count("embed"), shard_count("heads")
    # The weights that one device computes with, and the part of them that it receives.
    weights = cost.count_weights(c) * itemsize / tensor_shards
    received_weights = weights * (weight_shards - 1) / weight_shards
    cache_per_token = ActivationMemory.on_current_mesh(c, config.model.compute_dtype).cache_per_token()

    if program == "rollout":
        rollout = config.rollout
        context = rollout.max_prompt_tokens + rollout.max_new_tokens / 2
        cache = rollout.rows / batch_shard_count() * context * cache_per_token
        per_token = weights / weight_shards + cache
        return Traffic(memory=rollout.max_new_tokens * per_token + 2 * weights, links=received_weights)

    # Attention and feed-forward each end in a sum over "tensor", and begin with one in a backward pass.
    batch = _device_batch(config)
    num_tokens = batch.rows * batch.tokens
    activations = 2 * c.num_layers * num_tokens * c.d_model * itemsize * 2 * (tensor_shards - 1) / tensor_shards
    activations += num_tokens * cache_per_token * (shard_count("positions") - 1)
    has_critic = config.run == "ppo" and config.algorithm == "ppo"
    if program == "experience":
        passes = (2 + has_critic) * config.ppo.minibatches * config.ppo.accumulate
        return Traffic(memory=passes * 2 * weights, links=passes * (received_weights + activations))

    passes = _num_training_passes(config)
    # Devices that hold the same part of the weights.
    copies = shard_count("batch", "positions") // weight_shards
    gradients = 2 * received_weights + 2 * weights / weight_shards * (copies - 1) / copies
    gradients = 0.0 if config.lora.rank else gradients
    recomputes = config.model.remat in ("full", "attention")
    links = passes * (2 * received_weights + gradients + (2 + recomputes) * activations)
    return Traffic(memory=passes * 6 * weights, links=links)


def sft_row_length(config: Any, round_to: int = 128) -> int:
    """Returns the tokens of a packed row: batch.tokens, or the longest row that data.max_tokens allows if that is 0."""
    multiple = row_length_multiple(round_to)
    return config.batch.tokens or -(-config.data.max_tokens // multiple) * multiple


def _device_batch(config: Any) -> DeviceBatch:
    if config.run == "ppo":
        return rl_memory.device_batch(config, config.rollout.max_prompt_tokens)
    rows = config.batch.rows / config.batch.accumulate / batch_shard_count()
    tokens = sft_row_length(config) // shard_count("positions")
    return DeviceBatch(rows, tokens, loss_chunk=min(config.model.loss_chunk, tokens))


def _num_training_passes(config: Any) -> int:
    """Returns the number of forward and backward passes, of all models, in one run of the program that trains."""
    if config.run == "sft":
        return config.batch.accumulate
    steps = config.ppo.epochs * config.ppo.minibatches
    if config.algorithm == "ppo":
        steps += math.prod(critic_passes(config))
    return steps * config.ppo.accumulate
