"""Finds the tokenizer of a model that is named by a folder, a run's folder, a hub id, a GGUF file or a package."""

from pathlib import Path

from tljax.storage.remote import explain_store_errors


def tokenizer_folder(path: str, field: str) -> str:
    """Returns the folder of the tokenizer of the model that `path` names; a hub id is returned as it is.

    path: a folder, an address, a hub id, a run's folder, a GGUF file or "smollm2". field: the setting that holds the
    path, for messages. Raises InputError for a GGUF file that cannot be read, and for a store that cannot be reached.
    """
    if (Path(path).expanduser() / "tokenizer.json").is_file():
        return path
    # Both modules load JAX, which takes a second; a folder with a tokenizer needs none.
    from tljax.model.hf import gguf_file, gguf_folder
    from tljax.training.model_source import as_path, model_files

    if gguf_file.is_gguf(path):
        return str(gguf_folder.open_gguf_model(path, field).folder)
    run = as_path(path)
    with explain_store_errors(path, field):
        is_run = (run / "checkpoints").is_dir()
    return str(model_files(run)) if is_run else path
