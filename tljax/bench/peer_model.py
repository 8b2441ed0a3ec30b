"""Hugging Face folders: the one that peers read, and one of random weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tljax.bench.peer_files import write_model
from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.model import llama
from tljax.model.hf.export import ChatTokenizer, WeightsFormat, export_checkpoint
from tljax.toolbox.embedded import BASE_PRESET, resolve_model_path
from tljax.training import model_source
from tljax.training.tokenizer_source import tokenizer_folder


def provide_hf_folder(work: Path, model: model_source.ModelSource, tokenizer: str) -> None:
    """Writes the path of the model's folder for the peers. Exports the model, on the current mesh, if it has none."""
    has_folder = model.tensors is not None and not model.gguf and model.base is None
    folder = work / "hf"
    if not has_folder:
        params = model_source.load_params(model, jnp.float32, seed=0)
        export(folder, params, model, tokenizer, "float32")
    write_model(work, str(model.folder if has_folder else folder), str(model.gguf[0]) if model.gguf else "")


def resolve_scratch(block: Any, work: Path) -> str:
    """Returns block.model.path; for a model from scratch, a folder to which its random weights are written first.

    block: config.sft or config.ppo.
    """
    if block.model.path != model_source.SCRATCH:
        return block.model.path
    tokenizer = load_tokenizer(tokenizer_folder(resolve_model_path(block.data.tokenizer or BASE_PRESET)))
    model = model_source.open_model(block.model.path, block.model.preset)
    model = model_source.fit_to_vocabulary(model, block.model.preset, tokenizer.vocab_size, tokenizer.folder)
    folder = work / "scratch"
    with jax.set_mesh(make_mesh(**block.mesh)):
        params = model_source.load_params(model, jnp.bfloat16, block.seed)
        export(folder, params, model, str(tokenizer.folder), "bfloat16")
    return str(folder)


def export(
    folder: Path, params: llama.Params, model: model_source.ModelSource, tokenizer_folder: str, dtype: str
) -> None:
    """Writes `params` as a Hugging Face folder."""
    tokenizer = ChatTokenizer(Path(tokenizer_folder), template="")
    export_checkpoint(folder, params, model.config, WeightsFormat(dtype), tokenizer, model.hf_config)
