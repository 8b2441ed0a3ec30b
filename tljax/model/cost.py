"""Counts of a model: the numbers it holds, and the floating-point operations that a token takes."""

import math
from collections.abc import Iterable

import jax

from tljax.model.llama import LlamaConfig, Param, is_param, params_table
from tljax.model.lora import LoraOptions, adapter_table


def _numbers(weights: Iterable[Param]) -> int:
    return sum(math.prod(p.shape) for p in weights)


def count_weights(c: LlamaConfig) -> int:
    """Numbers in all weights together."""
    return _numbers(jax.tree.leaves(params_table(c), is_leaf=is_param))


def count_adapter(c: LlamaConfig, options: LoraOptions) -> int:
    """Numbers in an adapter."""
    return _numbers(adapter_table(c, options).values())


def flops_per_token(c: LlamaConfig, context: float, options: LoraOptions | None = None) -> float:
    """Floating-point operations that training one token takes, forward and backward, recomputation not counted.

    6 per weight of every matrix product (the head is one, the embedding lookup none), and 6 L N H `context` for causal
    attention, where each token sees half of its segment of `context` tokens. The definition behind the MFU of MaxText.
    With an adapter on frozen weights: 4 per weight, whose gradient is not computed, and 6 per number of the adapter.
    """
    D, N, K, H = c.d_model, c.num_heads, c.num_kv_heads, c.head_dim
    layer = 2 * D * N * H + 2 * D * K * H + 3 * D * c.d_ff
    weights = c.num_layers * layer + D * c.vocab_size
    products = 6.0 * weights if options is None else 4.0 * weights + 6.0 * count_adapter(c, options)
    return products + 6.0 * c.num_layers * N * H * context
