"""The model: what a token may depend on, packing, padding, remat, dtypes, and meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import global_batch, make_mesh, spec
from tljax.model import llama
from tljax.plan.compiled import compile_program

C = llama.LlamaConfig(
    num_layers=3,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=48,
    vocab_size=64,
    rope_theta=1e6,
    rope_scaling=None,
    norm_eps=1e-5,
    tie_embeddings=False,
    qkv_bias=True,
    max_positions=128,
    sliding_window=None,
    architecture="Qwen2ForCausalLM",
)


def make_params(c=C, dtype=jnp.float32):
    """Larger than at initialization, so that attention is far from uniform."""
    params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), c, dtype)
    return jax.tree.map(lambda x: x * 8 if x.ndim > 2 else x, params)


def make_batch(B=8, T=24, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(0, 64, (B, T)).astype(np.int32),
        "targets": rng.integers(0, 64, (B, T)).astype(np.int32),
        "positions": np.tile(np.arange(T, dtype=np.int32), (B, 1)),
        "segments": np.ones((B, T), np.int32),
        "weights": rng.random((B, T)).astype(np.float32),
    }


def logprobs(params, batch, c=C, compute_dtype=jnp.float32, remat="full"):
    options = llama.ForwardOptions(compute_dtype, remat)
    hidden = llama.forward(params, c, batch["tokens"], batch["positions"], batch["segments"], options)
    return llama.token_logprobs(llama.logits(params, c, hidden), batch["targets"])


def loss(params, batch, **options):
    return -(batch["weights"] * logprobs(params, batch, **options)).sum()


def value_and_grad(params, batch, **options):
    return jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch, **options)))(params, batch)


def assert_trees_close(one, other, atol):
    """`atol` counts in units of a tensor's largest value: the rounding of a sum grows with its terms."""

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol * max(1.0, float(np.abs(b).max())))

    jax.tree.map(close, one, other)


def test_a_token_depends_on_earlier_ones_alone_and_on_all_of_them(one_device):
    params, batch = make_params(), global_batch(make_batch(B=1, T=12))

    def hidden_at(table, t):
        def run(table):
            # Every position looks up a row of its own, so that d hidden[t] / d row[s] is what t owes to s.
            tokens = jnp.arange(12, dtype=jnp.int32)[None]
            params_ = params | {"embed": table}
            options = llama.ForwardOptions("float32")
            hidden = llama.forward(params_, C, tokens, batch["positions"], batch["segments"], options)
            return (hidden * (jnp.arange(12) == t)[None, :, None]).sum()

        return jax.grad(run)(table)

    owed_by = jax.jit(hidden_at)
    for t in (0, 5, 11):
        owed = np.abs(owed_by(params["embed"], t)).sum(1)[:12]
        assert (owed[: t + 1] > 0).all() and (owed[t + 1 :] == 0).all()


def pack(batch, lengths):
    """One row per list of `lengths`: the first tokens of the next source rows one after the other, then padding."""
    T = 64
    packed = {name: np.zeros((len(lengths), T), x.dtype) for name, x in batch.items()}
    source = 0
    for row, parts in enumerate(lengths):
        start = 0
        for i, length in enumerate(parts):
            for name, x in packed.items():
                x[row, start : start + length] = batch[name][source, :length]
            packed["segments"][row, start : start + length] = i + 1
            start += length
            source += 1
    return packed


LENGTHS = [[24, 9, 17], [5, 24, 20, 15]]


def separate(batch, lengths):
    cut = {name: x[: sum(map(len, lengths))].copy() for name, x in batch.items()}
    for row, length in enumerate(n for parts in lengths for n in parts):
        cut["weights"][row, length:] = 0
    return cut


def test_packed_rows_equal_separate_rows(one_device):
    params, batch = make_params(), make_batch()
    alone, packed = global_batch(separate(batch, LENGTHS)), global_batch(pack(batch, LENGTHS))
    value, gradient = value_and_grad(params, alone)
    packed_value, packed_gradient = value_and_grad(params, packed)
    np.testing.assert_allclose(packed_value, value, rtol=1e-6)
    assert max(np.abs(x).max() for x in jax.tree.leaves(gradient)) > 1
    assert_trees_close(packed_gradient, gradient, 1e-4)
    ours, wanted = jax.jit(logprobs)(params, packed), jax.jit(logprobs)(params, alone)
    np.testing.assert_allclose(ours[1, 5:29], wanted[4, :24], rtol=0, atol=1e-5)


