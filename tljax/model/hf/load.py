"""Reads Hugging Face checkpoints into parameters on the mesh: a process reads only the slices that its devices hold.

Tensors are read one at a time, so host memory holds at most one of them beside its slices. `files.py` opens the files,
`export.py` writes checkpoints, `config.py` reads and writes config.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tljax.core.errors import InputError
from tljax.distributed.mesh import spec
from tljax.model.hf.files import Index, StoredTensor, open_checkpoint, shorten
from tljax.model.llama import LlamaConfig, Param, Params, abstract_param, check_mesh, is_param, params_table


def checkpoint_dtype(folder: str | Path) -> str:
    """Returns the dtype of the tensors in a checkpoint folder, as tensors_dtype does."""
    return tensors_dtype(open_checkpoint(folder))


def tensors_dtype(stored: Mapping[str, StoredTensor]) -> str:
    """Returns the dtype of a checkpoint's tensors, such as "bfloat16".

    Where tensors differ it is "float32", which holds the values of the other two exactly.
    """
    names = {tensor.dtype.name for tensor in stored.values()}
    return names.pop() if len(names) == 1 else "float32"


def _drop_tied_head(stored: dict[str, StoredTensor], folder: str | Path) -> None:
    """Removes the head of a tied model from `stored`. Raises InputError for a head that differs from the embedding."""
    head, embed = stored.pop("lm_head.weight", None), stored.get("model.embed_tokens.weight")
    if head is None or embed is None:
        return
    same = head.shape == embed.shape and head.dtype == embed.dtype
    # Compared as bytes, since NaN differs from itself; 1,024 rows at a time, for the memory.
    rows = head.shape[0]
    chunks = [(slice(i, min(i + 1024, rows)), slice(None)) for i in range(0, rows, 1024)]
    if not same or any(head.read(chunk).tobytes() != embed.read(chunk).tobytes() for chunk in chunks):
        raise InputError(
            f"{folder}: tensor lm_head.weight differs from model.embed_tokens.weight, but config.json has "
            "tie_word_embeddings = true; set it to false if the head is its own"
        )


def check_tensors(stored: Mapping[str, StoredTensor], table: dict[str, Any], where: str, remedy: str) -> None:
    """Raises InputError where the stored tensors are not those of a table of weights, in name and shape.

    The message is one line: `where`, the tensors that are missing, unexpected or of wrong shape, and `remedy`.
    """
    shapes = {}
    for p in jax.tree.leaves(table, is_leaf=is_param):
        shapes |= {p.hf_name.format(layer): p.hf_shape for layer in range(p.shape[0] if p.stacked else 1)}
    wrong = [
        f"{name} (is {list(stored[name].shape)}, must be {list(shape)})"
        for name, shape in shapes.items()
        if name in stored and stored[name].shape != shape
    ]
    mismatches = {
        "missing": [name for name in shapes if name not in stored],
        "unexpected": sorted(set(stored) - set(shapes)),
        "of wrong shape": wrong,
    }
    problems = [f"{len(names)} {kind}: {shorten(names)}" for kind, names in mismatches.items() if names]
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}; {remedy}")


def check_checkpoint(folder: str | Path, c: LlamaConfig) -> dict[str, StoredTensor]:
    """Returns every tensor of the model by name, without its data.

    Raises InputError as open_checkpoint and check_tensors do.
    """
    stored = open_checkpoint(folder)
    if c.tie_embeddings:
        _drop_tied_head(stored, folder)
    check_tensors(
        stored,
        params_table(c),
        f"{folder}: tensors that do not fit config.json",
        "fetch weights and config.json of one model again",
    )
    return stored


def _stored_index(index: Index, p: Param) -> Index:
    """Returns the slice of a stored tensor that `index` of our weight (one layer of it) comes from.

    Of the axes that are merged in the file only the first is ever cut: heads are sharded, the head dimension is not.
    """
    split = [index[p.hf_perm.index(axis)].indices(size) for axis, size in enumerate(p.hf_split)]
    slices, axis = [], 0
    for size in p.hf_shape:
        start, stop, _ = split[axis]
        merged, axis = p.hf_split[axis], axis + 1
        while merged < size:
            start, stop = start * p.hf_split[axis], stop * p.hf_split[axis]
            merged, axis = merged * p.hf_split[axis], axis + 1
        slices.append(slice(start, stop))
    return tuple(slices)


def _read_weight(stored: StoredTensor, p: Param, shape: tuple[int, ...], sharding: jax.NamedSharding) -> jax.Array:
    """Returns a stored tensor as our weight of `shape`, in the stored dtype; reads only this process's slices."""
    slices: dict[tuple, np.ndarray] = {}  # devices that hold the same slice share it

    def read(index: Any) -> np.ndarray:
        key = tuple((s.start, s.stop) for s in index)
        if key not in slices:
            sizes = [len(range(*s.indices(size))) for s, size in zip(index, shape, strict=True)]
            split = [sizes[p.hf_perm.index(axis)] for axis in range(len(shape))]
            part = stored.read(_stored_index(index, p)).reshape(split).transpose(p.hf_perm)
            slices[key] = np.ascontiguousarray(part)
        return slices[key]

    return jax.make_array_from_callback(shape, sharding, read)


