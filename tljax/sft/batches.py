"""Batches of training and of evaluation, and their arrays on the mesh."""

from typing import Any

import jax

from tljax.data.batch import Batches
from tljax.data.examples import Examples
from tljax.distributed.mesh import global_batch, process_rows, row_length_multiple

ROUND_TO = 128  # TPU lanes: the kernels' blocks divide a row whose length is a multiple


def make_batches(config: Any, examples: Examples) -> tuple[Batches, Batches | None]:
    """Returns the training batches and those of the held-out trajectories, None if no trajectory is held out."""
    # The length of a packed row.
    longest = max(examples.train["length"])
    if examples.held_out is not None:
        longest = max(longest, *examples.held_out["length"])
    multiple = row_length_multiple(ROUND_TO)
    tokens = config.batch.tokens or -(-longest // multiple) * multiple

    # Enough epochs for optim.max_steps.
    shape = {"rows": config.batch.rows, "tokens": tokens, "packed": config.batch.pack}
    epochs = config.optim.epochs
    seed = config.seed if config.batch.shuffle else None
    train = Batches(examples.train, epochs=epochs, seed=seed, **shape)
    if config.optim.max_steps > train.steps:
        # Epochs differ by a few packed rows, so this counts with the shortest possible epoch.
        shortest = -(-int(train.lengths.sum()) // (tokens * config.batch.rows))
        epochs = max(epochs, -(-config.optim.max_steps // shortest))
        train = Batches(examples.train, epochs=epochs, seed=seed, **shape)

    # Evaluation accumulates nothing, so its batches are as small as one part of an update.
    if examples.held_out is None:
        return train, None
    shape["rows"] = config.batch.rows // config.batch.accumulate
    return train, Batches(examples.held_out, epochs=1, seed=None, **shape)


def load_batch(batches: Batches, step: int, accumulate: int) -> dict[str, jax.Array]:
    """Returns batch `step` on the current mesh, arrays [accumulate, rows / accumulate, T].

    Each process builds only the rows of its own devices.
    """
    part = batches.rows // accumulate
    local = process_rows(part)
    host = batches.build(step, [a * part + int(r) for a in range(accumulate) for r in local])
    return global_batch({k: v.reshape(accumulate, len(local), *v.shape[1:]) for k, v in host.items()}, accumulate=True)
