"""Replies that share their prompt's computation: the same numbers as in rows of their own, from less work."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.rl.ppo_updates import (
    CONFIG,
    adapter_update,
    assert_close,
    first_state,
    make_options,
    models_of,
    on_mesh,
    one_update,
    random_params,
)
from tljax.calls.compare import as_tool_list
from tljax.data.prompt_table import Prompt
from tljax.distributed.mesh import spec
from tljax.generate.batches import Reply
from tljax.generate.sampler import Sampler
from tljax.model.shared_prompt import shared_replies
from tljax.rl.experience import make_experience
from tljax.rl.irm import Reward
from tljax.rl.ppo import make_update
from tljax.rl.reply_scores import reply_logprobs
from tljax.rl.rollout import Rollout, pad_rollout
from tljax.rl.state import RolloutBatch
from tljax.storage.atomic import read_jsonl

GROUP, PROMPTS = 4, 4
PROMPT_LENGTHS = (12, 3, 1, 9)
REPLY_LENGTHS = (8, 1, 5, 2, 3, 8, 8, 1, 1, 6, 2, 4, 7, 5, 3, 8)


def rollout_batch(share: bool, prompt_columns: int = 12, reply_columns: int = 8) -> RolloutBatch:
    """Four prompts with four replies to each, in rows of prompt and reply, or as shared rows take them."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in PROMPT_LENGTHS]
    replies = [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in REPLY_LENGTHS]
    tokens = np.full((GROUP * PROMPTS, prompt_columns + (0 if share else reply_columns)), 7, np.int32)
    padded = np.full((GROUP * PROMPTS, reply_columns), 9, np.int32)
    for row, reply in enumerate(replies):
        prompt = prompts[row // GROUP]
        text = prompt if share else prompt + reply
        tokens[row, : len(text)], padded[row, : len(reply)] = text, reply
    host = RolloutBatch(
        tokens=tokens,
        starts=np.repeat(np.asarray(PROMPT_LENGTHS, np.int32), GROUP),
        replies=padded,
        mask=np.arange(reply_columns)[None] < np.asarray(REPLY_LENGTHS)[:, None],
        rewards=rng.choice(np.asarray([-2, -1.5, -0.8, -0.25, 1], np.float32), GROUP * PROMPTS),
    )
    return jax.device_put(host, jax.NamedSharding(jax.sharding.get_mesh(), jax.P()))


def options_for(shared, attention="reference", remat="none", algorithm="rloo", **changes):
    options = make_options(algorithm, group=GROUP, shared=shared, remat=remat, **changes)
    return dataclasses.replace(
        options, sample=dataclasses.replace(options.sample, attention=attention, max_new_tokens=8)
    )


def scores_and_gradient(options, batch):
    """Log-probabilities and entropies of the replies, and the gradient of a sum that depends on each of them."""

    def total(params, batch):
        batch = jax.tree.map(lambda x: jax.reshard(x, spec("batch", *(None,) * (x.ndim - 1))), batch)
        logprobs, entropy = reply_logprobs(params, CONFIG, batch, options)
        logprobs, entropy = (jnp.where(batch.mask, x, 0.0) for x in (logprobs, entropy))
        return (logprobs.sum() + (entropy**2).sum()) / 100, (logprobs, entropy)

    (_, scores), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(random_params(0), batch)
    return jax.device_get((scores, gradient))


@pytest.fixture(scope="module")
def separate():
    with on_mesh(1, 1, 1):
        return scores_and_gradient(options_for(shared=1), rollout_batch(share=False))


@pytest.mark.parametrize(
    "mesh, shared, attention, remat",
    [
        ((1, 1, 1, 1), 4, "blocked", "none"),
        pytest.param((1, 2, 1, 1), 4, "reference", "attention", marks=pytest.mark.extended),
        pytest.param((1, 1, 2, 2), 4, "blocked", "attention", marks=pytest.mark.extended),
        pytest.param((1, 1, 2, 1), 2, "reference", "none", marks=pytest.mark.extended),
        pytest.param((2, 1, 2, 1), 4, "blocked", "full", marks=pytest.mark.extended),
        pytest.param((1, 1, 4, 1), 4, "reference", "none", marks=pytest.mark.slow),
        pytest.param((1, 1, 1, 2), 2, "reference", "dots", marks=pytest.mark.slow),
        pytest.param((2, 2, 2, 1), 4, "blocked", "none", marks=pytest.mark.slow),
    ],
)
def test_shared_rows_give_the_scores_and_gradients_of_separate_rows(separate, mesh, shared, attention, remat):
    with on_mesh(*mesh):
        found = scores_and_gradient(options_for(shared, attention, remat), rollout_batch(share=True))
    assert_close(found, separate, tolerance=1e-5)
    assert np.abs(separate[0][0]).max() > 1  # the scores are no zeros


def test_the_padding_of_prompts_and_replies_changes_nothing(separate):
    with on_mesh(1, 1, 1):
        batch = rollout_batch(share=True, prompt_columns=20, reply_columns=12)
        (logprobs, entropy), gradient = scores_and_gradient(options_for(shared=4), batch)
    assert_close(((logprobs[:, :8], entropy[:, :8]), gradient), separate, tolerance=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("algorithm, changes", [("ppo", {"accumulate": 2}), ("grpo", {"kl_place": "loss"})])
def test_an_update_is_the_same_with_shared_prompts(algorithm, changes):
    """Actor, critic and reference share them alike."""
    with on_mesh(1, 1, 1):
        plain = one_update(options_for(1, algorithm=algorithm, **changes), rollout_batch(share=False))
        found = one_update(options_for(4, algorithm=algorithm, **changes), rollout_batch(share=True))
    assert_close(found.gradients, plain.gradients, tolerance=1e-5)
    for name, value in plain.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert found.metrics["ratio_first"] == pytest.approx(1, abs=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("mesh", [(1, 1, 1), (1, 2, 2)])
def test_an_update_of_adapters_is_the_same_with_shared_prompts(mesh):
    with on_mesh(*mesh):
        plain, _ = adapter_update(options_for(1, algorithm="ppo"), rollout_batch(share=False))
        found, _ = adapter_update(options_for(4, algorithm="ppo"), rollout_batch(share=True))
    assert_close(found, plain, tolerance=1e-5)


@pytest.mark.extended
def test_minibatches_are_made_of_whole_groups():
    """With a learning rate of 0, the first step's loss is that of the groups that the key draws first."""
    with on_mesh(1, 1, 1):
        options, frozen = options_for(4, minibatches=4), random_params(2)
        models, state = models_of(options), first_state(critic=False)
        experience, _ = make_experience(models, options)(state, frozen, rollout_batch(share=True))
        # Advantages of one group alone: a minibatch that mixed groups would have a loss between 0 and this one.
        own = jnp.zeros_like(experience.advantages).at[4:8].set(1.0)
        experience = dataclasses.replace(experience, advantages=own)
        _, metrics = make_update(models, *(recording(),) * 2, options)(state, frozen, experience, jax.random.key(3))
    # The mean of four losses: -1 for the group's minibatch, 0 for the three others.
    assert float(metrics["policy_loss"]) == pytest.approx(-0.25, abs=1e-5)


def recording():
    """An optimizer that changes nothing."""

    return optax.set_to_zero()


def test_less_is_computed():
    """Of 4 replies of 8 tokens to prompts of 120, separate rows compute 512 tokens, shared rows 152."""
    flops = {}
    with on_mesh(1, 1, 1):
        for shared in (1, 4):
            options = options_for(shared, attention="blocked")
            batch = rollout_batch(share=shared > 1, prompt_columns=120)
            score = make_experience(models_of(options), options)
            compiled = score.lower(first_state(critic=False), random_params(2), batch).compile()
            flops[shared] = compiled.cost_analysis()["flops"]
    assert flops[4] < 0.45 * flops[1]


SAMPLED = make_options().sample


@pytest.mark.parametrize("mesh", [(1, 1, 1), pytest.param((1, 2, 2), marks=pytest.mark.extended)])
def test_the_sampler_computes_a_prompt_once_for_its_copies(mesh):
    prompts = [[3, 4, 5], [6], list(range(2, 40)), [9, 9], [5, 6, 7, 8]]
    repeated = [prompt for prompt in prompts for _ in range(4)]
    with on_mesh(*mesh):
        params = random_params(0)
        found = {
            copies: Sampler(params, CONFIG, SAMPLED, key=jax.random.key(0), rows=8, copies=copies).generate(repeated)
            for copies in (1, 2, 4)
        }
    tokens = {copies: [reply.all_tokens for reply in replies] for copies, replies in found.items()}
    assert tokens[1] == tokens[2] == tokens[4]
    assert len({tuple(reply) for reply in tokens[4][:4]}) > 1  # samples of a prompt differ
    for a, b in zip(found[1], found[4], strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_copies_that_differ_are_refused():
    with on_mesh(1, 1, 1):
        sampler = Sampler(random_params(0), CONFIG, SAMPLED, key=jax.random.key(0), rows=4, copies=2)
        for prompts in ([[3], [4]], [[3], [3], [4]]):
            with pytest.raises(ValueError, match="each prompt must come 2 times in a row"):
                sampler.generate(prompts)


@pytest.mark.parametrize(
    "mesh, group, replies, wanted",
    [((1, 1, 1), 4, 16, 4), ((1, 1, 1), 8, 4, 4), ((2, 2, 1), 4, 8, 2), ((1, 8, 1), 4, 8, 1), ((1, 2, 1), 6, 12, 6)],
)
def test_as_many_replies_share_as_divide_over_devices_and_parts(mesh, group, replies, wanted):
    with on_mesh(*mesh):
        assert shared_replies(group, replies) == wanted


def test_a_padded_rollout_holds_prompts_alone_and_short_replies():
    prompt = Prompt("a", 1, [5, 6, 7], "", "", as_tool_list([]))
    replies = [Reply(tokens=[8, 9], logprobs=[0.0] * 3, end=1), Reply(tokens=[8], logprobs=[0.0], end=None)]
    rollout = Rollout([0, 0], replies, ["", ""], [Reward(1.0, "", "")] * 2)
    with on_mesh(1, 1, 1):
        batch = jax.device_get(pad_rollout([prompt] * 2, rollout, [1.0, 0.5], 8, 64, share_prompts=True))
    assert batch.tokens.tolist() == [[5, 6, 7, 0, 0, 0, 0, 0]] * 2
    assert batch.replies.shape == (2, 16) and batch.replies[0, :3].tolist() == [8, 9, 1]
    assert batch.mask.sum(1).tolist() == [3, 1] and batch.starts.tolist() == [3, 3]


@pytest.mark.slow
def test_a_run_has_the_same_metrics_with_shared_prompts(launch, ppo_of_base, tmp_path, capsys):
    flags = [
        *ppo_of_base,
        *("--config.algorithm=rloo", "--config.rollout.group=4", "--config.rollout.prompts=4"),
        *(
            "--config.ppo.updates=2",
            "--config.eval.sets=",
            "--config.checkpoint.every=0",
            "--config.export.at_end=False",
        ),
        *("--config.mesh.data=1", "--config.mesh.fsdp=1", "--config.mesh.sequence=4", "--config.mesh.tensor=2"),
    ]
    runs = {}
    for share in (True, False):
        out = tmp_path / str(share)
        assert launch("train", *flags, f"--config.rollout.share_prompts={share}", f"--config.out={out}") == 0
        runs[share] = [row for row in read_jsonl(out / "metrics.jsonl") if "reward" in row]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compiled: ")]
    # Four replies of 12 tokens, padded to 16, behind a prompt.
    assert len(printed) == 2 and printed[0] != printed[1]
    assert len(runs[True]) == len(runs[False]) == 2
    for ours, theirs in zip(runs[True], runs[False], strict=True):
        assert ours["ratio_first"] == pytest.approx(1, abs=1e-3) and ours["sampler_gap"] < 1e-3
        for name in ("reward", "reply_tokens", "loss", "kl", "entropy", "grad_norm", "tokens"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
