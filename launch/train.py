"""Trains a model: python launch/train.py --config configs/sft.py[:7b,release] [--config.field=value ...]

configs/ppo.py continues from an SFT model with PPO.
"""

import runpy
from pathlib import Path
from typing import Any

from tljax.core.command import main
from tljax.core.config import check_choice
from tljax.core.errors import InputError
from tljax.distributed import processes


def run_sft(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    from tljax.sft.run import run

    run(config)


def run_ppo(config: Any) -> None:
    from tljax.evaluate.in_training import open_eval_sets
    from tljax.rl.check import check
    from tljax.rl.run import run

    if config.model.path == "quickstart":
        # A mistake in the config must not cost the minutes of SFT first.
        check(config)
        # In any dialect: the names of the sets are checked, and the chat template of the model is not there yet.
        open_eval_sets(config, "mae")
        config.model.path = quickstart(config.model.preset)
    run(config)


def quickstart(size: str) -> str:
    """Returns the folder of the SFT quickstart. If its model does not exist yet, the quickstart runs first."""
    get_config = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "sft.py"))["get_config"]
    config = get_config(size if size == "smollm2" else "tiny")
    config.out = f"runs/{config.name}"
    if processes.run_on_primary((Path(config.out) / "hf").is_dir):
        return config.out
    message = f"config.model.path is 'quickstart': training {config.out} first; the same command continues"
    processes.run_on_primary(lambda: print(message, flush=True))
    config.resume = "auto"
    try:
        run_sft(config)
    except InputError as error:
        problem = f"config.model.path is 'quickstart', but {config.out} cannot be trained to its end"
        raise type(error)(f"{problem}: {error}; or give another config.model.path") from None
    return config.out


RUNS = {"sft": run_sft, "ppo": run_ppo}


def train(config: Any) -> None:
    check_choice("run", config.run, RUNS)
    with processes.initialized(config):
        RUNS[config.run](config)


if __name__ == "__main__":
    main(train, about=__doc__ or "", required_fields=("run", "data", "model", "optim"))
