"""CodeLLaMA as a pytree: one table of weights, and pure functions over it.

Axis letters, in every einsum string and shape of this folder:
B batch, T query time, S key time, D model, N query heads, K key and value heads, G query heads per key head (N / K),
H head dimension, F feed-forward, V vocabulary, L layers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tljax.core.errors import InputError
from tljax.distributed.mesh import nearest_mesh, spec
from tljax.model import attention as attention_lib
from tljax.model.remat import remat_policy
from tljax.model.rope import RopeScaling, apply_rope, rope_angles
from tljax.model.sequence import shard_positions

Params = dict[str, Any]
Angles = tuple[jax.Array, jax.Array]
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]

# The weights that multiply, each with the letters of its inputs and of its outputs. Beside "q" may stand an adapter
# (lora.py): "q_a" [L, *inputs, R] and "q_b" [L, R, *outputs], R its rank.
MATRICES = {
    **{"q": ("D", "NH"), "k": ("D", "KH"), "v": ("D", "KH"), "o": ("NH", "D")},
    **{"gate": ("D", "F"), "up": ("D", "F"), "down": ("F", "D")},
}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Every fact of a checkpoint's config.json that changes the result. A static pytree: a plain argument of jit."""

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
    # "LlamaForCausalLM", "MistralForCausalLM" or "Qwen2ForCausalLM": which Hugging Face class holds the same model.
    architecture: str

    @property
    def max_tokens(self) -> int:
        """The longest segment whose result is the checkpoint's: attention here is full, within trained positions."""
        return min(self.max_positions, self.sliding_window or self.max_positions)


def preset(name: str, *, vocab_size: int = 2048) -> LlamaConfig:
    """CodeLLaMA's sizes as published, and "tiny" for the toolbox tokenizer, the only one that takes `vocab_size`."""
    sizes = {
        "tiny": (4, 128, 4, 4, 32, 384, vocab_size),
        "7b": (32, 4096, 32, 32, 128, 11008, 32016),
        "13b": (40, 5120, 40, 40, 128, 13824, 32016),
        "34b": (48, 8192, 64, 8, 128, 22016, 32000),
        "70b": (80, 8192, 64, 8, 128, 28672, 32016),
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
        rope_theta=1e6,
        rope_scaling=None,
        norm_eps=1e-5,
        tie_embeddings=False,
        qkv_bias=False,
        max_positions=16384,
        sliding_window=None,
        architecture="LlamaForCausalLM",
    )


