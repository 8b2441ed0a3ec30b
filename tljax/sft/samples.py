"""Held-out replies token by token: what each token weighs and how well the model predicts it."""

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

    batch: host arrays [B, T] of the whole batch; scores: `token_scores` of it, [B, M]. A line holds the update's
    number, the reply's text and a list of [token, weight relative to the reply's lightest, nll in nats, "key" or ""].
    """
    found = gather_to_host(scores)
    lines = []
    for row, weights in enumerate(batch["loss_weights"]):
        places = np.flatnonzero((weights > 0) & (batch["token_classes"][row] >= OTHER_TOKEN))
        weighted = found["loss_weights"][row] > 0
        nll_at = np.zeros(len(weights), np.float32)
        nll_at[found["columns"][row][weighted]] = -found["logprobs"][row][weighted]
        nll = nll_at[places]
        # A reply's end token is followed by the next reply only after a gap of at least the newline.
        for reply in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) > 1) + 1):
            at = places[reply]
            if len(at) and len(lines) < count:
                ids = batch["targets"][row][at].tolist()
                pieces = tokenizer.pieces(ids)
                relative = weights[at] / weights[at].min()
                marks = ["key" if kind >= KEY_TOKEN else "" for kind in batch["token_classes"][row][at]]
                tokens = [
                    [piece, round(float(w), 3), round(float(loss), 4), mark]
                    for piece, w, loss, mark in zip(pieces, relative, nll[reply], marks, strict=True)
                ]
                lines.append({"step": step, "reply": tokenizer.decode(ids), "tokens": tokens})
    processes.run_on_primary(lambda: append_jsonl(path, lines))