def test_padding_content_changes_nothing(one_device):
    params, packed = make_params(), pack(make_batch(), LENGTHS)
    for x in packed.values():  # padding on both sides
        x[0] = np.roll(x[0], 6)
    padding = packed["segments"] == 0
    assert padding[0, :6].all() and padding[0].sum() == 14 and padding[1].sum() == 0
    noisy = {name: x.copy() for name, x in packed.items()}
    for name, content in (("tokens", 63), ("targets", 7), ("positions", 100000)):
        noisy[name][padding] = content
    value, gradient = value_and_grad(params, global_batch(packed))
    noisy_value, noisy_gradient = value_and_grad(params, global_batch(noisy))
    assert value == noisy_value and np.isfinite(value)
    jax.tree.map(np.testing.assert_array_equal, gradient, noisy_gradient)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_a_row_of_padding_alone_gives_finite_gradients(one_device):
    batch = {name: np.zeros_like(x) for name, x in make_batch().items()}
    value, gradient = value_and_grad(make_params(), global_batch(batch), compute_dtype=jnp.bfloat16)
    assert value == 0 and all((np.asarray(x) == 0).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "remat", ["full", *(pytest.param(r, marks=pytest.mark.extended) for r in ("dots", "attention"))]
)
def test_remat_changes_what_is_kept_and_not_the_gradient(remat, one_device):
    params, batch = make_params(), global_batch(make_batch())
    assert_trees_close(value_and_grad(params, batch, remat=remat), value_and_grad(params, batch, remat="none"), 1e-5)


def test_remat_policies_differ_in_what_they_keep(one_device):
    params, batch = make_params(), global_batch(make_batch(B=1))

    def kept(remat):
        """Elements that the backward pass receives from the layers' forward pass."""
        _, backward = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(p, batch, remat=remat), p), params)
        return sum(x.size for x in jax.tree.leaves(backward))

    sizes = [kept(remat) for remat in ("full", "attention", "dots", "none")]
    assert sizes == sorted(set(sizes))
    with pytest.raises(InputError, match=r"remat is 'some'; allowed are none, dots, attention, full"):
        kept("some")


@pytest.mark.extended
def test_parameters_loss_and_gradients_are_the_same_on_every_mesh():
    results = []
    for shape in ((1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 4, 2)):
        with jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
            params = make_params()
            value, gradient = value_and_grad(params, global_batch(make_batch()))
            assert jax.tree.map(lambda x: x.sharding, gradient) == jax.tree.map(lambda x: x.sharding, params)
            results.append(jax.tree.map(np.asarray, (params, value, gradient)))
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0][0], other[0])
        assert_trees_close(results[0][1:], other[1:], 2e-5)


@pytest.mark.parametrize("compute_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_dtypes_are_stated_everywhere(compute_dtype, tie_embeddings, one_device):
    c = dataclasses.replace(C, tie_embeddings=tie_embeddings)
    params, batch = make_params(c), global_batch(make_batch(B=2))
    rows = [batch[name] for name in ("tokens", "positions", "segments")]
    options = llama.ForwardOptions(compute_dtype, remat="dots")
    with jax.numpy_dtype_promotion("strict"):
        hidden = jax.eval_shape(lambda params: llama.forward(params, c, *rows, options), params)
        value, gradient = jax.eval_shape(
            jax.value_and_grad(lambda p: loss(p, batch, c=c, compute_dtype=compute_dtype)), params
        )
    assert hidden.dtype == compute_dtype and value.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}