class Param(NamedTuple):
    """One weight: its shape, what its axes are sharded over, its first value, its place in a Hugging Face checkpoint.

    `hf_name` holds "{}" for the layer where the shape starts with L. Of one layer, `hf_shape` is the stored shape, and
    `stored.reshape(hf_split).transpose(hf_perm)` is ours.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str
    hf_name: str
    hf_shape: tuple[int, ...]
    hf_perm: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        return "{}" in self.hf_name

    @property
    def hf_split(self) -> tuple[int, ...]:
        """The stored shape with its merged axes (heads and head dimension) apart."""
        own = self.shape[1:] if self.stacked else self.shape
        return tuple(own[self.hf_perm.index(axis)] for axis in range(len(own)))


def params_table(c: LlamaConfig) -> dict[str, Any]:
    """Every weight of the model, once: init, shardings, abstract shapes and the checkpoint formats derive from it."""
    L, D, N, K, H, F, V = c.num_layers, c.d_model, c.num_heads, c.num_kv_heads, c.head_dim, c.d_ff, c.vocab_size
    attn, mlp, norm = "model.layers.{}.self_attn.", "model.layers.{}.mlp.", "model.layers.{}."
    heads_in, heads_out = (None, "embed", "heads", None), (None, "heads", None, "embed")
    layers = {
        "attn_norm": Param((L, D), (None, None), "ones", norm + "input_layernorm.weight", (D,), (0,)),
        "q": Param((L, D, N, H), heads_in, "normal", attn + "q_proj.weight", (N * H, D), (2, 0, 1)),
        "k": Param((L, D, K, H), heads_in, "normal", attn + "k_proj.weight", (K * H, D), (2, 0, 1)),
        "v": Param((L, D, K, H), heads_in, "normal", attn + "v_proj.weight", (K * H, D), (2, 0, 1)),
        "o": Param((L, N, H, D), heads_out, "normal", attn + "o_proj.weight", (D, N * H), (1, 2, 0)),
        "mlp_norm": Param((L, D), (None, None), "ones", norm + "post_attention_layernorm.weight", (D,), (0,)),
        "gate": Param((L, D, F), (None, "embed", "mlp"), "normal", mlp + "gate_proj.weight", (F, D), (1, 0)),
        "up": Param((L, D, F), (None, "embed", "mlp"), "normal", mlp + "up_proj.weight", (F, D), (1, 0)),
        "down": Param((L, F, D), (None, "mlp", "embed"), "normal", mlp + "down_proj.weight", (D, F), (1, 0)),
    }
    if c.qkv_bias:
        bias = (None, "heads", None)
        layers |= {
            "q_bias": Param((L, N, H), bias, "zeros", attn + "q_proj.bias", (N * H,), (0, 1)),
            "k_bias": Param((L, K, H), bias, "zeros", attn + "k_proj.bias", (K * H,), (0, 1)),
            "v_bias": Param((L, K, H), bias, "zeros", attn + "v_proj.bias", (K * H,), (0, 1)),
        }
    table: dict[str, Any] = {
        "embed": Param((V, D), ("vocab", "embed"), "normal", "model.embed_tokens.weight", (V, D), (0, 1)),
        "layers": layers,
        "final_norm": Param((D,), (None,), "ones", "model.norm.weight", (D,), (0,)),
    }
    if not c.tie_embeddings:
        table["lm_head"] = Param((D, V), ("embed", "vocab"), "normal", "lm_head.weight", (V, D), (1, 0))
    return table


def is_param(x: Any) -> bool:
    """Whether a node of the table is a weight, which as a tuple would else be walked into."""
    return isinstance(x, Param)


def map_table(f: Callable[[Param], Any], c: LlamaConfig) -> dict[str, Any]:
    """The tree of f(param) over the table."""
    return jax.tree.map(f, params_table(c), is_leaf=is_param)


def check_mesh(c: LlamaConfig) -> None:
    """Raises InputError where a weight does not divide over the current mesh, which names the axis and the size."""
    mesh = jax.sharding.get_abstract_mesh().shape
    tensor = {"num_heads": c.num_heads, "num_kv_heads": c.num_kv_heads, "d_ff": c.d_ff, "vocab_size": c.vocab_size}

    def fits(shape: Mapping[str, int]) -> bool:
        wide = c.d_model % (shape["fsdp"] * shape["sequence"])
        return not (wide or any(size % shape["tensor"] for size in tensor.values()))

    if fits(mesh):
        return
    field, size = next(((f, n) for f, n in tensor.items() if n % mesh["tensor"]), ("d_model", c.d_model))
    axes = ("fsdp", "sequence") if field == "d_model" else ("tensor",)
    own, possible = " x ".join(f"{axis}={mesh[axis]}" for axis in axes if mesh[axis] > 1), nearest_mesh(fits)
    what = f"over which the model's {field} = {size} does not divide"
    raise InputError(f"the mesh has {own}, {what}; the nearest possible mesh is {possible}")


def check_length(c: LlamaConfig, tokens: int, what: str = "data.max_tokens") -> None:
    """Raises InputError where one segment may be longer than the model's results hold for."""
    if tokens > c.max_tokens:
        window = c.max_tokens != c.max_positions
        limit = "sliding_window, within which alone it attends" if window else "max_position_embeddings"
        raise InputError(f"{what} is {tokens}, but the model's {limit}, is {c.max_tokens}; use at most {c.max_tokens}")


