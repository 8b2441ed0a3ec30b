"""Reads Hugging Face checkpoints into parameters on the mesh: a process reads only the slices that its devices hold.

Tensors are read one at a time, so host memory holds at most one of them beside its slices. Reading safetensors files
does not need torch. `export.py` writes checkpoints, `config.py` reads and writes config.json.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tljax.core.errors import InputError
from tljax.distributed.mesh import spec
from tljax.model.hf.config import read_json
from tljax.model.llama import LlamaConfig, Param, Params, abstract_param, check_mesh, is_param, params_table

# The dtypes that are supported, by their safetensors names.
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}

# Buffers in old checkpoints, which config.json determines.
_BUFFERS = re.compile(r"(^|\.)rotary_emb\.inv_freq$")

Index = tuple[slice, ...]


class StoredTensor(NamedTuple):
    """A tensor in a checkpoint's file. `read` returns a slice of it, one `slice` per axis, read from the file anew."""

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a safetensors file by name; reads only its header.

    Raises InputError for a header that does not fit the file or itself, as the library checks it: offsets that overlap
    or leave gaps, a length that does not fit shape and dtype, a file that is cut short.
    """
    stored = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                view = file.get_slice(name)
                if view.get_dtype() not in _DTYPES:
                    raise InputError(f"{path}: tensor {name} is {view.get_dtype()}; supported are {', '.join(_DTYPES)}")

                # The file is opened for each slice: while it is open its pages count as this process's memory.
                def read(index: Index, name: str = name) -> np.ndarray:
                    with safe_open(path, framework="numpy") as file:
                        return file.get_slice(name)[index]

                stored[name] = StoredTensor(path.name, _DTYPES[view.get_dtype()], tuple(view.get_shape()), read)
    except SafetensorError as error:
        raise InputError(
            f"{path}: is not a valid safetensors file ({error}); it may be cut short or a Git LFS pointer: fetch it "
            "again"
        ) from None
    return stored


def open_torch(path: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a torch checkpoint by name; torch maps the file and reads their data later."""
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: is a torch checkpoint, and torch is not installed; `pip install torch`, or use a checkpoint "
            "in safetensors"
        ) from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: torch cannot read it ({line}); use a checkpoint in safetensors") from None
    dtypes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    stored = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in dtypes:
            raise InputError(f"{path}: tensor {name} is {tensor.dtype}; supported are {', '.join(_DTYPES)}")
        dtype = _DTYPES[dtypes[tensor.dtype]]

        # torch's numpy() refuses bfloat16, so the bits travel as integers.
        def read(index: Index, tensor=tensor, dtype=dtype) -> np.ndarray:
            integers = torch.int32 if dtype.itemsize == 4 else torch.int16
            return tensor.detach().contiguous().view(integers).numpy()[index].view(dtype)

        stored[name] = StoredTensor(path.name, dtype, tuple(tensor.shape), read)
    return stored


def _files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Returns the checkpoint's files, and its index {tensor: file}, which is empty where there is one file.

    Looks for safetensors before torch files and for a single file before an index, in the order of transformers.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a Hugging Face checkpoint folder")
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return [folder / single], {}
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise InputError(f"{index}: has no weight_map; fetch the file again")
            files = [folder / name for name in sorted(set(weight_map.values()))]
            absent = [file.name for file in files if not file.is_file()]
            if absent:
                raise InputError(f"{folder}: {_shorten(absent)} named by {index.name} is absent; fetch the files again")
            return files, weight_map
    raise InputError(
        f"{folder}: holds neither model.safetensors nor model.safetensors.index.json (nor pytorch_model.bin); "
        "give a Hugging Face checkpoint folder"
    )


def open_checkpoint(folder: str | Path) -> dict[str, StoredTensor]:
    """Returns every tensor of a checkpoint folder by name, without its data; leaves out known buffers.

    Raises InputError for a file that cannot be read, a tensor that is in two files, and a tensor that is not in the
    file that the index names.
    """
    files, weight_map = _files(Path(folder))
    stored: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in (open_safetensors if file.suffix == ".safetensors" else open_torch)(file).items():
            if name in stored:
                raise InputError(
                    f"{folder}: tensor {name} is both in {stored[name].file} and in {tensor.file}; keep one"
                )
            stored[name] = tensor
    absent = [
        f"{name} in {file}" for name, file in weight_map.items() if name not in stored or stored[name].file != file
    ]
    if absent:
        raise InputError(f"{folder}: the index promises {_shorten(absent)}, which is absent; fetch the files again")
    return {name: tensor for name, tensor in stored.items() if not _BUFFERS.search(name)}


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
    problems = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in mismatches.items() if names]
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

    Raises InputError as check_checkpoint and check_mesh do, before it reads any data.
    """
    return load_tensors(check_checkpoint(folder, c), c, dtype)


def load_tensors(stored: Mapping[str, StoredTensor], c: LlamaConfig, dtype: jax.typing.DTypeLike) -> Params:
    """Returns the parameters in `dtype` on the current mesh, from tensors that check_checkpoint has returned.

    Raises InputError as check_mesh does, before it reads any data.
    """
    check_mesh(c)
    return load_table(stored, params_table(c), dtype)


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
