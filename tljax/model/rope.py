"""Rotary position embeddings as Hugging Face's Llama computes them, with the scalings that Llama checkpoints use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """A change of the frequencies that theta gives: `kind` is "linear", or "llama3" as in Llama 3.1."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_tokens: int = 0


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Returns the rotary frequencies, float32 [H / 2].

    The formula is that of torch, in float32: at position 8192 one unit in the last place is 5e-4 radians.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.power(np.float32(theta), exponents)
    if scaling is None:
        return frequencies
    factor = np.float32(scaling.factor)
    if scaling.kind == "linear":
        return frequencies / factor
    # Llama 3.1 slows long waves by the factor, keeps short waves, and blends those between.
    turns = np.float32(scaling.original_max_tokens) * frequencies / np.float32(2 * np.pi)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    unscaled = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - unscaled) * frequencies / factor + unscaled * frequencies


def rope_angles(
    positions: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None
) -> tuple[jax.Array, jax.Array]:
    """Returns cos and sin of the rotary angles, float32 [B, T, 1, H / 2] each, of positions int32 [B, T]."""
    # Positions in float32: bfloat16 would round 257 to 256.
    frequencies = rope_frequencies(head_dim, theta, scaling)
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies[None, None, None]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates x [B, T, N, H] in float32 and returns it in its dtype. Pairs are (h, h + H / 2), as in Hugging Face."""
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
