"""Analyses data, and a model on it: python launch/analyse.py --config configs/analyse.py --config.source=raw.json \
[--config.model.path=HF_DIR_OR_RUN]"""

from typing import Any

from tljax.core.command import main
from tljax.storage.remote import with_local_paths


def analyse(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    from tljax.analysis.run import run

    with with_local_paths(config, reads=(), writes=("out",)):
        run(config)


if __name__ == "__main__":
    main(analyse, about=__doc__ or "", required_fields=("source", "data", "model", "limit"))
