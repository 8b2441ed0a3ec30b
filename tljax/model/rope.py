"""Rotary position embeddings as Hugging Face's Llama computes them, with the scalings that Llama checkpoints use."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """A change of the frequencies that theta gives.

    kind: "linear"; "llama3" as in Llama 3.1; "yarn" (arXiv 2309.00071) as in Qwen 2.5; or "factors", by which the
    frequencies are divided one by one. attention_factor: cosine and sine are multiplied by it (yarn alone).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_tokens: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True
    factors: tuple[float, ...] = ()


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
    if scaling.kind == "factors":
        return frequencies / np.asarray(scaling.factors, np.float32)
    if scaling.kind == "yarn":
        unscaled = _yarn_unscaled(head_dim, theta, scaling)
    else:
        # Llama 3.1 slows long waves by the factor, keeps short waves, and blends those between.
        turns = np.float32(scaling.original_max_tokens) * frequencies / np.float32(2 * np.pi)
        low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
        unscaled = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - unscaled) * frequencies / factor + unscaled * frequencies


def _yarn_unscaled(head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Returns the part of each frequency that yarn keeps, float32 [H / 2]: a ramp between two numbers of turns."""

    def dimension(turns: float) -> float:
        return head_dim * math.log(scaling.original_max_tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)
    return 1 - np.clip(ramp, 0, 1)


def rope_angles(
    positions: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None
) -> tuple[jax.Array, jax.Array]:
    """Returns cos and sin of the rotary angles, float32 [B, T, 1, H / 2] each, of positions int32 [B, T].

    Where the scaling has an attention factor, both are multiplied by it, and so queries times keys by its square.
    """
    # Positions in float32: bfloat16 would round 257 to 256.
    frequencies = rope_frequencies(head_dim, theta, scaling)
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies[None, None, None]
    factor = jnp.float32(1.0 if scaling is None else scaling.attention_factor)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def apply_rope(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates x [B, T, N, H] in float32 and returns it in its dtype. Pairs are (h, h + H / 2), as in Hugging Face."""
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