def load_params(folder: str | Path, c: LlamaConfig, dtype: jax.typing.DTypeLike) -> Params:
    """Returns the parameters of a checkpoint folder in `dtype`, on the current mesh.

    Raises InputError as check_checkpoint and check_mesh do, before it reads any data, and as check_finite does.
    """
    return load_tensors(check_checkpoint(folder, c), c, dtype, str(folder))


def load_tensors(
    stored: Mapping[str, StoredTensor], c: LlamaConfig, dtype: jax.typing.DTypeLike, where: str = "the checkpoint"
) -> Params:
    """Returns the parameters in `dtype` on the current mesh, from tensors that check_checkpoint has returned.

    where: names the checkpoint in errors. Raises InputError as check_mesh does, before it reads any data, and as
    check_finite does.
    """
    check_mesh(c)
    params = load_table(stored, params_table(c), dtype)
    check_finite(params, params_table(c), where)
    return params


def load_table(
    stored: Mapping[str, StoredTensor], table: dict[str, Any], dtype: jax.typing.DTypeLike
) -> dict[str, Any]:
    """Returns the weights of a table in `dtype` on the current mesh, read from tensors that check_tensors accepted."""
    mesh = jax.sharding.get_mesh()
    cast = jax.jit(lambda x: x.astype(dtype))
    # A layer at a time goes into the stacked weight, which is donated: neither host nor device holds it twice.
    insert = jax.jit(lambda stack, x, layer: stack.at[layer].set(x.astype(dtype)), donate_argnums=0)

    def load(p: Param) -> jax.Array:
        if not p.stacked:
            return cast(_read_weight(stored[p.hf_name], p, p.shape, abstract_param(p, dtype).sharding))
        stack = jax.numpy.zeros(p.shape, dtype, out_sharding=spec(*p.axes))
        sharding = jax.NamedSharding(mesh, spec(*p.axes[1:]))
        for layer in range(p.shape[0]):
            tensor = _read_weight(stored[p.hf_name.format(layer)], p, p.shape[1:], sharding)
            stack = insert(stack, tensor, np.int32(layer))
        return stack

    return jax.tree.map(load, table, is_leaf=is_param)


def check_finite(params: dict[str, Any], table: dict[str, Any], where: str) -> None:
    """Raises InputError with the names of the weights on the current mesh that hold NaN or infinity.

    table: the rows of the weights, for their names. where: the file or folder of the weights, for the message.
    """
    every_layer = jax.jit(lambda x: jax.numpy.isfinite(x).all(axis=tuple(range(1, x.ndim))))
    every_weight = jax.jit(lambda x: jax.numpy.isfinite(x).all())
    rows = [
        (p, (every_layer if p.stacked else every_weight)(x))
        for p, x in zip(jax.tree.leaves(table, is_leaf=is_param), jax.tree.leaves(params), strict=True)
    ]
    names = [p.hf_name.format(i) for p, finite in rows for i in np.flatnonzero(~np.atleast_1d(np.asarray(finite)))]
    if names:
        raise InputError(
            f"{where}: {shorten(names)} {'hold' if len(names) > 1 else 'holds'} NaN or infinity, and no reply would "
            "mean anything; fetch the weights again, or give an earlier checkpoint of the training that made them"
        )
