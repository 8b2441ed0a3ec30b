"""Opens a model and loads its weights: from a Hugging Face folder, a run's folder, a hub id, a GGUF file, or scratch.

A folder may also hold an adapter, which a run or `peft` has written. The adapter names its base: the model that it was
trained on.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

from tljax.core.errors import InputError
from tljax.distributed import processes
from tljax.model import llama, lora
from tljax.model.hf import adapter as hf_adapter
from tljax.model.hf import config as hf_config
from tljax.model.hf import files as hf_files
from tljax.model.hf import gguf_file, gguf_folder
from tljax.model.hf import load as hf_load
from tljax.storage.hub import local_or_hub
from tljax.storage.remote import explain_store_errors, fetch, is_remote
from tljax.storage.run_folder import RunFolder
from tljax.training.checkpoint import Checkpoints

SCRATCH = "scratch"  # as model.path: no checkpoint, random weights
HUB_FILES = ("*.json", "*.safetensors", "*.bin", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model whose weights are not loaded yet.

    name: the absolute path, address or hub id. folder: the folder of its tokenizer, with config.json or an adapter;
    None for a model from scratch. checkpoint: for a run's weights, the run's folder (a Path, or an epath.Path for
    gs://) and the step. hf_config: the contents of config.json. dtype: the dtype of the stored weights. tensors: the
    headers of a Hugging Face checkpoint, read and checked once. For an adapter, config, hf_config and dtype are those
    of its base.
    """

    name: str
    config: llama.LlamaConfig
    folder: Path | None
    checkpoint: tuple[Any, int] | None
    hf_config: dict[str, Any] | None
    dtype: str
    adapter: Path | None = None  # the folder of adapter_config.json
    base: "ModelSource | None" = None  # the model that the adapter was trained on
    tensors: Mapping[str, hf_files.StoredTensor] | None = None
    gguf: tuple[Path, ...] = ()  # the GGUF files of the weights; then `folder` is one of the cache

    @property
    def config_folder(self) -> Path | None:
        """The folder of config.json and generation_config.json: for an adapter that of its base."""
        return self.folder if self.base is None else self.base.config_folder


def open_model(path: str, preset: str, field: str = "config.model.path") -> ModelSource:
    """Returns the model that `path` names, or for "scratch" a model of the size `preset`. Reads no weights.

    field: the setting that holds the path, for messages. Raises InputError for a path that is no model, for a
    config.json or an adapter that is not supported, and for tensors that do not fit config.json.
    """
    if not path:
        raise InputError(
            f"{field} is empty; give CodeLLaMA's folder or hub id, or {SCRATCH!r} for random weights of the "
            f"size {preset}"
        )
    if path == SCRATCH:
        return ModelSource(SCRATCH, llama.preset(preset), None, None, None, "float32")
    if gguf_file.is_gguf(path):
        gguf = gguf_folder.open_gguf_model(path, field)
        return ModelSource(
            path if is_remote(path) else str(gguf.paths[0].absolute()),
            gguf.config,
            gguf.folder,
            None,
            gguf.hf_config,
            gguf.dtype,
            tensors=gguf.tensors,
            gguf=gguf.paths,
        )
    run, checkpoint = find_run(path, field), None
    if run is not None:
        checkpoint = (run, checkpoint_step(run))
        name, folder = str(run if is_remote(path) else run.absolute()), model_files(run)
    else:
        folder = local_or_hub(path, field, HUB_FILES)
        name = path if is_remote(path) or not as_path(path).is_dir() else str(folder.absolute())
    if hf_adapter.is_adapter(folder):
        return _open_adapter(name, folder, checkpoint)
    gguf_files = sorted(folder.glob(f"*{gguf_file.SUFFIX}"))
    if gguf_files and not (folder / "config.json").is_file():
        raise InputError(f"{field} {path}: holds a GGUF file and no config.json; give the file, {gguf_files[0]}")
    raw_config = hf_config.read_json(folder / "config.json")
    config = hf_config.parse_config(raw_config, str(folder / "config.json"))
    if checkpoint is None:
        tensors = hf_load.check_checkpoint(folder, config)
        return ModelSource(name, config, folder, None, raw_config, hf_load.tensors_dtype(tensors), tensors=tensors)
    return ModelSource(name, config, folder, checkpoint, raw_config, config_dtype(raw_config))


def as_path(path: str) -> Any:
    """Returns a local path as a Path, and an address as an epath.Path, which has the same methods."""
    return epath.Path(path.rstrip("/")) if is_remote(path) else Path(path).expanduser()


def find_run(path: str, field: str) -> Any:
    """Returns the folder of the run at `path`, a Path or an epath.Path, or None if there is no run.

    field: the setting that holds the path, for messages. Raises InputError for a store that cannot be reached.
    """
    run = as_path(path)
    with explain_store_errors(path, field):
        return run if (run / "checkpoints").is_dir() else None


