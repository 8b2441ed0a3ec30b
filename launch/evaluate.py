"""Scores a model: python launch/evaluate.py --config configs/evaluate.py --config.model.path=HF_DIR_OR_RUN

With --config.predictions=F.jsonl it scores these, without a model; with --config.turns=multi it holds dialogues.
"""

from typing import Any

from tljax.core import processes
from tljax.core.command import main
from tljax.core.remote import brought


def evaluate(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too; scoring does without it.
    reads, writes = ("data", "predictions", "compare", "tools"), ("out", "bfcl_out")
    if config.predictions and config.turns == "single":
        from tljax.evaluate.benchmarks.scoring import run

        with brought(config, reads=reads, writes=writes):
            run(config)
    else:
        from tljax.evaluate.run import run

        with processes.joined(config), brought(config, reads=reads, writes=writes):
            run(config)


if __name__ == "__main__":
    main(evaluate, about=__doc__ or "", needs=("queries", "model", "new_tokens"))
