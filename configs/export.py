"""The config that exports a run's checkpoint to Hugging Face format.

python launch/export_hf.py --config configs/export.py --config.run=runs/sft-tiny --config.out=my-model
"""

from ml_collections import ConfigDict

from tljax.core.config import mesh_block, processes_block


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = ""  # the folder of the run, or its address gs://BUCKET/RUN
    config.out = ""  # a new folder for the export, or an address
    config.step = 0  # the step of the checkpoint; 0 is the newest, -1 the best one by the run's eval.best
    config.adapter = False  # exports only the adapter of a LoRA run, in the format of peft
    config.dtype = "auto"  # auto (that of the run's base model) | float32 | bfloat16 | float16
    config.max_shard_bytes = 5_000_000_000
    config.processes = processes_block()
    config.mesh = mesh_block()
    return config
