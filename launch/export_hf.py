"""A run's checkpoint as a Hugging Face folder.

python launch/export_hf.py --config configs/export.py --config.run=runs/sft-tiny --config.out=my-model
"""

from typing import Any

from tljax.core import processes
from tljax.core.command import main
from tljax.core.errors import InputError


def export(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    import jax

    from tljax.core.mesh import make_mesh
    from tljax.core.metrics import say
    from tljax.model.source import export_run, place_of

    if not (config.run and config.out):
        raise InputError("config.run and config.out are needed: the folder of a run, and a new folder for the export")
    with processes.joined(config), jax.set_mesh(make_mesh(**config.mesh)):
        step, dtype = export_run(
            place_of(config.run),
            place_of(config.out),
            step=config.step,
            dtype=config.dtype,
            max_shard_bytes=config.max_shard_bytes,
            adapter=config.adapter,
        )
        say(f"exported step {step} of {config.run} as {dtype}: {config.out}")


if __name__ == "__main__":
    main(export, about=__doc__ or "", needs=("run", "out", "step"))
