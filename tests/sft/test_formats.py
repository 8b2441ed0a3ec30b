"""A file of every format, from its rows to a trained model: one dialogue gives the same text and the same losses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.data.format_rows import PROMPT, QUERIES_ALONE, REPLIES, ROWS
from tljax.core.config import data_block
from tljax.data.batch import Batches
from tljax.data.examples import load_examples
from tljax.data.prompt import render_trajectory
from tljax.data.reader import open_trajectories
from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import global_batch, make_mesh
from tljax.model import llama
from tljax.sft.step import StepOptions, make_sft_step
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training.state import init_state


@pytest.fixture(scope="module")
def train():
    """train(examples) -> the losses of three updates; all examples share one compiled step."""
    small = dataclasses.replace(
        llama.preset("tiny"), num_layers=1, d_model=32, num_heads=2, num_kv_heads=2, head_dim=16, d_ff=64
    )
    forward = llama.ForwardOptions("float32", attention="reference")
    options = StepOptions(max_targets=128, loss_chunk=64, forward=forward)
    tx = optax.adam(1e-2)
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        step = make_sft_step(small, tx, lambda n: jnp.float32(1e-2), options)

        def run(examples):
            batches = Batches(examples.train, rows=1, tokens=512, epochs=1, seed=None, packed=True)
            assert batches.steps == 1
            batch = {name: array.reshape(1, 1, -1) for name, array in batches.build(0).items()}
            state = init_state(jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), small, jnp.float32), tx)
            losses = []
            for _ in range(3):
                state, metrics = step(state, global_batch(batch, accumulate=True))
                losses.append(float(metrics["loss"]))
            return losses

        yield run


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BASE_FOLDER)


@pytest.fixture(scope="module")
def losses_of_dialogues():
    """The losses of each number of replies: all formats share them."""
    return {}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_of_every_format_is_read_rendered_and_trained_on(case, train, tokenizer, losses_of_dialogues, tmp_path):
    name, row = ROWS[case]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "one", **row}) + "\n")

    # The text, and its replies.
    trajectory = open_trajectories(str(path), "refuse", str(tmp_path))[0]
    rendered = render_trajectory(trajectory, "mae")
    replies = [rendered.text[reply.text_start : reply.end] for reply in rendered.replies]
    assert rendered.text.startswith(PROMPT) and trajectory.id == "one"
    assert replies == (REPLIES[::2] if case in QUERIES_ALONE else REPLIES)

    # The run's summary and three updates.
    data = data_block()
    data.update({"source": str(path), "cache": str(tmp_path), "eval_fraction": 0.0})
    examples = load_examples(data, str(path), tokenizer, seed=0)
    assert f"rows.jsonl: {name}, 1 row; row 1 (id 'one'): user, assistant, " in examples.summary
    losses = train(examples)
    assert losses[2] < losses[1] < losses[0]
    assert losses == losses_of_dialogues.setdefault(len(replies), losses)
