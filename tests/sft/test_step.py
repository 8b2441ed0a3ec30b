"""The SFT step gives the same loss and gradients on every mesh, in any number of parts, by jit, shard_map and pmap."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.jaxprs import array_types
from tljax.data import batch_arrays
from tljax.model import llama
from tljax.sft.step import make_eval_step, make_sft_step, mean_metrics, score_sums, token_scores
from tljax.training.state import init_state

P = jax.P


def sgd_step(config, options, lr=1.0):
    """With plain gradient descent of rate 1 the change of the weights is the gradient itself."""
    return make_sft_step(config, optax.sgd(lr), lambda step: jnp.float32(lr), options)


def run_step(config, options, load, batch):
    """Metrics and gradients (as host arrays) of one step on the current mesh."""
    params = load()
    before = jax.device_get(params)
    state, metrics = sgd_step(config, options)(init_state(params, optax.sgd(1.0)), batch)
    grads = jax.tree.map(lambda old, new: old - np.asarray(new), before, jax.device_get(state.params))
    return {k: float(v) for k, v in metrics.items()}, grads


@pytest.fixture(scope="module")
def reference(config, options, load, place, mesh_of):
    with jax.set_mesh(mesh_of(1, 1, 1)):
        return run_step(config, options, load, place())


def assert_same(found, reference, tolerance=1e-5):
    for name, value in reference[0].items():
        assert found[0][name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    for (path, got), want in zip(jax.tree.leaves_with_path(found[1]), jax.tree.leaves(reference[1]), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def test_loss_is_the_mean_of_step_losses_of_a_plain_forward(config, host_batch, load, mesh_of, reference):
    """The other computation takes full logits, the cross entropy of optax, and a NumPy loop over segments."""
    with jax.set_mesh(mesh_of(1, 1, 1)):
        hidden = llama.forward(
            load(),
            config,
            *(jnp.asarray(host_batch[name]) for name in ("tokens", "positions", "segments")),
            llama.ForwardOptions("float32", attention="reference"),
        )
        logits = np.asarray(llama.logits(load(), config, hidden))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    nll = np.asarray(cross_entropy(jnp.asarray(logits), jnp.asarray(host_batch["targets"])))
    losses = []
    for row in range(len(nll)):
        for segment in range(1, host_batch["segments"][row].max() + 1):
            inside = host_batch["segments"][row] == segment
            weights = host_batch["loss_weights"][row][inside]
            losses.append((weights * nll[row][inside]).sum() / weights.sum())
    metrics = reference[0]
    assert metrics["steps"] == pytest.approx(len(losses))
    assert metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    key = host_batch["token_classes"] >= 2
    assert metrics["loss_key"] == pytest.approx(nll[key].mean(), abs=1e-5)
    assert metrics["loss_other"] == pytest.approx(nll[host_batch["token_classes"] == 1].mean(), abs=1e-5)
    right = logits.argmax(-1) == host_batch["targets"]
    assert metrics["name_accuracy"] == pytest.approx(right[host_batch["token_classes"] == 3].mean())
    assert metrics["tokens"] == (host_batch["segments"] > 0).sum()


@pytest.mark.parametrize("accumulate", [*(pytest.param(n, marks=pytest.mark.extended) for n in (2, 8)), 4])
def test_accumulation_changes_nothing(config, options, load, place, mesh_of, reference, accumulate):
    with jax.set_mesh(mesh_of(1, 1, 1)):
        assert_same(run_step(config, options, load, place(accumulate)), reference)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, 2, 2),
        *(
            pytest.param(shape, marks=pytest.mark.extended)
            for shape in ((1, 8, 1), (2, 1, 1), (1, 4, 1), (8, 1, 1), (2, 2, 2))
        ),
        *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((1, 1, 1, 2), (2, 1, 1, 4))),
    ],
)
def test_devices_and_mesh_change_nothing(config, options, load, place, mesh_of, reference, shape):
    with jax.set_mesh(mesh_of(*shape)):
        assert_same(run_step(config, options, load, place()), reference)


def local_sums(config, options, params, batch):
    sums = score_sums(token_scores(params, config, batch, options), batch["segments"])
    return sums["loss"], sums


@pytest.mark.extended
def test_shard_map_with_explicit_psums_gives_the_same(config, options, host_batch, host_params, mesh_of, reference):
    """Each device runs a plain model on its own rows; explicit psums add gradients and counts of eight devices."""
    one_device = _without_mesh(config, options)
    mesh = mesh_of(8, 1, 1)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P(("data", "fsdp", "tensor"))), out_specs=P(), check_vma=False
    )
    def mapped(params, batch):
        grads, sums = one_device(params, batch)
        return jax.lax.psum((grads, sums), ("data", "fsdp", "tensor"))

    sharding = jax.NamedSharding(mesh, P(("data", "fsdp", "tensor")))
    grads, sums = jax.jit(mapped)(host_params, jax.device_put(host_batch, sharding))
    _compare_sums(grads, sums, reference)


@pytest.mark.extended
def test_pmap_with_explicit_psums_gives_the_same(config, options, host_batch, host_params, reference):
    one_device = _without_mesh(config, options)

    def mapped(params, batch):
        return jax.lax.psum(one_device(params, batch), "devices")

    split = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), host_batch)
    grads, sums = jax.pmap(mapped, axis_name="devices", in_axes=(None, 0))(host_params, split)
    _compare_sums(*jax.tree.map(lambda x: np.asarray(x[0]), (grads, sums)), reference)


def _compare_sums(grads, sums, reference):
    grads = jax.tree.map(lambda g: np.asarray(g) / np.asarray(sums["steps"]), grads)
    metrics = {name: float(value) for name, value in mean_metrics(sums).items()}
    metrics |= {"grad_norm": float(optax.tree.norm(grads)), "lr": 1.0}
    assert_same((metrics, grads), reference)


def _without_mesh(config, options):
    """Gradients and sums of one device's rows, written without our step: a dense forward over every position."""

    def loss(params, batch):
        tokens, segments, positions = batch["tokens"], batch["segments"], batch["positions"]
        logprobs, logits = dense_logprobs(params, config, tokens, positions, segments, batch["targets"])
        scores = {"logprobs": logprobs, "hits": logits.argmax(-1) == batch["targets"]}
        scores |= {
            "loss_weights": batch["loss_weights"],
            "token_classes": jnp.where(batch["loss_weights"] > 0, batch["token_classes"], jnp.int8(0)),
        }
        sums = score_sums(scores, segments)
        return sums["loss"], sums

    return jax.grad(loss, has_aux=True)


