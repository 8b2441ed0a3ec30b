"""Changes the rows of a config so that they divide over a mesh: training would refuse others, a plan goes on."""

import math
from typing import Any

from tljax.distributed.mesh import batch_shard_count
from tljax.rl.options import minibatch_counts, part_replies


def divide_rows(config: Any) -> tuple[Any, list[str]]:
    """Returns a copy of the config whose rows divide over the current mesh, and a note for every changed field."""
    shards = batch_shard_count()
    config, notes = config.copy_and_resolve_references(), []

    def change(name: str, value: int) -> None:
        block, field = name.split(".")
        if config[block][field] != value:
            notes.append(
                f"note: {name} = {config[block][field]} does not divide over the {shards} parts of a batch on this "
                f"mesh, and training would refuse it; planned with --config.{name}={value}"
            )
        config[block][field] = value

    if config.run == "sft":
        change("batch.rows", _round_up(config.batch.rows, shards * config.batch.accumulate))
    else:
        rollout, ppo = config.rollout, config.ppo
        replies_multiple = shards * math.lcm(*minibatch_counts(config))
        prompts_multiple = replies_multiple // math.gcd(replies_multiple, rollout.group)
        change("rollout.prompts", _round_up(rollout.prompts, prompts_multiple))
        # A minibatch has at most so many parts with a row for every shard.
        max_parts = rollout.prompts * rollout.group // replies_multiple
        change("ppo.accumulate", max(n for n in range(1, ppo.accumulate + 1) if max_parts % n == 0))
        change("rollout.rows", _round_up(rollout.rows, shards))
    if config.eval.sets:
        change("eval.rows", _round_up(config.eval.rows, shards))
    return config, notes


def with_rows_per_device(config: Any, rows: int) -> Any:
    """Returns a copy of the config that trains on `rows` rows at a time on every device of the current mesh.

    SFT gets other batches. PPO keeps the replies of an update, which belong to the algorithm, and computes them in
    more or fewer parts; their number changes only if it does not divide over the mesh.
    """
    config, shards = config.copy_and_resolve_references(), batch_shard_count()
    if config.run == "sft":
        config.batch.rows = rows * shards * config.batch.accumulate
        return config
    replies = config.rollout.prompts * config.rollout.group // min(minibatch_counts(config))
    config.ppo.accumulate = max(1, replies // (rows * shards))
    return divide_rows(config)[0]


def rows_per_device(config: Any) -> int:
    """Returns the number of rows that every device of the current mesh trains on at a time."""
    if config.run == "sft":
        return config.batch.rows // config.batch.accumulate // batch_shard_count()
    return max(part_replies(config)) // batch_shard_count()


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
