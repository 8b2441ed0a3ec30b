"""Trains a model: python launch/train.py --config configs/sft.py[:7b,release] [--config.field=value ...]"""

from typing import Any

from tljax.core.command import main
from tljax.core.config import check_choice


def run_sft(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    from tljax.sft.run import run

    run(config)


RUNS = {"sft": run_sft}


def train(config: Any) -> None:
    check_choice("run", config.run, RUNS)
    RUNS[config.run](config)


if __name__ == "__main__":
    main(train, about=__doc__ or "", needs=("run", "data", "model", "optim"))
