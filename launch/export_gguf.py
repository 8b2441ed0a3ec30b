"""Exports a run, or any model, as a GGUF file.

python launch/export_gguf.py --config configs/export_gguf.py --config.run=runs/sft-smollm2 --config.type=q8_0
"""

import sys
from pathlib import Path
from typing import Any

from tljax.core.command import main
from tljax.core.errors import InputError
from tljax.distributed import processes


def export(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that JAX takes to load ends in one line too.
    import jax

    from tljax.distributed.log import log
    from tljax.distributed.mesh import make_mesh
    from tljax.storage.remote import with_local_paths
    from tljax.toolbox.embedded import resolve_model_path
    from tljax.training.export_gguf import check_target, export_gguf

    if not config.run:
        raise InputError("set config.run, the folder of a run, or another model")
    with processes.initialized(config):
        with with_local_paths(config, reads=(), writes=("out",)):
            target = Path(config.out or default_target(config.run, config.type)).expanduser()
            processes.run_on_primary(lambda: check_target(target))
            with jax.set_mesh(make_mesh(**config.mesh)):
                step = export_gguf(resolve_model_path(config.run), target, kind=config.type, step=config.step)
        what = config.run if step is None else f"step {step} of {config.run}"
        log(f"exported {what} as {config.type}: {target}")


def default_target(run: str, kind: str) -> str:
    """Returns RUN/NAME-TYPE.gguf for a run, and NAME-TYPE.gguf in the working folder for another model."""
    folder = Path(run).expanduser()
    inside = folder if (folder / "checkpoints").is_dir() else Path()
    return str(inside / f"{folder.name.removesuffix('.gguf')}-{kind}.gguf")


if __name__ == "__main__":
    # The script has one config, so that naming it may be left out.
    if not any(word == "--config" or word.startswith("--config=") for word in sys.argv):
        sys.argv.insert(1, f"--config={Path(__file__).parents[1] / 'configs' / 'export_gguf.py'}")
    main(export, about=__doc__ or "", required_fields=("run", "type"))
