"""Writes RUN/model beside a run's checkpoints, and exports both as a Hugging Face folder or an adapter."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tljax.core.config import check_choice, check_range
from tljax.core.errors import InputError, explain_disk_errors
from tljax.distributed import processes
from tljax.model import llama, lora
from tljax.model.hf import adapter as hf_adapter
from tljax.model.hf import config as hf_config
from tljax.model.hf import export as hf_export
from tljax.model.hf import gguf_file
from tljax.model.hf.export import WeightsFormat
from tljax.storage.atomic import atomic_folder, write_json
from tljax.storage.run_folder import RunFolder
from tljax.training import resume
from tljax.training.model_source import (
    ModelSource,
    as_path,
    checkpoint_step,
    config_dtype,
    load_adapter,
    load_params,
    model_files,
    open_model,
)


def save_model_files(
    model: ModelSource,
    tokenizer_folder: str,
    chat: hf_export.ChatFacts,
    run: RunFolder,
    options: lora.LoraOptions | None = None,
) -> None:
    """Writes RUN/model: config.json, tokenizer and templates of the dialect, which an export needs beside the weights.

    options: those of the adapter that the run trains, if any; then adapter_config.json is written too, with the name of
    the adapter's model.
    """
    target = run / "model"
    shutil.rmtree(target, ignore_errors=True)
    with explain_disk_errors(target), atomic_folder(target) as partial:
        config = hf_config.to_hf_config(model.config, model.dtype, model.hf_config)
        if len(chat.end_ids) > 1:
            # Files of the model may name fewer: a chat template may close its turns with another token than theirs.
            config |= {"eos_token_id": list(chat.end_ids)}
        folder = model.config_folder
        tokenizer = hf_export.ChatTokenizer(Path(tokenizer_folder), chat.template)
        hf_export.write_config_and_tokenizer(partial, config, tokenizer, folder)
        hf_export.add_response_template(partial, chat.responses)
        if options is not None:
            write_json(partial / hf_adapter.CONFIG_FILE, hf_adapter.adapter_config(options, model.config, model.name))


def _run_tokenizer(folder: Path) -> hf_export.ChatTokenizer:
    """Returns the tokenizer and chat template of RUN/model, which is `folder`."""
    return hf_export.ChatTokenizer(folder, (folder / "chat_template.jinja").read_text(encoding="utf-8"))


def export_model(run: Any, params: llama.Params, target: Any, weights: WeightsFormat) -> str:
    """Writes params as a Hugging Face folder, with the config and tokenizer of RUN/model.

    The dtype "auto" is that of the model that the run began from. Returns the dtype of the written weights. Raises
    InputError as export_checkpoint does.
    """
    folder = model_files(run)
    raw_config = hf_config.read_json(folder / "config.json")
    config = hf_config.parse_config(raw_config, str(folder / "config.json"))
    if weights.dtype == "auto":
        weights = dataclasses.replace(weights, dtype=config_dtype(raw_config))
    hf_export.export_checkpoint(target, params, config, weights, _run_tokenizer(folder), raw_config)
    return weights.dtype


def export_adapter(run: Any, adapter: lora.Adapter, target: Any) -> None:
    """Writes a run's adapter and tokenizer in the format of `peft`. Raises InputError as hf_adapter does.

    `peft` cannot read the checkpoints of a run: if the adapter's base is a run, its export is named, if there is one.
    """
    folder = model_files(run)
    options, base = hf_adapter.read_adapter_config(folder)
    base_folder = as_path(base)
    has_export = (base_folder / "checkpoints").is_dir() and hf_export.is_complete(base_folder / "hf")
    hf_adapter.export_adapter(
        target,
        adapter,
        hf_config.read_config(folder),
        options,
        str(base_folder / "hf") if has_export else base,
        _run_tokenizer(folder),
    )


def export_results(run: RunFolder, params: Any, weights: WeightsFormat, *, adapter: bool, model: bool) -> list[str]:
    """Exports the result of a finished run: RUN/adapter if params are an adapter, and RUN/hf if `model`.

    A complete export is left as it is. Returns lines that say how to use the exports. Raises InputError as the exports
    do.
    """
    lines, target = [], run.path / "adapter"
    if adapter:
        if not processes.run_on_primary(lambda: hf_export.is_complete(target)):
            export_adapter(run, params, target)
        lines += adapter_lines(target, hf_adapter.read_adapter_config(model_files(run))[1])
    if not model:
        return lines
    target = run.path / "hf"
    is_exported = processes.run_on_primary(lambda: hf_export.is_complete(target))
    if adapter and not is_exported:
        # The adapter is added to the weights of the base, since the trunk in the compute dtype may have rounded them.
        export_run(run.path, target, weights, step=0)
    elif not is_exported:
        export_model(run, params, target, weights)
    return [
        *lines,
        f"model: {target} in Hugging Face format; use it with",
        f"       transformers.AutoModelForCausalLM.from_pretrained('{target}')",
    ]


def adapter_lines(target: Any, base: str) -> list[str]:
    """Returns lines that say how to use the adapter at `target`; `base` names the weights that it belongs to.

    peft finds a base in Hugging Face format by itself. One in a GGUF file is loaded by transformers first.
    """
    line = f"       peft.AutoPeftModelForCausalLM.from_pretrained('{target}')"
    if gguf_file.is_gguf(base):
        load = f"from_pretrained('{Path(base).parent}', gguf_file='{Path(base).name}')"
        line = (
            f"       peft.PeftModel.from_pretrained(model, '{target}'), with\n"
            f"       model = transformers.AutoModelForCausalLM.{load}"
        )
    return [f"adapter: {target} in the format of peft; use it with", line]


def export_run(run: Any, target: Any, weights: WeightsFormat, *, step: int, adapter: bool = False) -> tuple[int, str]:
    """Exports a checkpoint of a run on the current mesh; returns its step and the dtype of the written weights.

    step: 0 is the newest checkpoint, -1 the best one by the run's eval.best. adapter: exports the run's adapter alone,
    in float32, in place of the full model. Raises InputError before it reads any weights.
    """
    check_choice("dtype", weights.dtype, ("auto", *hf_config.DTYPES))
    check_range("max_shard_bytes", weights.max_shard_bytes, 1, 1e15)
    hf_export.check_export_folder(target)
    resume.read_run_config(run)
    model = open_model(str(run), "")
    if step:
        step = checkpoint_step(run, best=True) if step == -1 else step
        model = dataclasses.replace(model, checkpoint=(run, step))
    assert model.checkpoint is not None
    if adapter:
        if model.base is None:
            raise InputError(f"config.adapter is set, but the run {run} trains all weights; leave it out")
        export_adapter(run, load_adapter(model)[0], target)
        return model.checkpoint[1], "float32"
    # A run's weights are float32. An adapter's base from Hugging Face needs no more bits than its files hold.
    export_dtype, base = model.dtype if weights.dtype == "auto" else weights.dtype, model.base or model
    load_dtype = jnp.float32 if base.checkpoint is not None else jnp.promote_types(model.dtype, export_dtype)
    params = load_params(model, load_dtype, seed=0)
    return model.checkpoint[1], export_model(run, params, target, weights)
