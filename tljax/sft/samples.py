"""Held-out replies token by token, with the weight and the loss of each token."""

from pathlib import Path

import jax
import numpy as np

from tljax.data.batch_arrays import KEY_TOKEN, OTHER_TOKEN
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.mesh import gather_to_host
from tljax.storage.atomic import append_jsonl


def write_samples(
    path: Path, step: int, batch: dict[str, np.ndarray], scores: dict[str, jax.Array], tokenizer: Tokenizer, count: int
) -> None:
    """Appends the first `count` replies of a batch to a JSONL file.

    batch: host arrays [B, T] of the global batch. scores: `token_scores` of it, [B, M]. A line holds the update's
    number, the reply's text and its tokens, each as [token, weight relative to the reply's smallest, nll in nats, "key"
    or ""].
    """
    host_scores = gather_to_host(scores)
    lines = []
    for row, weights in enumerate(batch["loss_weights"]):
        positions = np.flatnonzero((weights > 0) & (batch["token_classes"][row] >= OTHER_TOKEN))
        weighted = host_scores["loss_weights"][row] > 0
        nll = np.zeros(len(weights), np.float32)
        nll[host_scores["columns"][row][weighted]] = -host_scores["logprobs"][row][weighted]
        # Two replies never touch: at least the newline lies between a reply's end token and the next reply.
        for reply in np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1):
            if len(reply) and len(lines) < count:
                ids = batch["targets"][row][reply].tolist()
                pieces = tokenizer.pieces(ids)
                relative = weights[reply] / weights[reply].min()
                is_key = batch["token_classes"][row][reply] >= KEY_TOKEN
                tokens = [
                    [piece, round(float(weight), 3), round(float(loss), 4), "key" if key else ""]
                    for piece, weight, loss, key in zip(pieces, relative, nll[reply], is_key, strict=True)
                ]
                lines.append({"step": step, "reply": tokenizer.decode(ids), "tokens": tokens})
    processes.run_on_primary(lambda: append_jsonl(path, lines))
