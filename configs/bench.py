r"""The config of benchmarks: what a user waits for, measured, and beside it what he would use instead.

    python launch/bench.py --config configs/bench.py --config.what=sft
    python launch/bench.py --config configs/bench.py:smollm2 --config.what=generate --config.peer=true

The options after the colon are separated by commas. They are a model (base, smollm2, or random weights of the size 7b,
13b, 34b or 70b), and those of configs/sft.py and configs/ppo.py: lora and rloo.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from tljax.core.config import parse_options

SIZES = ("base", "smollm2", "7b", "13b", "34b", "70b")


def get_config(arg: str = "") -> ConfigDict:
    size, flags = parse_options(arg, sizes=SIZES, flags=("lora", "rloo"), default="base")

    config = ConfigDict()
    # sft: tokens per second, MFU, memory, the first step from a cold and from a warm start
    # generate: prefill and decoding of several batch sizes, against the bandwidth of the memory
    # ppo: the seconds of each phase of an update
    # data: trajectories per second of reading, MAE, tokens with PKT weights, packing, and all of it
    # hf: seconds and memory of the import and export of weights
    config.what = "sft"
    config.peer = False  # True measures torch and transformers too, in turn; pip install 'tljax[peers]'
    config.out = ""  # a new JSON file; "" is the first free one of benchmarks/WHAT-MODEL.json, WHAT-MODEL-2.json, ...
    config.repeats = 5  # the number of values of each quantity, of which median, minimum and maximum are quoted
    config.warmup = 2  # the number of repeats before them, which are not counted
    config.batches = "1,8,32,128"  # generate: the numbers of prompts that are answered at a time

    model = config.model = ConfigDict()
    # A folder (HF or a run's), a hub id, a GGUF file, "smollm2", "base", or "scratch": random weights of the size.
    model.path = size if size in ("base", "smollm2") else "scratch"

    # The configs whose commands are measured. Their model.path is the one above, and their eval.sets is empty.
    config.sft = _config("sft", ",".join([_preset(size), *sorted(flags & {"lora"})]))
    config.ppo = _config("ppo", ",".join([_preset(size), *sorted(flags)]))
    config.generate = _config("generate")
    config.update_from_flattened_dict(
        {"sft.model.path": "", "ppo.model.path": "", "generate.sample.max_new_tokens": 64}
    )
    return config


def _preset(size: str) -> str:
    return "tiny" if size == "base" else size


def _config(name: str, *options: str) -> ConfigDict:
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["get_config"](*options)
