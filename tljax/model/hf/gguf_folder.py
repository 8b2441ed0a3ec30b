"""A GGUF file -> a folder with its config and tokenizer as Hugging Face has them, and its tensors.

The folder lies in the cache, named by the file and a hash of the content, so that it is written once. The weights stay
in the GGUF file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tljax.core.errors import explain_disk_errors
from tljax.model.hf import gguf_file
from tljax.model.hf.config import to_hf_config
from tljax.model.hf.gguf_config import gguf_config
from tljax.model.hf.gguf_tokenizer import tokenizer_files
from tljax.model.hf.gguf_weights import check_vocabulary, gguf_tensors, weights_dtype
from tljax.model.hf.load import StoredTensor
from tljax.model.llama import LlamaConfig
from tljax.storage.atomic import atomic_folder, format_json
from tljax.storage.remote import CACHE_FULL, cache_folder, local_path


class GGUFModel(NamedTuple):
    """A model in GGUF files: `folder` has config.json and the tokenizer, `tensors` the names of Hugging Face."""

    paths: tuple[Path, ...]
    folder: Path
    config: LlamaConfig
    hf_config: dict[str, Any]
    dtype: str
    tensors: Mapping[str, StoredTensor]


def open_gguf_model(path: str, field: str) -> GGUFModel:
    """Returns the model of a GGUF file, an address of one, or a name of gguf_file.PACKAGED, without its weights.

    field: the setting that holds the path, for messages. Raises InputError for a file, an architecture, a tokenizer or
    a tensor that is not supported, and where the cache cannot be written.
    """
    packaged = path in gguf_file.PACKAGED
    file = gguf_file.open_gguf(gguf_file.find_packaged(path, field) if packaged else local_path(path, field))
    config = gguf_config(file)
    tensors, dtype = gguf_tensors(file, config), weights_dtype(file)
    files = tokenizer_files(file)
    check_vocabulary(file, config, len(file.metadata["tokenizer.ggml.tokens"]))
    hf_config = to_hf_config(config, dtype, None)
    files["config.json"] = format_json(hf_config)
    content = "".join(f"{name}\n{text}\n" for name, text in sorted(files.items()))
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = cache_folder() / "gguf" / f"{file.paths[0].stem}-{digest}"
    with explain_disk_errors(folder, CACHE_FULL):
        if not folder.is_dir():
            _write(folder, files)
    return GGUFModel(file.paths, folder, config, hf_config, dtype, tensors)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes a folder of texts. Another process may write the same one meanwhile; the first to end wins."""
    try:
        with atomic_folder(folder, per_process=True) as partial:
            for name, text in files.items():
                (partial / name).write_text(text, encoding="utf-8")
    except OSError:
        if not folder.is_dir():
            raise
