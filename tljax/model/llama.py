"""CodeLLaMA as a pytree: one table of weights, and pure functions over it.

Axis letters in every einsum string and shape of this folder, and of generate/:
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
from tljax.model.config import LlamaConfig as LlamaConfig
from tljax.model.config import preset as preset
from tljax.model.product import product
from tljax.model.remat import remat_policy
from tljax.model.rope import RopeScaling as RopeScaling
from tljax.model.rope import apply_rope, rope_angles
from tljax.model.sequence import shard_positions

COMPUTE_DTYPES = ("bfloat16", "float32")  # of activations and matrix products
Params = dict[str, Any]
Angles = tuple[jax.Array, jax.Array]
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]

# The weights of matrix products, with the axis letters of inputs and outputs. The tree may hold an adapter of rank R
# beside a weight (lora.py): beside "q", "q_a" [L, *inputs, R] and "q_b" [L, R, *outputs].
MATRICES = {
    **{"q": ("D", "NH"), "k": ("D", "KH"), "v": ("D", "KH"), "o": ("NH", "D")},
    **{"gate": ("D", "F"), "up": ("D", "F"), "down": ("F", "D")},
}


class Param(NamedTuple):
    """A weight: its shape, the logical axes that it is sharded over, its initialization, its tensor in Hugging Face.

    `hf_name` has "{}" for the layer where the shape starts with L. `hf_shape` is the stored shape of one layer, and
    `stored.reshape(hf_split).transpose(hf_perm)` is the weight of that layer here.
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
        """The stored shape with heads and head dimension as separate axes."""
        own = self.shape[1:] if self.stacked else self.shape
        return tuple(own[self.hf_perm.index(axis)] for axis in range(len(own)))


