"""Exports a run's checkpoint as a Hugging Face folder.

python launch/export_hf.py --config configs/export.py --config.run=runs/sft-tiny --config.out=my-model
"""

from typing import Any

from tljax.core.command import main
from tljax.core.errors import InputError
from tljax.distributed import processes


def export(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    import jax

    from tljax.distributed.log import log
    from tljax.distributed.mesh import make_mesh
    from tljax.model.hf.export import WeightsFormat
    from tljax.training.export import export_run
    from tljax.training.model_source import as_path

    if not (config.run and config.out):
        raise InputError("set config.run, the folder of a run, and config.out, a new folder for the export")
    with processes.initialized(config), jax.set_mesh(make_mesh(**config.mesh)):
        step, dtype = export_run(
            as_path(config.run),
            as_path(config.out),
            WeightsFormat.from_config(config),
            step=config.step,
            adapter=config.adapter,
        )
        log(f"exported step {step} of {config.run} as {dtype}: {config.out}")


if __name__ == "__main__":
    main(export, about=__doc__ or "", required_fields=("run", "out", "step"))
