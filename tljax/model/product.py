"""The product of activations and a weight, with gradients in a form that processors compute fast.

Axis letters are those of llama.py.
"""

import functools

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import mesh_platform


def product(
    x: jax.Array, w: jax.Array, axes: str, sharding: jax.P, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """Returns the einsum of x and w, whose first letters are those of rows and positions, with the given sharding.

    axes: "BTD,DNH->BTNH" or the like; letters that x and the result share, and no letter of w, are contracted in the
    gradient of w. dtype: that of the result, by default that of x, which the gradients of x and w always have.
    """
    if mesh_platform() == "cpu":
        return _product_on_cpu(x, w, axes, sharding, dtype)
    return _einsum(x, w, axes, sharding, dtype)


def _einsum(
    x: jax.Array, w: jax.Array, axes: str, sharding: jax.P, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    # JAX contracts axes in the alphabetical order of their letters. With H before N, XLA would copy a weight [N, H, D]
    # as [H, N, D] in every step of decoding. So the letters are renamed in the order in which they appear.
    letters = dict.fromkeys(axis for axis in axes if axis.isalpha())
    axes = axes.translate({ord(letter): chr(ord("a") + i) for i, letter in enumerate(letters)})
    return jnp.einsum(axes, x, w, preferred_element_type=dtype, out_sharding=sharding)


# XLA folds a transpose into JAX's own gradient of the weight, whose operands are then both transposed. For this form
# jax 0.12 has plain loops in bfloat16, of 8 GFLOP/s on a core where the form below reaches 250 to 470. JAX also lifts
# the weight to float32 where the result is float32, and reads twice the bytes.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _product_on_cpu(x: jax.Array, w: jax.Array, axes: str, sharding: jax.P, dtype: jax.typing.DTypeLike | None):
    return _einsum(x, w, axes, sharding, dtype)


def _forward(x: jax.Array, w: jax.Array, axes: str, sharding: jax.P, dtype: jax.typing.DTypeLike | None):
    return _einsum(x, w, axes, sharding, dtype), (x, w)


def _backward(axes: str, _sharding: jax.P, _dtype: object, kept: tuple[jax.Array, jax.Array], dy: jax.Array):
    (x, w), (inputs, outputs) = kept, axes.split("->")
    inputs, weight = inputs.split(",")
    dy = dy.astype(x.dtype)
    dx = _einsum(dy, w, f"{outputs},{weight}->{inputs}", jax.typeof(x).sharding.spec)
    dw = _einsum(x, dy, f"{inputs},{outputs}->{weight}", jax.typeof(w).sharding.spec)
    return dx, dw


_product_on_cpu.defvjp(_forward, _backward)
