"""Loading Hugging Face checkpoints: logits against torch transformers, and every way in which one may not fit."""

import copy
import json
import re
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.model import llama
from tljax.model.hf import config as hf_config
from tljax.model.hf import load as hf_load

CASES = (
    "mha",
    "codellama",
    "gqa",
    "mqa",
    "llama3",
    "llama3_2",
    "linear",
    "yarn",
    "factors",
    "tied",
    "qwen2",
    "qwen3",
    "mistral",
)
TOKENS = np.random.default_rng(0).integers(0, 256, (8, 40)).astype(np.int32)


def our_logits(params, c, tokens, attention="auto", compute_dtype=jnp.float32):
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)

    @jax.jit
    def run(params, tokens, positions, segments):
        options = llama.ForwardOptions(compute_dtype, remat="full", attention=attention)
        hidden = llama.forward(params, c, tokens, positions, segments, options)
        return llama.logits(params, c, hidden)

    return np.asarray(run(params, tokens, positions, np.ones_like(tokens)))


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_torch_transformers(name, torch, checkpoints, one_device, torch_logits):
    folder, model = checkpoints(name)
    c = hf_config.read_config(folder)
    ours = our_logits(hf_load.load_params(folder, c, jnp.float32), c, TOKENS[:2])
    theirs = torch_logits(model, TOKENS[:2])
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "name, shape", [("qwen2", (2, 2, 2)), pytest.param("llama3", (1, 8, 1), marks=pytest.mark.extended)]
)
def test_logits_are_the_same_on_every_mesh(name, shape, torch, checkpoints, torch_logits):
    folder, model = checkpoints(name)
    c = hf_config.read_config(folder)
    with jax.set_mesh(make_mesh(*shape)):
        params = hf_load.load_params(folder, c, jnp.float32)
        wanted = llama.abstract_params(c, jnp.float32)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), params) == jax.tree.map(
            lambda x: (x.shape, x.dtype, x.sharding), wanted
        )
        ours = our_logits(params, c, TOKENS)
    np.testing.assert_allclose(ours, torch_logits(model, TOKENS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("layers", [dict(max_window_layers=3), dict(layer_types=["full_attention"] * 3)])
def test_qwen_reads_past_a_window_that_no_layer_has(layers, torch, checkpoints, tmp_path, one_device, torch_logits):
    from transformers import AutoModelForCausalLM

    folder, model = checkpoints("qwen2")
    config = json.loads((folder / "config.json").read_text())
    window = dict(use_sliding_window=True, sliding_window=8)
    for name in ("layer_types", "max_window_layers"):
        config.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config | window | layers))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    c = hf_config.read_config(tmp_path)
    llama.check_length(c, TOKENS.shape[1])
    theirs = torch_logits(AutoModelForCausalLM.from_pretrained(tmp_path), TOKENS[:2])
    np.testing.assert_array_equal(theirs, torch_logits(model, TOKENS[:2]))
    ours = our_logits(hf_load.load_params(tmp_path, c, jnp.float32), c, TOKENS[:2])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_bfloat16_checkpoint_computes_as_torch_does(torch, checkpoints, tmp_path, one_device, torch_logits):
    folder, model = checkpoints("gqa")
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    c = hf_config.read_config(tmp_path / "half")
    assert hf_load.checkpoint_dtype(tmp_path / "half") == "bfloat16" and hf_load.checkpoint_dtype(folder) == "float32"
    params = hf_load.load_params(tmp_path / "half", c, jnp.float32)
    # Loaded, not cast back: the cast has rounded the model's rotary frequencies too.
    load = type(model).from_pretrained
    exact = torch_logits(load(tmp_path / "half", dtype=torch.float32), TOKENS[:2])
    np.testing.assert_allclose(our_logits(params, c, TOKENS[:2]), exact, rtol=0, atol=2e-5)
    rounded = our_logits(params, c, TOKENS[:2], compute_dtype=jnp.bfloat16)
    theirs = torch_logits(load(tmp_path / "half", dtype=torch.bfloat16), TOKENS[:2])
    # Two roundings of one network: ours may be off by what torch's own bfloat16 is off.
    assert np.abs(rounded - exact).mean() < 1.5 * np.abs(theirs - exact).mean() < 0.1


