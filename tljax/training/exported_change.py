"""The share of a run's change that its export keeps, since small changes of a weight vanish in bfloat16 and float16."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.distributed.mesh import gather_to_host
from tljax.model import llama, lora
from tljax.training.model_source import ModelSource, load_params

MOSTLY_LOST = 0.5  # below this share of kept changes, the end of a run advises


@dataclasses.dataclass(frozen=True)
class ExportedChange:
    """The number of weights, of those that training moved in float32, and of those that moved in the export's dtype."""

    dtype: str
    weights: int
    moved: int
    moved_in_export: int

    @property
    def kept(self) -> float:
        """The share of the moved weights that the export keeps; 1 if none moved."""
        return self.moved_in_export / self.moved if self.moved else 1.0


def export_dtype(model: ModelSource, dtype: str) -> str:
    """Returns the dtype of a run's export. dtype: config.export.dtype; model: the model that the run began from."""
    return model.dtype if dtype == "auto" else dtype


def as_exported(params: llama.Params, dtype: str) -> llama.Params:
    """Returns float32 weights as an export of this dtype holds them."""
    return params if dtype == "float32" else _cast(params, dtype)


def measure_run(
    model: ModelSource,
    dtype: str,
    params: llama.Params | lora.Adapter,
    trunk: llama.Params | None,
    adapter: lora.LoraOptions | None,
    seed: int,
) -> ExportedChange | None:
    """Returns the change that a run has made, None if its export is in float32, which keeps all of it.

    dtype: that of the export; params: the trained weights, float32, or the adapter, whose `trunk` is in memory. The
    weights that the run began from are loaded again, with `seed` if it began from scratch. All processes must call it.
    """
    if dtype == "float32":
        return None
    if adapter is None:
        return measure_change(load_params(model, jnp.float32, seed), params, dtype)
    assert trunk is not None
    return measure_adapter_change(trunk, params, adapter, dtype)


def measure_change(start: llama.Params, end: llama.Params, dtype: str) -> ExportedChange:
    """Returns the change between two trees of weights, float32, for an export of this dtype."""
    counts = [
        _count(before, after, dtype) for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True)
    ]
    return ExportedChange(dtype, sum(x.size for x in jax.tree.leaves(end)), *_totals(counts))


def measure_adapter_change(
    trunk: llama.Params, adapter: lora.Adapter, options: lora.LoraOptions, dtype: str
) -> ExportedChange:
    """Returns the change of the weights that an adapter is folded into, for an export of this dtype.

    It goes layer by layer, so that no second copy of the trunk exists. An adapter that the trunk had before does not
    count.
    """
    counts, size = [], 0
    for name in options.targets:
        weights, alone = trunk["layers"][name], dataclasses.replace(options, targets=(name,))
        size += weights.size
        halves = {key: adapter[key] for key in (f"{name}_a", f"{name}_b")}
        for layer in range(len(weights)):
            before, halves_of_layer = _layer((weights, halves), layer)
            before = before.astype(jnp.float32)
            after = _merge({"layers": {name: before}}, halves_of_layer, alone)["layers"][name]
            counts.append(_count(before, after, dtype))
    return ExportedChange(dtype, size, *_totals(counts))


def format_change(change: ExportedChange | None, *, adapter: bool, scored: bool) -> list[str]:
    """Returns lines for people on the change that the export keeps; None stands for an export in float32.

    adapter: True if an adapter alone is trained; scored: True if the run has scores.
    """
    if change is None:
        return ["kept:  all of the change, since the export is in float32"]
    shares = [100 * count / change.weights for count in (change.moved, change.moved_in_export)]
    which = "the weights with an adapter" if adapter else "the weights"
    lines = [
        f"kept:  training moved {shares[0]:.2f} % of {which} in float32, {shares[1]:.2f} % in {change.dtype}, in which "
        f"the model is exported: the export keeps {100 * change.kept:.1f} % of the moves"
    ]
    if scored and adapter:
        lines.append("       the scores are those of the adapter beside its model, which rounds nothing")
    elif scored:
        lines.append(f"       the scores are those of the weights in {change.dtype}")
    if change.kept < MOSTLY_LOST:
        lines.append(
            "note:  rounding undoes most of this training; export float32 by --config.export.dtype=float32 (of this "
            "run: launch/export_hf.py --config.dtype=float32), or train longer or with a larger optim.lr"
            + (", or use the adapter itself" if adapter else "")
        )
    return lines


_merge = jax.jit(lora.merge_adapter)


@jax.jit
def _layer(tree: Any, layer: int) -> Any:
    """Returns the arrays of one layer; the first axis, of size 1, stays."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, layer, 1), tree)


@functools.partial(jax.jit, static_argnames="dtype")
def _cast(tree: llama.Params, dtype: str) -> llama.Params:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _count(before: jax.Array, after: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Returns the numbers of weights that differ in float32 and in `dtype`, int32 along the first axis."""
    # The cast is a program of its own: within one, XLA may leave out the rounding.
    return _differing(before, after), _differing(*_cast((before, after), dtype))


@jax.jit
def _differing(before: jax.Array, after: jax.Array) -> jax.Array:
    return jnp.sum(before != after, axis=tuple(range(1, after.ndim)), dtype=jnp.int32)


def _totals(counts: list[tuple[jax.Array, jax.Array]]) -> tuple[int, int]:
    moved, moved_in_export = (
        sum(int(np.asarray(x).sum(dtype=np.int64)) for x in gather_to_host(list(part)))
        for part in zip(*counts, strict=True)
    )
    return moved, moved_in_export
