"""Schedules equal those of transformers, the optimizer equals torch's, and the abstract state equals real states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from tljax.core.errors import InputError
from tljax.training.optimizer import decay_mask, make_optimizer, make_schedule
from tljax.training.state import abstract_state, init_state

OPTIM = {
    "lr": 1e-2,
    "b1": 0.9,
    "b2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decay_norms": False,
    "clip_norm": 1.0,
    "schedule": "cosine",
    "warmup_fraction": 0.1,
    "warmup_steps": 0,
    "final_lr_fraction": 0.0,
}


def optim(**fields) -> ConfigDict:
    return ConfigDict(OPTIM | fields)


def small_params(rng) -> dict:
    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {"embed": draw(5, 4), "layers": {"attn_norm": draw(2, 4), "q": draw(2, 4, 3), "q_bias": draw(2, 3)}}


def hf_rates(name, warmup, total):
    """Rates of the Hugging Face schedule at scheduler steps 0 to total - 1, as shares of lr."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    arguments = {"num_warmup_steps": warmup} | ({"num_training_steps": total} if "cosine" in name else {})
    scheduler = getattr(transformers, name)(optimizer, **arguments)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


@pytest.mark.parametrize("total,fields,warmup", [(100, {}, 10), (101, {}, 11), (30, {"warmup_steps": 7}, 7)])
def test_schedule_is_transformers_without_its_idle_update(total, fields, warmup):
    ours = np.array([make_schedule(optim(**fields), total)(n) for n in range(total)]) / 1e-2
    theirs = hf_rates("get_cosine_schedule_with_warmup", warmup, total)
    np.testing.assert_allclose(ours[warmup:], theirs[warmup:], atol=1e-6)
    np.testing.assert_allclose(ours[:warmup], theirs[1 : warmup + 1], atol=1e-6)
    assert theirs[0] == 0 and ours.min() > 0


def test_a_constant_schedule_is_transformers_without_its_idle_update():
    ours = np.array([make_schedule(optim(schedule="constant"), 50)(n) for n in range(50)]) / 1e-2
    theirs = hf_rates("get_constant_schedule_with_warmup", 5, 50)
    np.testing.assert_allclose(ours[:-1], theirs[1:], atol=1e-6)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_no_update_is_idle_and_none_exceeds_lr(total, warmup, schedule):
    rates = [float(make_schedule(optim(schedule=schedule, warmup_fraction=warmup), total)(n)) for n in range(total)]
    assert all(0 < rate <= 1e-2 * (1 + 1e-6) for rate in rates)
    assert max(rates) == pytest.approx(1e-2)


def test_final_fraction_is_the_floor_for_ever():
    schedule = make_schedule(optim(final_lr_fraction=0.2), 40)
    assert float(schedule(40)) == pytest.approx(0.2e-2)
    assert float(schedule(400)) == pytest.approx(0.2e-2)
    assert float(schedule(39)) > 0.2e-2


@pytest.mark.parametrize(
    "fields,total,words",
    [
        ({"schedule": "linear"}, 10, ["optim.schedule", "linear", "cosine", "constant"]),
        ({"lr": -1.0}, 10, ["optim.lr", "-1.0"]),
        ({"lr": float("nan")}, 10, ["optim.lr", "nan"]),
        ({"warmup_fraction": 1.5}, 10, ["optim.warmup_fraction", "1.5", "0 to 1"]),
        ({"warmup_steps": 11}, 10, ["optim.warmup_steps", "11", "10"]),
        ({"final_lr_fraction": 2.0}, 10, ["optim.final_lr_fraction"]),
        ({"b2": 1.0}, 10, ["optim.b2", "1.0"]),
        ({"eps": 0.0}, 10, ["optim.eps"]),
        ({"clip_norm": -0.5}, 10, ["optim.clip_norm", "-0.5"]),
        ({}, 0, ["0 updates"]),
    ],
)
def test_bad_values_are_refused_in_one_line(fields, total, words):
    with pytest.raises(InputError) as caught:
        make_optimizer(optim(**fields), total)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words)


