"""The distribution that is sampled: filters by their definition, ties, the boundary, scores, draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh, spec
from tljax.generate.sampling import (
    SampleOptions,
    check_sample_options,
    sample_tokens,
    sampled_token_logprobs,
    sampling_logprobs,
)

OPTIONS = SampleOptions(
    max_new_tokens=4,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    eos_ids=(2,),
    pad_id=0,
    compute_dtype="float32",
    attention="auto",
)
SETTINGS = [
    dict(temperature=0.0),
    dict(temperature=0.0, top_k=1, top_p=0.1),
    dict(),
    dict(temperature=0.7),
    dict(top_k=5),
    dict(top_k=1000),
    dict(top_p=0.8),
    dict(top_p=1e-6),
    dict(temperature=0.5, top_k=6, top_p=0.9),
]
RNG = np.random.default_rng(0)
ROWS = {
    "distinct": RNG.standard_normal((6, 16)) * 2,
    "ties": RNG.integers(0, 4, (6, 16)) * 1.0,
    "equal": np.zeros((2, 16)),
}


def by_definition(logits, options):
    """Word by word, float64: kept words and their log-probabilities, the others -inf."""
    out = np.full(logits.shape, -np.inf)
    for row, x in enumerate(np.asarray(logits, np.float64)):
        words, greedy = list(range(len(x))), options.temperature == 0
        x = x if greedy else x / options.temperature
        if options.top_k and not greedy:
            words = [v for v in words if sum(x[u] > x[v] for u in words) < options.top_k]
        if options.top_p < 1 and not greedy:
            p = {v: np.exp(x[v]) / sum(np.exp(x[u]) for u in words) for v in words}
            words = [v for v in words if sum(p[u] for u in words if x[u] > x[v]) < options.top_p]
        out[row, words] = x[words] - np.log(np.exp(x[words]).sum())
    return out


@pytest.mark.parametrize("fields", SETTINGS)
@pytest.mark.parametrize("rows", ROWS)
def test_filters_are_what_their_definition_says(fields, rows):
    logits, options = ROWS[rows].astype(np.float32), dataclasses.replace(OPTIONS, **fields)
    ours = np.asarray(sampling_logprobs(logits, options))
    wanted = by_definition(logits, options)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(wanted))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_the_word_that_crosses_top_p_stays_and_equal_words_go_together():
    def kept(top_p, top_k=0):
        p = np.array([0.05, 0.4, 0.15, 0.05, 0.2, 0.15], np.float32)
        options = dataclasses.replace(OPTIONS, top_p=top_p, top_k=top_k)
        return np.flatnonzero(np.isfinite(sampling_logprobs(np.log(p)[None], options))[0]).tolist()

    assert kept(0.39) == [1] and kept(0.41) == [1, 4] and kept(0.61) == [1, 2, 4, 5] and kept(0.96) == list(range(6))
    assert kept(1.0, top_k=2) == [1, 4] and kept(1.0, top_k=3) == [1, 2, 4, 5]
    # Of the four that top_k keeps, renormalized: 0.444, 0.222, twice 0.167; 0.65 is crossed by the second.
    assert kept(0.65, top_k=3) == [1, 4] and kept(0.65) == [1, 2, 4, 5]


@pytest.mark.parametrize("fields", [f for f in SETTINGS if f.get("temperature") != 0])
def test_filters_keep_what_transformers_keeps(fields, torch):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits, options = ROWS["distinct"].astype(np.float32), dataclasses.replace(OPTIONS, **fields)
    scores = torch.tensor(logits)
    for wrap, value, off in (
        (TemperatureLogitsWarper, options.temperature, 1.0),
        (TopKLogitsWarper, options.top_k, 0),
        (TopPLogitsWarper, options.top_p, 1.0),
    ):
        scores = scores if value == off else wrap(value)(None, scores)
    theirs = torch.log_softmax(scores, dim=-1).numpy()
    np.testing.assert_allclose(sampling_logprobs(logits, options), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", SETTINGS)
def test_chosen_logprobs_pick_from_the_distribution(fields, one_device):
    logits, options = ROWS["distinct"].astype(np.float32), dataclasses.replace(OPTIONS, **fields)
    everything = by_definition(logits, options)
    tokens = everything.argmax(-1).astype(np.int32)
    ours = sampled_token_logprobs(logits, tokens, options)
    np.testing.assert_allclose(ours, everything[np.arange(6), tokens], rtol=1e-5, atol=1e-5)


def test_a_token_that_rounding_put_outside_has_a_finite_score_and_gradient(one_device):
    logits = np.log(np.array([[0.5, 0.3, 0.1, 0.1]], np.float32))
    options = dataclasses.replace(OPTIONS, top_p=0.7)
    score, gradient = jax.value_and_grad(lambda x: sampled_token_logprobs(x, jnp.array([2], jnp.int32), options).sum())(
        logits
    )
    np.testing.assert_allclose(score, np.log(0.1 / 0.9), rtol=1e-5)
    # Of log softmax over the kept words and the token: 1 at the token less everyone's share.
    np.testing.assert_allclose(gradient, [[-0.5 / 0.9, -0.3 / 0.9, 1 - 0.1 / 0.9, 0]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", [dict(temperature=0.7), dict(temperature=0.7, top_k=5, top_p=0.8)])
def test_scores_with_a_vocabulary_over_the_mesh(fields):
    options = dataclasses.replace(OPTIONS, **fields)
    logits = np.random.default_rng(1).standard_normal((8, 3, 16)).astype(np.float32)
    tokens = logits.argmax(-1).astype(np.int32)
    wanted = by_definition(logits.reshape(24, 16), options).reshape(8, 3, 16)
    with jax.set_mesh(make_mesh(2, 2, 2)):
        mesh = jax.sharding.get_mesh()
        placed = jax.device_put(logits, jax.NamedSharding(mesh, spec("batch", None, "vocab")))
        ids = jax.device_put(tokens, jax.NamedSharding(mesh, spec("batch", None)))
        everything = jax.jit(sampling_logprobs)(placed, options)
        chosen = jax.jit(sampled_token_logprobs)(placed, ids, options)
    np.testing.assert_allclose(everything, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(chosen, wanted.max(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [dict(), dict(temperature=0.6), dict(top_k=4), dict(temperature=1.5, top_p=0.8)])
def test_draws_have_the_frequencies_of_the_distribution(fields):
    n, options = 20_000, dataclasses.replace(OPTIONS, **fields)
    logits = ROWS["distinct"][:1, :8].astype(np.float32)
    keys = jax.random.split(jax.random.key(0), n)
    drawn = jax.jit(sample_tokens)(np.tile(logits, (n, 1)), keys, options)
    counts = np.bincount(drawn, minlength=8)
    expected = n * np.exp(by_definition(logits, options)[0])
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 24.3, counts  # the 0.999 quantile at 7 degrees of freedom, more than any case here has


def test_greedy_draws_need_no_key():
    options = dataclasses.replace(OPTIONS, temperature=0.0)
    keys = jax.random.split(jax.random.key(0), 6)
    np.testing.assert_array_equal(sample_tokens(ROWS["distinct"], keys, options), ROWS["distinct"].argmax(-1))


def test_greedy_takes_the_first_of_equal_tokens_and_stays_in_the_vocabulary():
    options = dataclasses.replace(OPTIONS, temperature=0.0)
    logits = np.array([[0, 3, 1, 3], [2, 2, 2, 2], [-np.inf, -1, -1, -np.inf], [0, np.nan, 1, 2]], np.float32)
    tokens = sample_tokens(logits, jax.random.split(jax.random.key(0), 4), options)
    assert tokens[:3].tolist() == logits[:3].argmax(-1).tolist() == [1, 0, 1]
    assert 0 <= tokens[3] < 4 and tokens.dtype == np.int32


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(max_new_tokens=0), "max_new_tokens is 0; allowed: a whole number from 1"),
        (dict(temperature=-0.1), "temperature is -0.1; allowed: 0 .greedy. or a number above"),
        (dict(temperature=float("inf")), "temperature is inf"),
        (dict(temperature=float("nan")), "temperature is nan"),
        (dict(top_k=-1), "top_k is -1; allowed: 0 .off. or a whole number above"),
        (dict(top_p=0.0), "top_p is 0.0; allowed: above 0 and at most 1"),
        (dict(top_p=1.5), "top_p is 1.5"),
        (dict(top_p=float("nan")), "top_p is nan"),
        (dict(eos_ids=(2, 16)), r"eos_ids is \(2, 16\); allowed: tokens of the vocabulary, 0 to 15"),
        (dict(eos_ids=(-1,)), r"eos_ids is \(-1,\)"),
        (dict(pad_id=16), "pad_id is 16; allowed: a token of the vocabulary, 0 to 15"),
    ],
)
def test_options_out_of_range_are_refused(fields, message):
    check_sample_options(OPTIONS, 16)
    with pytest.raises(InputError, match=f"^{message}") as error:
        check_sample_options(dataclasses.replace(OPTIONS, **fields), 16)
    assert "\n" not in str(error.value)
