"""Plans a training config: does it fit, what do devices send each other, how fast can it be; without the devices."""

from pathlib import Path
from typing import Any

import jax

from tljax.core.config import check_choice
from tljax.core.errors import InputError
from tljax.distributed.log import log
from tljax.distributed.mesh import make_mesh
from tljax.model import llama
from tljax.model.attention import choose_implementation
from tljax.model.hf.gguf_file import is_gguf
from tljax.plan.measure import Plan, measure
from tljax.plan.report import format_plan
from tljax.plan.rows import divide_rows
from tljax.plan.search import format_flags, format_trials, measure_all_programs, search, suggest_change
from tljax.plan.topology import open_topology
from tljax.rl import check as rl_check
from tljax.rl.options import MULTI
from tljax.sft import check as sft_check
from tljax.toolbox.embedded import BASE_FOLDER, resolve_model_path
from tljax.training import model_source

RUNS = ("sft", "ppo")


def run(config: Any) -> None:
    """Plans the run that launch/train.py would start with `config`, on config.topology, and prints the plan.

    config.search: if True, looks for the fastest config that fits. Raises InputError for what the user can mend, and
    SystemExit with code 1 if the plan does not fit.
    """
    # The devices, the model, and the checks that training makes first.
    check_choice("run", config.run, RUNS)
    topology = open_topology(config.topology, config.mesh.slices)
    model_name, c = open_shape(config.model)
    check(config)
    with jax.set_mesh(make_mesh(**config.mesh, devices=topology.devices)):
        llama.check_mesh(c)
        platform = "tpu" if topology.compiles else "gpu"
        choose_implementation(config.model.attention, config.model.compute_dtype, c.head_dim, platform)
        config, notes = divide_rows(config)
        for note in notes:
            log(note)
        if not config.search:
            return print_plan(measure(config, c, topology), c, model_name)

    # The search.
    trials = search(config, c, topology)
    if trials:
        log(format_trials(trials))
    if not trials or not trials[0].plan.fits:
        log("nothing fits on this topology, however few rows; use more devices, lora, or shorter rows")
        raise SystemExit(1)
    plan = measure_all_programs(trials[0], c, topology)
    print_plan(plan, c, model_name)
    log(f"flags: {format_flags(plan.config)}")


def print_plan(plan: Plan, c: llama.LlamaConfig, model_name: str) -> None:
    """Prints a plan, and a change that would fit better. Raises SystemExit with code 1 if it does not fit."""
    log(format_plan(plan, model_name))
    if not (plan.fits and plan.config.search):
        log(suggest_change(plan, c))
    if not plan.fits:
        raise SystemExit(1)


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed; the model need not exist yet."""
    if config.run == "sft":
        sft_check.check(config)
        return
    # PPO needs a model to start from, a plan only its shape.
    planned = config.copy_and_resolve_references()
    if planned.model.path in ("", model_source.SCRATCH):
        planned.model.path = "base"
    rl_check.check(planned)
    if planned.rollout.turns == MULTI:
        raise InputError(
            "config.rollout.turns is 'multi', and a plan knows single replies alone; set rollout.turns=single, with "
            "the tokens of a dialogue in rollout.max_prompt_tokens"
        )


def open_shape(model: Any) -> tuple[str, llama.LlamaConfig]:
    """Returns the name and the shape of the model: that of the local model.path, or else that of model.preset.

    Raises InputError for a folder that holds no model.
    """
    path = resolve_model_path(model.path)
    if path == "quickstart":
        path = model.preset if model.preset == "smollm2" else str(BASE_FOLDER)
    if path and path != model_source.SCRATCH and (is_gguf(path) or Path(path).expanduser().is_dir()):
        return path, model_source.open_model(path, "").config
    if model.preset == "tiny":
        raise InputError(
            f"config.model.path is {model.path!r}, which is not a local folder, and model.preset is 'tiny'; add a size "
            "to the config (configs/sft.py:7b), or give a folder"
        )
    note = f", since {model.path} is not a local folder" if path and path != model_source.SCRATCH else ""
    return f"CodeLLaMA {model.preset} (model.preset{note})", llama.preset(model.preset)
