"""Estimates whether a training run fits and how fast it can be, by compiling it for devices that this machine lacks.

python launch/plan.py --config configs/sft.py:7b --config.topology=v5e:4x4 [--search] [--config.field=value ...]

Topologies are spelled as libtpu does (v5e:4x4, v4:2x2x4, v5p:2x2x2, v6e:2x4); gpu:8x80GB is estimated by arithmetic.
"""

from typing import Any

from tljax.core.command import main


def plan(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    from tljax.plan.run import run

    run(config)


if __name__ == "__main__":
    main(
        plan,
        about=__doc__ or "",
        required_fields=("run", "data", "model", "optim"),
        script_fields={"topology": "", "search": False},
    )
