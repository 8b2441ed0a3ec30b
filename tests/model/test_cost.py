"""The arithmetic of a model's sizes: weights of the published ones, floating-point operations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.model import cost, llama


def test_presets_have_the_published_sizes():
    """7b and 34b: half of "total_size" in the fp16 indices of codellama/CodeLlama-*-hf; the others as named."""

    def count(name):
        return sum(
            int(np.prod(p.shape))
            for p in jax.tree.leaves(llama.params_table(llama.preset(name)), is_leaf=llama.is_param)
        )

    assert count("7b") == 6_738_546_688 and count("34b") == 33_743_970_304
    assert 13.0e9 < count("13b") < 13.1e9 and 68.9e9 < count("70b") < 69.1e9
    assert llama.preset("tiny", vocab_size=999).vocab_size == 999
    with pytest.raises(InputError, match=r"model preset is '8b'; allowed are tiny, 7b, 13b, 34b, 70b"):
        llama.preset("8b")


def test_flops_count_what_xla_counts(one_device):
    """Against XLA's own count of an unrolled forward pass without attention's mask: a third of forward and backward."""
    c = dataclasses.replace(llama.preset("tiny", vocab_size=512), num_layers=1)
    params = llama.abstract_params(c, jnp.float32)
    B, T = 2, 128
    ids = jax.ShapeDtypeStruct((B, T), jnp.int32)

    def run(params, tokens, positions, segments):
        options = llama.ForwardOptions("float32", attention="reference")
        hidden = llama.forward(params, c, tokens, positions, segments, options)
        return llama.logits(params, c, hidden)

    counted = jax.jit(run).lower(params, ids, ids, ids).compile().cost_analysis()["flops"]
    # XLA multiplies the masked half of the scores too, so the context counts twice; 10 % for what is no matmul.
    ours = B * T * cost.flops_per_token(c, 2 * T) / 3
    assert ours < counted < 1.1 * ours
