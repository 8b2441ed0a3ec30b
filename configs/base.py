r"""The config that pretrains the small base in tljax/toolbox/base, by the same code as fine-tuning.

    python launch/train.py --config configs/base.py

The data is `invented` (tljax/toolbox/invented.py): copied lines come first, then tasks with invented tools.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from tljax.core.config import parse_options


def get_config(arg: str = "") -> ConfigDict:
    parse_options(arg, sizes=(), flags=(), default="")
    config = runpy.run_path(str(Path(__file__).with_name("sft.py")))["get_config"]("tiny")
    config.update_from_flattened_dict(BASE)
    return config


# The values that differ from configs/sft.py:tiny.
BASE = {
    "name": "base",
    "data.source": "invented",
    "data.mae": "none",
    "data.pkt": "none",
    "data.prompt_weight": 1.0,  # gives all tokens the same weight
    "data.eval_fraction": 0.002,
    "data.max_tokens": 512,  # leaves out longer steps, which are one in ten at the end
    "toolbox.copied": 12_000,
    "toolbox.trajectories": 26_000,
    "batch.rows": 4,
    "batch.tokens": 512,
    "batch.shuffle": False,  # the order of the data is the curriculum
    "model.path": "scratch",
    "model.compute_dtype": "float32",
    "model.loss_chunk": 512,
    "optim.lr": 2e-3,
    "optim.warmup_steps": 50,
    "eval.every": 500,
    "checkpoint.every": 500,
    "checkpoint.keep_best": 0,
    "eval.sets": "toolbox",
    "eval.queries": 1000,
    "log.every": 50,
    "export.dtype": "float16",  # 2.3 MB; the package takes no more than 4
}
