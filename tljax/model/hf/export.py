"""Parameters -> a Hugging Face folder, tensor by tensor, complete or not at all."""

import collections
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath

from tljax.core.errors import InputError
from tljax.distributed import processes
from tljax.model.hf.config import DTYPES, read_json, to_hf_config
from tljax.model.llama import LlamaConfig, Param, Params, is_param, params_table
from tljax.storage import remote
from tljax.storage.atomic import atomic_folder, format_json
from tljax.storage.remote import ALL_FILES, explain_store_errors, is_remote, list_objects

_SAFETENSORS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

UNFINISHED = "UNFINISHED"  # an object beside those of an export that is not complete

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class ExportTensor(NamedTuple):
    """One tensor of an export: its name, where it is in the tree, its row of the table, its layer if stacked."""

    name: str
    path: tuple[str, ...]
    param: Param
    layer: int | None


def list_tensors(table: dict[str, Any]) -> list[ExportTensor]:
    """Every tensor of a table of weights, layer by layer."""
    tensors = []
    for path, p in jax.tree_util.tree_leaves_with_path(table, is_leaf=is_param):
        names = tuple(key.key for key in path)
        layers = range(p.shape[0]) if p.stacked else (None,)
        tensors += [ExportTensor(p.hf_name.format(layer), names, p, layer) for layer in layers]
    return sorted(tensors, key=lambda tensor: tensor.layer or 0)


def _in_order(c: LlamaConfig) -> list[ExportTensor]:
    """Every tensor of the model in the order of the forward pass."""
    order = ("embed", "layers", "final_norm", "lm_head")
    return sorted(list_tensors(params_table(c)), key=lambda tensor: order.index(tensor.path[0]))


def _shards(tensors: list[ExportTensor], itemsize: int, max_shard_bytes: float) -> list[list[ExportTensor]]:
    """The tensors cut into runs of at most `max_shard_bytes` each (a larger tensor has a run of its own)."""
    shards: list[list[ExportTensor]] = [[]]
    size = 0
    for tensor in tensors:
        own = math.prod(tensor.param.hf_shape) * itemsize
        if shards[-1] and size + own > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += own
    return shards


def gather_tensors(params: Params, tensors: list[ExportTensor], dtype: str) -> Iterator[np.ndarray]:
    """Each tensor as Hugging Face stores it: every process takes part, host memory holds one."""
    everywhere = jax.NamedSharding(jax.sharding.get_mesh(), jax.P())
    whole = jax.jit(lambda x: x.astype(dtype), out_shardings=everywhere)
    of_layer = jax.jit(lambda x, layer: x[layer].astype(dtype), out_shardings=everywhere)
    for tensor in tensors:
        weight: Any = params
        for key in tensor.path:
            weight = weight[key]
        ours = whole(weight) if tensor.layer is None else of_layer(weight, np.int32(tensor.layer))
        p = tensor.param
        processes.report_progress(f"{tensor.name} of the export")
        yield np.asarray(ours).transpose(np.argsort(p.hf_perm)).reshape(p.hf_shape)


