"""Adapters beside frozen weights: against the same change added to the weights, on every mesh, trained and decoded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import global_batch, make_mesh
from tljax.generate import decode
from tljax.generate.sampling import SampleOptions
from tljax.model import cost, llama, lora

C = dataclasses.replace(
    llama.preset("tiny", vocab_size=64),
    num_layers=2,
    d_model=32,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    d_ff=48,
    qkv_bias=True,
    architecture="Qwen2ForCausalLM",
    rope_theta=1e4,
    max_positions=64,
)
ALL = lora.LoraOptions(rank=3, alpha=5.0, targets=tuple(llama.MATRICES))
SOME = lora.LoraOptions(rank=2, alpha=8.0, targets=("q", "down"))
MESHES = [
    (2, 2, 2),
    pytest.param((1, 1, 1), marks=pytest.mark.extended),
    *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((1, 8, 1), (1, 1, 4))),
]
B, P, NEW = 8, 7, 5
LENGTHS = np.array([7, 3, 5, 1, 7, 6, 2, 7], np.int32)
SAMPLING = SampleOptions(
    max_new_tokens=NEW,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_ids=(),
    pad_id=0,
    compute_dtype="float32",
    attention="auto",
)


def on_mesh(shape):
    return jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))]))


def make_params(dtype=jnp.float32):
    """Larger than at initialization, so that attention is not uniform and words differ."""
    params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), C, jnp.float32)
    params |= {name: params[name] * 20 for name in ("embed", "lm_head")}
    return jax.tree.map(lambda x: (x * 5 if x.ndim > 2 else x).astype(dtype), params)


def make_adapter(options=ALL, key=1):
    """As after training: B is not zero."""
    adapter = jax.jit(lora.init_adapter)(jax.random.key(key), C, options)
    wanted = lora.abstract_adapter(C, options)
    noise = np.random.default_rng(key)
    for name, half in adapter.items():
        assert (half.shape, half.dtype, half.sharding) == (
            wanted[name].shape,
            wanted[name].dtype,
            wanted[name].sharding,
        )
    return {
        name: jax.device_put(noise.normal(0, 0.1, half.shape).astype(np.float32), half.sharding)
        if name.endswith("_b")
        else half
        for name, half in adapter.items()
    }


def change_of(adapter, name, options):
    """alpha / rank A B of a weight, by two matrices a layer, in float64."""
    a, b = (np.asarray(adapter[f"{name}_{half}"], np.float64) for half in "ab")
    flat = a.reshape(len(a), -1, options.rank) @ b.reshape(len(b), options.rank, -1)
    return options.alpha / options.rank * flat.reshape(*a.shape[:-1], *b.shape[2:])


def add_by_hand(params, adapter, options):
    layers = dict(params["layers"])
    for name in options.targets:
        summed = np.asarray(layers[name], np.float64) + change_of(adapter, name, options)
        layers[name] = jax.device_put(summed.astype(np.float32), layers[name].sharding)
    return params | {"layers": layers}


def make_batch(length=16):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (B, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (B, 1))
    return {"tokens": tokens, "positions": positions, "segments": np.ones_like(tokens)}


def logits_of(params, batch, dtype=jnp.float32):
    options = llama.ForwardOptions(dtype, attention="reference")
    hidden = llama.forward(params, C, batch["tokens"], batch["positions"], batch["segments"], options)
    return llama.logits(params, C, hidden)


run_logits = jax.jit(logits_of, static_argnums=2)


def loss_of(params, batch):
    logits = logits_of(params, batch)
    return -llama.token_logprobs(logits, jnp.roll(batch["tokens"], -1, 1)).mean(), logits


@jax.jit
def attached_gradient(params, adapter, batch):
    """Logits and the adapter's gradient, the trunk only read."""
    (_, logits), grads = jax.value_and_grad(
        lambda a: loss_of(lora.attach_adapter(params, a, ALL), batch), has_aux=True
    )(adapter)
    return logits, grads


@pytest.fixture(scope="module")
def folded():
    """Logits and gradients of the weights with the change added to them, on one device."""
    with on_mesh((1, 1, 1)):
        adapter = make_adapter()
        params = add_by_hand(make_params(), adapter, ALL)
        (_, logits), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params, global_batch(make_batch()))
        return jax.device_get((adapter, logits, grads["layers"]))


