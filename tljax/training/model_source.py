"""Where a model comes from, and how it leaves: a Hugging Face folder, a run's folder, a hub id, or from scratch.

A folder may hold an adapter (of a run, or as `peft` writes it), which names the model that it belongs to, its base.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from etils import epath

from tljax.core.errors import InputError
from tljax.distributed import processes
from tljax.model import llama, lora
from tljax.model.hf import adapter as hf_adapter
from tljax.model.hf import config as hf_config
from tljax.model.hf import load as hf_load
from tljax.storage.hub import local_or_hub
from tljax.storage.remote import explain_store_errors, fetch, is_remote
from tljax.storage.run_folder import RunFolder
from tljax.training.checkpoint import Checkpoints

SCRATCH = "scratch"  # as model.path: no checkpoint, random weights
HUB_FILES = ("*.json", "*.safetensors", "*.bin", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model before its weights are read.

    name: absolute folder, address or hub id; folder: where its tokenizer lies, beside config.json or an adapter, None
    from scratch; checkpoint: (run folder, a Path or one of gs://, and step) where the weights are a run's; hf_config:
    config.json as it came; dtype: of the weights where they come from. Of an adapter all but name, folder and
    checkpoint are the base's.
    """

    name: str
    config: llama.LlamaConfig
    folder: Path | None
    checkpoint: tuple[Any, int] | None
    hf_config: dict[str, Any] | None
    dtype: str
    adapter: Path | None = None  # folder of adapter_config.json
    base: "ModelSource | None" = None  # what the adapter belongs to


def open_model(path: str, preset: str, what: str = "config.model.path") -> ModelSource:
    """The model that `path` names, or for "scratch" one in the shape of `preset`; no weight is read.

    what: the setting that holds the path. Raises InputError for a path that is none, a config.json or an adapter that
    is not supported, and tensors that do not fit it.
    """
    if not path:
        raise InputError(
            f"{what} is empty; give CodeLLaMA's folder or hub id, or {SCRATCH!r} for random weights of the "
            f"size {preset}"
        )
    if path == SCRATCH:
        return ModelSource(SCRATCH, llama.preset(preset), None, None, None, "float32")
    run, checkpoint = as_path(path), None
    with explain_store_errors(path, what):
        is_run = (run / "checkpoints").is_dir()
    if is_run:
        checkpoint = (run, checkpoint_step(run))
        name, folder = str(run if is_remote(path) else run.absolute()), model_files(run)
    else:
        folder = local_or_hub(path, what, HUB_FILES)
        name = path if is_remote(path) or not run.is_dir() else str(folder.absolute())
    if hf_adapter.is_adapter(folder):
        return _open_adapter(name, folder, checkpoint)
    found = hf_config.read_json(folder / "config.json")
    config = hf_config.parse_config(found, str(folder / "config.json"))
    if checkpoint is None:
        hf_load.check_checkpoint(folder, config)
        return ModelSource(name, config, folder, None, found, hf_load.checkpoint_dtype(folder))
    return ModelSource(name, config, folder, checkpoint, found, config_dtype(found))


def as_path(path: str) -> Any:
    """A folder by its path or address, of which parts can be named and looked at: a Path or one of gs://."""
    return epath.Path(path.rstrip("/")) if is_remote(path) else Path(path).expanduser()


def model_files(run: Any) -> Path:
    """RUN/model, what a run has of its model beside the weights; a copy where the run is at an address."""
    if isinstance(run, RunFolder):
        return run / "model"
    return fetch(f"{run}/model", "run") if is_remote(run) else run / "model"


def check_trained(path: str) -> None:
    """Raises InputError where config.model.path, here `path`, names no trained model."""
    if path in ("", SCRATCH):
        raise InputError(f"config.model.path is {path!r}; give a model's folder, a run, a hub id, or 'base'")


def _open_adapter(name: str, folder: Path, checkpoint: tuple[Path, int] | None) -> ModelSource:
    """The model of an adapter in `folder`, or of a run that trains one: that of its base."""
    field = f"{folder / hf_adapter.CONFIG_FILE}: base_model_name_or_path"
    _, base_name = hf_adapter.read_adapter_config(folder)
    if base_name in ("", SCRATCH):
        raise InputError(f"{field} is {base_name!r}; write the folder or hub id of the adapter's model there")
    base = open_model(base_name, "", field)
    if checkpoint is None:
        hf_adapter.check_adapter(folder, base.config)
    tokenizer = folder if (folder / "tokenizer.json").is_file() else base.folder
    return ModelSource(name, base.config, tokenizer, checkpoint, base.hf_config, base.dtype, folder, base)


def config_dtype(config: dict[str, Any]) -> str:
    """The dtype that a config.json names; transformers 5 writes it under another name than 4."""
    return str(config.get("torch_dtype") or config.get("dtype"))


def checkpoint_step(run: Any, best: bool = False) -> int:
    """The step of a run's newest checkpoint, or of the best one by its eval.best; of several processes for all alike.

    A run that goes on may commit another one between their looks. Raises InputError where there is none.
    """
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step = processes.run_on_primary(checkpoints.best_step if best else checkpoints.latest_step)
    if step is None:
        kind = "checkpoint that eval.best has judged" if best else "checkpoint yet"
        raise InputError(f"{run}: the run has no {kind}; wait for one, or name another folder")
    return step


def fit_to_vocabulary(model: ModelSource, preset: str, words: int, tokenizer: str) -> ModelSource:
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


def load_params(model: ModelSource, dtype: jax.typing.DTypeLike, seed: int) -> llama.Params:
    """The weights on the current mesh, in `dtype`, an adapter folded into them.

    Raises InputError naming the first tensor that does not fit.
    """
    if model.base is not None:
        params, (adapter, options) = load_params(model.base, dtype, seed), load_adapter(model)
        return jax.jit(lora.merge_adapter, donate_argnums=0)(params, adapter, options)
    if model.checkpoint is not None:
        run, step = model.checkpoint
        with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.restore_params(step, llama.abstract_params(model.config, dtype))
    if model.folder is not None:
        return hf_load.load_params(model.folder, model.config, dtype)
    return jax.jit(llama.init_params, static_argnums=2)(jax.random.key(seed), model.config, dtype)


def load_adapter(model: ModelSource) -> tuple[lora.Adapter, lora.LoraOptions]:
    """The adapter of a model that has one, on the current mesh, and its options."""
    assert model.adapter is not None
    if model.checkpoint is None:
        return hf_adapter.load_adapter(model.adapter, model.config)
    options, _ = hf_adapter.read_adapter_config(model.adapter)
    run, step = model.checkpoint
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore_params(step, lora.abstract_adapter(model.config, options)), options


def load_with_adapter(model: ModelSource, dtype: jax.typing.DTypeLike, seed: int) -> llama.Params:
    """The weights in `dtype` with the adapter beside them, as it was trained; without one, as load_params.

    For what computes with the model as it is: in bfloat16, folding would round small changes away.
    """
    if model.base is None:
        return load_params(model, dtype, seed)
    return lora.attach_adapter(load_with_adapter(model.base, dtype, seed), *load_adapter(model))
