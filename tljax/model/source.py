"""Where a model comes from, and how it leaves: a Hugging Face folder, a run's folder, a hub id, or from scratch.

A folder may hold an adapter (of a run, or as `peft` writes it), which names the model that it belongs to, its base.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from tljax.core import processes, run_folder
from tljax.core.checkpoint import Checkpoints
from tljax.core.config import check_choice, check_range
from tljax.core.errors import InputError, disk_told
from tljax.core.hub import local_or_hub
from tljax.core.place import RunFolder
from tljax.core.remote import fetched, is_remote, told
from tljax.model import hf, hf_adapter, hf_config, hf_export, llama, lora

SCRATCH = "scratch"  # as model.path: no checkpoint, random weights
HUB_FILES = ("*.json", "*.safetensors", "*.bin", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt")


@dataclasses.dataclass(frozen=True)
class Model:
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
    base: "Model | None" = None  # what the adapter belongs to


def open_model(path: str, preset: str, what: str = "config.model.path") -> Model:
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
        return Model(SCRATCH, llama.preset(preset), None, None, None, "float32")
    run, checkpoint = place_of(path), None
    with told(path, what):
        is_run = (run / "checkpoints").is_dir()
    if is_run:
        checkpoint = (run, checkpoint_step(run))
        name, folder = str(run if is_remote(path) else run.absolute()), texts_of(run)
    else:
        folder = local_or_hub(path, what, HUB_FILES)
        name = path if is_remote(path) or not run.is_dir() else str(folder.absolute())
    if hf_adapter.is_adapter(folder):
        return _open_adapter(name, folder, checkpoint)
    found = hf_config.read_json(folder / "config.json")
    config = hf_config.parse_config(found, str(folder / "config.json"))
    if checkpoint is None:
        hf.check_checkpoint(folder, config)
        return Model(name, config, folder, None, found, hf.checkpoint_dtype(folder))
    return Model(name, config, folder, checkpoint, found, _dtype_of(found))


def place_of(path: str) -> Any:
    """A folder by its path or address, of which parts can be named and looked at: a Path or one of gs://."""
    return epath.Path(path.rstrip("/")) if is_remote(path) else Path(path).expanduser()


def texts_of(run: Any) -> Path:
    """RUN/model, what a run has of its model beside the weights; a copy where the run is at an address."""
    if isinstance(run, RunFolder):
        return run / "model"
    return fetched(f"{run}/model", "run") if is_remote(run) else run / "model"


def check_trained(path: str) -> None:
    """Raises InputError where config.model.path, here `path`, names no trained model."""
    if path in ("", SCRATCH):
        raise InputError(f"config.model.path is {path!r}; give a model's folder, a run, a hub id, or 'base'")


def _open_adapter(name: str, folder: Path, checkpoint: tuple[Path, int] | None) -> Model:
    """The model of an adapter in `folder`, or of a run that trains one: that of its base."""
    field = f"{folder / hf_adapter.CONFIG}: base_model_name_or_path"
    _, base_name = hf_adapter.read_adapter_config(folder)
    if base_name in ("", SCRATCH):
        raise InputError(f"{field} is {base_name!r}; write the folder or hub id of the adapter's model there")
    base = open_model(base_name, "", field)
    if checkpoint is None:
        hf_adapter.check_adapter(folder, base.config)
    tokenizer = folder if (folder / "tokenizer.json").is_file() else base.folder
    return Model(name, base.config, tokenizer, checkpoint, base.hf_config, base.dtype, folder, base)


def _dtype_of(config: dict[str, Any]) -> str:
    """The dtype that a config.json names; transformers 5 writes it under another name than 4."""
    return str(config.get("torch_dtype") or config.get("dtype"))


def checkpoint_step(run: Any, best: bool = False) -> int:
    """The step of a run's newest checkpoint, or of the best one by its eval.best; of several processes for all alike.

    A run that goes on may commit another one between their looks. Raises InputError where there is none.
    """
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step = processes.on_first(checkpoints.best_step if best else checkpoints.latest_step)
    if step is None:
        kind = "checkpoint that eval.best has judged" if best else "checkpoint yet"
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
    """The weights on the current mesh, in `dtype`, an adapter folded into them.

    Raises InputError naming the first tensor that does not fit.
    """
    if model.base is not None:
        params, (adapter, options) = load_params(model.base, dtype, seed), load_adapter(model)
        return jax.jit(lora.fold, donate_argnums=0)(params, adapter, options)
    if model.checkpoint is not None:
        run, step = model.checkpoint
        with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.restore_params(step, llama.abstract_params(model.config, dtype))
    if model.folder is not None:
        return hf.load_params(model.folder, model.config, dtype)
    return jax.jit(llama.init_params, static_argnums=2)(jax.random.key(seed), model.config, dtype)


def load_adapter(model: Model) -> tuple[lora.Adapter, lora.LoraOptions]:
    """The adapter of a model that has one, on the current mesh, and its options."""
    assert model.adapter is not None
    if model.checkpoint is None:
        return hf_adapter.load_adapter(model.adapter, model.config)
    options, _ = hf_adapter.read_adapter_config(model.adapter)
    run, step = model.checkpoint
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore_params(step, lora.abstract_adapter(model.config, options)), options


