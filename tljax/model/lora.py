"""Low-rank adapters (LoRA, Hu et al. 2021): y = x W + (x A) B scale over frozen W, with A [in, R], B [R, out].

The scale is alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732).

An adapter is a flat tree {"q_a": A, "q_b": B, ...} of the halves, stacked over the layers, in float32. `attach_adapter`
puts them beside the weights, where `llama.project` applies them; so several models can share one copy of the weights.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from tljax.core.errors import InputError
from tljax.distributed.mesh import spec
from tljax.model.llama import MATRICES, LlamaConfig, Param, Params, abstract_param, check_mesh, layer_axes, params_table

Adapter = dict[str, jax.Array]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """The weights that have an adapter, and its size. A static pytree, so jit takes it as a plain argument."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # of llama.MATRICES, in that order
    rslora: bool = False

    @property
    def scale(self) -> float:
        """The factor of the adapter's product."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @classmethod
    def from_config(cls, lora: Any) -> "LoraOptions | None":
        """Returns the options of a config's `lora` block, None where its rank is 0: then there is no adapter.

        Raises InputError as make_lora_options does.
        """
        return make_lora_options(lora.rank, lora.alpha, lora.targets, rslora=lora.rslora) if lora.rank else None


def make_lora_options(
    rank: int, alpha: float, targets: str | Iterable[str], where: str = "config.lora", *, rslora: bool = False
) -> LoraOptions:
    """Returns checked options. targets: names of llama.MATRICES, as a list or a string with commas.

    Raises InputError for a value that is not allowed; the message begins with `where` and the field.
    """
    names = [name.strip() for name in targets.split(",")] if isinstance(targets, str) else list(targets)
    if rank < 1:
        raise InputError(f"{where}.rank is {rank}; allowed is 1 or more")
    if not 0 < alpha < math.inf:
        raise InputError(f"{where}.alpha is {alpha}; allowed is a number above 0")
    unknown = [name for name in names if name not in MATRICES]
    if unknown or not names:
        problem = f"names {unknown[0]!r}" if unknown else "is empty"
        raise InputError(f"{where}.targets {problem}; allowed are {', '.join(MATRICES)}, one or several")
    ordered = tuple(name for name in MATRICES if name in names)
    return LoraOptions(rank=rank, alpha=float(alpha), targets=ordered, rslora=rslora)


def adapter_table(c: LlamaConfig, options: LoraOptions) -> dict[str, Param]:
    """Returns both halves of every adapted weight, in the form of llama.params_table.

    Their names and shapes in a file are those of the `peft` library.
    """
    layers, R = params_table(c)["layers"], options.rank
    table = {}
    for name in options.targets:
        p, inputs = layers[name], len(MATRICES[name][0])
        ins, outs = p.shape[1 : 1 + inputs], p.shape[1 + inputs :]
        stored = "base_model.model." + p.hf_name.removesuffix("weight")
        for half, shape, init, hf_shape, hf_perm in (
            # torch's Linear stores the outputs first: A as [R, inputs], B as [outputs, R].
            ("a", (*ins, R), "uniform", (R, math.prod(ins)), (*range(1, inputs + 1), 0)),
            ("b", (R, *outs), "zeros", (math.prod(outs), R), (len(outs), *range(len(outs)))),
        ):
            key = f"{name}_{half}"
            axes = (None, *layer_axes(layers, key))
            hf_name = f"{stored}lora_{half.upper()}.weight"
            table[key] = Param((c.num_layers, *shape), axes, init, hf_name, hf_shape, hf_perm)
    return table


def abstract_adapter(c: LlamaConfig, options: LoraOptions) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, dtypes (float32) and shardings of an adapter on the current mesh."""
    check_mesh(c)
    return {name: abstract_param(p, jnp.float32) for name, p in adapter_table(c, options).items()}


def init_adapter(key: jax.Array, c: LlamaConfig, options: LoraOptions) -> Adapter:
    """Returns an initial adapter, float32, as `peft` has it: A uniform within 1 / sqrt(inputs), B 0, so A B is 0.

    It is the same on every mesh. Call it under jit (`c` and `options` are static).
    """
    check_mesh(c)
    table = adapter_table(c, options)
    adapter = {}
    for (name, p), sub in zip(table.items(), jax.random.split(key, len(table)), strict=True):
        sharding = spec(*p.axes)
        if p.init == "zeros":
            adapter[name] = jnp.zeros(p.shape, jnp.float32, out_sharding=sharding)
            continue
        # torch's kaiming_uniform_ with a = sqrt(5): sqrt(6 / ((1 + 5) inputs)).
        draws = jax.random.uniform(sub, p.shape, jnp.float32, -1.0, 1.0, out_sharding=sharding)
        adapter[name] = draws * jnp.float32(p.hf_shape[1] ** -0.5)
    return adapter


def attach_adapter(params: Params, adapter: Adapter, options: LoraOptions) -> Params:
    """Returns `params` with the adapter beside its weights, and B multiplied by the scale. Works outside jit too.

    If `params` has an adapter already, the effects of both add up: the two are concatenated along the rank.
    """
    layers = dict(params["layers"])
    scaled = {
        name: half * jnp.float32(options.scale) if name.endswith("_b") else half for name, half in adapter.items()
    }
    for name, half in scaled.items():
        if name in layers:
            axis = half.ndim - 1 if name.endswith("_a") else 1
            half = jnp.concatenate([layers[name].astype(half.dtype), half], axis)
        layers[name] = half
    return params | {"layers": layers}


def combine_with_trunk(params: Any, trunk: Params | None, options: LoraOptions | None) -> Params:
    """Returns the model's parameters: `params`, or with options the trunk with `params` as its adapter."""
    if options is None:
        return params
    assert trunk is not None
    return attach_adapter(trunk, params, options)


def merge_adapter(params: Params, adapter: Adapter, options: LoraOptions) -> Params:
    """Returns `params`, which hold no adapter, with W + A B scale for W: summed in float32, in the dtype of W.

    It computes layer by layer, so that the sums of all layers in float32 never exist at once.
    """
    layers = params["layers"]

    def merge_layer(_: None, parts: tuple[Params, Adapter]) -> tuple[None, Params]:
        weights, halves = parts
        merged = {}
        for name, weight in weights.items():
            ins, outs = MATRICES[name]
            # By default a TPU rounds float32 factors to bfloat16.
            delta = jnp.einsum(
                f"{ins}R,R{outs}->{ins}{outs}",
                halves[f"{name}_a"],
                halves[f"{name}_b"],
                precision=jax.lax.Precision.HIGHEST,
                out_sharding=jax.typeof(weight).sharding.spec,
            )
            merged[name] = (weight.astype(jnp.float32) + delta * jnp.float32(options.scale)).astype(weight.dtype)
        return None, merged

    _, merged = jax.lax.scan(merge_layer, None, ({name: layers[name] for name in options.targets}, adapter))
    return params | {"layers": layers | merged}