@pytest.mark.extended
def test_the_embedding_gradient_is_summed_in_float32(one_device):
    """One word 2048 times: a bfloat16 sum of equal terms stalls, here it would be short by far more than rounding."""
    c, params, T = C, make_params(), 2048
    batch = make_batch(B=1, T=T)
    batch |= {"tokens": np.full((1, T), 3, np.int32), "segments": np.arange(1, T + 1, dtype=np.int32)[None]}
    batch |= {"positions": np.zeros((1, T), np.int32), "targets": np.full((1, T), 5, np.int32)}
    batch |= {"weights": np.ones((1, T), np.float32)}
    one = {name: x[:, :1] for name, x in batch.items()}
    many_gradient = value_and_grad(params, global_batch(batch), compute_dtype=jnp.bfloat16, c=c)[1]["embed"][3]
    one_gradient = value_and_grad(params, global_batch(one), compute_dtype=jnp.bfloat16, c=c)[1]["embed"][3]
    ratio = np.linalg.norm(many_gradient) / np.linalg.norm(one_gradient)
    assert abs(ratio / 2048 - 1) < 0.02


def test_token_logprobs_equal_log_softmax():
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((8, 3, 64)).astype(np.float32) * 50, rng.integers(0, 64, (8, 3))
    wanted = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1)[..., 0]
    with jax.set_mesh(make_mesh(2, 2, 2)):
        sharded = jax.device_put(logits, jax.NamedSharding(jax.sharding.get_mesh(), spec("batch", None, "vocab")))
        targets = jax.device_put(
            targets.astype(np.int32), jax.NamedSharding(jax.sharding.get_mesh(), spec("batch", None))
        )
        ours = jax.jit(llama.token_logprobs)(sharded, targets)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_logits_of_chosen_positions(one_device):
    """The loss takes hidden states of any leading shape."""
    params, rng = make_params(), np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((5, 32)), jnp.bfloat16)
    ours = llama.logits(params, C, hidden)
    assert ours.dtype == jnp.float32 and ours.shape == (5, 64)
    head = np.asarray(params["lm_head"].astype(jnp.bfloat16), np.float32)
    np.testing.assert_allclose(ours, np.asarray(hidden, np.float32) @ head, rtol=1e-5, atol=1e-5)


def test_init_draws_what_llama_draws(one_device):
    params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), C, jnp.float32)
    layers = params["layers"]
    assert abs(np.std(layers["gate"]) - 0.02) < 1e-3 and abs(np.mean(layers["gate"])) < 1e-3
    assert (np.asarray(layers["mlp_norm"]) == 1).all() and (np.asarray(layers["k_bias"]) == 0).all()
    assert not np.allclose(layers["gate"], layers["up"]) and not np.allclose(layers["gate"][0], layers["gate"][1])


def test_meshes_that_do_not_divide_the_model_are_refused():
    with jax.set_mesh(make_mesh(1, 1, 8)):
        with pytest.raises(InputError, match=r"tensor=8.*num_heads = 4 does not divide; .* mesh is fsdp=4, tensor=2$"):
            llama.abstract_params(C, jnp.float32)
    wide = dataclasses.replace(C, d_model=36)
    with jax.set_mesh(make_mesh(1, 2, 1, 4)):
        with pytest.raises(InputError, match=r"fsdp=2 x sequence=4, .* d_model = 36 .* mesh is fsdp=1, sequence=4, te"):
            llama.check_mesh(wide)


@pytest.mark.extended
def test_sharding_makes_xla_replicate_nothing_and_gathers_layers_inside_the_loop(without_program_cache):
    c = dataclasses.replace(llama.preset("tiny", vocab_size=64), num_layers=3)

    def loss(params, tokens):
        hidden = llama.forward(params, c, tokens, tokens, tokens, llama.ForwardOptions("bfloat16", remat="full"))
        return llama.token_logprobs(llama.logits(params, c, hidden), tokens).mean()

    with jax.set_mesh(make_mesh(2, 2, 2)):
        rows = jax.NamedSharding(jax.sharding.get_mesh(), spec("batch", None))
        ids = jax.ShapeDtypeStruct((8, 64), jnp.int32, sharding=rows)
        params = llama.abstract_params(c, jnp.float32)
        program = compile_program(lambda: jax.jit(jax.grad(loss)).lower(params, ids), c.num_layers)
    assert program.replicated == ()
    gathers = [transfer for transfer in program.transfers if transfer.kind == "all-gather"]
    assert any(gather.in_layers for gather in gathers)
    # The smallest matrix of all layers, as a device that splits its heads with another one would hold it.
    stacked = c.num_layers * c.d_model * c.num_heads * c.head_dim * 2 / 2
    assert max(gather.size for gather in gathers if not gather.in_layers) < stacked
