"""Golden replies under a model: of every token, after the golden ones before it, loss, rank and what is likelier."""

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

CHUNK = 64  # reply tokens a row that pass the head together; logits are [rows, CHUNK, V]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Of one reply's n tokens: nll in nats float32 [n], rank int32 [n] from 1, best int32 [n].

    rank: 1 plus the number of tokens that greedy decoding would prefer, so that rank 1 is where it takes the golden
    one; best: the token that it takes.
    """

    nll: np.ndarray
    rank: np.ndarray
    best: np.ndarray


def score_tokens(
    params: llama.Params,
    c: llama.LlamaConfig,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    rows: int,
    compute_dtype: str,
    attention: str,
) -> Iterator[dict[int, TokenScores]]:
    """Scores of (prompt, reply) pairs by index, a batch of `rows` after the other on the current mesh."""
    lengths = [len(prompt) + len(reply) - 1 for prompt, reply in pairs]
    for width, batch in batch_by_length(lengths, rows, row_length_multiple(ROUND_TO)):
        room = padded_length(max(len(pairs[i][1]) for i in batch), CHUNK)
        room = -(-room // CHUNK) * CHUNK
        names = {"tokens": width, "segments": width, "places": room, "targets": room}
        host = {name: np.zeros((rows, size), np.int32) for name, size in names.items()}
        for row, i in enumerate(batch):
            prompt, reply = pairs[i]
            host["tokens"][row, : lengths[i]] = [*prompt, *reply[:-1]]
            host["segments"][row, : lengths[i]] = 1
            host["places"][row, : len(reply)] = np.arange(len(prompt) - 1, lengths[i])
            host["targets"][row, : len(reply)] = reply
        found = jax.device_get(_scores(params, c, global_batch(host), compute_dtype, attention))
        yield {
            i: TokenScores(*(np.asarray(found[name][row, : len(pairs[i][1])]) for name in ("nll", "rank", "best")))
            for row, i in enumerate(batch)
        }


@jax.jit(static_argnames=("compute_dtype", "attention"))
def _scores(
    params: llama.Params, c: llama.LlamaConfig, batch: dict[str, jax.Array], compute_dtype: str, attention: str
) -> dict[str, jax.Array]:
    """nll float32, rank and best int32, all [B, M], of targets int32 [B, M] that follow the tokens at `places`."""
    tokens = batch["tokens"]
    columns = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    positions = jnp.broadcast_to(columns, tokens.shape, out_sharding=spec("batch", None))
    hidden = llama.forward(
        params,
        c,
        tokens,
        positions,
        batch["segments"],
        compute_dtype=jnp.dtype(compute_dtype),
        remat="none",
        attention=attention,
    )
    return chunked_head(params, c, take_positions(hidden, batch["places"]), batch["targets"], CHUNK, _of_logits)


def _of_logits(logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Of logits float32 [B, T, V] and targets int32 [B, T], without a gather, as `llama.token_logprobs` does."""
    layout = jax.typeof(logits).sharding.spec
    words = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=layout)
    own = jnp.where(words == targets[..., None], logits, -jnp.inf).max(-1)[..., None]
    # Of equal logits argmax takes the first.
    before = (logits > own) | ((logits == own) & (words < targets[..., None]))
    return {
        "nll": -llama.token_logprobs(logits, targets),
        "rank": 1 + before.sum(-1, dtype=jnp.int32),
        "best": jnp.argmax(logits, axis=-1).astype(jnp.int32),
    }