@pytest.mark.parametrize("kind", ["missing", "unexpected", "shape", "dtype", "many", "head", "rank"])
def test_tensors_that_do_not_fit_are_refused_by_name(
    kind, tmp_path, one_device, small_config, small_tensors, write_checkpoint, refused
):
    tensors, config = small_tensors(), small_config
    name = "model.layers.1.mlp.up_proj.weight"
    if kind == "missing":
        del tensors[name]
        wanted = f"1 missing: {name}; fetch"
    elif kind == "unexpected":
        tensors["model.layers.1.self_attn.q_proj.bias"] = np.zeros(16, np.float32)
        wanted = r"1 unexpected: model.layers.1.self_attn.q_proj.bias; fetch"
    elif kind == "shape":
        tensors[name] = tensors[name].T.copy()
        wanted = rf"1 of wrong shape: {name} \(is \[16, 24\], must be \[24, 16\]\); fetch"
    elif kind == "rank":
        tensors[name] = tensors[name].reshape(-1)
        wanted = rf"1 of wrong shape: {name} \(is \[384\], must be \[24, 16\]\); fetch"
    elif kind == "dtype":
        tensors[name] = np.zeros((24, 16), np.int8)
        wanted = f"tensor {name} is I8; supported are F32, F16, BF16"
    elif kind == "many":
        config = small_config | {"num_hidden_layers": 3}
        wanted = r"9 missing: model.layers.2.\S+, model.layers.2.\S+, model.layers.2.\S+ and 6 more; fetch"
    else:
        config = small_config | {"tie_word_embeddings": True}
        wanted = "lm_head.weight differs from model.embed_tokens.weight.*tie_word_embeddings"
    assert re.search(wanted, refused(write_checkpoint(tmp_path / "in", config, {"model.safetensors": tensors})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.1.mlp.up_proj.weight", np.nan),
        ("model.layers.0.input_layernorm.weight", np.inf),
        ("model.embed_tokens.weight", -np.inf),
        ("lm_head.weight", np.nan),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(
    name, value, tmp_path, one_device, small_tensors, write_checkpoint, refused
):
    tensors = small_tensors()
    tensors[name].flat[-1] = value
    folder = write_checkpoint(tmp_path, files={"model.safetensors": tensors})
    assert f"{folder}: {name} holds NaN or infinity" in refused(folder)


@pytest.mark.parametrize("count", [2, 5])
def test_several_weights_that_are_not_finite_are_counted(
    count, tmp_path, one_device, small_tensors, write_checkpoint, refused
):
    tensors = small_tensors()
    names = sorted(name for name in tensors if "layers.1" in name)[:count]
    for name in names:
        tensors[name].flat[0] = np.nan
    line = refused(write_checkpoint(tmp_path, files={"model.safetensors": tensors}))
    assert sum(name in line for name in names) == min(count, 3) and ("and 2 more hold NaN" in line) == (count == 5)


def test_a_tied_head_that_repeats_the_embedding_loads(
    tmp_path, one_device, small_config, small_tensors, write_checkpoint
):
    tensors = small_tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    folder = write_checkpoint(tmp_path, small_config | {"tie_word_embeddings": True}, {"model.safetensors": tensors})
    assert "lm_head" not in hf_load.load_params(folder, hf_config.read_config(folder), jnp.float32)


@pytest.mark.extended
def test_loading_holds_one_tensor_of_host_memory(tmp_path, small_config, small_tensors, write_checkpoint):
    """200 MB in 12 large tensors: numpy's own peak stays under two and a half of them, mapped pages aside."""
    config = small_config | dict(hidden_size=512, intermediate_size=16384, num_hidden_layers=4, num_attention_heads=4)
    shapes = {name: x.shape for name, x in small_tensors().items()}
    tensors = {}
    for layer in range(4):
        for name, shape in shapes.items():
            size = {16: 512, 24: 16384, 64: 64}
            tensors[name.replace("layers.1.", f"layers.{layer}.")] = np.ones([size[n] for n in shape], np.float16)
    folder = write_checkpoint(tmp_path, config, {"model.safetensors": tensors})
    largest, total = max(x.nbytes for x in tensors.values()), sum(x.nbytes for x in tensors.values())
    del tensors
    assert total > 10 * largest
    c = hf_config.read_config(folder)
    with jax.set_mesh(make_mesh(1, 8, 1)):
        tracemalloc.start()
        jax.block_until_ready(hf_load.load_params(folder, c, jnp.float16))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2.5 * largest
