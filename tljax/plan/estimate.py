"""Work space and movement by arithmetic: where no compiler is at hand, and for a search to know where to look."""

from typing import Any

import jax.numpy as jnp

from tljax.distributed.mesh import batch_shard_count, row_length_multiple, shard_count, weight_shard_count
from tljax.generate.batches import padded_length
from tljax.model import cost, llama
from tljax.model.activations import Activations


def work_space(config: Any, c: llama.LlamaConfig, program: str) -> float:
    """Bytes on one device of the current mesh that a program takes besides its arguments and gradients, about.

    program: "step", "update", "experience" or "rollout". Within a third of what the TPU compiler finds.
    """
    width = jnp.dtype(config.model.compute_dtype).itemsize
    of = Activations(c, shard_count("heads"), shard_count("positions"), width)
    if program == "rollout":
        block = config.rollout
        prompt = padded_length(block.max_prompt_tokens, block.round_to)
        return of.replying(block.rows / batch_shard_count(), prompt, block.max_new_tokens, weight_shard_count())
    rows, tokens, targets = _batch(config)
    chunk = min(config.model.loss_chunk, targets)
    if program == "experience":
        return of.judging(rows, tokens, chunk)
    # A trained embedding is gathered in float32, as is its gradient.
    return of.learning(rows, tokens, chunk, config.model.remat, width if config.lora.rank else 8)


def movement(config: Any, c: llama.LlamaConfig, program: str) -> tuple[float, float]:
    """Bytes that one device reads and writes in its memory, and that it receives from others, in a program; at least.

    Where weights are split, every pass gathers them, written once and read once, and a backward pass reduces their
    gradients, also over the places that hold the same ones; where rows are, every layer gathers keys and values, and
    reduces their gradients. A rollout reads a device's own share of the weights, and half the cache, at every token.
    """
    parts, tensor, width = shard_count("embed"), shard_count("heads"), jnp.dtype(config.model.compute_dtype).itemsize
    whole = cost.count_weights(c) * width / tensor
    away = whole * (parts - 1) / parts
    token = Activations(c, tensor, shard_count("positions"), width).cache()
    if program == "rollout":
        block = config.rollout
        cache = block.rows / batch_shard_count() * (block.max_prompt_tokens + block.max_new_tokens / 2) * token
        return block.max_new_tokens * (whole / parts + cache) + 2 * whole, away
    rows, tokens, _ = _batch(config)
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


def _batch(config: Any) -> tuple[float, int, int]:
    """Of a device of the current mesh where it learns: rows side by side, tokens of each and targets of each."""
    places = shard_count("positions")
    if config.run == "sft":
        tokens = sft_tokens(config) // places
        return config.batch.rows / config.batch.accumulate / batch_shard_count(), tokens, tokens
    block, parts = config.rollout, config.ppo.minibatches * config.ppo.accumulate
    tokens = padded_length(block.max_prompt_tokens + block.max_new_tokens, row_length_multiple(block.round_to))
    return block.prompts * block.group / parts / batch_shard_count(), tokens // places, block.max_new_tokens


def _parts(config: Any) -> int:
    """How often a program that learns goes through the layers."""
    if config.run == "sft":
        return config.batch.accumulate
    return config.ppo.epochs * config.ppo.minibatches * config.ppo.accumulate


def sft_tokens(config: Any, round_to: int = 128) -> int:
    """The length of a packed row; where the config leaves it to the data, the longest that it allows."""
    unit = row_length_multiple(round_to)
    return config.batch.tokens or -(-config.data.max_tokens // unit) * unit
