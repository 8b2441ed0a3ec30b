"""Scores a model: python launch/evaluate.py --config configs/evaluate.py --config.model.path=HF_DIR_OR_RUN

With --config.predictions=F.jsonl it scores these predictions, without a model; with --config.turns=multi it holds
dialogues.
"""

from typing import Any

from tljax.core.command import main
from tljax.core.config import check_choice
from tljax.distributed import processes
from tljax.storage.remote import with_local_paths


def evaluate(config: Any) -> None:
    check_choice("turns", config.turns, ("single", "multi"))
    addresses = {"reads": ("data", "predictions", "compare", "tools"), "writes": ("out", "bfcl_out")}
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too; scoring needs no JAX.
    if config.predictions and config.turns == "single":
        from tljax.evaluate.benchmarks.scoring import run

        with with_local_paths(config, **addresses):
            return run(config)
    if config.turns == "multi":
        from tljax.agent.run import run
    else:
        from tljax.evaluate.run import run

    with processes.initialized(config), with_local_paths(config, **addresses):
        run(config)


if __name__ == "__main__":
    main(evaluate, about=__doc__ or "", required_fields=("queries", "model", "new_tokens"))
