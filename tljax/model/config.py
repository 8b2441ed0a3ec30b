"""The shape of a model: all that decides its weights and its results."""

import dataclasses

import jax

from tljax.core.errors import InputError
from tljax.model.rope import RopeScaling


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The fields of config.json that change the result. A static pytree, so jit takes it as a plain argument."""

    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    max_positions: int
    sliding_window: int | None
    architecture: str  # the Hugging Face class of the model, one of model/hf/config.py's ARCHITECTURES
    qk_norm: bool = False  # queries and keys are normed within each head before the rotation, as in Qwen 3

    @property
    def max_tokens(self) -> int:
        """The longest segment that gives the checkpoint's results: attention here has no sliding window."""
        return min(self.max_positions, self.sliding_window or self.max_positions)


def preset(name: str, *, vocab_size: int = 2048) -> LlamaConfig:
    """Returns the shape of a published model, or "tiny", which alone uses `vocab_size`. Raises InputError for others.

    The sizes "7b" to "70b" are those of CodeLLaMA; "smollm2" is SmolLM2-135M.
    """
    sizes = {
        "tiny": (4, 128, 4, 4, 32, 384, vocab_size),
        "7b": (32, 4096, 32, 32, 128, 11008, 32016),
        "13b": (40, 5120, 40, 40, 128, 13824, 32016),
        "34b": (48, 8192, 64, 8, 128, 22016, 32000),
        "70b": (80, 8192, 64, 8, 128, 28672, 32016),
        "smollm2": (30, 576, 9, 3, 64, 1536, 49152),
    }
    if name not in sizes:
        raise InputError(f"model preset is {name!r}; allowed are {', '.join(sizes)}")
    layers, d_model, heads, kv_heads, head_dim, d_ff, vocab_size = sizes[name]
    return LlamaConfig(
        num_layers=layers,
        d_model=d_model,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=d_ff,
        vocab_size=vocab_size,
        rope_theta=1e5 if name == "smollm2" else 1e6,
        rope_scaling=None,
        norm_eps=1e-5,
        tie_embeddings=name == "smollm2",
        qkv_bias=False,
        max_positions=8192 if name == "smollm2" else 16384,
        sliding_window=None,
        architecture="LlamaForCausalLM",
    )
