"""Weights and logits that are not finite end generation in one line, and never become text."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.evaluate.toolbox_queries import held_out_queries
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.model import llama

C = dataclasses.replace(
    llama.preset("tiny", vocab_size=64), num_layers=1, d_model=32, num_kv_heads=2, head_dim=8, d_ff=48, max_positions=48
)
GREEDY = SampleOptions(
    max_new_tokens=2,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_ids=(),
    pad_id=0,
    compute_dtype="float32",
    attention="reference",
)
PROMPTS = [[8, 9], [8, 10, 11], [8, 7], [12]]


@pytest.fixture
def params():
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        yield jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), C, jnp.float32)


def spoil(params, name, index, value):
    """The parameters with another value at `index` of one weight."""
    weight = np.array(params[name])
    weight[index] = value
    return params | {name: jax.device_put(weight, params[name].sharding)}


@pytest.mark.parametrize("options", [GREEDY, dataclasses.replace(GREEDY, temperature=1.0, top_k=5)])
def test_the_prompt_whose_logits_are_not_finite_is_named(params, options):
    sampler = Sampler(spoil(params, "embed", 7, np.nan), C, options, key=jax.random.key(0), rows=4)
    assert len(sampler.generate(PROMPTS[:2])) == 2
    with pytest.raises(
        FloatingPointError, match=r"^the model's logits at token 1 of the reply to prompt 2 are not finite"
    ):
        sampler.generate(PROMPTS)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_single_logit_that_is_not_finite_counts(params, value):
    """One of the infinite weights gives a logit of minus infinity, which a greedy choice of another would hide."""
    sampler = Sampler(spoil(params, "lm_head", (0, 5), value), C, GREEDY, key=jax.random.key(0), rows=4)
    with pytest.raises(FloatingPointError, match="not finite"):
        sampler.generate(PROMPTS[:1])


@pytest.mark.parametrize(
    ("name", "change", "code", "words"),
    [
        (
            "lm_head.weight",
            lambda x: np.sign(x) * 3e38,
            1,
            "stopped: the model's logits at token 1 of the reply to prompt 0",
        ),
        ("model.norm.weight", lambda x: x * np.nan, 2, "model.norm.weight holds NaN or infinity"),
    ],
)
def test_the_command_ends_in_one_line(name, change, code, words, launch, repo, tmp_path, one_layer_base, capsys):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(one_layer_base, folder)
    tensors = {key: x.astype(np.float32) for key, x in load_file(folder / "model.safetensors").items()}
    tensors[name] = change(tensors[name]).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(json.dumps({"prompt": held_out_queries("domain", 1, "mae")[0].prompt}))
    flags = [f"--config={repo / 'configs' / 'generate.py'}", f"--config.model.path={folder}", "--config.rows=8"]
    flags += [f"--config.prompts={prompts}", f"--config.out={out}", "--config.sample.max_new_tokens=4"]
    assert launch("generate", *flags) == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not out.exists()
