"""The plan of a training config: does it fit, what moves, how fast can it be; without the devices."""

from pathlib import Path
from typing import Any

import jax

from tljax.core.config import check_choice
from tljax.core.errors import InputError
from tljax.distributed.log import log
from tljax.distributed.mesh import make_mesh
from tljax.model import llama
from tljax.model.attention import choose_implementation
from tljax.plan.fitting import divisible, flags
from tljax.plan.measure import Measured, measure
from tljax.plan.report import report
from tljax.plan.search import format_tried, hint, search, whole
from tljax.plan.topology import open_topology
from tljax.rl import check as rl_check
from tljax.sft import check as sft_check
from tljax.toolbox.embedded import BASE_FOLDER, resolve_model_path
from tljax.training import model_source

RUNS = ("sft", "ppo")


def run(config: Any) -> None:
    """Plans what launch/train.py would run with `config`, on config.topology; config.search looks for a better one.

    Raises InputError for what the user can mend, and SystemExit with code 1 where the plan does not fit.
    """
    check_choice("run", config.run, RUNS)
    topology = open_topology(config.topology, config.mesh.slices)
    name, c = shape_of(config.model)
    check(config)
    with jax.set_mesh(make_mesh(**config.mesh, devices=topology.devices)):
        llama.check_mesh(c)
        platform = "tpu" if topology.compiles else "gpu"
        choose_implementation(config.model.attention, config.model.compute_dtype, c.head_dim, platform)
        config, notes = divisible(config)
        for note in notes:
            log(note)
        if not config.search:
            return show(measure(config, c, topology), c, name)
    found = search(config, c, topology)
    if found:
        log(format_tried(found))
    if not found or not found[0].plan.fits:
        log("nothing fits on this topology, however few rows; use more devices, lora, or shorter rows")
        raise SystemExit(1)
    plan = whole(found[0], c, topology)
    show(plan, c, name)
    log(f"flags: {flags(plan.config)}")


def show(plan: Measured, c: llama.LlamaConfig, name: str) -> None:
    """Prints a plan and what would fit better. Raises SystemExit with code 1 where it does not fit."""
    log(report(plan, name))
    if not (plan.fits and plan.config.search):
        log(hint(plan, c))
    if not plan.fits:
        raise SystemExit(1)


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed; the model need not be there yet."""
    if config.run == "sft":
        sft_check.check(config)
        return
    planned = config.copy_and_resolve_references()
    if planned.model.path in ("", model_source.SCRATCH):
        planned.model.path = "base"
    rl_check.check(planned)


def shape_of(model: Any) -> tuple[str, llama.LlamaConfig]:
    """The name and shape of the model: of the folder model.path where it is here, else that of model.preset.

    Raises InputError for a folder that is no model.
    """
    path = str(BASE_FOLDER) if model.path == "quickstart" else resolve_model_path(model.path)
    if path and path != model_source.SCRATCH and Path(path).expanduser().is_dir():
        return path, model_source.open_model(path, "").config
    if model.preset == "tiny":
        raise InputError(
            f"config.model.path is {model.path!r}, which is no folder here, and model.preset is 'tiny'; name a size "
            "after the config (configs/sft.py:7b), or a folder"
        )
    away = f", as {model.path} is no folder here" if path and path != model_source.SCRATCH else ""
    return f"CodeLLaMA {model.preset} (model.preset{away})", llama.preset(model.preset)