@pytest.mark.parametrize(
    "clip_norm, decay_norms",
    [(0.5, False), *(pytest.param(*p, marks=pytest.mark.extended) for p in ((0.5, True), (0.0, False), (0.0, True)))],
)
def test_optimizer_is_torch_adamw(decay_norms, clip_norm):
    """Five updates by torch.optim.AdamW in float64 with HF's parameter groups, at our learning rates."""
    torch = pytest.importorskip("torch")
    config = optim(decay_norms=decay_norms, clip_norm=clip_norm)
    rng = np.random.default_rng(0)
    params = small_params(rng)
    names = ["embed", "layers.attn_norm", "layers.q", "layers.q_bias"]
    theirs = [torch.tensor(np.array(p, np.float64), requires_grad=True) for p in jax.tree.leaves(params)]
    plain = {"layers.attn_norm", "layers.q_bias"} if not decay_norms else set()
    groups = [
        {"params": [p], "weight_decay": 0.0 if name in plain else 0.1} for name, p in zip(names, theirs, strict=True)
    ]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)

    tx, schedule = make_optimizer(config, 5), make_schedule(config, 5)
    opt_state = tx.init(params)
    for n in range(5):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        for p, g in zip(theirs, jax.tree.leaves(grads), strict=True):
            p.grad = torch.tensor(np.array(g, np.float64))
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs, clip_norm)
        for group in adamw.param_groups:
            group["lr"] = float(schedule(n))
        adamw.step()
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    for ours, want in zip(jax.tree.leaves(params), theirs, strict=True):
        np.testing.assert_allclose(ours, want.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_weight_decay_is_masked_by_name_not_by_shape():
    params = small_params(np.random.default_rng(0)) | {"final_norm": jnp.ones(4), "lm_head": jnp.ones((4, 5))}
    assert decay_mask(params) == {
        "embed": True,
        "layers": {"attn_norm": False, "q": True, "q_bias": False},
        "final_norm": False,
        "lm_head": True,
    }


def test_moments_are_float32_for_bfloat16_params():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), small_params(np.random.default_rng(0)))
    tx = make_optimizer(optim(), 5)
    state = tx.init(params)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert len(moments) == 2 * len(jax.tree.leaves(params))
    assert all(leaf.dtype == jnp.float32 for leaf in moments)
    params = optax.apply_updates(params, updates)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("inside", [True, False])
def test_abstract_state_is_the_state(shape, inside):
    """Shapes, dtypes and shardings of abstract_state equal those of real states, before and after an update."""
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), devices=jax.devices()[: int(np.prod(shape))])
    P = jax.P
    specs = {"embed": P("tensor", "fsdp"), "layers": {"attn_norm": P(None, None), "q": P(None, "fsdp", "tensor")}}
    shapes = {"embed": (16, 8), "layers": {"attn_norm": (2, 8), "q": (2, 8, 8)}}
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    abstract_params = jax.tree.map(
        lambda shape, spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(mesh, spec)),
        shapes,
        specs,
        is_leaf=is_shape,
    )
    tx = make_optimizer(optim(), 5)
    outside = abstract_state(abstract_params, tx)
    with jax.set_mesh(mesh):
        want = abstract_state(abstract_params, tx) if inside else outside
        params = jax.tree.map(lambda a: jax.device_put(jnp.ones(a.shape, a.dtype), a.sharding), abstract_params)
        state = init_state(params, tx)

        def step(state):
            updates, opt_state = tx.update(state.params, state.opt_state, state.params)
            return state.replace(
                step=state.step + 1, params=optax.apply_updates(state.params, updates), opt_state=opt_state
            )

        after = jax.jit(step)(state)
    for real in (state, after):
        assert jax.tree.structure(real) == jax.tree.structure(want)
        for leaf, abstract in zip(jax.tree.leaves(real), jax.tree.leaves(want), strict=True):
            assert (leaf.shape, leaf.dtype, leaf.sharding) == (abstract.shape, abstract.dtype, abstract.sharding)
    assert int(after.step) == 1
