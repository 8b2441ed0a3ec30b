"""The config of prepared data: one JSON line per assistant step, with tokens and weights.

    python launch/prepare_data.py --config configs/data.py --config.out=steps.jsonl
    python launch/prepare_data.py --config configs/data.py --config.data.source=raw_data.json \
        --config.data.tokenizer=CodeLlama-7b-hf --config.out=steps.jsonl

The option `release` after a colon chooses the rules of the released scripts: --config configs/data.py:release
"""

from ml_collections import ConfigDict

from tljax.core.config import data_block, parse_options, toolbox_block


def get_config(arg: str = "") -> ConfigDict:
    _, flags = parse_options(arg, sizes=(), flags=("release",), default="")

    config = ConfigDict()
    config.out = ""  # a new file, or an address gs://..., for one line per assistant step
    config.data = data_block()
    config.toolbox = toolbox_block()

    if "release" in flags:
        config.data.mae = "release"
        config.data.pkt = "release"
    return config
