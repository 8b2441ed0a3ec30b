"""Opens the files of a checkpoint folder, safetensors or torch: the tensors by name, without their data.

Reading safetensors files does not need torch.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tljax.core.errors import InputError, first_line
from tljax.model.hf.config import read_json

# The dtypes that are supported, by their safetensors names.
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}

# Buffers in old checkpoints, which config.json determines.
_BUFFERS = re.compile(r"(^|\.)rotary_emb\.inv_freq$")

# The names under which training programs keep the weights in a torch file, beside the state of their optimizer.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")

Index = tuple[slice, ...]


class StoredTensor(NamedTuple):
    """A tensor in a checkpoint's file. `read` returns a slice of it, one `slice` per axis, read from the file anew."""

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]


def shorten(names: Iterable[str]) -> str:
    """Returns the first three names, and the number of the others."""
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
    """Returns the tensors of a torch checkpoint by name; torch maps the file and reads their data later.

    Raises InputError if torch is missing or cannot read the file, and if the file holds no weights by name.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: is a torch checkpoint, and torch is not installed; `pip install torch`, or use a checkpoint "
            "in safetensors"
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file may raise anything, from zipfile's errors to pickle's
        raise InputError(
            f"{path}: torch cannot read it ({first_line(error)}); use a checkpoint in safetensors"
        ) from None
    dtypes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    stored = {}
    for name, tensor in _find_weights(content, lambda value: isinstance(value, torch.Tensor), path).items():
        if tensor.dtype not in dtypes:
            raise InputError(f"{path}: tensor {name} is {tensor.dtype}; supported are {', '.join(_DTYPES)}")
        if tensor.layout != torch.strided or tensor.is_meta:
            raise InputError(f"{path}: tensor {name} is sparse or has no data; save the model's plain weights")
        dtype = _DTYPES[dtypes[tensor.dtype]]

        # torch's numpy() refuses bfloat16, so the bits travel as integers.
        def read(index: Index, tensor=tensor, dtype=dtype) -> np.ndarray:
            integers = torch.int32 if dtype.itemsize == 4 else torch.int16
            return tensor.detach().contiguous().view(integers).numpy()[index].view(dtype)

        stored[name] = StoredTensor(path.name, dtype, tuple(tensor.shape), read)
    return stored


def _find_weights(content: Any, is_tensor: Callable[[Any], bool], path: Path) -> Mapping[str, Any]:
    """Returns {name: tensor} of a torch file: its content, or the only entry of _WRAPPERS in it, at any depth.

    Raises InputError for a content with several such entries, and for one that is no mapping of names to tensors.
    """
    remedy = "save the model's state_dict() alone, or use a checkpoint in safetensors"
    while isinstance(content, Mapping):
        wrapped = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        if len(wrapped) > 1:
            raise InputError(f"{path}: {' and '.join(wrapped)} may both be the weights; {remedy}")
        if not wrapped:
            break
        content = content[wrapped[0]]
    if not isinstance(content, Mapping) or not content:
        holds = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise InputError(f"{path}: holds {holds} in place of tensors by name; {remedy}")
    for name, value in content.items():
        if not isinstance(name, str) or not is_tensor(value):
            raise InputError(f"{path}: entry {name!r} is a {type(value).__name__}, no named tensor; {remedy}")
    return content


def _files(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the checkpoint's files below the folder, and its index {tensor: file}, empty where there is one file.

    Looks for safetensors before torch files and for a single file before an index, in the order of transformers.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a Hugging Face checkpoint folder")
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return [single], {}
        if index.is_file():
            weight_map = _read_index(index)
            files = sorted(set(weight_map.values()))
            absent = [name for name in files if not (folder / name).is_file()]
            if absent:
                raise InputError(f"{folder}: {shorten(absent)} named by {index.name} is absent; fetch the files again")
            return files, weight_map
    raise InputError(
        f"{folder}: holds neither model.safetensors nor model.safetensors.index.json (nor pytorch_model.bin); "
        "give a Hugging Face checkpoint folder"
    )


def _read_index(index: Path) -> dict[str, str]:
    """Returns {tensor: file} of an index; a file may lie in a subfolder. Raises InputError for any other content."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: has no weight_map; fetch the file again")
    files = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{index}: weight_map has {name!r} for {tensor}, which names no file; fetch the file again"
            )
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{index}: weight_map names the file {name!r} for {tensor}, which lies outside the model's folder, and "
                "such files are not read; move it into the folder and correct the index"
            )
        files[tensor] = str(path)
    return files


def open_checkpoint(folder: str | Path) -> dict[str, StoredTensor]:
    """Returns every tensor of a checkpoint folder by name, without its data; leaves out known buffers.

    Raises InputError for a file that cannot be read, a tensor that is in two files, and a tensor that is not in the
    file that the index names.
    """
    files, weight_map = _files(Path(folder))
    stored: dict[str, StoredTensor] = {}
    for file in files:
        path = Path(folder) / file
        for name, tensor in (open_safetensors if path.suffix == ".safetensors" else open_torch)(path).items():
            if name in stored:
                raise InputError(f"{folder}: tensor {name} is both in {stored[name].file} and in {file}; keep one")
            stored[name] = tensor._replace(file=file)
    absent = [
        f"{name} in {file}" for name, file in weight_map.items() if name not in stored or stored[name].file != file
    ]
    if absent:
        raise InputError(f"{folder}: the index promises {shorten(absent)}, which is absent; fetch the files again")
    return {name: tensor for name, tensor in stored.items() if not _BUFFERS.search(name)}
