"""Finds the tokenizer of a model that is named by a folder, a run's folder, a hub id, a GGUF file or a package."""

from pathlib import Path

from tljax.model.hf.gguf_file import is_gguf

FIELD = "tokenizer"  # the setting that holds the path, for messages


def tokenizer_folder(path: str) -> str:
    """Returns the folder of the tokenizer of the model that `path` names; a hub id is returned as it is.

    path: a folder, an address, a hub id, a run's folder, a GGUF file or "smollm2". Raises InputError for a GGUF file
    that cannot be read, and for a store that cannot be reached.
    """
    if (Path(path).expanduser() / "tokenizer.json").is_file():
        return path
    # The modules that are imported below load JAX, which takes a second; a folder with a tokenizer needs none.
    if is_gguf(path):
        from tljax.model.hf.gguf_folder import open_gguf_model

        return str(open_gguf_model(path, FIELD).folder)
    from tljax.training.model_source import find_run, model_files

    run = find_run(path, FIELD)
    return path if run is None else str(model_files(run))
