"""Where a model comes from, and how it leaves: a Hugging Face folder, a run's folder, a hub id, or from scratch."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tljax.core import run_folder
from tljax.core.checkpoint import Checkpoints
from tljax.core.config import check_choice, check_range
from tljax.core.errors import InputError
from tljax.core.hub import local_or_hub
from tljax.model import hf, hf_config, hf_export, llama

SCRATCH = "scratch"  # as model.path: no checkpoint, random weights
HUB_FILES = ("*.json", "*.safetensors", "*.bin", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model before its weights are read.

    folder: where config.json and the tokenizer lie, None from scratch; checkpoint: (run folder, step) where the weights
    are a run's; hf_config: config.json as it came; dtype: of the weights where they come from.
    """

    config: llama.LlamaConfig
    folder: Path | None
    checkpoint: tuple[Path, int] | None
    hf_config: dict[str, Any] | None
    dtype: str


def open_model(path: str, preset: str) -> Model:
    """The model that config.model.path names, or for "scratch" one in the shape of `preset`; no weight is read.

    Raises InputError for a path that is none, a config.json that is not supported, and tensors that do not fit it.
    """
    if not path:
        raise InputError(
            f"config.model.path is empty; give CodeLLaMA's folder or hub id, or {SCRATCH!r} for random weights of the "
            f"size {preset}"
        )
    if path == SCRATCH:
        return Model(llama.preset(preset), None, None, None, "float32")
    folder = local_or_hub(path, "config.model.path", HUB_FILES)
    checkpoint = None
    if (folder / "checkpoints").is_dir():
        checkpoint = (folder, checkpoint_step(folder))
        folder = folder / "model"
    found = hf_config.read_json(folder / "config.json")
    config = hf_config.parse_config(found, str(folder / "config.json"))
    if checkpoint is None:
        hf.check_checkpoint(folder, config)
        return Model(config, folder, None, found, hf.checkpoint_dtype(folder))
    return Model(config, folder, checkpoint, found, _dtype_of(found))


def _dtype_of(config: dict[str, Any]) -> str:
    """The dtype that a config.json names; transformers 5 writes it under another name than 4."""
    return str(config.get("torch_dtype") or config.get("dtype"))


def checkpoint_step(run: Path, best: bool = False) -> int:
    """The step of a run's newest checkpoint, or of the one with the lowest held-out loss.

    Raises InputError where there is none.
    """
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.best_step() if best else checkpoints.latest_step()
    if step is None:
        kind = "checkpoint with a held-out loss" if best else "checkpoint yet"
        raise InputError(f"{run}: the run has no {kind}; wait for one, or name another folder")
    return step


def fit_vocabulary(model: Model, preset: str, words: int, tokenizer: str) -> Model:
    """The model for a tokenizer of `words` ids: one from scratch in size "tiny" takes that many.

    Raises InputError where the tokenizer has ids that the model has no row for.
    """
    if model.folder is None and preset == "tiny":
        return dataclasses.replace(model, config=llama.preset(preset, vocab_size=words))
    if words > model.config.vocab_size:
        own = model.folder is not None and Path(tokenizer) == model.folder
        remedy = "its files do not belong together" if own else "leave config.data.tokenizer empty for the model's own"
        raise InputError(
            f"the tokenizer {tokenizer} has {words} words, the model {model.folder or preset} only "
            f"{model.config.vocab_size}; {remedy}"
        )
    return model


def load_params(model: Model, dtype: jax.typing.DTypeLike, seed: int) -> llama.Params:
    """The weights on the current mesh, in `dtype`. Raises InputError naming the first tensor that does not fit."""
    if model.checkpoint is not None:
        run, step = model.checkpoint
        with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.restore_params(step, llama.abstract_params(model.config, dtype))
    if model.folder is not None:
        return hf.load_params(model.folder, model.config, dtype)
    return jax.jit(llama.init_params, static_argnums=2)(jax.random.key(seed), model.config, dtype)


def keep_files(model: Model, tokenizer_folder: str, chat_template: str, run: Path) -> None:
    """Writes RUN/model: config.json, tokenizer and chat template, all that an export needs beside the weights."""
    target, partial = run / "model", run / ".model.tmp"
    for stale in (target, partial):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir()
    hf_export.write_texts(
        partial,
        hf_config.write_config(model.config, model.dtype, model.hf_config),
        Path(tokenizer_folder),
        chat_template,
    )
    partial.rename(target)


def export(run: Path, params: llama.Params, target: str | Path, *, dtype: str, max_shard_bytes: float) -> str:
    """Writes params as a Hugging Face folder with what RUN/model holds; dtype "auto" is that of the model begun from.

    Returns the dtype written. Raises InputError as hf.export does.
    """
    folder = run / "model"
    found = hf_config.read_json(folder / "config.json")
    config = hf_config.parse_config(found, str(folder / "config.json"))
    dtype = _dtype_of(found) if dtype == "auto" else dtype
    hf.export(
        target,
        params,
        config,
        dtype=dtype,
        tokenizer_folder=folder,
        dialect_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
        max_shard_bytes=max_shard_bytes,
        source_config=found,
    )
    return dtype


def export_run(run: Path, target: Path, *, step: int, dtype: str, max_shard_bytes: float) -> tuple[int, str]:
    """Exports a run's checkpoint on the current mesh; returns its step and the dtype written.

    step: 0 is the newest, -1 the one of the lowest held-out loss. Raises InputError before anything is read.
    """
    check_choice("dtype", dtype, ("auto", *hf_config.DTYPES))
    check_range("max_shard_bytes", max_shard_bytes, 1, 1e15)
    hf.check_target(target)
    run_folder.read_run(run)
    model = open_model(str(run), "")
    if step:
        chosen = checkpoint_step(run, best=True) if step == -1 else step
        model = dataclasses.replace(model, checkpoint=(run, chosen))
    params = load_params(model, jnp.float32, seed=0)
    assert model.checkpoint is not None
    return model.checkpoint[1], export(run, params, target, dtype=dtype, max_shard_bytes=max_shard_bytes)