def _header(shard: list[ExportTensor], dtype: str) -> bytes:
    """8 bytes of length, then JSON that says where each tensor's bytes are (the safetensors format)."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in shard:
        shape = tensor.param.hf_shape
        start, end = end, end + math.prod(shape) * jnp.dtype(dtype).itemsize
        entries[tensor.name] = {"dtype": _SAFETENSORS[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_weights(
    folder: Path, arrays: Iterator[np.ndarray], shards: list[list[ExportTensor]], dtype: str, stem: str = "model"
) -> None:
    """The safetensors files, each tensor written as it is gathered, and their index where there are several."""
    weight_map, total = {}, 0
    for i, shard in enumerate(shards):
        name = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(_header(shard, dtype))
            for tensor in shard:
                array = next(arrays)
                if not np.isfinite(array).all():
                    raise InputError(f"weight {tensor.name} is not finite in {dtype}; export in float32 or bfloat16")
                file.write(np.ascontiguousarray(array).view(np.uint8).data)
                weight_map[tensor.name] = name
                total += array.nbytes
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(format_json(index), encoding="utf-8")


def _special_ids(tokenizer_folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, int]:
    """bos_token_id, eos_token_id and pad_token_id, as far as the tokenizer has such tokens."""
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    ids = {}
    for kind in ("bos_token", "eos_token", "pad_token"):
        token = tokenizer_config.get(kind)
        token = token.get("content") if isinstance(token, dict) else token
        number = None if token is None else tokenizer.token_to_id(token)
        if number is not None:
            ids[f"{kind}_id"] = number
    return ids


def write_config_and_tokenizer(
    folder: Path, config: dict[str, Any], tokenizer_folder: Path, dialect_template: str
) -> None:
    """config.json, generation_config.json, and the tokenizer with the dialect's chat template."""
    ids = write_tokenizer(folder, tokenizer_folder, dialect_template)
    (folder / "config.json").write_text(format_json(ids | config), encoding="utf-8")
    generation_config = _read_if_there(tokenizer_folder / "generation_config.json") | ids
    (folder / "generation_config.json").write_text(format_json(generation_config), encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer_folder: Path, dialect_template: str) -> dict[str, int]:
    """The tokenizer's files with the dialect's chat template; returns the ids of its special tokens."""
    tokenizer_config = _read_if_there(tokenizer_folder / "tokenizer_config.json")
    for name in _TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file():
            (folder / name).write_bytes((tokenizer_folder / name).read_bytes())
    with_template = tokenizer_config | {"chat_template": dialect_template}
    (folder / "tokenizer_config.json").write_text(format_json(with_template), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(dialect_template, encoding="utf-8")
    return _special_ids(tokenizer_folder, tokenizer_config)


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def check_export_folder(folder: Any) -> None:
    """Raises InputError where an export could not go: a file, a folder that is not empty, no right to write.

    At an address, what an export left there that was not finished counts as nothing.
    """
    if is_remote(folder):
        with explain_store_errors(str(folder), "export to"):
            there = list_objects(str(folder), ALL_FILES)
        if there and UNFINISHED not in there:
            raise InputError(f"{folder}: is not empty, and exports never overwrite; name a new folder")
        return
    path = Path(folder).absolute()
    if path.exists() and not path.is_dir():
        raise InputError(f"{folder}: is a file; name a new folder for the export")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{folder}: is not empty, and exports never overwrite; name a new folder")
    parent = next(p for p in (path, *path.parents) if p.is_dir())
    if not os.access(parent, os.W_OK):
        raise InputError(f"{folder}: no right to write in {parent}; name another folder")


def export_checkpoint(
    folder: Any,
    params: Params,
    c: LlamaConfig,
    *,
    dtype: str,
    tokenizer_folder: str | Path,
    dialect_template: str,
    max_shard_bytes: float = 5e9,
    source_config: dict[str, Any] | None = None,
) -> None:
    """Writes a Hugging Face checkpoint with its tokenizer into `folder` (a path or address), which appears complete.

    dtype: "float32", "bfloat16" or "float16". `source_config` is the config.json the model came with, whose fields
    are kept. Every process must call it, on the mesh of `params`; process 0 writes. Raises InputError for a folder that
    is not empty, and where the disk is full or read-only; then nothing is left behind.
    """
    if dtype not in DTYPES:
        raise InputError(f"export.dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    source = Path(tokenizer_folder)
    config = to_hf_config(c, dtype, source_config)
    shards = _shards(_in_order(c), jnp.dtype(dtype).itemsize, max_shard_bytes)
    arrays = gather_tensors(params, [tensor for shard in shards for tensor in shard], dtype)

    def fill(partial: Path) -> None:
        if not (source / "tokenizer.json").is_file():
            raise InputError(f"{source}: holds no tokenizer.json; give the folder of a fast tokenizer")
        write_config_and_tokenizer(partial, config, source, dialect_template)
        write_weights(partial, arrays, shards, dtype)

    write_folder(folder, fill, arrays)


def is_complete(folder: Any) -> bool:
    """Whether a finished export lies in a folder, a Path or one of gs://."""
    with explain_store_errors(str(folder), "export"):
        return folder.is_dir() and not (folder / UNFINISHED).exists()


def write_folder(folder: Any, fill: Callable[[Any], None], arrays: Iterator[np.ndarray]) -> None:
    """Makes `folder` complete or not at all: fill(a temporary folder), which writes `arrays`, then a rename.

    At an address, where nothing can be renamed, an object UNFINISHED is there until all others are.

    Every process must call it; process 0 writes, the others take part in gathering. Raises InputError for a folder that
    is not empty, and where the disk is full or read-only; then nothing is left behind.
    """
    if not processes.is_primary():
        collections.deque(arrays, maxlen=0)
        return
    if is_remote(folder):
        return _write_remote(str(folder), fill, arrays)
    target = Path(folder).absolute()
    try:
        check_export_folder(target)
        with atomic_folder(target) as partial:
            fill(partial)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); free space or another folder"
        ) from None
    finally:
        # The other processes wait in the gather of every tensor that is left.
        if jax.process_count() > 1:
            collections.deque(arrays, maxlen=0)


def _write_remote(address: str, fill: Callable[[Any], None], arrays: Iterator[np.ndarray]) -> None:
    try:
        check_export_folder(address)
        with explain_store_errors(address, "export to"):
            folder = epath.Path(address)
            # Before what a killed export left is removed, of which a part would look like a whole one.
            (folder / UNFINISHED).write_text("this export was not finished; run the same command again\n")
            remote.remove_other_objects(address, UNFINISHED)
            fill(folder)
            (folder / UNFINISHED).unlink()
    finally:
        if jax.process_count() > 1:
            collections.deque(arrays, maxlen=0)