@pytest.mark.parametrize("shape", MESHES)
def test_an_adapter_computes_what_changed_weights_do(shape, folded):
    """Logits, and by the chain rule gradients: dA = s dW B^T, dB = s A^T dW."""
    adapter, logits, grads = folded
    with on_mesh(shape):
        found, ours = attached_gradient(make_params(), make_adapter(), global_batch(make_batch()))
        assert jax.tree.map(jax.typeof, ours) == jax.tree.map(jax.typeof, make_adapter())
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)
    scale = ALL.alpha / ALL.rank
    assert ours.keys() == {f"{name}_{half}" for name in llama.MATRICES for half in "ab"}
    for name in llama.MATRICES:
        a, b = adapter[f"{name}_a"], adapter[f"{name}_b"]
        A, B_ = a.reshape(2, -1, 3), b.reshape(2, 3, -1)
        dW = grads[name].reshape(2, A.shape[1], B_.shape[2])
        dA, dB = scale * dW @ B_.swapaxes(1, 2), scale * A.swapaxes(1, 2) @ dW
        for got, want in ((ours[f"{name}_a"], dA), (ours[f"{name}_b"], dB)):
            np.testing.assert_allclose(got, want.reshape(got.shape), rtol=1e-3, atol=1e-5 * np.abs(want).max() + 1e-6)
            assert np.abs(want).max() > 1e-5


@pytest.mark.parametrize("shape", MESHES)
def test_greedy_decoding_is_the_argmax_of_the_forward(shape):
    """Prefill and cached steps; a reply of the bare weights is another."""
    rng = np.random.default_rng(1)
    prompts = rng.integers(0, 64, (B, P)).astype(np.int32)
    with on_mesh(shape):
        params = lora.attach_adapter(make_params(), make_adapter(), ALL)
        host = {"tokens": prompts, "lengths": LENGTHS, "row_ids": np.arange(B, dtype=np.int32)[:, None]}
        batch = decode.PromptBatch(**global_batch(host))
        found = decode.generate(params, C, batch, jax.random.key(0), SAMPLING, rows=B)
        tokens = np.asarray(found.tokens)
        text = make_batch(16)
        text["tokens"][:] = 0
        for row, length in enumerate(LENGTHS):
            text["tokens"][row, : length + NEW] = [*prompts[row, :length], *tokens[row]]
        batch = global_batch(text)
        with_it, without = (np.asarray(run_logits(p, batch)) for p in (params, make_params()))
    places = np.arange(NEW)[None] + LENGTHS[:, None] - 1
    rows = np.arange(B)[:, None]
    np.testing.assert_array_equal(tokens, with_it[rows, places].argmax(-1))
    assert (tokens != without[rows, places].argmax(-1)).mean() > 0.2
    wanted = np.asarray(jax.nn.log_softmax(with_it[rows, places])).max(-1)
    np.testing.assert_allclose(found.logprobs, wanted, rtol=0, atol=2e-4)


def test_a_fresh_adapter_changes_no_bit_and_is_drawn_as_peft_draws_it():
    with on_mesh((1, 1, 1)):
        params, batch = make_params(), global_batch(make_batch())
        fresh = jax.device_get(jax.jit(lora.init_adapter)(jax.random.key(0), C, ALL))
        with_it = run_logits(lora.attach_adapter(params, fresh, ALL), batch)
        np.testing.assert_array_equal(with_it, run_logits(params, batch))
    with on_mesh((2, 2, 2)):
        again = jax.device_get(jax.jit(lora.init_adapter)(jax.random.key(0), C, ALL))
    inputs = {"q": 32, "k": 32, "v": 32, "o": 64, "gate": 32, "up": 32, "down": 48}
    for name, width in inputs.items():
        a = fresh[f"{name}_a"]
        np.testing.assert_array_equal(a, again[f"{name}_a"])
        assert not fresh[f"{name}_b"].any() and a.dtype == np.float32 and a.shape[-1] == 3
        assert 0.9 * width**-0.5 < np.abs(a).max() <= width**-0.5 and abs(a.mean()) < 0.2 * width**-0.5
        assert not np.allclose(a[0], a[1])


