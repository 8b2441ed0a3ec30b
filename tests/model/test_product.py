"""Tests of the products of activations and weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.jaxprs import equations
from tljax.model.product import product

AXES = ["BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,VD->BTV", "BTNH,NHR->BTR"]
SIZES = dict(B=2, T=3, D=5, N=4, H=6, V=7, R=2)


@pytest.mark.parametrize("axes", AXES)
def test_products_and_their_gradients_are_the_einsum(axes, one_device):
    inputs, out = axes.split("->")
    rng = np.random.default_rng(0)
    shapes = [[SIZES[axis] for axis in names] for names in (*inputs.split(","), out)]
    x, w, weights_of_loss = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    sharding = jax.P(*(None for _ in out))
    np.testing.assert_allclose(product(x, w, axes, sharding), np.einsum(axes, x, w), rtol=0, atol=1e-5)
    gradients = jax.grad(lambda x, w: (product(x, w, axes, sharding) * weights_of_loss).sum(), (0, 1))(x, w)
    first, second = inputs.split(",")
    of_x = np.einsum(f"{out},{second}->{first}", weights_of_loss, w)
    of_w = np.einsum(f"{first},{out}->{second}", x, weights_of_loss)
    for found, expected in zip(gradients, (of_x, of_w), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_axes_are_contracted_in_the_order_in_which_a_weight_lies_in_memory(one_device):
    x, w = jnp.ones((2, 3, 4, 6)), jnp.ones((4, 6, 5))
    found = equations(lambda x, w: product(x, w, "BTNH,NHD->BTD", jax.P(None, None, None)), x, w)
    (dot,) = (equation for equation in found if equation.primitive.name == "dot_general")
    assert dot.params["dimension_numbers"][0] == ((2, 3), (0, 1))
