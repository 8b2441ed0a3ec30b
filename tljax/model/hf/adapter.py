"""Adapters in the format of the `peft` library: adapter_config.json and adapter_model.safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tljax.core.errors import InputError
from tljax.model.hf import export as hf_export
from tljax.model.hf import files as hf_files
from tljax.model.hf import load as hf_load
from tljax.model.hf.config import read_json
from tljax.model.llama import LlamaConfig, check_mesh, params_table
from tljax.model.lora import MATRICES, Adapter, LoraOptions, adapter_table, make_lora_options
from tljax.storage.atomic import format_json

CONFIG_FILE = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

# Fields that are read below or never change the result. Any other field that is set is refused by name.
_FREE = frozenset(
    "peft_type task_type auto_mapping peft_version base_model_name_or_path revision inference_mode r lora_alpha "
    "lora_dropout target_modules exclude_modules bias init_lora_weights layers_pattern megatron_core "
    "qalora_group_size loftq_config eva_config ensure_weight_tying use_rslora".split()
)
# The ways to initialize an adapter that leave the base weights as they are; pissa and olora change them.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def is_adapter(folder: str | Path) -> bool:
    """Returns True if a folder has the config of an adapter."""
    return (Path(folder) / CONFIG_FILE).is_file()


def adapter_config(options: LoraOptions, c: LlamaConfig, base_model: str) -> dict[str, Any]:
    """Returns the content of adapter_config.json, with the fields that old and new versions of `peft` need."""
    layers, alpha = params_table(c)["layers"], options.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": None,
        "inference_mode": True,
        "r": options.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": [_module(layers[name].hf_name) for name in options.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": options.rslora,
        "use_dora": False,
    }


def _module(hf_name: str) -> str:
    """Returns "q_proj" for "model.layers.{}.self_attn.q_proj.weight"."""
    return hf_name.split(".")[-2]


def export_adapter(
    folder: Any,
    adapter: Adapter,
    c: LlamaConfig,
    options: LoraOptions,
    base_model: str,
    tokenizer: hf_export.ChatTokenizer | None = None,
) -> None:
    """Writes an adapter in float32, as peft.PeftModel.from_pretrained loads it; `folder` appears once it is complete.

    base_model: the folder or hub id of the weights to which the adapter belongs. tokenizer: written too, if given.
    Every process must call it. Raises InputError as export_checkpoint does.
    """
    tensors = hf_export.list_tensors(adapter_table(c, options))
    arrays = hf_export.gather_tensors(adapter, tensors, "float32")

    def fill(partial: Any) -> None:
        (partial / CONFIG_FILE).write_text(format_json(adapter_config(options, c, base_model)), encoding="utf-8")
        if tokenizer is not None:
            hf_export.write_tokenizer(partial, tokenizer)
        hf_export.write_weights(partial, arrays, [tensors], "float32", "adapter_model")

    hf_export.write_folder(folder, fill, arrays)


def read_adapter_config(folder: str | Path) -> tuple[LoraOptions, str]:
    """Returns the options of an adapter's folder, and its base model: a folder or hub id, or "" if none is named.

    Raises InputError for a field that would change the result and is not supported.
    """
    path = Path(folder) / CONFIG_FILE
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}; supported is 'LORA'")
    refused = {field: value for field, value in config.items() if value and field not in _FREE}
    if config.get("bias", "none") != "none":
        refused["bias"] = config["bias"]
    if config.get("init_lora_weights", True) not in _STARTS:
        refused["init_lora_weights"] = config["init_lora_weights"]
    for field, value in refused.items():
        raise InputError(
            f"{path}: {field} is {value!r}, which would change the result and is not supported; use plain LoRA"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    for field, value, kinds in (("r", rank, (int,)), ("lora_alpha", alpha, (int, float))):
        if isinstance(value, bool) or not isinstance(value, kinds) or value <= 0:
            raise InputError(f"{path}: {field} is {value!r}; it must be a number above 0")
    assert isinstance(rank, int) and isinstance(alpha, int | float)
    targets = _targets(config.get("target_modules"), Path(folder), path)
    options = make_lora_options(rank, alpha, targets, str(path), rslora=bool(config.get("use_rslora")))
    return options, str(config.get("base_model_name_or_path") or "")


def _targets(modules: Any, folder: Path, path: Path) -> list[str]:
    """Returns our names of the adapted weights; if target_modules is a pattern, of those that have tensors."""
    if isinstance(modules, str):
        modules = {name.split(".lora_")[0] for name in _stored(folder) if ".lora_" in name}
    elif not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise InputError(f"{path}: target_modules is {modules!r}; it must be a list of names or a pattern")
    known = {f"{name}_proj": name for name in MATRICES}
    last = {module: str(module).rpartition(".")[2] for module in modules}
    unknown = sorted(module for module in modules if last[module] not in known)
    if unknown or not modules:
        problem = f"names {unknown[0]!r}" if unknown else "names nothing that the file has"
        raise InputError(f"{path}: target_modules {problem}; supported are {', '.join(known)}, one or several")
    return sorted({known[name] for name in last.values()})


def _stored(folder: Path) -> dict[str, hf_files.StoredTensor]:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return (hf_files.open_safetensors if name.endswith(".safetensors") else hf_files.open_torch)(folder / name)
    raise InputError(f"{folder}: holds neither {' nor '.join(_WEIGHTS)}; give the folder of a peft adapter")


def check_adapter(folder: str | Path, c: LlamaConfig) -> tuple[Mapping[str, hf_files.StoredTensor], LoraOptions]:
    """Returns the tensors of an adapter's folder, without their data, and its options.

    Raises InputError as read_adapter_config does, and for tensors that do not fit the options or the model.
    """
    options, _ = read_adapter_config(folder)
    stored = _stored(Path(folder))
    _check_layers(stored, c, options, folder)
    hf_load.check_tensors(
        stored,
        adapter_table(c, options),
        f"{folder}: tensors that do not fit {CONFIG_FILE} and the model",
        "give the model that the adapter was trained on, or fetch the adapter again",
    )
    return stored, options


def _check_layers(
    stored: Mapping[str, hf_files.StoredTensor], c: LlamaConfig, options: LoraOptions, folder: str | Path
) -> None:
    """Raises InputError if a weight has an adapter in some layers only, as a pattern in target_modules can ask for."""
    for name in options.targets:
        module = params_table(c)["layers"][name].hf_name.removesuffix(".weight")
        prefixes = [f"base_model.model.{module.format(layer)}.lora_" for layer in range(c.num_layers)]
        adapted = [i for i, prefix in enumerate(prefixes) if any(key.startswith(prefix) for key in stored)]
        if 0 < len(adapted) < c.num_layers:
            layers = hf_files.shorten(map(str, adapted))
            raise InputError(
                f"{folder}: target_modules adapts {module.rpartition('.')[2]} in {len(adapted)} of {c.num_layers} "
                f"layers only ({layers}), and an adapter must be on all layers; train it with a target_modules that "
                "fits every layer, or merge it into its base with peft's merge_and_unload()"
            )


def load_adapter(folder: str | Path, c: LlamaConfig) -> tuple[Adapter, LoraOptions]:
    """Returns an adapter in float32 on the current mesh, and its options. Raises InputError as check_adapter does."""
    stored, options = check_adapter(folder, c)
    check_mesh(c)
    table = adapter_table(c, options)
    adapter = hf_load.load_table(stored, table, jnp.float32)
    hf_load.check_finite(adapter, table, str(folder))
    return adapter, options