def dense_logprobs(params, c, tokens, positions, segments, targets):
    """A textbook Llama in a Python loop over layers: [T, T] scores, every logit."""
    x = params["embed"][tokens]
    frequency = c.rope_theta ** (-jnp.arange(0, c.head_dim, 2, dtype=jnp.float32) / c.head_dim)
    angle = positions[..., None] * frequency[None, None]
    cos, sin = jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]

    def norm(x, scale):
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + c.norm_eps) * scale[None, None]

    def rope(x):
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    length = tokens.shape[1]
    seen = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((length, length), bool))[None]
    for i in range(c.num_layers):
        w = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        y = norm(x, w["attn_norm"])
        q, k, v = (jnp.einsum("BTD,DNH->BTNH", y, w[name]) for name in "qkv")
        group = c.num_heads // c.num_kv_heads
        k, v = jnp.repeat(rope(k), group, 2), jnp.repeat(v, group, 2)
        scores = jnp.einsum("BTNH,BSNH->BNTS", rope(q), k) / c.head_dim**0.5
        attend = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30), -1)
        x = x + jnp.einsum("BNTS,BSNH,NHD->BTD", attend, v, w["o"])
        y = norm(x, w["mlp_norm"])
        x = x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]
    logits = norm(x, params["final_norm"]) @ params["lm_head"]
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return logprobs, logits


@pytest.mark.extended
def test_the_sizes_of_chunks_and_of_max_targets_change_nothing(config, options, load, place, mesh_of, reference):
    with jax.set_mesh(mesh_of(1, 1, 1)):
        for room, chunk in ((options.max_targets, 1000), (options.max_targets + 5, 7), (1000, 64)):
            wide = dataclasses.replace(options, max_targets=room, loss_chunk=chunk)
            assert_same(run_step(config, wide, load, place()), reference)


