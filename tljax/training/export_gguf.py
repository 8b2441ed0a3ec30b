"""Exports a run, or any model that can be opened, as a GGUF file for llama.cpp."""

import dataclasses
import os
from pathlib import Path

import jax.numpy as jnp

from tljax.core.config import check_choice
from tljax.core.errors import InputError
from tljax.model.hf import gguf_export
from tljax.model.hf.gguf_file import SUFFIX, gguf_library
from tljax.model.hf.load import tensors_dtype
from tljax.training.model_source import as_path, checkpoint_step, load_params, open_model


def check_target(path: Path) -> None:
    """Raises InputError if `path` cannot take a new GGUF file."""
    gguf_library(path)
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"config.out {path}: must end in {SUFFIX}, by which programs know the format")
    if path.exists():
        raise InputError(f"config.out {path}: is there already, and exports never overwrite; name a new file")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"config.out {path}: {parent} is no folder in which you may write; name another file")


def export_gguf(source: str, target: Path, *, kind: str, step: int) -> int | None:
    """Writes the weights and the tokenizer of a run, or of another model, on the current mesh.

    source: the folder of a run, or a value of config.model.path. kind: a name of gguf_export.TYPES. step: of a run, 0
    is the newest checkpoint and -1 the best one by eval.best. Returns the checkpoint's step, None for another model.
    Raises InputError before it reads any weights.
    """
    check_choice("type", kind, gguf_export.TYPES)
    model = open_model(source, "", "config.run")
    if model.folder is None:
        raise InputError(f"config.run is {source!r}, which has no weights; give a run, or a model's folder or file")
    tokenizer = model.folder
    if step:
        if model.checkpoint is None:
            raise InputError(f"config.step is {step}, but {source} is no run; leave it out")
        run = as_path(source)
        step = checkpoint_step(run, best=True) if step == -1 else step
        model = dataclasses.replace(model, checkpoint=(run, step))
    # A run's weights are float32. Those of files are read as they are stored, if all tensors have one dtype.
    dtype = jnp.float32 if model.tensors is None else jnp.dtype(tensors_dtype(model.tensors))
    params = load_params(model, dtype, seed=0)
    target.parent.mkdir(parents=True, exist_ok=True)
    gguf_export.export_gguf(target, params, model.config, tokenizer, kind, Path(source).name)
    return None if model.checkpoint is None else model.checkpoint[1]
