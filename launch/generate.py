"""Replies to a file of prompts: python launch/generate.py --config configs/generate.py \
--config.model.path=HF_DIR_OR_RUN --config.prompts=F.jsonl --config.out=O.jsonl"""

from typing import Any

from tljax.core import processes
from tljax.core.command import main
from tljax.core.remote import brought


def generate(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    from tljax.evaluate.generate import run

    with processes.joined(config), brought(config, reads=("prompts",), writes=("out",)):
        run(config)


if __name__ == "__main__":
    main(generate, about=__doc__ or "", needs=("prompts", "sample", "model"))