def abstract_param(p: Param, dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of one weight on the current mesh."""
    return jax.ShapeDtypeStruct(p.shape, dtype, sharding=jax.NamedSharding(jax.sharding.get_mesh(), spec(*p.axes)))


def abstract_params(c: LlamaConfig, dtype: jax.typing.DTypeLike) -> Params:
    """Shapes, dtypes and shardings of the parameters on the current mesh, for whoever restores or loads them."""
    check_mesh(c)
    return map_table(lambda p: abstract_param(p, dtype), c)


def init_params(key: jax.Array, c: LlamaConfig, dtype: jax.typing.DTypeLike) -> Params:
    """Fresh parameters as Hugging Face's Llama draws them: normal with deviation 0.02, norms 1, biases 0.

    The same numbers on every mesh. Call it under jit (`c` is static): no device ever holds a whole weight.
    """
    check_mesh(c)
    keys = iter(jax.random.split(key, len(jax.tree.leaves(map_table(lambda p: 0, c)))))

    def draw(p: Param) -> jax.Array:
        sub, sharding = next(keys), spec(*p.axes)
        if p.init == "normal":
            # Drawn in float32: a bfloat16 normal has so few values that its tails are visibly cut.
            draws = jax.random.normal(sub, p.shape, jnp.float32, out_sharding=sharding)
            return (draws * jnp.float32(0.02)).astype(dtype)
        return jnp.full(p.shape, 1 if p.init == "ones" else 0, dtype, out_sharding=sharding)

    return map_table(draw, c)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis, [B, T, D], in float32; the result has x's dtype."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + jnp.float32(eps))
    # As torch Llama does: rounded to x's dtype before the scale.
    return wide.astype(x.dtype) * scale.astype(x.dtype)[None, None]


def layer_axes(table: dict[str, Param], name: str) -> tuple[str | None, ...]:
    """Logical axes of one layer's weight, or of one half of an adapter, which are its weight's on either side of R."""
    if name in table:
        return table[name].axes[1:]
    base, half = name.rsplit("_", 1)
    axes, inputs = table[base].axes[1:], len(MATRICES[base][0])
    return (*axes[:inputs], None) if half == "a" else (None, *axes[inputs:])


def gather_layer_weights(weights: Params, c: LlamaConfig) -> Params:
    """One layer's weights, cast before so that half the bytes travel, gathered over "embed"."""
    table = params_table(c)["layers"]

    def whole(name: str) -> jax.P:
        return spec(*(None if axis == "embed" else axis for axis in layer_axes(table, name)))

    return {name: jax.reshard(weight, whole(name)) for name, weight in weights.items()}


def project(x: jax.Array, w: Params, name: str, sharding: jax.P) -> jax.Array:
    """x [B, T, inputs] times a layer's weight, [B, T, outputs] laid out by `sharding`; plus (x A) B of its adapter.

    The adapter stays apart: added to bfloat16 weights, changes below a 256th of a weight would be rounded away.
    """
    ins, outs = MATRICES[name]
    y = jnp.einsum(f"BT{ins},{ins}{outs}->BT{outs}", x, w[name], out_sharding=sharding)
    if f"{name}_a" not in w:
        return y
    low = jnp.einsum(f"BT{ins},{ins}R->BTR", x, w[f"{name}_a"], out_sharding=jax.P(*sharding[:2], None))
    return y + jnp.einsum(f"BTR,R{outs}->BT{outs}", low, w[f"{name}_b"], out_sharding=sharding)


def project_qkv(x: jax.Array, w: Params, angles: Angles) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [B, T, N, H], keys and values [B, T, K, H] of normed x [B, T, D], rotated by the angles."""
    sharding = jax.P(*jax.typeof(x).sharding.spec[:2], *spec("heads", None))
    q, k, v = (project(x, w, name, sharding) for name in ("q", "k", "v"))
    if "q_bias" in w:
        q, k, v = q + w["q_bias"][None, None], k + w["k_bias"][None, None], v + w["v_bias"][None, None]
    return apply_rope(q, angles), apply_rope(k, angles), v


def feed_forward(x: jax.Array, w: Params) -> jax.Array:
    """SwiGLU of normed x [B, T, D]."""
    own = jax.typeof(x).sharding.spec
    wide = jax.P(*own[:2], *spec("mlp"))
    gate, up = (project(x, w, name, wide) for name in ("gate", "up"))
    return project(jax.nn.silu(gate) * up, w, "down", own)


def block(x: jax.Array, w: Params, c: LlamaConfig, angles: Angles, attend: Attend) -> tuple[jax.Array, Any]:
    """One layer on x [B, T, D], which stays sharded as it is: its D must be sharded as that of the weights `w` is.

    attend(q, k, v) gives [B, T, N, H], its rows sharded as x's, and anything else, which is returned beside x.
    """
    mixed, other = attend(*project_qkv(rms_norm(x, w["attn_norm"], c.norm_eps), w, angles))
    x = x + project(mixed, w, "o", jax.typeof(x).sharding.spec)
    return x + feed_forward(rms_norm(x, w["mlp_norm"], c.norm_eps), w), other


def embed(params: Params, tokens: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """[B, T, D] of tokens int32 [B, T], in `dtype`; T is sharded as theirs."""
    # Gathered first: of a lookup in a table sharded on both axes XLA makes an "involuntary full rematerialization".
    # In the table's own float32: a gradient summed over tokens in bfloat16 stops growing after some 256 equal terms.
    table = jax.reshard(params["embed"], spec(None, None))
    rows = jax.P(*spec("batch"), jax.typeof(tokens).sharding.spec[1], None)
    return table.at[tokens].get(out_sharding=rows).astype(dtype)


def forward(
    params: Params,
    c: LlamaConfig,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    compute_dtype: jax.typing.DTypeLike,
    remat: str,
    attention: str,
) -> jax.Array:
    """Hidden states after the final norm, [B, T, D] in the compute dtype, in the devices' order (sequence.py).

    tokens, positions, segments: int32 [B, T], rows packed: attention stays within a segment, positions restart in each,
    and segment 0 is padding, whose hidden states mean nothing. The layers run as a scan; `remat` names what it keeps.
    Segments longer than `c.max_tokens` are the caller's to refuse (`check_length`): a packed row may be longer.
    Raises InputError for unknown names of `remat` and `attention`, and for a T that "sequence" does not divide.
    """
    tokens, positions, segments = (shard_positions(x) for x in (tokens, positions, segments))
    x = embed(params, tokens, compute_dtype)
    angles = rope_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
        return attention_lib.attention(q, k, v, segments, implementation=attention), None

    def layer(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        return block(x, gather_layer_weights(weights, c), c, angles, attend)

    if remat != "none":
        layer = jax.checkpoint(layer, prevent_cse=False, policy=remat_policy(remat))
    # Cast outside the loop, which stacks the same gradients at 2 bytes then: 7B on 16 chips 10.7 GB each, not 12.0.
    layers = jax.tree.map(lambda weight: weight.astype(compute_dtype), params["layers"])
    x, _ = jax.lax.scan(layer, x, layers)
    return rms_norm(x, params["final_norm"], c.norm_eps)


def logits(params: Params, c: LlamaConfig, hidden: jax.Array) -> jax.Array:
    """float32 [..., V] of hidden [..., D]; V is sharded over "tensor", the other axes as hidden's are.

    The head is cast in here, so a gradient over chunks of positions is summed in its master's dtype.
    """
    head = params["embed"].T if c.tie_embeddings else params["lm_head"]
    *rows, last = jax.typeof(hidden).sharding.spec
    head = jax.reshard(head.astype(hidden.dtype), jax.P(last, *spec("vocab")))
    sharding = jax.P(*rows, *spec("vocab"))
    return jnp.einsum("...D,DV->...V", hidden, head, preferred_element_type=jnp.float32, out_sharding=sharding)


def token_logprobs(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """log p(target), float32 [...], of logits float32 [..., V] and targets int32 [...].

    Without a gather, which a vocabulary sharded over the mesh would not allow.
    """
    words = jax.lax.broadcasted_iota(
        targets.dtype, logits.shape, logits.ndim - 1, out_sharding=jax.typeof(logits).sharding.spec
    )
    hit = words == targets[..., None]
    return jnp.where(hit, logits, 0).sum(-1) - jax.nn.logsumexp(logits, axis=-1)
