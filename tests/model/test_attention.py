"""Attention: the kernels against the reference, the reference against a loop, and what it may hold in memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.jaxprs import array_types, primitive_counts
from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model import attention as A
from tljax.model import blocked_attention, sequence
from tljax.model.blocks import visible
from tljax.model.remat import remat_policy


def inputs(B=2, T=24, N=4, K=2, H=8, dtype=jnp.float32):
    """Random q, k, v, and segments of unequal length with padding at the end."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((B, T, heads, H)), dtype) for heads in (N, K, K))
    cuts = np.sort(rng.integers(1, T - 2, (B, 2)), axis=1)
    segments = 1 + (np.arange(T) >= cuts[:, :1]) + (np.arange(T) >= cuts[:, 1:])
    segments[:, T - T // 8 :] = 0
    return q, k, v, jnp.asarray(segments, jnp.int32)


def loop_attention(q, k, v, segments):
    """One query and one head at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        keys = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
        scores = np.array([q[b, t, n] @ k[b, s, n // group] for s in keys]) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = (weights / weights.sum()) @ v[b, keys, n // group]
    return out


@pytest.mark.parametrize("K", [1, 2, 4])
@pytest.mark.parametrize("chunk", [512, 7])
@pytest.mark.parametrize("name", ["reference", "blocked"])
def test_attention_on_processors_equals_a_loop(name, K, chunk, monkeypatch):
    monkeypatch.setattr(A, "QUERY_CHUNK", chunk)
    monkeypatch.setattr(blocked_attention, "BLOCK", chunk)
    q, k, v, segments = inputs(K=K)
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        attend = jax.jit(functools.partial(A.attention, implementation=name))
        ours = attend(*jax.tree.map(place, (q, k, v, segments)))
    np.testing.assert_allclose(ours, loop_attention(q, k, v, np.asarray(segments)), rtol=0, atol=2e-6)


def place(x):
    return jax.reshard(x, A.spec("batch", None, *(("heads", None) if x.ndim == 4 else ())))


def reference(q, k, v, segments):
    return A._reference(q, k, v, segments, segments, 0)


def loss_and_gradients(attend, arrays, order=None, sharding=None):
    """The result, and gradients of a weighted sum of it; order: of its positions."""
    q, k, v, segments = arrays
    weights = np.sin(np.arange(q.size, dtype=np.float32)).reshape(q.shape)
    weights = jax.device_put(weights if order is None else weights[:, order], sharding)

    def loss(q, k, v):
        out = attend(q, k, v, segments)
        return (weights * out.astype(jnp.float32)).sum(), out

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


SHAPES = {
    "whole-tiles": dict(T=256, N=2, K=2, H=128),
    "padded-gqa": dict(T=200, N=4, K=2, H=64),
    "padded-mqa": dict(B=1, T=128, N=2, K=1, H=32),
    "split": dict(T=512, N=2, K=2, H=128),
    "split-in-four": dict(B=1, T=1024, N=2, K=1, H=64),
}


@pytest.mark.parametrize(
    "chosen, shape, mesh",
    [
        pytest.param("splash", "whole-tiles", (1, 1, 1, 1), marks=pytest.mark.extended),
        pytest.param("splash", "padded-gqa", (1, 1, 1, 1), marks=pytest.mark.extended),
        pytest.param("splash", "padded-mqa", (1, 1, 1, 1), marks=pytest.mark.extended),
        pytest.param("splash", "split", (1, 2, 1, 2), marks=pytest.mark.slow),
        ("splash", "padded-gqa", (1, 2, 2, 2)),
        pytest.param("splash", "split-in-four", (1, 1, 1, 4), marks=pytest.mark.slow),
        pytest.param("reference", "padded-gqa", (1, 2, 2, 2), marks=pytest.mark.slow),
        pytest.param("reference", "split-in-four", (1, 1, 1, 4), marks=pytest.mark.extended),
        ("blocked", "padded-gqa", (1, 2, 2, 1)),
        pytest.param("blocked", "split-in-four", (1, 1, 1, 4), marks=pytest.mark.extended),
        pytest.param("blocked", "whole-tiles", (1, 1, 1, 1), marks=pytest.mark.extended),
    ],
)
def test_rows_on_a_mesh_equal_the_reference_on_one_device(chosen, shape, mesh):
    """Splash in interpret mode; results and gradients of packed rows, whose positions are split where mesh says so."""
    arrays = inputs(**SHAPES[shape])
    (_, wanted), wanted_gradients = loss_and_gradients(reference, arrays)
    order = sequence.column_order(arrays[0].shape[1], mesh[3]).reshape(-1)
    with jax.set_mesh(make_mesh(*mesh, devices=jax.devices()[: int(np.prod(mesh))])):
        positions = "positions" if mesh[3] > 1 else None
        placed = [
            jax.device_put(x[:, order], jax.NamedSharding(jax.sharding.get_mesh(), layout))
            for x in arrays
            for layout in [A.spec("batch", positions, *(("heads", None) if x.ndim == 4 else ()))]
        ]
        (_, ours), our_gradients = loss_and_gradients(
            lambda *x: A.run_implementation(chosen, *x, interpret=True), placed, order, placed[0].sharding
        )
    np.testing.assert_allclose(np.asarray(ours), wanted[:, order], rtol=0, atol=1e-5)
    for one, other in zip(our_gradients, wanted_gradients, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(np.asarray(one), other[:, order], rtol=0, atol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize(
    "chosen, mesh", [("splash", (1, 1, 1, 1)), ("splash", (1, 1, 1, 2)), ("blocked", (1, 1, 1, 2))]
)
def test_shared_columns_are_attended_to_by_every_segment_behind_them(chosen, mesh):
    """A prompt of 8 columns, one of them padding, and two replies of 4 columns, against a mask written out."""
    prompt, own = 8, 4
    q, k, v, _ = inputs(**SHAPES["padded-gqa"])
    tokens = prompt + 2 * own
    q, k, v = (x[:, :tokens] for x in (q, k, v))
    row = np.asarray([1] * 7 + [0] + [2] * 4 + [3] * 3 + [0], np.int32)
    segments = np.broadcast_to(row, (len(q), tokens)).copy()
    columns = np.arange(tokens)
    mask = (columns[:, None] >= columns) & ((row[:, None] == row) | ((row == 1) & (row[:, None] > 1)))
    mask[row == 0] = columns == 0  # any key: the results of padding mean nothing
    real = jnp.asarray(row > 0)[None, :, None, None]

    def written_out(q, k, v, segments):
        k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k, precision="highest") * q.shape[3] ** -0.5
        probs = jax.nn.softmax(jnp.where(jnp.asarray(mask)[None, None], scores, -1e30), axis=-1)
        return jnp.where(real, jnp.einsum("BNTS,BSNH->BTNH", probs, v, precision="highest"), 0.0)

    (_, wanted), wanted_gradients = loss_and_gradients(written_out, (q, k, v, segments))
    # Each device holds its columns of the prompt, then those of the replies.
    orders = [sequence.column_order(count, mesh[3]) + first for first, count in ((0, prompt), (prompt, 2 * own))]
    order = np.concatenate(orders, axis=1).reshape(-1)
    with jax.set_mesh(make_mesh(*mesh, devices=jax.devices()[: int(np.prod(mesh))])):
        positions = "positions" if mesh[3] > 1 else None
        placed = [
            jax.device_put(x[:, order], jax.NamedSharding(jax.sharding.get_mesh(), layout))
            for x in (q, k, v, segments)
            for layout in [A.spec("batch", positions, *(("heads", None) if x.ndim == 4 else ()))]
        ]

        def ours_of(q, k, v, segments):
            out = A.run_implementation(chosen, q, k, v, segments, shared_columns=prompt, interpret=True)
            return jnp.where((placed[3] > 0)[:, :, None, None], out, 0.0)

        (_, ours), our_gradients = loss_and_gradients(ours_of, placed, order, placed[0].sharding)
    np.testing.assert_allclose(np.asarray(ours), wanted[:, order], rtol=0, atol=1e-5)
    for one, other in zip(our_gradients, wanted_gradients, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(np.asarray(one), other[:, order], rtol=0, atol=1e-4)


@pytest.mark.parametrize("places", [2, 3, 8])
def test_every_device_has_the_same_causal_work(places):
    """In blocks of queries and keys that splash computes, of rows of 64 blocks; cut in order, the last has 1.5 to 1.9
    times the mean."""
    tokens = 128 * 2 * places * (32 // places)
    kernel = A._splash_kernel(tokens, places, 1, False)
    for masks in (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info):
        blocks = np.asarray(masks.block_mask)[0].reshape(places, -1)
        assert len(set((blocks > 0).sum(1))) == 1 and blocks.any()


def test_the_mask_given_to_cudnn_equals_the_reference():
    """The kernel itself needs a GPU; its call with the same mask runs through XLA here."""
    q, k, v, segments = inputs(T=40)
    mask = visible(segments, segments, 0)[:, None]
    ours = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
    np.testing.assert_allclose(ours, reference(q, k, v, segments), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attend", ["reference", "blocked"])
def test_long_rows_never_hold_a_square_of_scores(attend):
    attend = {"reference": reference, "blocked": blocked}[attend]
    T, arrays = 4096, [jax.ShapeDtypeStruct((1, 4096, 2, 16), jnp.float32)] * 3
    segments = jax.ShapeDtypeStruct((1, T), jnp.int32)
    grad = jax.jit(jax.grad(lambda q, k, v, s: attend(q, k, v, s).sum(), argnums=(0, 1, 2)))
    shapes = [shape for shape, _ in array_types(grad, *arrays, segments)]
    assert shapes and not [shape for shape in shapes if shape.count(T) > 1]
    # Scores of one chunk, their gradients and copies; the whole square of both heads would be 134 MB.
    memory = grad.lower(*arrays, segments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 5 * 2 * A.QUERY_CHUNK * T * 4


def blocked(q, k, v, segments):
    return blocked_attention.attend(q, k, v, segments, segments, 0)


def test_blocks_of_the_future_and_of_other_segments_are_not_computed(monkeypatch):
    monkeypatch.setattr(blocked_attention, "BLOCK", 4)
    segments = jnp.asarray([[1] * 8 + [2] * 6 + [3] * 4 + [0] * 6, [7] * 8 + [9] * 2 + [5] * 14], jnp.int32)
    q = jnp.zeros((2, 24, 2, 8), jnp.float32)
    blocks = blocked_attention._cut(q, q, q, segments, segments)
    first, end = blocked_attention._key_blocks(blocks, jnp.int32(0))
    # The second row's ids fall from 9 to 5, and its third block has both.
    np.testing.assert_array_equal(first, [0, 0, 0, 2, 2, 2])
    np.testing.assert_array_equal(end, [1, 2, 3, 4, 5, 6])


def test_blocks_give_the_same_in_any_order_of_segments(monkeypatch):
    """Ids that rise, fall and return, with blocks that hold one query more than keys."""
    monkeypatch.setattr(blocked_attention, "BLOCK", 5)
    q, k, v, _ = inputs()
    segments = jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, 24)), jnp.int32)
    (_, ours), our_gradients = loss_and_gradients(blocked, (q, k, v, segments))
    (_, wanted), wanted_gradients = loss_and_gradients(reference, (q, k, v, segments))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-6)
    for one, other in zip(our_gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_the_forward_pass_in_blocks_runs_once_under_remat():
    """The policy "attention" keeps the result and the softmax sums: nothing of the forward pass is computed again."""
    q, k, v, segments = inputs(T=16)

    loss = jax.checkpoint(lambda q: blocked(q, k, v, segments).sum(), policy=remat_policy("attention"))
    counts = primitive_counts(jax.grad(loss), q)
    # Two nested loops forward, two backward.
    assert counts["while"] + counts["scan"] == 4


@pytest.mark.parametrize("attend", [reference, blocked])
def test_scores_stay_in_float32_between_bfloat16_inputs(attend):
    """Scores near 30 rounded to bfloat16 are off by up to 1/16 each, and so would be the result."""
    q, k, v, segments = inputs(T=64, dtype=jnp.bfloat16)
    q, k = q * 5, k * 5
    ours = attend(q, k, v, segments)
    assert ours.dtype == jnp.bfloat16
    wanted = loop_attention(*(x.astype(jnp.float32) for x in (q, k, v)), np.asarray(segments))
    np.testing.assert_allclose(ours.astype(jnp.float32), wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "asked, dtype, head_dim, platform, chosen",
    [
        ("auto", jnp.bfloat16, 128, "tpu", "splash"),
        ("auto", jnp.float32, 128, "tpu", "splash"),
        ("auto", jnp.bfloat16, 128, "gpu", "cudnn"),
        ("auto", jnp.float32, 128, "gpu", "reference"),
        ("auto", jnp.bfloat16, 128, "cpu", "blocked"),
        ("reference", jnp.bfloat16, 128, "tpu", "reference"),
        ("auto", jnp.bfloat16, 20, "gpu", "reference"),
        ("auto", jnp.bfloat16, 256, "gpu", "reference"),
    ],
)
def test_auto_chooses_by_platform(asked, dtype, head_dim, platform, chosen):
    assert A.choose_implementation(asked, dtype, head_dim, platform) == chosen


@pytest.mark.parametrize(
    "asked, dtype, head_dim, platform, message",
    [
        (
            "flash",
            jnp.bfloat16,
            128,
            "gpu",
            "attention is 'flash'; allowed are auto, reference, blocked, splash, cudnn",
        ),
        ("splash", jnp.bfloat16, 128, "gpu", "'splash', a TPU kernel, but the devices are gpu; use 'auto'"),
        ("cudnn", jnp.float32, 128, "gpu", "the dtype float32, head_dim 128; use 'auto'"),
        ("cudnn", jnp.bfloat16, 20, "gpu", "the dtype bfloat16, head_dim 20; use 'auto'"),
        ("cudnn", jnp.bfloat16, 128, "cpu", "the devices are cpu"),
    ],
)
def test_implementations_that_cannot_run_are_refused(asked, dtype, head_dim, platform, message):
    with pytest.raises(InputError, match=re.escape(message)):
        A.choose_implementation(asked, dtype, head_dim, platform)
