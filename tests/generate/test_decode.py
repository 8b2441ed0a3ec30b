"""Generation: the cache against the training forward and torch, padding, meshes, draws, ends, what a step moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import global_batch, make_mesh, spec
from tljax.generate import decode, slots
from tljax.generate.sampling import SampleOptions, sampled_token_logprobs
from tljax.model import llama
from tljax.model.hf import config as hf_config
from tljax.model.hf import load as hf_load
from tljax.model.rope import RopeScaling
from tljax.plan.compiled import compile_program

GQA = llama.LlamaConfig(
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=48,
    vocab_size=64,
    rope_theta=1e4,
    rope_scaling=RopeScaling(
        kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_tokens=16
    ),
    norm_eps=1e-5,
    tie_embeddings=False,
    qkv_bias=True,
    max_positions=64,
    sliding_window=None,
    architecture="Qwen2ForCausalLM",
)
MHA = dataclasses.replace(GQA, num_kv_heads=4, rope_scaling=None, tie_embeddings=True, qkv_bias=False)
OPTIONS = SampleOptions(
    max_new_tokens=6,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_ids=(),
    pad_id=0,
    compute_dtype="float32",
    attention="auto",
)
LENGTHS = np.array([12, 3, 5, 1, 7, 8, 2, 12], np.int32)
IDS = np.arange(8, dtype=np.int32)


@pytest.fixture
def eight_devices():
    with jax.set_mesh(make_mesh(2, 2, 2)):
        yield


def make_params(c=GQA):
    """Larger than at initialization: attention is far from uniform, and some word far likelier than others."""
    params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), c, jnp.float32)
    return jax.tree.map(lambda x: x * (6 if x.ndim > 2 else 20 if x.ndim == 2 else 1), params)


def make_prompts(width=12, padding=0):
    """The same prompts at every width."""
    prompts = np.full((8, width), padding, np.int32)
    for row, length in enumerate(LENGTHS):
        prompts[row, :length] = np.random.default_rng(row).integers(0, 64, length)
    return prompts


def run(params, c, options, prompts=None, lengths=LENGTHS, row_ids=IDS, key=0):
    prompts = make_prompts() if prompts is None else prompts
    batch = decode.PromptBatch(**global_batch({"tokens": prompts, "lengths": lengths, "row_ids": row_ids[:, None]}))
    generated = decode.generate(params, c, batch, jax.random.key(key), options, rows=8)
    return jax.tree.map(np.asarray, generated)


def assert_scores_equal(ours, wanted):
    """Rounding apart: at a rare position of these weights an input changed by 1e-7 moves the score by 3e-5."""
    difference = np.abs(np.asarray(ours) - np.asarray(wanted))
    assert difference.max() < 2e-4 and difference.mean() < 1e-5, difference


@jax.jit
def forward(params, c, batch):
    options = llama.ForwardOptions("float32", attention="reference")
    hidden = llama.forward(params, c, batch["tokens"], batch["positions"], batch["segments"], options)
    return llama.logits(params, c, hidden)


def training_logits(params, c, generated):
    """The training forward on prompt and reply: logits [B, M, V] where each token of the reply was predicted."""
    M = generated.tokens.shape[1]
    text = make_prompts(12 + M)
    for row, length in enumerate(LENGTHS):
        text[row, length : length + M] = generated.tokens[row]
    positions = np.tile(np.arange(12 + M, dtype=np.int32), (8, 1))
    segments = (positions < (LENGTHS + M)[:, None]).astype(np.int32)
    batch = global_batch({"tokens": text, "positions": positions, "segments": segments})

    logits = np.asarray(forward(params, c, batch))
    return np.stack([logits[row, length - 1 : length - 1 + M] for row, length in enumerate(LENGTHS)])


@pytest.mark.parametrize(
    "shape", [(2, 2, 2), *(pytest.param(s, marks=pytest.mark.extended) for s in ((1, 1, 1), (1, 8, 1)))]
)
@pytest.mark.parametrize("c", [GQA, pytest.param(MHA, marks=pytest.mark.slow)], ids=["gqa", "mha"])
def test_greedy_is_the_argmax_of_the_training_forward(c, shape):
    with jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
        params = make_params(c)
        generated = run(params, c, OPTIONS)
        logits = training_logits(params, c, generated)
    np.testing.assert_array_equal(generated.tokens, logits.argmax(-1))
    wanted = np.asarray(jax.nn.log_softmax(logits)).max(-1)
    assert_scores_equal(generated.logprobs, wanted)
    assert len(np.unique(generated.tokens)) > 8 and not generated.ended.any() and (generated.lengths == 6).all()


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_greedy_replies_equal_those_of_torch_transformers(name, torch, checkpoints, one_device):
    folder, model = checkpoints(name)
    c = hf_config.read_config(folder)
    padded, mask = np.zeros((8, 12), np.int64), np.zeros((8, 12), np.int64)
    for row, length in enumerate(LENGTHS):
        padded[row, 12 - length :], mask[row, 12 - length :] = make_prompts()[row, :length], 1

    def theirs(eos):
        out = model.generate(
            torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=0,
        )[:, 12:].numpy()
        return np.pad(out, ((0, 0), (0, 10 - out.shape[1])))

    free = theirs(None)
    # What one row says third and what another says sixth, as end tokens.
    eos = [int(free[0, 2]), int(free[4, 5])]
    ours = run(
        hf_load.load_params(folder, c, jnp.float32),
        c,
        dataclasses.replace(OPTIONS, max_new_tokens=10, eos_ids=tuple(eos)),
    )
    np.testing.assert_array_equal(ours.tokens, theirs(eos))
    np.testing.assert_array_equal(ours.tokens[~ours.ended], free[~ours.ended])
    assert ours.ended[[0, 4]].all() and not ours.ended.all() and len(np.unique(free)) > 10


@pytest.mark.parametrize(
    "fields",
    [
        *(pytest.param(f, marks=pytest.mark.extended) for f in (dict(temperature=0.7), dict(top_k=5), dict(top_p=0.8))),
        dict(temperature=1.3, top_k=20, top_p=0.9),
    ],
    ids=str,
)
def test_logprobs_of_samples_equal_the_scorers(fields, one_device):
    params, options = make_params(), dataclasses.replace(OPTIONS, **{"temperature": 1.0} | fields)
    generated = run(params, GQA, options)
    logits = training_logits(params, GQA, generated)
    assert_scores_equal(generated.logprobs, sampled_token_logprobs(logits, generated.tokens, options))
    assert (generated.tokens != logits.argmax(-1)).any() and len(np.unique(generated.logprobs)) > 20


SAMPLED = dataclasses.replace(OPTIONS, temperature=1.0, eos_ids=(3, 5, 7), pad_id=9)


def test_samples_depend_on_key_row_id_and_prompt_alone(one_device):
    params = make_params()
    plain = run(params, GQA, SAMPLED)
    garbage = make_prompts(padding=-7)
    garbage[:, 6:] = np.where(np.arange(6, 12)[None] >= LENGTHS[:, None], 10**8, garbage[:, 6:])
    jax.tree.map(np.testing.assert_array_equal, run(params, GQA, SAMPLED, garbage), plain)
    wider = run(params, GQA, SAMPLED, make_prompts(16))
    np.testing.assert_array_equal(wider.tokens, plain.tokens)
    assert_scores_equal(wider.logprobs, plain.logprobs)
    # Other rows of another batch, in another order, one of them without a prompt.
    order = np.array([6, 1, 1, 0])
    lengths = np.where([False, False, True, False], 0, LENGTHS[order]).astype(np.int32)
    other = run(params, GQA, SAMPLED, make_prompts()[order], lengths, IDS[order])
    for row in (0, 1, 3):
        np.testing.assert_array_equal(other.tokens[row], plain.tokens[order[row]])
        assert_scores_equal(other.logprobs[row], plain.logprobs[order[row]])
    assert other.ended[2] and other.lengths[2] == 0
    assert (other.tokens[2] == 9).all() and (other.logprobs[2] == 0).all()
    assert (run(params, GQA, SAMPLED, key=1).tokens != plain.tokens).any(axis=1).sum() > 5
    assert (run(params, GQA, SAMPLED, row_ids=IDS + 8).tokens != plain.tokens).any(axis=1).sum() > 5


@pytest.mark.extended
def test_samples_are_the_same_on_every_mesh():
    results = []
    for shape in ((1, 1, 1), (2, 2, 2), (1, 2, 2, 2)):
        with jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
            results.append(run(make_params(), GQA, SAMPLED))
    for other in results[1:]:
        np.testing.assert_array_equal(other.tokens, results[0].tokens)
        assert_scores_equal(other.logprobs, results[0].logprobs)


@pytest.mark.extended
def test_every_row_and_step_draws_anew(eight_devices):
    """A temperature so high that all 64 words are equally likely: 8 x 32 draws from one prompt."""
    options = dataclasses.replace(OPTIONS, temperature=1e6, max_new_tokens=32)
    prompts, lengths = np.tile(make_prompts()[:1], (8, 1)), np.full(8, 12, np.int32)
    tokens = run(make_params(), GQA, options, prompts, lengths).tokens
    # The 0.999 quantile of chi-square at 63 degrees of freedom; rows or steps alike would repeat every count.
    counts = np.bincount(tokens.ravel(), minlength=64)
    assert ((counts - 4.0) ** 2 / 4).sum() < 103.4
    assert len(np.unique(tokens, axis=0)) == 8 and len(np.unique(tokens, axis=1).T) == 32


def test_a_reply_ends_with_its_end_token(one_device):
    params = make_params()
    free = run(params, GQA, OPTIONS)
    eos = (int(free.tokens[0, 0]), int(free.tokens[4, 3]))
    ended = run(params, GQA, dataclasses.replace(OPTIONS, eos_ids=eos, pad_id=eos[0]))
    for row in range(8):
        hits = np.flatnonzero(np.isin(free.tokens[row], eos))
        length = hits[0] + 1 if len(hits) else 6
        assert ended.lengths[row] == length and ended.ended[row] == bool(len(hits))
        np.testing.assert_array_equal(ended.tokens[row, :length], free.tokens[row, :length])
        np.testing.assert_array_equal(ended.logprobs[row, :length], free.logprobs[row, :length])
        assert (ended.tokens[row, length:] == eos[0]).all() and (ended.logprobs[row, length:] == 0).all()
    assert ended.lengths[0] == 1 and 1 < ended.lengths[4] <= 4 and not ended.ended.all()


def test_decoding_stops_when_every_row_has_ended(one_device, decoding_steps):
    params = make_params()
    free = run(params, GQA, OPTIONS)
    assert decoding_steps() == 6
    lengths = np.where(np.isin(IDS, [0, 4]), LENGTHS, 0)
    eos = tuple(int(x) for x in free.tokens[[0, 4], [1, 2]])
    generated = run(params, GQA, dataclasses.replace(OPTIONS, eos_ids=eos), lengths=lengths)
    assert generated.ended.all() and decoding_steps() == generated.lengths.max()
    assert 0 < generated.lengths.max() < 6
    run(params, GQA, dataclasses.replace(OPTIONS, eos_ids=eos), lengths=np.zeros(8, np.int32))
    assert decoding_steps() == 0


@pytest.mark.extended
@pytest.mark.parametrize("shape", [(2, 2, 2)])
def test_bfloat16_caches_and_scores(shape):
    options = dataclasses.replace(SAMPLED, compute_dtype="bfloat16", top_p=0.9)
    with jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
        params = make_params()
        shapes = jax.eval_shape(lambda: slots.empty_slots(GQA, 8, 18, options=options)).cache
        generated = run(params, GQA, options)
    keys, values = ((8, 2, 8, 18), jnp.bfloat16), ((8, 2, 18, 8), jnp.bfloat16)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(shapes)] == [keys, values] * 2
    assert generated.tokens.dtype == generated.lengths.dtype == np.int32 and generated.logprobs.dtype == np.float32
    assert np.isfinite(generated.logprobs).all() and (generated.logprobs <= 0).all() and (generated.lengths > 0).all()


def test_options_are_checked_before_anything_is_compiled(one_device):
    with pytest.raises(InputError, match="top_p is 0; allowed"):
        run(make_params(), GQA, dataclasses.replace(OPTIONS, top_p=0))
    with pytest.raises(InputError, match="attention is 'flash'; allowed"):
        run(make_params(), GQA, dataclasses.replace(OPTIONS, attention="flash"))


@pytest.mark.extended
def test_a_step_moves_activations_and_no_weights(without_program_cache):
    c = dataclasses.replace(llama.preset("tiny", vocab_size=512), num_layers=2)
    options = dataclasses.replace(SAMPLED, max_new_tokens=16, eos_ids=(3,), compute_dtype="bfloat16")

    def ids(*shape):
        sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec("batch", *[None] * (len(shape) - 1)))
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)

    with jax.set_mesh(make_mesh(2, 2, 2)):
        params, batch = llama.abstract_params(c, jnp.float32), decode.PromptBatch(ids(8, 64), ids(8), ids(8, 1))
        # The loop that is recognized by its number of trips is here that of the steps.
        program = compile_program(
            lambda: decode.generate.lower(params, c, batch, jax.random.key(0), options, rows=8), options.max_new_tokens
        )
    assert program.replicated == ()
    in_steps = [transfer.size for transfer in program.transfers if transfer.in_layers]
    before = [transfer.size for transfer in program.transfers if not transfer.in_layers]
    # 4 rows x the 256 words of one device, in a step; the table of 512 words x 128 at least, before the first.
    assert in_steps and max(in_steps) <= 4 * 512 * 4
    assert max(before) >= 512 * 128 * 2
