"""Writes parameters as a Hugging Face folder, one tensor at a time; the folder appears once it is complete."""

import collections
import dataclasses
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
from tljax.storage.token_files import CONFIG_FILE, GENERATION_FILE, ID_FILES, end_ids, named_token

_SAFETENSORS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

UNFINISHED = "UNFINISHED"  # the name of an object that marks an incomplete export

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class ExportTensor(NamedTuple):
    """A tensor of an export: its name, its path in the tree, its row of the table, and its layer if it is stacked."""

    name: str
    path: tuple[str, ...]
    param: Param
    layer: int | None


def list_tensors(table: dict[str, Any]) -> list[ExportTensor]:
    """Returns the tensors of a table of weights, layer by layer."""
    tensors = []
    for path, p in jax.tree_util.tree_leaves_with_path(table, is_leaf=is_param):
        names = tuple(key.key for key in path)
        layers = range(p.shape[0]) if p.stacked else (None,)
        tensors += [ExportTensor(p.hf_name.format(layer), names, p, layer) for layer in layers]
    return sorted(tensors, key=lambda tensor: tensor.layer or 0)


def _in_order(c: LlamaConfig) -> list[ExportTensor]:
    """Returns the tensors of the model in the order of the forward pass."""
    order = ("embed", "layers", "final_norm", "lm_head")
    return sorted(list_tensors(params_table(c)), key=lambda tensor: order.index(tensor.path[0]))


def _shards(tensors: list[ExportTensor], itemsize: int, max_shard_bytes: float) -> list[list[ExportTensor]]:
    """Divides the tensors into files of at most `max_shard_bytes`; a larger tensor gets a file of its own."""
    shards: list[list[ExportTensor]] = [[]]
    size = 0
    for tensor in tensors:
        num_bytes = math.prod(tensor.param.hf_shape) * itemsize
        if shards[-1] and size + num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += num_bytes
    return shards


def gather_tensors(params: Params, tensors: list[ExportTensor], dtype: str) -> Iterator[np.ndarray]:
    """Yields each tensor in the layout of Hugging Face. Every process takes part; host memory holds one tensor."""
    everywhere = jax.NamedSharding(jax.sharding.get_mesh(), jax.P())
    gather = jax.jit(lambda x: x.astype(dtype), out_shardings=everywhere)
    gather_layer = jax.jit(lambda x, layer: x[layer].astype(dtype), out_shardings=everywhere)
    for tensor in tensors:
        weight: Any = params
        for key in tensor.path:
            weight = weight[key]
        ours = gather(weight) if tensor.layer is None else gather_layer(weight, np.int32(tensor.layer))
        p = tensor.param
        processes.report_progress(f"{tensor.name} of the export")
        yield np.asarray(ours).transpose(np.argsort(p.hf_perm)).reshape(p.hf_shape)


def _header(shard: list[ExportTensor], dtype: str) -> bytes:
    """Returns the header of a safetensors file: its length in 8 bytes, then JSON with the offsets of each tensor."""
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
    """Writes the safetensors files, each tensor once it is gathered, and an index if there are several files.

    The library's own writer would hold a complete file in memory. Raises InputError for a value that is not finite.
    """
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


@dataclasses.dataclass(frozen=True)
class WeightsFormat:
    """The format in which an export writes weights.

    dtype: "float32", "bfloat16" or "float16"; exports of a run allow "auto" too. max_shard_bytes: the maximum size of a
    file, which only a single larger tensor exceeds.
    """

    dtype: str
    max_shard_bytes: float = 5e9

    @classmethod
    def from_config(cls, export: Any) -> "WeightsFormat":
        """Returns the format of config.export, or of configs/export.py."""
        return cls(export.dtype, export.max_shard_bytes)


class ChatTokenizer(NamedTuple):
    """A tokenizer's folder, and the chat template of the dialect, which an export writes with its files."""

    folder: Path
    template: str


class ChatFacts(NamedTuple):
    """The facts that an export holds about the text of conversations.

    template: the chat template of the dialect; responses: the response template of transformers, None if there is none;
    end_ids: the tokens that end a reply
    """

    template: str
    responses: dict[str, Any] | None
    end_ids: tuple[int, ...]


