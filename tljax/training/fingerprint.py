"""Computes a hash that tells one model's weights from another's, without reading gigabytes."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from tljax.model.hf import adapter as hf_adapter
from tljax.storage import remote
from tljax.storage.remote import is_remote
from tljax.training.model_source import ModelSource

MAX_FULL_READ = 2**22  # bytes; of a larger file, evenly spread blocks are read, the first and the last among them
NUM_BLOCKS, BLOCK_BYTES = 64, 2**16
WEIGHT_SUFFIXES = (".safetensors", ".bin")


def fingerprint(model: ModelSource) -> str:
    """Returns a hash of config.json, and of the names, sizes and sampled blocks of the files with the weights.

    Training changes every block of a file, so two checkpoints have different hashes; a copy in another folder has the
    same hash. The hash of an adapter covers its own files and its base.
    """
    assert model.folder is not None
    folder = model.adapter or model.folder
    root, sizes = folder, {}
    if model.gguf:
        root, sizes = model.gguf[0].parent, {path.name: path.stat().st_size for path in model.gguf}
    elif model.checkpoint is None:
        names = {path.name for path in root.iterdir() if path.suffix in WEIGHT_SUFFIXES}
        # An index may name files in subfolders.
        names |= {tensor.file for tensor in (model.tensors or {}).values()}
        sizes = {name: (root / name).stat().st_size for name in names}
    else:
        run, step = model.checkpoint
        root = run / "checkpoints" / str(step)
        if is_remote(root):
            sizes = remote.object_sizes(str(root), "config.model.path")
        else:
            files = (path for path in root.rglob("*") if path.is_file())
            sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    name = "config.json" if model.adapter is None else hf_adapter.CONFIG_FILE
    digest = hashlib.sha256((folder / name).read_bytes())
    if model.base is not None:
        digest.update(fingerprint(model.base).encode())
    for name in sorted(sizes, key=lambda name: PurePosixPath(name).parts):
        size = sizes[name]
        digest.update(f"{name} {size}\n".encode())
        starts, length = [0], size
        if size > MAX_FULL_READ:
            starts = [i * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1) for i in range(NUM_BLOCKS)]
            length = BLOCK_BYTES
        for block in _blocks(root / name, starts, length):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Any, starts: Sequence[int], length: int) -> Iterable[bytes]:
    """Yields `length` bytes of a file from each start."""
    if is_remote(path):
        yield from remote.read_blocks(str(path), starts, length, "config.model.path")
        return
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            yield file.read(length)
