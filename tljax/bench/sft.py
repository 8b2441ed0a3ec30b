"""Measures the SFT loop: tokens per second, MFU, memory, and the seconds until a new process has made a step."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tljax.bench import devices, peer_files, peer_model
from tljax.bench.measurement import Measurement
from tljax.distributed.mesh import make_mesh
from tljax.model import cost
from tljax.sft import run as sft_run
from tljax.sft.batches import load_batch
from tljax.sft.check import check
from tljax.sft.context import SFTContext
from tljax.sft.step import make_sft_step
from tljax.storage.atomic import read_jsonl
from tljax.storage.run_folder import RunFolder
from tljax.training.checkpoint import Checkpoints
from tljax.training.metrics import LogOptions, MetricsLogger
from tljax.training.optimizer import make_optimizer, make_schedule


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Makes options["steps"] updates as launch/train.py does, and returns the measurements.

    The first config.warmup of them are not counted. options["begun"]: when the process was started, as time.time().
    options["peer"]: True to write batches and learning rates for the peers.
    """
    sft, steps = config.sft, options["steps"]
    with devices.name_block("sft"):
        check(sft)
        inputs = sft_run.open_inputs(sft)
        folder = RunFolder(Path(tempfile.mkdtemp(dir=work)))
        with jax.set_mesh(make_mesh(**sft.mesh)):
            context = sft_run.load_context(sft, inputs, {}, folder)
            first_step = _train(context, steps)
            memory = devices.peak_memory()
            if options.get("peer"):
                batches = [context.batches.build(n) for n in range(steps)]
                peer_files.write_batches(work, batches)
                peer_model.provide_hf_folder(work, inputs.model, str(inputs.tokenizer.folder))
                peer_files.write_replies(work, single_replies(sft, inputs))
    lines = read_jsonl(folder / "metrics.jsonl")
    counted = lines[config.warmup :] or lines
    measurements = {
        "tokens per second": Measurement("tokens/s", [line["tokens_per_second"] for line in counted], True),
        "replies per second": Measurement("replies/s", [line["steps"] / line["seconds"] for line in counted], True),
        "seconds to the first step": Measurement("s", [first_step - options["begun"]]),
    }
    if "mfu" in counted[-1]:
        measurements["MFU"] = Measurement("%", [100 * line["mfu"] for line in counted], True)
    positions = sft.batch.rows * context.batches.tokens
    return {
        "device": devices.describe(),
        "measurements": measurements | memory,
        "shapes": {
            "weights": cost.count_weights(context.model.config),
            "rows": sft.batch.rows,
            "tokens of a row": int(context.batches.tokens),
            "padding": f"{100 * (1 - float(np.mean([line['tokens'] for line in counted])) / positions):.1f} %",
            "compute dtype": sft.model.compute_dtype,
            "remat": sft.model.remat,
            "attention": sft.model.attention,
        },
        "losses": [line["loss"] for line in lines],
        "learning_rates": [line["lr"] for line in lines],
        "tokens": [line["tokens"] for line in lines],
    }


def _train(context: SFTContext, steps: int) -> float:
    """Makes updates by the loop of sft.run, and returns the time at which the metrics of the first were there."""
    config, c, folder = context.config, context.model.config, context.folder
    tx, step_options = make_optimizer(config.optim, context.total), sft_run.step_options(context)
    update = make_sft_step(c, tx, make_schedule(config.optim, context.total), step_options)
    first_step = 0.0
    with Checkpoints(folder.path / "checkpoints") as checkpoints:
        state, trunk = sft_run.begin(context, tx, checkpoints)
        flops_per_token = cost.flops_per_token(c, float(np.mean(context.batches.lengths)), step_options.lora)
        log_options = LogOptions.from_config(config.log, flops_per_token=flops_per_token)
        with MetricsLogger(folder, log_options, resume_step=0, total_steps=steps) as logger:
            for n in range(steps):
                batch = load_batch(context.batches, n, config.batch.accumulate)
                state, metrics = update(state, batch, trunk)
                logger.push(n + 1, metrics, {})
                if n == 0:
                    logger.flush()
                    first_step = time.time()
    return first_step


def single_replies(sft: Any, inputs: sft_run.Inputs) -> Iterator[dict[str, Any]]:
    """Yields a row for each reply that is trained, as trainers have them that know no trajectories."""
    block = sft.copy_and_resolve_references()
    block.data.rows = "step"
    _, examples = sft_run.load(block, inputs.tokenizer, inputs.dialect)
    row: Any
    for row in examples.train:
        tokens, weighted = row["tokens"].tolist(), np.flatnonzero(row["loss_weights"])
        # Targets are shifted by one: the last is the end token, which is no token of the row.
        mask = np.zeros(len(tokens) + 1, np.int32)
        mask[weighted + 1] = 1
        yield {"input_ids": [*tokens, int(row["targets"][weighted[-1]])], "completion_mask": mask.tolist()}