def write_config_and_tokenizer(
    folder: Path,
    config: dict[str, Any],
    tokenizer: ChatTokenizer,
    model_folder: Path | None = None,
) -> None:
    """Writes config.json, generation_config.json, and the tokenizer with the dialect's chat template.

    Both files name all tokens that end a reply: training's own, and those of the model's files. model_folder: the
    folder of the model's generation_config.json, if it is not that of the tokenizer.
    """
    ids: dict[str, Any] = {**write_tokenizer(folder, tokenizer)}
    files = [source / GENERATION_FILE for source in (model_folder or tokenizer.folder, tokenizer.folder)]
    generation_config = next((read_json(file) for file in files if file.is_file()), {})
    ends = end_ids(ids.get("eos_token_id"), generation_config, config)
    if ends:
        ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends
        config = config | {"eos_token_id": ids["eos_token_id"]}
    (folder / CONFIG_FILE).write_text(format_json(ids | config), encoding="utf-8")
    (folder / GENERATION_FILE).write_text(format_json(generation_config | ids), encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: ChatTokenizer) -> dict[str, int]:
    """Writes the tokenizer's files with the dialect's chat template. Returns the ids of its special tokens.

    The returned names are bos_token_id, eos_token_id and pad_token_id, as far as there are such tokens.
    """
    source = tokenizer.folder
    vocabulary = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer_config = _read_if_present(source / "tokenizer_config.json")
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    ids = {}
    for field in ("bos_token", "eos_token", "pad_token", "unk_token"):
        named = named_token(vocabulary, source, field)
        if named is None:
            continue
        # Some tokenizers name it in special_tokens_map.json alone, which transformers 5 does not read if
        # tokenizer_config.json has an added_tokens_decoder.
        if tokenizer_config.get(field) is None:
            tokenizer_config[field] = named[0]
        if field != "unk_token":
            ids[f"{field}_id"] = named[1]
    ends = end_ids(ids.get("eos_token_id"), *(_read_if_present(source / name) for name in ID_FILES))
    if "eos_token_id" not in ids and ends:
        ids["eos_token_id"], tokenizer_config["eos_token"] = ends[0], vocabulary.id_to_token(ends[0])
    with_template = tokenizer_config | {"chat_template": tokenizer.template}
    (folder / "tokenizer_config.json").write_text(format_json(with_template), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(tokenizer.template, encoding="utf-8")
    return ids


def add_response_template(folder: Path, response_template: dict[str, Any] | None) -> None:
    """Writes into tokenizer_config.json how `tokenizer.parse_response` of transformers reads calls.

    If it is None, a template that the tokenizer has already stays.
    """
    if response_template is not None:
        file = folder / "tokenizer_config.json"
        file.write_text(format_json(read_json(file) | {"response_template": response_template}), encoding="utf-8")


def _read_if_present(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def check_export_folder(folder: Any) -> None:
    """Raises InputError if `folder` cannot take an export: a file, a folder that is not empty, no right to write.

    The remains of an unfinished export at an address do not count.
    """
    if is_remote(folder):
        with explain_store_errors(str(folder), "export to"):
            objects = list_objects(str(folder), ALL_FILES)
        if objects and UNFINISHED not in objects:
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
    weights: WeightsFormat,
    tokenizer: ChatTokenizer,
    source_config: dict[str, Any] | None = None,
) -> None:
    """Writes a Hugging Face checkpoint with its tokenizer; `folder`, a path or address, appears once it is complete.

    source_config: the model's own config.json, whose fields stay as they are. Every process must call it, on the mesh
    of `params`; process 0 writes. Raises InputError for a folder that is not empty, and if the disk is full or
    read-only; then nothing is left behind.
    """
    dtype = weights.dtype
    if dtype not in DTYPES:
        raise InputError(f"export.dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    config = to_hf_config(c, dtype, source_config)
    shards = _shards(_in_order(c), jnp.dtype(dtype).itemsize, weights.max_shard_bytes)
    arrays = gather_tensors(params, [tensor for shard in shards for tensor in shard], dtype)

    def fill(partial: Path) -> None:
        if not (tokenizer.folder / "tokenizer.json").is_file():
            raise InputError(f"{tokenizer.folder}: holds no tokenizer.json; give the folder of a fast tokenizer")
        write_config_and_tokenizer(partial, config, tokenizer)
        write_weights(partial, arrays, shards, dtype)

    write_folder(folder, fill, arrays)


def is_complete(folder: Any) -> bool:
    """Returns True if a folder, a Path or one of gs://, holds a finished export."""
    with explain_store_errors(str(folder), "export"):
        return folder.is_dir() and not (folder / UNFINISHED).exists()


def write_folder(folder: Any, fill: Callable[[Any], None], arrays: Iterator[np.ndarray]) -> None:
    """Writes a folder by fill(temporary folder), which writes `arrays`, and renames it.

    An address cannot be renamed; there an object UNFINISHED exists until all others do.

    Every process must call it; process 0 writes, and the others take part in gathering. Raises InputError for a folder
    that is not empty, and if the disk is full or read-only; then nothing is left behind.
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
        # After an error the other processes still wait in the gathers of the remaining tensors.
        if jax.process_count() > 1:
            collections.deque(arrays, maxlen=0)


def _write_remote(address: str, fill: Callable[[Any], None], arrays: Iterator[np.ndarray]) -> None:
    try:
        check_export_folder(address)
        with explain_store_errors(address, "export to"):
            folder = epath.Path(address)
            # The mark comes first: a part of what a killed export left would look like a complete one.
            (folder / UNFINISHED).write_text("this export was not finished; run the same command again\n")
            remote.remove_other_objects(address, UNFINISHED)
            fill(folder)
            (folder / UNFINISHED).unlink()
    finally:
        if jax.process_count() > 1:
            collections.deque(arrays, maxlen=0)