def params_table(c: LlamaConfig) -> dict[str, Any]:
    """Returns the tree of all weights; init, shardings, abstract shapes and checkpoint formats derive from it."""
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
    if c.qk_norm:
        layers |= {
            "q_norm": Param((L, H), (None, None), "ones", attn + "q_norm.weight", (H,), (0,)),
            "k_norm": Param((L, H), (None, None), "ones", attn + "k_norm.weight", (H,), (0,)),
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
    """Returns True for a weight of the table: the `is_leaf` of tree functions, which would walk into the tuple."""
    return isinstance(x, Param)


def map_table(f: Callable[[Param], Any], c: LlamaConfig) -> dict[str, Any]:
    """Returns the tree of f(param) over the table."""
    return jax.tree.map(f, params_table(c), is_leaf=is_param)


def check_mesh(c: LlamaConfig) -> None:
    """Raises InputError, with the axis and the size, where a weight does not divide over the current mesh."""
    mesh = jax.sharding.get_abstract_mesh().shape
    tensor = {"num_heads": c.num_heads, "num_kv_heads": c.num_kv_heads, "d_ff": c.d_ff, "vocab_size": c.vocab_size}

    def fits(shape: Mapping[str, int]) -> bool:
        wide = c.d_model % (shape["fsdp"] * shape["sequence"])
        return not (wide or any(size % shape["tensor"] for size in tensor.values()))

    if fits(mesh):
        return
    field, size = next(((f, n) for f, n in tensor.items() if n % mesh["tensor"]), ("d_model", c.d_model))
    axes = ("fsdp", "sequence") if field == "d_model" else ("tensor",)
    present, possible = " x ".join(f"{axis}={mesh[axis]}" for axis in axes if mesh[axis] > 1), nearest_mesh(fits)
    problem = f"over which the model's {field} = {size} does not divide"
    raise InputError(f"the mesh has {present}, {problem}; the nearest possible mesh is {possible}")


def check_length(c: LlamaConfig, tokens: int, field: str = "data.max_tokens") -> None:
    """Raises InputError, which begins with `field`, where segments of `tokens` are longer than c.max_tokens."""
    if tokens > c.max_tokens:
        window = c.max_tokens != c.max_positions
        limit = "sliding_window, within which alone it attends" if window else "max_position_embeddings"
        raise InputError(f"{field} is {tokens}, but the model's {limit}, is {c.max_tokens}; use at most {c.max_tokens}")


def abstract_param(p: Param, dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of a weight on the current mesh."""
    return jax.ShapeDtypeStruct(p.shape, dtype, sharding=jax.NamedSharding(jax.sharding.get_mesh(), spec(*p.axes)))


def abstract_params(c: LlamaConfig, dtype: jax.typing.DTypeLike) -> Params:
    """Returns shapes, dtypes and shardings of the parameters on the current mesh. Raises InputError as check_mesh."""
    check_mesh(c)
    return map_table(lambda p: abstract_param(p, dtype), c)


def init_params(key: jax.Array, c: LlamaConfig, dtype: jax.typing.DTypeLike) -> Params:
    """Returns initial parameters as Hugging Face's Llama has them: normal with deviation 0.02, norms 1, biases 0.

    They are the same on every mesh. Call it under jit (`c` is static), so that no device ever holds a whole weight.
    """
    check_mesh(c)
    keys = iter(jax.random.split(key, len(jax.tree.leaves(map_table(lambda p: 0, c)))))

    def draw(p: Param) -> jax.Array:
        sub, sharding = next(keys), spec(*p.axes)
        if p.init == "normal":
            # Drawn in float32: bfloat16 has so few values that the tails of a normal distribution are cut.
            draws = jax.random.normal(sub, p.shape, jnp.float32, out_sharding=sharding)
            return (draws * jnp.float32(0.02)).astype(dtype)
        return jnp.full(p.shape, 1 if p.init == "ones" else 0, dtype, out_sharding=sharding)

    return map_table(draw, c)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Returns x / rms(x) * scale over the last axis of x: computed in float32, returned in x's dtype."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + jnp.float32(eps))
    # Rounded to x's dtype before the scale, as in Hugging Face's Llama.
    return wide.astype(x.dtype) * jnp.expand_dims(scale.astype(x.dtype), range(x.ndim - 1))


def layer_axes(table: dict[str, Param], name: str) -> tuple[str | None, ...]:
    """Returns the logical axes of a layer's weight or adapter half; a half has its weight's axes, except for R."""
    if name in table:
        return table[name].axes[1:]
    base, half = name.rsplit("_", 1)
    axes, inputs = table[base].axes[1:], len(MATRICES[base][0])
    return (*axes[:inputs], None) if half == "a" else (None, *axes[inputs:])


def gather_layer_weights(weights: Params, c: LlamaConfig) -> Params:
    """Returns a layer's weights gathered over "embed". Cast them before, so that half the bytes travel."""
    table = params_table(c)["layers"]

    def gathered_spec(name: str) -> jax.P:
        return spec(*(None if axis == "embed" else axis for axis in layer_axes(table, name)))

    return {name: jax.reshard(weight, gathered_spec(name)) for name, weight in weights.items()}


def project(x: jax.Array, w: Params, name: str, sharding: jax.P) -> jax.Array:
    """Returns x [B, T, inputs] times the layer's weight `name`, plus (x A) B of its adapter: [B, T, outputs].

    `sharding` is that of the result. The adapter is not added to the weight: in bfloat16, changes below a 256th of a
    weight would be rounded away.
    """
    ins, outs = MATRICES[name]
    y = product(x, w[name], f"BT{ins},{ins}{outs}->BT{outs}", sharding)
    if f"{name}_a" not in w:
        return y
    low = product(x, w[f"{name}_a"], f"BT{ins},{ins}R->BTR", jax.P(*sharding[:2], None))
    return y + product(low, w[f"{name}_b"], f"BTR,R{outs}->BT{outs}", sharding)


def project_qkv(x: jax.Array, w: Params, c: LlamaConfig, angles: Angles) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns rotated queries [B, T, N, H] and keys [B, T, K, H], and values [B, T, K, H], of normed x [B, T, D]."""
    sharding = jax.P(*jax.typeof(x).sharding.spec[:2], *spec("heads", None))
    q, k, v = (project(x, w, name, sharding) for name in ("q", "k", "v"))
    if "q_bias" in w:
        q, k, v = q + w["q_bias"][None, None], k + w["k_bias"][None, None], v + w["v_bias"][None, None]
    if "q_norm" in w:
        q, k = rms_norm(q, w["q_norm"], c.norm_eps), rms_norm(k, w["k_norm"], c.norm_eps)
    return apply_rope(q, angles), apply_rope(k, angles), v


def feed_forward(x: jax.Array, w: Params) -> jax.Array:
    """Returns the SwiGLU of normed x [B, T, D], with x's shape and sharding."""
    own = jax.typeof(x).sharding.spec
    wide = jax.P(*own[:2], *spec("mlp"))
    gate, up = (project(x, w, name, wide) for name in ("gate", "up"))
    return project(jax.nn.silu(gate) * up, w, "down", own)


def block(x: jax.Array, w: Params, c: LlamaConfig, angles: Angles, attend: Attend) -> tuple[jax.Array, Any]:
    """Applies a layer with weights `w` to x [B, T, D]; returns x, sharded as before, and attend's extra result.

    D of x must be sharded like D of the weights. attend(q, k, v) returns [B, T, N, H], with rows sharded like those of
    x, and any extra result (decoding: the layer's cache).
    """
    mixed, extra = attend(*project_qkv(rms_norm(x, w["attn_norm"], c.norm_eps), w, c, angles))
    x = x + project(mixed, w, "o", jax.typeof(x).sharding.spec)
    return x + feed_forward(rms_norm(x, w["mlp_norm"], c.norm_eps), w), extra


def embed(params: Params, tokens: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the embeddings [B, T, D] of tokens int32 [B, T], in `dtype`; T is sharded like that of the tokens."""
    # Gathered first: of a lookup in a table sharded on both axes XLA makes an "involuntary full rematerialization".
    # Cast after: a gradient that is summed over tokens in bfloat16 stops growing after some 256 equal terms.
    table = jax.reshard(params["embed"], spec(None, None))
    rows = jax.P(*spec("batch"), jax.typeof(tokens).sharding.spec[1], None)
    return table.at[tokens].get(out_sharding=rows).astype(dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ForwardOptions:
    """The fields of config.model that shape a forward pass. A static pytree: a plain argument of jit."""

    compute_dtype: jax.typing.DTypeLike  # one of COMPUTE_DTYPES
    remat: str = "none"  # or a name of `remat_policy`
    attention: str = "auto"  # one of attention.IMPLEMENTATIONS
    shared_columns: int = 0  # the first columns of each row, segment 1, that all segments behind them attend to

    @classmethod
    def from_config(cls, model: Any) -> "ForwardOptions":
        """Returns the options of config.model."""
        return cls(model.compute_dtype, model.remat, model.attention)


def forward(
    params: Params,
    c: LlamaConfig,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    options: ForwardOptions,
) -> jax.Array:
    """Returns hidden states after the final norm, [B, T, D] in the compute dtype, in the devices' order (sequence.py).

    tokens, positions, segments: int32 [B, T] of packed rows. Attention stays within a segment, positions restart in
    each, and segment 0 is padding, whose hidden states are meaningless. The caller must refuse segments longer than
    `c.max_tokens` (`check_length`); a packed row may be longer. Raises InputError for unknown remat and attention, and
    for a T that does not divide over "sequence".
    """
    shared = options.shared_columns
    tokens, positions, segments = (shard_positions(x, shared) for x in (tokens, positions, segments))
    x = embed(params, tokens, options.compute_dtype)
    angles = rope_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
        chosen = {"implementation": options.attention, "shared_columns": shared}
        return attention_lib.attention(q, k, v, segments, **chosen), None

    def layer(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        return block(x, gather_layer_weights(weights, c), c, angles, attend)

    if options.remat != "none":
        layer = jax.checkpoint(layer, prevent_cse=False, policy=remat_policy(options.remat))
    # Cast outside the scan, which then stacks gradients of 2 bytes: 7B takes 10.7 GB on each of 16 chips, not 12.0.
    layers = jax.tree.map(lambda weight: weight.astype(options.compute_dtype), params["layers"])
    x, _ = jax.lax.scan(layer, x, layers)
    return rms_norm(x, params["final_norm"], c.norm_eps)


def logits(params: Params, c: LlamaConfig, hidden: jax.Array) -> jax.Array:
    """Returns logits float32 [..., V] of hidden [..., D]: V sharded over "tensor", the other axes like those of hidden.

    The head is cast in here, so that its gradient over chunks of positions is summed in the dtype of the parameters.
    """
    name, axes = ("embed", "VD") if c.tie_embeddings else ("lm_head", "DV")
    *rows, last = jax.typeof(hidden).sharding.spec
    layout = {"V": spec("vocab")[0], "D": last}
    head = jax.reshard(params[name].astype(hidden.dtype), jax.P(*(layout[axis] for axis in axes)))
    lead = "BT"[: hidden.ndim - 1]
    return product(hidden, head, f"{lead}D,{axes}->{lead}V", jax.P(*rows, *spec("vocab")), jnp.float32)


def token_logprobs(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns log p(target), float32 [...], of logits float32 [..., V] and targets int32 [...]."""
    # A mask and a sum instead of a gather, which is not possible where the vocabulary is sharded.
    vocab = jax.lax.broadcasted_iota(
        targets.dtype, logits.shape, logits.ndim - 1, out_sharding=jax.typeof(logits).sharding.spec
    )
    return jnp.where(vocab == targets[..., None], logits, 0).sum(-1) - jax.nn.logsumexp(logits, axis=-1)
