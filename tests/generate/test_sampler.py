"""Many prompts: order, slots that are filled again, compiled programs, what neighbours may change, and bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.generate.batches import Reply
from tljax.generate.sampler import Sampler, prompts_at_a_time
from tljax.generate.sampling import SampleOptions
from tljax.model import llama

C = dataclasses.replace(
    llama.preset("tiny", vocab_size=64), num_layers=1, d_model=32, num_kv_heads=2, head_dim=8, d_ff=48, max_positions=48
)
OPTIONS = SampleOptions(
    max_new_tokens=8,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    eos_ids=(1, 2, 3, 4, 5, 6),
    pad_id=0,
    compute_dtype="float32",
    attention="auto",
)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 64, length).tolist() for length in (3, 17, 9, 30, 1, 8, 16, 4, 12, 2, 31)]


def make_params():
    return jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), C, jnp.float32)


@pytest.mark.extended
def test_replies_come_in_order_whatever_the_batches_and_the_mesh(compiled_programs):
    results, compiled = [], []
    for shape, rows, round_to in (((1, 1, 1), 3, 16), ((1, 1, 1), 11, 8), ((2, 2, 2), 4, 16)):
        with jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
            params, before = make_params(), len(compiled_programs)
            sampler = Sampler(params, C, OPTIONS, key=jax.random.key(0), rows=rows, round_to=round_to)
            batches = list(sampler.generate_batches(PROMPTS))
            replies = sampler.generate(PROMPTS)
            compiled.append(sorted(compiled_programs[before:]))
            assert {i: reply for batch in batches for i, reply in batch.items()} == dict(enumerate(replies))
            results.append(replies)
    # Widths 32 and 16, in two pools; 8 and 24 and again those two, in one pool; 32 and 16 in two pools.
    for names, widths, pools in zip(compiled, (2, 2, 2), (2, 1, 2), strict=True):
        assert names.count("jit(prefill)") == widths and names.count("jit(decode)") == pools
    for replies in results[1:]:
        assert [(r.tokens, r.end) for r in replies] == [(r.tokens, r.end) for r in results[0]]
        for one, other in zip(replies, results[0], strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=2e-5)
    for reply in results[0]:
        assert reply.end in OPTIONS.eos_ids if reply.ended else reply.end is None and len(reply.tokens) == 8
        assert reply.all_tokens == [*reply.tokens, *([reply.end] if reply.ended else [])]
        assert not set(reply.tokens) & set(OPTIONS.eos_ids) and len(reply.logprobs) == len(reply.tokens) + reply.ended
    assert {reply.ended for reply in results[0]} == {True, False} and len({str(r.tokens) for r in results[0]}) > 7


def test_a_cpu_computes_few_prompts_at_a_time(one_device):
    assert [prompts_at_a_time(places=32, width=width) for width in (64, 128, 320, 1024)] == [4, 4, 1, 1]


def test_a_slot_whose_reply_ended_takes_the_next_prompt(one_device, decoding_steps):
    sampler = Sampler(make_params(), C, OPTIONS, key=jax.random.key(0), rows=3, round_to=64)
    batches = list(sampler.generate_batches(PROMPTS))
    lengths = {i: len(reply.logprobs) for batch in batches for i, reply in batch.items()}
    order = [lengths[i] for i in range(len(PROMPTS))]
    # Prompts of one padded length come in order. Three at a time would wait for the longest reply of each three.
    waiting = sum(max(order[i : i + 3]) for i in range(0, len(order), 3))
    free_at, slots = 0, [0, 0, 0]
    for length in order:
        slots.sort()
        slots[0] += length
        free_at = max(free_at, slots[0])
    assert decoding_steps() == free_at < waiting
    assert all(batches)


def test_a_part_of_the_prompts_gives_the_same_replies_under_the_same_row_ids(one_device):
    sampler = Sampler(make_params(), C, OPTIONS, key=jax.random.key(0), rows=3, round_to=16)
    everything = sampler.generate(PROMPTS)
    part = [10, 4, 6]
    again = sampler.generate_batches([PROMPTS[i] for i in part], row_ids=part, run_lengths=[len(p) for p in PROMPTS])
    again = {i: reply for batch in again for i, reply in batch.items()}
    assert [again[i] for i in range(3)] == [everything[i] for i in part]  # to the last bit of a log-probability
    assert sampler.generate([]) == []


def test_slots_that_make_no_whole_place_stay_empty(one_device):
    prompts = [prompt for prompt in PROMPTS[:3] for _ in range(2)]
    five, four = (
        Sampler(make_params(), C, OPTIONS, key=jax.random.key(0), rows=rows, copies=2).generate(prompts)
        for rows in (5, 4)
    )
    assert five == four


def test_the_longest_prompt_that_fits_is_the_models_last_position(one_device):
    prompts = [[7] * 40, np.array([8, 9], np.int64)]
    replies = Sampler(make_params(), C, OPTIONS, key=jax.random.key(0), rows=2, round_to=64).generate(prompts)
    assert len(replies) == 2 and all(isinstance(reply, Reply) and reply.logprobs for reply in replies)
    assert all(type(token) is int for reply in replies for token in reply.tokens)


@pytest.mark.parametrize(
    "prompts, fields, arguments, message",
    [
        ([[1], []], {}, {}, "prompt 1 is empty; it needs at least one token"),
        ([[1], [2] * 41], {}, {}, r"prompt 1 with max_new_tokens \(41 \+ 8\) is 49, .*; use at most 48"),
        ([[1, 64]], {}, {}, "prompt 0 holds token 64, but the model's are 0 to 63"),
        ([[-1, 5]], {}, {}, "prompt 0 holds token -1"),
        ([[1]], dict(temperature=-1.0), {}, "temperature is -1.0"),
        ([[1]], dict(eos_ids=(64,)), {}, r"eos_ids is \(64,\)"),
        ([[1]], {}, dict(rows=6), "rows is 6, which does not divide over the data x fsdp = 4 .* such as 4 or 8"),
        ([[1]], {}, dict(round_to=0), "round_to is 0; allowed: a whole number from 1"),
        ([[1]], {}, dict(row_ids=[1, 2]), "there are 2 row_ids for 1 prompts"),
    ],
)
def test_bad_input_is_refused_in_one_line(prompts, fields, arguments, message):
    with jax.set_mesh(make_mesh(2, 2, 2)):
        options, arguments = dataclasses.replace(OPTIONS, **fields), dict(rows=4, round_to=16) | arguments
        with pytest.raises(InputError, match=f"^{message}") as error:
            row_ids = arguments.pop("row_ids", None)
            list(Sampler({}, C, options, key=jax.random.key(0), **arguments).generate_batches(prompts, row_ids))
    assert "\n" not in str(error.value)
