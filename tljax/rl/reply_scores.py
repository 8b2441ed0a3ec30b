"""A model's hidden states, log-probabilities and entropies of sampled replies."""

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import spec
from tljax.generate.sampling import sampled_token_logprobs
from tljax.model import llama
from tljax.model.head import chunked_head
from tljax.model.sequence import take_positions
from tljax.model.shared_prompt import predicting_columns, separate_replies, shared_rows
from tljax.rl.options import UpdateOptions
from tljax.rl.state import RolloutBatch


def reply_hidden(params: llama.Params, c: llama.LlamaConfig, batch: RolloutBatch, options: UpdateOptions) -> jax.Array:
    """Returns the hidden states [B, M, D] from which each reply token is predicted; undefined off the mask."""
    if options.shared > 1:
        return _shared_reply_hidden(params, c, batch, options)
    (B, T), M = batch.tokens.shape, batch.replies.shape[1]
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T), out_sharding=spec("batch", None))
    if batch.columns is None:
        ends = batch.starts + batch.mask.sum(axis=1, dtype=jnp.int32)
        predicting = batch.starts[:, None] - 1 + jnp.arange(M, dtype=jnp.int32)[None]
    else:
        ends = jnp.max(jnp.where(batch.mask, batch.columns, 0), axis=1) + 1
        predicting = batch.columns
    hidden = llama.forward(
        params,
        c,
        batch.tokens,
        positions,
        (positions < ends[:, None]).astype(jnp.int32),
        llama.ForwardOptions(options.sample.compute_dtype, options.remat, options.sample.attention),
    )
    return take_positions(hidden, jnp.minimum(predicting, T - 1))


def _shared_reply_hidden(
    params: llama.Params, c: llama.LlamaConfig, batch: RolloutBatch, options: UpdateOptions
) -> jax.Array:
    """Returns the same from rows in which `options.shared` replies share their prompt."""
    P, M, count = batch.tokens.shape[1], batch.replies.shape[1], options.shared
    sample = options.sample
    rows = shared_rows(batch.tokens, batch.starts, batch.replies, batch.mask, count)
    forward_options = llama.ForwardOptions(sample.compute_dtype, options.remat, sample.attention, shared_columns=P)
    hidden = llama.forward(params, c, *rows, forward_options)
    hidden = take_positions(hidden, predicting_columns(batch.starts, P, M, count), shared_columns=P)
    return separate_replies(hidden, count)


def reply_logprobs(
    params: llama.Params, c: llama.LlamaConfig, batch: RolloutBatch, options: UpdateOptions
) -> tuple[jax.Array, jax.Array]:
    """Returns the log-probability of each reply token, and the entropy of the distribution before it: float32 [B, M].

    The log-probabilities are those of the sampling distribution; the entropy is that of the model at temperature 1, in
    nats. Off the mask both are undefined.
    """

    def score(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        normal = jax.nn.logsumexp(logits, axis=-1)
        entropy = normal - (jnp.exp(logits - normal[..., None]) * logits).sum(-1)
        return sampled_token_logprobs(logits, targets, options.sample), entropy

    hidden = reply_hidden(params, c, batch, options)
    M = batch.replies.shape[1]
    chunk = min(options.loss_chunk, M)
    room = ((0, 0), (0, -M % chunk))
    hidden, targets = jnp.pad(hidden, (*room, (0, 0))), jnp.pad(batch.replies, room)
    logprobs, entropy = chunked_head(params, c, hidden, targets, chunk, score)
    return logprobs[:, :M], entropy[:, :M]