def test_padding_content_changes_nothing(config, options, load, place, host_batch, mesh_of, reference):
    noisy = {name: array.copy() for name, array in host_batch.items()}
    padding = host_batch["segments"] == 0
    noisy["tokens"][padding] = 7
    noisy["targets"][padding] = 11
    noisy["positions"][padding] = 3
    noisy["token_classes"][host_batch["loss_weights"] == 0] = 3
    with jax.set_mesh(mesh_of(1, 1, 1)):
        assert_same(run_step(config, options, load, place(1, noisy)), reference, tolerance=1e-6)


def test_weights_of_one_are_plain_cross_entropy(config, options, load, place, host_batch, mesh_of):
    """Each row is one segment with weights 1 / n, so that the loss is the mean over rows of the mean nll."""
    plain = {name: array.copy() for name, array in host_batch.items()}
    plain["segments"][:] = 1
    plain["positions"][:] = np.arange(plain["positions"].shape[1])
    plain["loss_weights"][:] = 1 / plain["loss_weights"].shape[1]
    plain["token_classes"][:] = 1
    wide = dataclasses.replace(options, max_targets=plain["loss_weights"].shape[1])
    with jax.set_mesh(mesh_of(1, 1, 1)):
        sums, _ = make_eval_step(config, wide)(load(), place(1, plain))
    metrics = jax.device_get(mean_metrics(sums))
    assert metrics["loss"] == pytest.approx(metrics["loss_other"], abs=2e-5)


def test_trained_prompt_tokens_count_in_the_loss_alone():
    scores = {
        "logprobs": -jnp.asarray([[1.0, 2.0, 4.0, 8.0]]),
        "loss_weights": jnp.full((1, 4), 0.25, jnp.float32),
        "token_classes": jnp.asarray([[batch_arrays.PROMPT_TOKEN, 1, 2, 3]], jnp.int8),
        "hits": jnp.asarray([[True, False, False, True]]),
    }
    metrics = mean_metrics(score_sums(scores, jnp.ones((1, 4), jnp.int32)))
    assert (metrics["loss"], metrics["loss_other"], metrics["loss_key"]) == (3.75, 2.0, 6.0)
    assert (metrics["reply_tokens"], metrics["name_accuracy"]) == (3.0, 1.0)


def test_the_state_keeps_its_types_and_learns(config, options, load, place, mesh_of):
    with jax.set_mesh(mesh_of(2, 2, 2)):
        tx = optax.adamw(1e-2)
        state = init_state(load(), tx)
        types = jax.tree.map(jax.typeof, state)
        step = make_sft_step(config, tx, lambda n: jnp.float32(1e-2), options)
        losses = []
        for _ in range(8):
            state, metrics = step(state, place())
            losses.append(float(metrics["loss"]))
        assert jax.tree.map(jax.typeof, state) == types
        assert int(state.step) == 8 and losses[-1] < losses[0] - 1


def test_evaluation_gives_the_loss_of_the_step(config, options, load, place, mesh_of, reference):
    with jax.set_mesh(mesh_of(1, 2, 1)):
        sums, scores = make_eval_step(config, options)(load(), place())
        assert float(mean_metrics(sums)["loss"]) == pytest.approx(reference[0]["loss"], abs=1e-6)
        assert scores["logprobs"].dtype == jnp.float32 and scores["logprobs"].shape[1] >= options.max_targets


def test_logits_exist_for_weighted_positions_only(config, options, load, place, mesh_of):
    """No array of the step has rows x tokens x words elements, in any order of its axes."""
    with jax.set_mesh(mesh_of(1, 1, 1)):
        types = array_types(sgd_step(config, options), init_state(load(), optax.sgd(1.0)), place())
    rows, tokens = 8, 48
    assert ((rows, options.loss_chunk, config.vocab_size), "float32") in types
    with_words = [math.prod(shape) for shape, _ in types if config.vocab_size in shape]
    assert max(with_words) < rows * tokens * config.vocab_size
