"""Measures the import and export of weights in Hugging Face format: seconds, and the peak of the host's memory."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tljax.bench import devices, peer_files, peer_model
from tljax.bench.repeats import Repeats
from tljax.core.config import check_choice
from tljax.distributed.mesh import make_mesh
from tljax.model import cost
from tljax.model.hf.config import DTYPES
from tljax.sft.run import open_inputs
from tljax.training import model_source


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Loads the model in float32, as a training does, exports it in sft.export.dtype, and returns the measurements.

    A model from scratch is first written to the disk, so that there is something to load.
    """
    sft = config.sft
    with devices.name_block("sft"):
        check_choice("export.dtype", sft.export.dtype, ("auto", *DTYPES))
        sft.model.path = peer_model.resolve_scratch(sft, work)
        inputs = open_inputs(sft)
    model, tokenizer_folder = inputs.model, str(inputs.tokenizer.folder)
    dtype = model.dtype if sft.export.dtype == "auto" else sft.export.dtype
    imports, exports = Repeats(config.warmup), Repeats(config.warmup)
    with jax.set_mesh(make_mesh(**sft.mesh)):
        for _ in range(config.warmup + config.repeats):
            imports.begin()
            params = jax.block_until_ready(model_source.load_params(model, jnp.float32, sft.seed))
            imports.end()
            exports.begin()
            peer_model.export(work / "export", params, model, tokenizer_folder, dtype)
            exports.end()
            shutil.rmtree(work / "export")
            del params
        if options["peer"]:
            peer_model.provide_hf_folder(work, model, tokenizer_folder)
            peer_files.write_export_dtype(work, dtype)
    weights = cost.count_weights(model.config)
    return {
        "device": devices.describe(),
        "measurements": imports.measurements("import") | exports.measurements("export"),
        "shapes": {"weights": weights, "stored as": model.dtype, "loaded as": "float32", "exported as": dtype},
        "weights": weights,
    }
