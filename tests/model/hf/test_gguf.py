"""GGUF files: logits against transformers' own reading of them, and what the metadata decides."""

import dataclasses
import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from tests.gguf_files import add_tensors, write_model
from tests.model.hf.test_load import our_logits
from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.model.hf.config import parse_config
from tljax.model.rope import RopeScaling
from tljax.training import model_source
from tljax.training.export import adapter_lines
from tljax.training.fingerprint import fingerprint
from tljax.training.tokenizer_source import tokenizer_folder

TOKENS = np.random.default_rng(0).integers(0, 256, (2, 40)).astype(np.int32)
LLAMA3_FACTORS = [1.0, 1.0, 2.6, 8.0, 8.0, 8.0, 8.0, 8.0]
pytestmark = pytest.mark.usefixtures("gguf_cache")


@pytest.fixture
def opened(one_device):
    """path -> the model at the path, its parameters in float32."""

    def load(path):
        model = model_source.open_model(str(path), "")
        return model, model_source.load_params(model, jnp.float32, seed=0)

    return load


@pytest.fixture
def transformers_logits(torch, torch_logits):
    """path -> logits of the model as transformers reads the GGUF file."""

    def run(path):
        model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        return torch_logits(model.eval(), TOKENS)

    return run


@pytest.mark.parametrize(
    "name, architecture, kind",
    [
        ("gguf", "llama", "F16"),
        pytest.param("gguf", "llama", "Q4_0", marks=pytest.mark.extended),
        ("gguf_tied", "llama", "Q4_1"),
        pytest.param("gguf_tied", "llama", "Q8_0", marks=pytest.mark.extended),
        ("gguf_qwen2", "qwen2", "BF16"),
        pytest.param("gguf_qwen2", "qwen2", "Q5_1", marks=pytest.mark.extended),
        ("gguf_qwen3", "qwen3", "Q8_0"),
    ],
)
def test_logits_equal_those_of_transformers(
    name, architecture, kind, checkpoints, tmp_path, opened, transformers_logits
):
    path = write_model(tmp_path / "model.gguf", checkpoints(name)[1], architecture, kind)
    model, params = opened(path)
    theirs = transformers_logits(path)
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(our_logits(params, model.config, TOKENS), theirs, rtol=0, atol=2e-5)
    assert model.dtype == {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")
    assert model.config.tie_embeddings == (name == "gguf_tied")


@pytest.mark.parametrize("architecture", ["llama", pytest.param("mistral", marks=pytest.mark.extended)])
def test_unquantized_weights_are_those_of_the_model(architecture, checkpoints, tmp_path, opened, torch_logits):
    """Not by way of transformers: queries and keys are in Hugging Face's order again."""
    model = checkpoints("gguf")[1]
    ours, params = opened(write_model(tmp_path / "model.gguf", model, architecture))
    np.testing.assert_allclose(our_logits(params, ours.config, TOKENS), torch_logits(model, TOKENS), rtol=0, atol=2e-5)


def test_rope_factors_and_yarn_are_read(checkpoints, tmp_path, opened, torch_logits):
    """transformers reads neither from a GGUF file, so the original models are the oracle."""

    def add_factors(writer, tensors):
        model = checkpoints("gguf_llama3")[1]
        plain = 5e5 ** -(np.arange(0, 16, 2, dtype=np.float64) / 16)
        factors = plain / model.model.rotary_emb.inv_freq.double().numpy()
        tensors["rope_freqs.weight"] = (factors.astype(np.float32), "F32")

    model = checkpoints("gguf_llama3")[1]
    ours, params = opened(write_model(tmp_path / "llama3.gguf", model, change=add_factors))
    assert ours.config.rope_scaling is not None and ours.config.rope_scaling.kind == "factors"
    np.testing.assert_allclose(our_logits(params, ours.config, TOKENS), torch_logits(model, TOKENS), rtol=0, atol=2e-5)

    def add_yarn(writer, tensors):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32)

    model = checkpoints("gguf_yarn")[1]
    ours, params = opened(write_model(tmp_path / "yarn.gguf", model, "qwen2", change=add_yarn))
    np.testing.assert_allclose(our_logits(params, ours.config, TOKENS), torch_logits(model, TOKENS), rtol=0, atol=2e-5)


