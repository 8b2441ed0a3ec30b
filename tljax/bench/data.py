"""Measures the data's way from a file to batches: trajectories per second of each stage, and of all of them."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from tljax.bench import devices
from tljax.bench.measurement import Measurement
from tljax.bench.repeats import repeat
from tljax.data.examples import load_examples
from tljax.data.mae import load_rule
from tljax.data.reader import open_trajectories
from tljax.data.steps import TokenizeOptions, tokenize_steps
from tljax.distributed.mesh import make_mesh
from tljax.sft.batches import make_batches
from tljax.sft.check import check
from tljax.sft.run import open_inputs
from tljax.toolbox.embedded import resolve_source_file


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Prepares the data of sft.data stage by stage, and all at once with an empty cache and with a full one."""
    sft = config.sft
    with devices.name_block("sft"):
        check(sft)
        inputs = open_inputs(sft)
        file = resolve_source_file(sft.data.source, sft.toolbox, sft.data.cache)
        data, measurements = sft.data, {}

        def read(cache: str) -> list[Any]:
            source = open_trajectories(file, data.on_bad_row, cache, data.format)
            return list(source.trajectories())

        def prepare(cache: str) -> Any:
            block = data.copy_and_resolve_references()
            block.cache = cache
            return load_examples(block, file, inputs.tokenizer, sft.seed, inputs.dialect)

        def new_folder() -> str:
            return tempfile.mkdtemp(dir=work)

        trajectories = read(new_folder())
        rule, tokenize = load_rule(data.mae), TokenizeOptions.from_config(data, inputs.dialect)
        full = new_folder()
        examples = prepare(full)
        with jax.set_mesh(make_mesh(**sft.mesh)):
            stages = {
                "reading": lambda: read(new_folder()),
                "MAE": lambda: [rule(trajectory) for trajectory in trajectories],
                "text, MAE, tokens and PKT weights": lambda: [
                    tokenize_steps(trajectory, rule, inputs.tokenizer, tokenize) for trajectory in trajectories
                ],
                "packing": lambda: _build_all(sft, examples),
                "all, empty cache": lambda: _build_all(sft, prepare(new_folder())),
                "all, full cache": lambda: _build_all(sft, prepare(full)),
            }
            for name, stage in stages.items():
                seconds = repeat(stage, config.warmup, config.repeats)
                rates = [len(trajectories) / s for s in seconds]
                measurements[name] = Measurement("trajectories/s", rates, higher_is_better=True)
            batches, _ = make_batches(sft, examples)
    return {
        "device": devices.describe(),
        "measurements": measurements | devices.peak_memory(),
        "shapes": {
            "trajectories": len(trajectories),
            "rows": len(examples.train),
            "tokens": int(sum(examples.train["length"])),
            "tokens of a packed row": int(batches.tokens),
            "tokenizer": inputs.tokenizer.vocab_size,
            "mae": str(data.mae),
            "pkt": str(data.pkt),
        },
    }


def _build_all(sft: Any, examples: Any) -> None:
    """Packs the rows of one epoch and builds the arrays of every batch."""
    batches, _ = make_batches(sft, examples)
    for step in range(batches.steps):
        if batches.epoch(step) >= 1:
            break
        batches.build(step)
