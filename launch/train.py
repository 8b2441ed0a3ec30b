"""Trains a model: python launch/train.py --config configs/sft.py[:7b,release] [--config.field=value ...]"""

from typing import Any

from tljax.core.config import check_choice, main
from tljax.sft.run import run as run_sft

RUNS = {"sft": run_sft}


def train(config: Any) -> None:
    check_choice("run", config.run, RUNS)
    RUNS[config.run](config)


if __name__ == "__main__":
    main(train, about=__doc__ or "", needs=("run", "data", "model", "optim"))
