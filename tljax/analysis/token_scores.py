"""A model and golden replies -> loss, rank and most likely token at every golden token, after the golden prefix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from tljax.distributed.mesh import global_batch, row_length_multiple, spec
from tljax.generate.batches import ROUND_TO, batch_by_length, padded_length
from tljax.model import llama
from tljax.model.head import chunked_head
from tljax.model.sequence import take_positions

CHUNK = 64  # reply tokens per row for which the head computes logits at once: float32 [rows, CHUNK, V]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The scores of one golden reply of n tokens.

    nll: float32 [n], negative log-likelihood in nats; rank: int32 [n], 1 plus the number of tokens that greedy decoding
    prefers to the golden one; best: int32 [n], the token that greedy decoding takes.
    """

    nll: np.ndarray
    rank: np.ndarray
    best: np.ndarray


def score_tokens(
    params: llama.Params,
    c: llama.LlamaConfig,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    rows: int,
    options: llama.ForwardOptions,
) -> Iterator[dict[int, TokenScores]]:
    """Yields the scores of (prompt, reply) pairs by index, in batches of `rows`, on the current mesh."""
    lengths = [len(prompt) + len(reply) - 1 for prompt, reply in pairs]
    for width, batch in batch_by_length(lengths, rows, row_length_multiple(ROUND_TO)):
        room = padded_length(max(len(pairs[i][1]) for i in batch), CHUNK)
        room = -(-room // CHUNK) * CHUNK
        names = {"tokens": width, "segments": width, "positions": room, "targets": room}
        host = {name: np.zeros((rows, size), np.int32) for name, size in names.items()}
        for row, i in enumerate(batch):
            prompt, reply = pairs[i]
            host["tokens"][row, : lengths[i]] = [*prompt, *reply[:-1]]
            host["segments"][row, : lengths[i]] = 1
            host["positions"][row, : len(reply)] = np.arange(len(prompt) - 1, lengths[i])
            host["targets"][row, : len(reply)] = reply
        scores = jax.device_get(_scores(params, c, global_batch(host), options))
        yield {
            i: TokenScores(*(np.asarray(scores[name][row, : len(pairs[i][1])]) for name in ("nll", "rank", "best")))
            for row, i in enumerate(batch)
        }


@jax.jit
def _scores(
    params: llama.Params, c: llama.LlamaConfig, batch: dict[str, jax.Array], options: llama.ForwardOptions
) -> dict[str, jax.Array]:
    """Returns nll float32, rank and best int32, all [B, M].

    batch: tokens and segments, int32 [B, T]; positions and targets, int32 [B, M]: a target follows the token at its
    position.
    """
    tokens = batch["tokens"]
    columns = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    positions = jnp.broadcast_to(columns, tokens.shape, out_sharding=spec("batch", None))
    hidden = llama.forward(params, c, tokens, positions, batch["segments"], options)
    return chunked_head(params, c, take_positions(hidden, batch["positions"]), batch["targets"], CHUNK, _of_logits)


def _of_logits(logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Scores targets int32 [B, T] under logits float32 [B, T, V]; like `llama.token_logprobs` it avoids a gather."""
    layout = jax.typeof(logits).sharding.spec
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=layout)
    golden = jnp.where(vocabulary == targets[..., None], logits, -jnp.inf).max(-1)[..., None]
    # argmax takes the first of equal logits.
    preferred = (logits > golden) | ((logits == golden) & (vocabulary < targets[..., None]))
    return {
        "nll": -llama.token_logprobs(logits, targets),
        "rank": 1 + preferred.sum(-1, dtype=jnp.int32),
        "best": jnp.argmax(logits, axis=-1).astype(jnp.int32),
    }
