"""The weighted loss equals the numbers of the released code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.sft.loss import masked_nll, weighted_nll


@pytest.mark.parametrize("name", ["pkt_clean", pytest.param("pkt_slight", marks=pytest.mark.extended)])
def test_step_losses_of_the_released_code(shared, name):
    for case in json.loads((shared / "golden" / f"{name}.json").read_text())[::7]:
        weights = np.ones(len(case["target_logit"]), np.float32)
        weights[case["key"]] = case["weight"]
        weights /= weights.sum(dtype=np.float64)
        logprobs = jax.nn.log_sigmoid(jnp.asarray(case["target_logit"], jnp.float32))
        loss, count = weighted_nll(logprobs, jnp.asarray(weights, jnp.float32))
        assert loss == pytest.approx(case["loss"], abs=1e-5) and count == pytest.approx(1, abs=1e-5)


def test_fractional_weights_count():
    logprobs = jnp.asarray([-1.0, -2.0], jnp.float32)
    assert weighted_nll(logprobs, jnp.asarray([1.5, 0.25], jnp.float32))[0] == 2.0


def test_positions_without_weight_count_nothing_whatever_they_hold():
    def loss(logprobs):
        return weighted_nll(logprobs, jnp.asarray([1.0, 0.0], jnp.float32))[0]

    logprobs = jnp.asarray([-1.0, -jnp.inf], jnp.float32)
    assert loss(logprobs) == 1.0
    assert jax.grad(loss)(logprobs).tolist() == [-1.0, 0.0]


def test_a_masked_loss_gives_the_sum_and_number_of_its_positions():
    total, count = masked_nll(jnp.asarray([-1.0, -2.0, -4.0], jnp.float32), jnp.asarray([True, False, True]))
    assert (total, count) == (5.0, 2.0) and count.dtype == jnp.float32