def load_attached(model: Model, dtype: jax.typing.DTypeLike, seed: int) -> llama.Params:
    """The weights in `dtype` with the adapter beside them, as it was trained; without one, as load_params.

    For what computes with the model as it is: in bfloat16, folding would round small changes away.
    """
    if model.base is None:
        return load_params(model, dtype, seed)
    return lora.attach(load_attached(model.base, dtype, seed), *load_adapter(model))


def keep_files(
    model: Model, tokenizer_folder: str, chat_template: str, run: RunFolder, options: lora.LoraOptions | None = None
) -> None:
    """Writes RUN/model: config.json, tokenizer and chat template, all that an export needs beside the weights.

    With options, of an adapter that the run trains on the model, also adapter_config.json, which names the model.
    """
    target, partial = run / "model", run / ".model.tmp"
    for stale in (target, partial):
        shutil.rmtree(stale, ignore_errors=True)
    with disk_told(target):
        _write_files(model, tokenizer_folder, chat_template, partial, options)
        partial.rename(target)


def _write_files(
    model: Model, tokenizer_folder: str, chat_template: str, partial: Path, options: lora.LoraOptions | None
) -> None:
    partial.mkdir()
    hf_export.write_texts(
        partial,
        hf_config.write_config(model.config, model.dtype, model.hf_config),
        Path(tokenizer_folder),
        chat_template,
    )
    if options is not None:
        hf_export.write_json(partial / hf_adapter.CONFIG, hf_adapter.config_of(options, model.config, model.name))


def export(run: Any, params: llama.Params, target: Any, *, dtype: str, max_shard_bytes: float) -> str:
    """Writes params as a Hugging Face folder with what RUN/model holds; dtype "auto" is that of the model begun from.

    Returns the dtype written. Raises InputError as hf.export does.
    """
    folder = texts_of(run)
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


def export_adapter(run: Any, adapter: lora.Adapter, target: Any) -> None:
    """Writes a run's adapter and tokenizer in the format of `peft`. Raises InputError as that export does.

    Where the adapter belongs to another run, whose checkpoint `peft` cannot read, it names that run's export, if any.
    """
    folder = texts_of(run)
    options, base = hf_adapter.read_adapter_config(folder)
    home = place_of(base)
    hf_adapter.export_adapter(
        target,
        adapter,
        hf_config.read_config(folder),
        options,
        str(home / "hf") if (home / "checkpoints").is_dir() and hf_export.is_there(home / "hf") else base,
        folder,
        (folder / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def export_results(
    run: RunFolder, params: Any, *, adapter: bool, model: bool, dtype: str, max_shard_bytes: float
) -> list[str]:
    """Writes what a finished run leaves, where it is not there: RUN/adapter if params are one, and RUN/hf if `model`.

    Returns lines that say how to use them. Raises InputError as the exports do.
    """
    lines, target = [], run.kept / "adapter"
    if adapter:
        if not processes.on_first(lambda: hf_export.is_there(target)):
            export_adapter(run, params, target)
        lines += [
            f"adapter: {target} in the format of peft; use it with",
            f"       peft.AutoPeftModelForCausalLM.from_pretrained('{target}')",
        ]
    if not model:
        return lines
    target = run.kept / "hf"
    there = processes.on_first(lambda: hf_export.is_there(target))
    if adapter and not there:
        # Onto the weights as the base has them, which the trunk in the compute dtype may have rounded.
        export_run(run.kept, target, step=0, dtype=dtype, max_shard_bytes=max_shard_bytes)
    elif not there:
        export(run, params, target, dtype=dtype, max_shard_bytes=max_shard_bytes)
    return [
        *lines,
        f"model: {target} in Hugging Face format; use it with",
        f"       transformers.AutoModelForCausalLM.from_pretrained('{target}')",
    ]


def export_run(
    run: Any, target: Any, *, step: int, dtype: str, max_shard_bytes: float, adapter: bool = False
) -> tuple[int, str]:
    """Exports a run's checkpoint on the current mesh; returns its step and the dtype written.

    step: 0 is the newest, -1 the best one by its eval.best. adapter: that of the run alone, in float32, and not
    the model with it. Raises InputError before anything is read.
    """
    check_choice("dtype", dtype, ("auto", *hf_config.DTYPES))
    check_range("max_shard_bytes", max_shard_bytes, 1, 1e15)
    hf.check_target(target)
    run_folder.read_run(run)
    model = open_model(str(run), "")
    if step:
        chosen = checkpoint_step(run, best=True) if step == -1 else step
        model = dataclasses.replace(model, checkpoint=(run, chosen))
    assert model.checkpoint is not None
    if adapter:
        if model.base is None:
            raise InputError(f"config.adapter is set, but the run {run} trains whole weights; leave it out")
        export_adapter(run, load_adapter(model)[0], target)
        return model.checkpoint[1], "float32"
    # A run's weights are float32; of an adapter's base from Hugging Face only the bits that are there need be held.
    written, weights = model.dtype if dtype == "auto" else dtype, model.base or model
    held = jnp.float32 if weights.checkpoint is not None else jnp.promote_types(model.dtype, written)
    params = load_params(model, held, seed=0)
    return model.checkpoint[1], export(run, params, target, dtype=dtype, max_shard_bytes=max_shard_bytes)
