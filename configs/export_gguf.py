"""The config that exports a run, or any model, as a GGUF file for llama.cpp and what builds on it.

python launch/export_gguf.py --config configs/export_gguf.py --config.run=runs/sft-smollm2 --config.type=q8_0
"""

from ml_collections import ConfigDict

from tljax.core.config import mesh_block, processes_block


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = ""  # the folder of a run, or another model: a Hugging Face folder, an adapter, a GGUF file, "smollm2"
    config.out = ""  # a new file NAME.gguf, or an address of one; "" means NAME-TYPE.gguf inside the run's folder
    config.type = "f16"  # of the matrices: f16 | bf16 | q8_0 (8.5 bits a weight) | f32; vectors stay float32
    config.step = 0  # the step of a run's checkpoint; 0 is the newest, -1 the best one by the run's eval.best
    config.processes = processes_block()
    config.mesh = mesh_block()
    return config
