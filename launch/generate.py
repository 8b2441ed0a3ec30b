"""Generates replies to a file of prompts: python launch/generate.py --config configs/generate.py \
--config.model.path=HF_DIR_OR_RUN --config.prompts=F.jsonl --config.out=O.jsonl"""

from typing import Any

from tljax.core.command import main
from tljax.distributed import processes
from tljax.storage.remote import with_local_paths


def generate(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    from tljax.generate.run import run

    with processes.initialized(config), with_local_paths(config, reads=("prompts",), writes=("out",)):
        run(config)


if __name__ == "__main__":
    main(generate, about=__doc__ or "", required_fields=("prompts", "sample", "model"))