def test_a_change_too_small_for_bfloat16_weights_still_counts():
    """Why adapters stay apart: one part in 2,000 of a weight is lost when added to it, its sum over inputs is not."""
    options = dataclasses.replace(ALL, targets=("gate", "up"))
    with on_mesh((1, 1, 1)):
        trunk, batch = make_params(jnp.bfloat16), global_batch(make_batch())
        adapter = make_adapter(options)
        weights = {name: np.asarray(trunk["layers"][name], np.float32) for name in options.targets}
        # The same sign and size for all inputs and outputs: the smallest weight that matters is 2,000 times as large.
        floor = {name: np.quantile(np.abs(x), 0.02) for name, x in weights.items()}
        adapter = {
            name: jnp.ones_like(half)
            if name.endswith("_a")
            else jnp.full_like(half, floor[name[:-2]] / 2000 / options.alpha)
            for name, half in adapter.items()
        }
        folded = lora.merge_adapter(trunk, adapter, options)
        for name, x in weights.items():
            same = np.asarray(folded["layers"][name], np.float32) == x
            assert folded["layers"][name].dtype == jnp.bfloat16 and same.mean() > 0.98
        plain, apart, merged = (
            np.asarray(run_logits(p, batch, jnp.float32))
            for p in (trunk, lora.attach_adapter(trunk, adapter, options), folded)
        )
        exact = np.asarray(
            run_logits(add_by_hand(jax.tree.map(lambda x: x.astype(jnp.float32), trunk), adapter, options), batch)
        )
    change = np.abs(exact - plain).mean()
    assert np.abs(apart - exact).mean() < 0.05 * change < 0.05 * np.abs(merged - exact).mean() * 2


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_folding_adds_the_change_and_leaves_the_rest(shape):
    with on_mesh(shape):
        params = make_params()
        adapter = make_adapter(SOME)
        wanted = jax.device_get(add_by_hand(params, adapter, SOME))
        types = jax.tree.map(jax.typeof, params)
        folded = jax.jit(lora.merge_adapter, donate_argnums=0)(params, adapter, SOME)
        assert jax.tree.map(jax.typeof, folded) == types
    for (path, got), want in zip(jax.tree.leaves_with_path(folded), jax.tree.leaves(wanted), strict=True):
        if path[-1].key in SOME.targets:
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(got, want)


def test_two_adapters_on_one_weight_add_up():
    """A second stage on the first one's adapter: neither is rounded into the weights."""
    with on_mesh((2, 2, 2)):
        params, first, second = make_params(), make_adapter(SOME), make_adapter(ALL, key=2)
        both = lora.attach_adapter(lora.attach_adapter(params, first, SOME), second, ALL)
        assert both["layers"]["q_a"].shape[-1] == 5 and both["layers"]["k_b"].shape[1] == 3
        batch = global_batch(make_batch())
        found = run_logits(both, batch)
        wanted = run_logits(add_by_hand(add_by_hand(params, first, SOME), second, ALL), batch)
        assert "q_a" not in params["layers"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_options_are_checked():
    assert lora.make_lora_options(4, 8, "down, q") == lora.LoraOptions(rank=4, alpha=8.0, targets=("q", "down"))
    assert lora.make_lora_options(4, 8, ("up",)).scale == 2
    assert lora.make_lora_options(4, 8, ("up",), rslora=True).scale == 4  # 8 / sqrt(4)
    for arguments, told in (
        ((0, 8, "q"), r"^config.lora.rank is 0; allowed is 1 or more$"),
        ((4, -1.0, "q"), r"^config.lora.alpha is -1.0; allowed is a number above 0$"),
        ((4, 8, "q,qkv"), r"^config.lora.targets names 'qkv'; allowed are q, k, v, o, gate, up, down, one or several$"),
        ((4, 8, ()), r"^config.lora.targets is empty"),
    ):
        with pytest.raises(InputError, match=told):
            lora.make_lora_options(*arguments)


def test_cost_of_an_adapter():
    """QLoRA's setting on 7B, counted by hand: rank 64 on four square matrices and three of 4096 x 11008, 32 layers."""
    c, options = llama.preset("7b"), lora.make_lora_options(64, 16, tuple(llama.MATRICES))
    adapter = 32 * 64 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert cost.count_adapter(c, options) == adapter == 159_907_840
    products = 6_738_546_688 - 32016 * 4096 - (2 * 32 + 1) * 4096
    assert cost.flops_per_token(c, 0.0) == 6 * products
    assert cost.flops_per_token(c, 0.0, options) == 4 * products + 6 * adapter
