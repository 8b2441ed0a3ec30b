"""Hugging Face checkpoints -> parameters on the mesh: every device its slice, no torch for safetensors.

A checkpoint's tensors are memory-mapped and read one at a time, so that host memory holds at most one of them.
Exports are in hf_export.py, config.json in hf_config.py; their entry points are here too.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from tljax.core.errors import InputError
from tljax.distributed.mesh import spec
from tljax.model.hf.config import read_json
from tljax.model.llama import LlamaConfig, Param, Params, abstract_param, check_mesh, is_param, params_table

# numpy has no bfloat16 of its own, which is why safetensors' numpy reader cannot be used.
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}

# Buffers that old checkpoints carry and that follow from config.json.
_BUFFERS = re.compile(r"(^|\.)rotary_emb\.inv_freq$")


class StoredTensor(NamedTuple):
    """One tensor of a checkpoint: the file that holds it, and its array, mapped anew at each call."""

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]
    array: Callable[[], np.ndarray]


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors that a file's header lists (8 bytes of length, JSON, data), without their data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= size - 8 else b""
    try:
        entries = json.loads(header)
    except ValueError:
        raise InputError(f"{path}: is no safetensors file (a Git LFS pointer, or cut short?); fetch it again") from None
    entries.pop("__metadata__", None)
    stored = {}
    for name, entry in entries.items():
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if entry["dtype"] not in _DTYPES:
            raise InputError(f"{path}: tensor {name} is {entry['dtype']}; supported are {', '.join(_DTYPES)}")
        if 8 + length + end > size:
            raise InputError(f"{path}: ends before tensor {name} does; the file is cut short: fetch it again")

        def array(dtype=_DTYPES[entry["dtype"]], offset=8 + length + start, shape=shape) -> np.ndarray:
            return np.memmap(path, dtype, "r", offset, shape)

        stored[name] = StoredTensor(path.name, _DTYPES[entry["dtype"]], shape, array)
    return stored


def open_torch(path: Path) -> dict[str, StoredTensor]:
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

        def array(tensor=tensor, dtype=dtype) -> np.ndarray:
            integers = torch.int32 if dtype.itemsize == 4 else torch.int16
            return tensor.detach().contiguous().view(integers).numpy().view(dtype)

        stored[name] = StoredTensor(path.name, dtype, tuple(tensor.shape), array)
    return stored


def _files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The checkpoint's files and its index, tensor -> file, empty for a single file; the order is transformers' own."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give a Hugging Face checkpoint folder")
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
    """Every tensor of a checkpoint folder by name, none read yet; known buffers left out.

    Raises InputError for unreadable files, for a tensor in two files, and for one that the index promises in vain.
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
    lost = [f"{name} in {file}" for name, file in weight_map.items() if name not in stored or stored[name].file != file]
    if lost:
        raise InputError(f"{folder}: the index promises {_shorten(lost)}, not there; fetch the files again")
    return {name: tensor for name, tensor in stored.items() if not _BUFFERS.search(name)}


def checkpoint_dtype(folder: str | Path) -> str:
    """The dtype of a checkpoint's tensors ("bfloat16", ...); "float32", which holds the others, where they differ."""
    names = {tensor.dtype.name for tensor in open_checkpoint(folder).values()}
    return names.pop() if len(names) == 1 else "float32"


def _drop_tied_head(stored: dict[str, StoredTensor], folder: str | Path) -> None:
    """Leaves out a head that repeats the embedding; another head would be lost in a tied model, so it is refused."""
    head, embed = stored.pop("lm_head.weight", None), stored.get("model.embed_tokens.weight")
    if head is None or embed is None:
        return
    same = head.shape == embed.shape and head.dtype == embed.dtype
    rows = range(0, head.shape[0], 1024)
    if not same or any(head.array()[i : i + 1024].tobytes() != embed.array()[i : i + 1024].tobytes() for i in rows):
        raise InputError(
            f"{folder}: tensor lm_head.weight differs from model.embed_tokens.weight, but config.json has "
            "tie_word_embeddings = true; set it to false if the head is its own"
        )


def check_tensors(stored: Mapping[str, StoredTensor], table: dict[str, Any], where: str, remedy: str) -> None:
    """Raises InputError, one line, that names every kind of mismatch between stored tensors and a table of weights."""
    shapes = {}
    for p in jax.tree.leaves(table, is_leaf=is_param):
        shapes |= {p.hf_name.format(layer): p.hf_shape for layer in range(p.shape[0] if p.stacked else 1)}
    wrong = [
        f"{name} (is {list(stored[name].shape)}, must be {list(shape)})"
        for name, shape in shapes.items()
        if name in stored and stored[name].shape != shape
    ]
    found = {
        "missing": [name for name in shapes if name not in stored],
        "unexpected": sorted(set(stored) - set(shapes)),
        "of wrong shape": wrong,
    }
    problems = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in found.items() if names]
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}; {remedy}")


def check_checkpoint(folder: str | Path, c: LlamaConfig) -> dict[str, StoredTensor]:
    """Every tensor of the model by name, none read yet.

    Raises InputError that names the tensors which are missing, unexpected or of wrong shape.
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


def _place(stored: StoredTensor, p: Param, shape: tuple[int, ...], sharding: jax.NamedSharding) -> jax.Array:
    """One stored tensor as a global array of `shape` in the stored dtype; only this process's slices are read."""
    view = stored.array().reshape(p.hf_split).transpose(p.hf_perm)
    slices: dict[tuple, np.ndarray] = {}

    def read(index: Any) -> np.ndarray:
        key = tuple((s.start, s.stop) for s in index)
        if key not in slices:
            slices[key] = np.ascontiguousarray(view[index])
        return slices[key]

    return jax.make_array_from_callback(shape, sharding, read)


def load_params(folder: str | Path, c: LlamaConfig, dtype: jax.typing.DTypeLike) -> Params:
    """The parameters of a checkpoint folder in `dtype`, on the current mesh.

    Raises InputError as `check_checkpoint` does, before anything is read.
    """
    stored = check_checkpoint(folder, c)
    check_mesh(c)
    return load_table(stored, params_table(c), dtype)


def load_table(
    stored: Mapping[str, StoredTensor], table: dict[str, Any], dtype: jax.typing.DTypeLike
) -> dict[str, Any]:
    """The weights of a table, read from checked tensors, in `dtype` on the current mesh."""
    mesh = jax.sharding.get_mesh()
    cast = jax.jit(lambda x: x.astype(dtype))
    # Layer by layer into the stacked weight, which is donated: neither host nor device holds a second copy of it.
    insert = jax.jit(lambda stack, x, layer: stack.at[layer].set(x.astype(dtype)), donate_argnums=0)

    def load(p: Param) -> jax.Array:
        if not p.stacked:
            return cast(_place(stored[p.hf_name], p, p.shape, abstract_param(p, dtype).sharding))
        stack = jax.numpy.zeros(p.shape, dtype, out_sharding=spec(*p.axes))
        sharding = jax.NamedSharding(mesh, spec(*p.axes[1:]))
        for layer in range(p.shape[0]):
            tensor = _place(stored[p.hf_name.format(layer)], p, p.shape[1:], sharding)
            stack = insert(stack, tensor, np.int32(layer))
        return stack

    return jax.tree.map(load, table, is_leaf=is_param)
