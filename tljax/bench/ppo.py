"""Measures PPO: the seconds of each phase of an update."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from tljax.bench import devices, peer_model
from tljax.bench.measurement import Measurement, rate
from tljax.data.dialect import open_dialect
from tljax.distributed.mesh import make_mesh
from tljax.generate.load import open_model_and_tokenizer
from tljax.model import cost
from tljax.rl import run as ppo_run
from tljax.rl.check import check
from tljax.rl.experience import make_experience
from tljax.rl.optimizers import make_optimizers
from tljax.rl.options import UpdateOptions
from tljax.rl.ppo import make_update
from tljax.rl.train_iteration import PPOContext, Programs, train_iteration
from tljax.storage.run_folder import RunFolder
from tljax.training.checkpoint import Checkpoints

PHASES = ("rollout", "reward", "experience", "update")
MAX_COMPILING = 3  # times config.repeats: the updates that may compile programs before it is given up


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Makes updates as launch/train.py does, and returns the seconds of their phases.

    An update that met a row width for the first time compiled programs and is not counted.
    """
    ppo = config.ppo
    with devices.name_block("ppo"):
        ppo.model.path = peer_model.resolve_scratch(ppo, work)
        check(ppo)
        model, tokenizer = open_model_and_tokenizer(ppo.model.path, ppo.data.tokenizer)
        dialect, tokenizer = open_dialect(ppo.data.dialect, ppo.data.chat_template, tokenizer, "data.chat_template")
        folder = RunFolder(Path(tempfile.mkdtemp(dir=work)))
        mesh = make_mesh(**ppo.mesh)
        with ppo_run.make_reward_function(ppo.reward) as reward_function, jax.set_mesh(mesh):
            inputs = ppo_run.PPOInputs(model, tokenizer, dialect, {}, reward_function)
            context = ppo_run.load_context(ppo, inputs, folder)
            counted, compiling = _make_updates(context, config)
    measurements = {
        f"{phase}, seconds": Measurement("s", [update[f"seconds_{phase}"] for update in counted]) for phase in PHASES
    }
    totals = [sum(update[f"seconds_{phase}"] for phase in PHASES) for update in counted]
    measurements["all phases, seconds"] = Measurement("s", totals)
    measurements["tokens per second"] = rate("tokens/s", [update["tokens"] for update in counted], totals)
    return {
        "device": devices.describe(),
        "measurements": measurements | devices.peak_memory(),
        "shapes": {
            "weights": cost.count_weights(model.config),
            "algorithm": ppo.algorithm,
            "prompts": ppo.rollout.prompts,
            "replies to a prompt": ppo.rollout.group,
            "longest prompt": int(context.prompts.longest),
            "new tokens": ppo.rollout.max_new_tokens,
            "compute dtype": ppo.model.compute_dtype,
            "updates that compiled": compiling,
        },
    }


def _make_updates(context: PPOContext, config: Any) -> tuple[list[dict[str, Any]], int]:
    """Returns the metrics of config.repeats updates that compiled nothing, and the number of those that did.

    If too many compile, the last updates are returned whatever they did.
    """
    txs = make_optimizers(context.config, context.total)
    options = UpdateOptions.from_config(context.config, ppo_run.sample_options(context))
    experience, seconds = _timed(make_experience(context.models, options))
    programs = Programs(options, experience, make_update(context.models, *txs, options), widths=set())
    counted, compiling = [], []
    with Checkpoints(context.folder.path / "checkpoints") as checkpoints:
        state, frozen = ppo_run.begin(context, txs, checkpoints)
        while len(counted) < config.warmup + config.repeats and len(compiling) < MAX_COMPILING * config.repeats:
            n, widths = len(counted) + len(compiling), len(programs.widths)
            state, _, _, metrics = train_iteration(context, programs, frozen, state, n)
            metrics["seconds_experience"] = seconds.pop()
            metrics["seconds_update"] -= metrics["seconds_experience"]
            (counted if len(programs.widths) == widths else compiling).append(metrics)
    return (counted or compiling)[-config.repeats :], len(compiling)


def _timed(experience: Callable[..., Any]) -> tuple[Callable[..., Any], list[float]]:
    """Returns the function, which then waits for its result, and the list to which it adds the seconds of each call."""
    seconds: list[float] = []

    def call(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = jax.block_until_ready(experience(*arguments))
        seconds.append(time.perf_counter() - begin)
        return result

    return call, seconds
