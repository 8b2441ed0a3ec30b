"""Rows that divide over a mesh: a plan goes on with the nearest ones, where training would refuse."""

import math
from typing import Any

from tljax.distributed.mesh import batch_shard_count


def divisible(config: Any) -> tuple[Any, list[str]]:
    """A copy of the config whose rows divide over the current mesh, and a note for every field that was changed."""
    places = batch_shard_count()
    config, notes = config.copy_and_resolve_references(), []

    def change(name: str, value: int) -> None:
        block, field = name.split(".")
        if config[block][field] != value:
            notes.append(
                f"note: {name} = {config[block][field]} does not divide over the {places} places of the mesh, and "
                f"training would refuse it; planned with --config.{name}={value}"
            )
        config[block][field] = value

    def raised(value: int, unit: int) -> int:
        return math.ceil(value / unit) * unit

    if config.run == "sft":
        change("batch.rows", raised(config.batch.rows, places * config.batch.accumulate))
    else:
        block, ppo = config.rollout, config.ppo
        unit = places * ppo.minibatches
        change("rollout.prompts", raised(block.prompts, unit // math.gcd(unit, block.group)))
        most = block.prompts * block.group // unit  # parts of a minibatch with a row for every place
        change("ppo.accumulate", max(n for n in range(1, ppo.accumulate + 1) if most % n == 0))
        change("rollout.rows", raised(block.rows, places))
    if config.eval.sets:
        change("eval.rows", raised(config.eval.rows, places))
    return config, notes


def with_rows(config: Any, rows: int) -> Any:
    """A copy of the config that computes `rows` on every device of the current mesh side by side where it learns.

    Of PPO the replies of an update stay, as the algorithm has them, but for what it takes to divide them: they are
    computed in more parts or fewer.
    """
    config, places = config.copy_and_resolve_references(), batch_shard_count()
    if config.run == "sft":
        config.batch.rows = rows * places * config.batch.accumulate
        return config
    replies = config.rollout.prompts * config.rollout.group // config.ppo.minibatches
    config.ppo.accumulate = max(1, replies // (rows * places))
    return divisible(config)[0]


def rows_of(config: Any) -> int:
    """How many rows every device of the current mesh computes side by side where it learns."""
    if config.run == "sft":
        return config.batch.rows // config.batch.accumulate // batch_shard_count()
    parts = config.ppo.minibatches * config.ppo.accumulate
    return config.rollout.prompts * config.rollout.group // parts // batch_shard_count()


def flags(config: Any) -> str:
    """What a search chooses, as flags of launch/train.py."""
    fields = ["mesh.sequence"] if config.mesh.sequence > 1 else []
    fields += ["mesh.tensor", "model.remat"]
    fields += ["batch.rows"] if config.run == "sft" else ["rollout.prompts", "rollout.rows", "ppo.accumulate"]
    fields += ["eval.rows"] if config.eval.sets else []
    values = ((field, *field.split(".")) for field in fields)
    return " ".join(f"--config.{field}={config[block][name]}" for field, block, name in values)