def test_the_published_factors_of_llama_3_2_become_its_scaling(checkpoints, tmp_path, opened):
    """Other programs know the kind "llama3", and few a list of factors."""
    wanted = RopeScaling(kind="llama3", factor=32, low_freq_factor=1, high_freq_factor=4, original_max_tokens=8192)

    def add_factors(writer, tensors):
        factors = []
        for i in range(8):  # as llama.cpp's converter computes them
            wavelength = 2 * np.pi * 5e5 ** (2 * i / 16)
            smooth = (8192 / wavelength - 1) / (4 - 1)
            short, long = wavelength < 8192 / 4, wavelength > 8192
            factors.append(1 if short else 32 if long else 1 / ((1 - smooth) / 32 + smooth))
        tensors["rope_freqs.weight"] = (np.array(factors, np.float32), "F32")

    path = write_model(tmp_path / "model.gguf", checkpoints("gguf_llama3")[1], change=add_factors)
    assert model_source.open_model(str(path), "").config.rope_scaling == wanted


def test_the_folder_of_config_and_tokenizer_serves_transformers_too(checkpoints, tmp_path, gguf_cache):
    path = write_model(tmp_path / "model.gguf", checkpoints("gguf_tied")[1], kind="Q8_0")
    model = model_source.open_model(str(path), "")
    assert model.folder is not None and model.folder.parent == gguf_cache and model.name == str(path)
    raw = json.loads((model.folder / "config.json").read_text())
    assert parse_config(raw, "config.json") == model.config and raw["rms_norm_eps"] == 1e-5
    theirs = transformers.AutoTokenizer.from_pretrained(model.folder)
    text = "in the  year 1234 the <|im_end|>"
    assert theirs.decode(theirs(text)["input_ids"]) == text and theirs(text)["input_ids"][-1] == 319
    assert theirs("<|endoftext|>")["input_ids"] == [317]  # a control token that no field of the config names
    assert theirs.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    ours = load_tokenizer(str(model.folder))
    assert (ours.eos_id, ours.bos_id, ours.vocab_size) == (319, None, 320)
    assert ours.encode(text)[0] == theirs(text, split_special_tokens=True)["input_ids"]


def test_split_files_are_one_model(checkpoints, tmp_path, opened):
    source = checkpoints("gguf_tied")[1]
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]

    def move_last(writer, tensors):
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(tensors))
        second = gguf.GGUFWriter(parts[1], "llama")
        second.add_uint16("split.count", 2)
        last = {name: tensors.pop(name) for name in list(tensors)[-9:]}
        add_tensors(second, last)

    write_model(parts[0], source, change=move_last)
    whole, params = opened(write_model(tmp_path / "whole.gguf", source))
    for part in parts:
        split, split_params = opened(part)
        assert split.config == whole.config and len(split.gguf) == 2
        jax.tree.map(np.testing.assert_array_equal, split_params, params)


def test_weights_are_the_same_on_every_mesh(checkpoints, tmp_path):
    path = write_model(tmp_path / "model.gguf", checkpoints("gguf")[1], kind="Q8_0")
    model, trees = model_source.open_model(str(path), ""), []
    for shape in ((1, 1, 1), (2, 2, 2)):
        with jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
            trees.append(jax.tree.map(np.asarray, model_source.load_params(model, jnp.float32, seed=0)))
    jax.tree.map(np.testing.assert_array_equal, *trees)


def test_the_fingerprint_is_that_of_the_weights(checkpoints, tmp_path):
    source, prints = checkpoints("gguf_tied")[1], []
    for folder, kind in (("a", "Q8_0"), ("b", "Q8_0"), ("c", "Q4_0")):
        (tmp_path / folder).mkdir()
        path = write_model(tmp_path / folder / "model.gguf", source, kind=kind)
        model = model_source.open_model(str(path), "")
        prints.append(fingerprint(dataclasses.replace(model, adapter=None)))
    assert prints[0] == prints[1] != prints[2]


def test_an_adapter_on_a_gguf_file_says_how_peft_gets_its_base():
    plain = adapter_lines("run/adapter", "folder/of/a/model")[1]
    assert plain.strip() == "peft.AutoPeftModelForCausalLM.from_pretrained('run/adapter')"
    line = adapter_lines("run/adapter", "models/small.gguf")[1]
    assert "peft.PeftModel.from_pretrained(model, 'run/adapter')" in line
    assert "AutoModelForCausalLM.from_pretrained('models', gguf_file='small.gguf')" in line


def test_a_gguf_file_names_its_tokenizer(checkpoints, tmp_path):
    """`data.tokenizer` takes what `model.path` takes. The file's vocabulary is 256 bytes and five merges."""
    path = write_model(tmp_path / "model.gguf", checkpoints("gguf")[1])
    tokenizer = load_tokenizer(tokenizer_folder(str(path)))
    (ids, _), vocabulary = tokenizer.encode("the in"), gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"]
    assert [str(vocabulary.contents(i)) for i in ids] == ["the", "\u0120", "in"]
