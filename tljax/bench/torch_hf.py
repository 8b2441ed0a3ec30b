"""The peer of import and export: transformers' from_pretrained and save_pretrained, of the same model."""

import shutil
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  # of the extra `peers`, which need not be installed
from transformers import AutoModelForCausalLM

from tljax.bench import peer_files, torch_device
from tljax.bench.repeats import Repeats


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Loads the model in float32 to the device, exports it in the dtype of tljax's export, and measures both."""
    device = torch_device.choose()
    folder, gguf = peer_files.read_model(work), peer_files.read_gguf(work)
    source, extra = (Path(gguf).parent, {"gguf_file": Path(gguf).name}) if gguf else (folder, {})
    dtype = getattr(torch, peer_files.read_export_dtype(work))
    imports, exports, weights = Repeats(config.warmup), Repeats(config.warmup), 0
    for _ in range(config.warmup + config.repeats):
        imports.begin()
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **extra)
        model = model.to(device)
        torch_device.wait(device)
        imports.end()
        weights = sum(parameter.numel() for parameter in model.parameters())
        exports.begin()
        model.to(dtype).save_pretrained(work / "torch-export")
        exports.end()
        shutil.rmtree(work / "torch-export")
        del model
    return {
        "device": torch_device.describe(device),
        "measurements": imports.measurements("import") | exports.measurements("export"),
        "weights": weights,
    }