def model_files(run: Any) -> Path:
    """Returns RUN/model, the folder of config.json and tokenizer; for a run at an address, a local copy of it."""
    if isinstance(run, RunFolder):
        return run / "model"
    return fetch(f"{run}/model", "run") if is_remote(run) else run / "model"


def check_trained(path: str) -> None:
    """Raises InputError if `path`, the value of config.model.path, does not name a trained model."""
    if path in ("", SCRATCH):
        raise InputError(
            f"config.model.path is {path!r}; give a model's folder, a run, a hub id, a GGUF file, 'smollm2' or 'base'"
        )


def _open_adapter(name: str, folder: Path, checkpoint: tuple[Path, int] | None) -> ModelSource:
    """Returns the model of an adapter in `folder`, which `peft` or a run (`checkpoint`) has written."""
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
    """Returns the dtype in a config.json: transformers 4 writes it as "torch_dtype", transformers 5 as "dtype"."""
    return str(config.get("torch_dtype") or config.get("dtype"))


def checkpoint_step(run: Any, best: bool = False) -> int:
    """Returns the step of a run's newest checkpoint, or of its best one by eval.best; the same step on all processes.

    Process 0 reads it for all: a run that still trains may commit a checkpoint between the reads of two processes.
    Raises InputError if there is no such checkpoint.
    """
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step = processes.run_on_primary(checkpoints.best_step if best else checkpoints.latest_step)
    if step is None:
        kind = "checkpoint with a value of eval.best" if best else "checkpoint yet"
        raise InputError(f"{run}: the run has no {kind}; wait for one, or name another folder")
    return step


def fit_to_vocabulary(model: ModelSource, preset: str, words: int, tokenizer: str) -> ModelSource:
    """Returns the model for a tokenizer of `words` ids; a model from scratch of size "tiny" gets that vocabulary.

    Raises InputError if the tokenizer has ids for which the model has no row in its embedding.
    """
    if model.folder is None and preset == "tiny":
        return dataclasses.replace(model, config=llama.preset(preset, vocab_size=words))
    if words > model.config.vocab_size:
        is_own = model.folder is not None and Path(tokenizer) == model.folder
        remedy = (
            "its files do not belong together" if is_own else "leave config.data.tokenizer empty for the model's own"
        )
        raise InputError(
            f"the tokenizer {tokenizer} has {words} words, the model {model.folder or preset} only "
            f"{model.config.vocab_size}; {remedy}"
        )
    return model


def load_params(model: ModelSource, dtype: jax.typing.DTypeLike, seed: int) -> llama.Params:
    """Returns the weights on the current mesh in `dtype`; an adapter is folded into them.

    Raises InputError that names the first tensor which does not fit, and those that hold NaN or infinity.
    """
    if model.base is not None:
        params, (adapter, options) = load_params(model.base, dtype, seed), load_adapter(model)
        return jax.jit(lora.merge_adapter, donate_argnums=0)(params, adapter, options)
    if model.checkpoint is not None:
        run, step = model.checkpoint
        with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            params = checkpoints.restore_params(step, llama.abstract_params(model.config, dtype))
        hf_load.check_finite(params, llama.params_table(model.config), f"{run}/checkpoints/{step}")
        return params
    if model.tensors is not None:
        return hf_load.load_tensors(model.tensors, model.config, dtype, model.name)
    return jax.jit(llama.init_params, static_argnums=2)(jax.random.key(seed), model.config, dtype)


def load_adapter(model: ModelSource) -> tuple[lora.Adapter, lora.LoraOptions]:
    """Returns the adapter of a model that has one, on the current mesh, and the adapter's options."""
    assert model.adapter is not None
    if model.checkpoint is None:
        return hf_adapter.load_adapter(model.adapter, model.config)
    options, _ = hf_adapter.read_adapter_config(model.adapter)
    run, step = model.checkpoint
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        adapter = checkpoints.restore_params(step, lora.abstract_adapter(model.config, options))
    hf_load.check_finite(adapter, lora.adapter_table(model.config, options), f"{run}/checkpoints/{step}")
    return adapter, options


def load_with_adapter(model: ModelSource, dtype: jax.typing.DTypeLike, seed: int) -> llama.Params:
    """Returns the weights in `dtype` with the adapter beside them, as in training; without an adapter, as load_params.

    Use it to compute with the model: in bfloat16, folding would round an adapter's small changes away.
    """
    if model.base is None:
        return load_params(model, dtype, seed)
    return lora.attach_adapter(load_with_adapter(model.base, dtype, seed), *load_adapter(model))
