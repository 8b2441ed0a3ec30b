"""Exports as GGUF files: read again they are the same model, and llama.cpp computes with them as we do."""

import dataclasses
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.gguf_files import write_model
from tests.model.hf.test_load import our_logits
from tljax.core.errors import InputError
from tljax.data.tokenizer import load_tokenizer
from tljax.model import llama
from tljax.model.hf import gguf_export
from tljax.model.hf.gguf_file import GGUFFile
from tljax.model.hf.gguf_tokenizer import tokenizer_files
from tljax.model.hf.gguf_vocabulary import read_vocabulary
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training import model_source
from tljax.training.export_gguf import check_target, export_gguf

pytestmark = pytest.mark.usefixtures("gguf_cache")


def opened(path):
    model = model_source.open_model(str(path), "")
    return model, model_source.load_params(model, jnp.float32, seed=0)


@pytest.fixture
def exported(checkpoints, tmp_path, one_device):
    """(case, type) -> the path of a GGUF file, written from another GGUF file, whose path comes with it."""

    def run(name, kind, source_kind="F16"):
        architecture = checkpoints(name)[1].config.model_type
        source = write_model(tmp_path / "source.gguf", checkpoints(name)[1], architecture, source_kind)
        assert export_gguf(str(source), tmp_path / "out" / "model.gguf", kind=kind, step=0) is None
        return source, tmp_path / "out" / "model.gguf"

    return run


@pytest.mark.parametrize(
    "name, kind",
    [
        ("gguf", "f16"),
        pytest.param("gguf_tied", "f16", marks=pytest.mark.extended),
        pytest.param("gguf_qwen2", "f16", marks=pytest.mark.extended),
        ("gguf_qwen3", "f32"),
    ],
)
def test_a_round_trip_changes_nothing(name, kind, exported):
    (before, params), (after, again) = (opened(path) for path in exported(name, kind))
    assert after.config == before.config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert before.folder is not None and after.folder is not None
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (after.folder / file).read_text() == (before.folder / file).read_text(), file


@pytest.mark.parametrize("kind, name", [("q8_0", "Q8_0"), ("bf16", "BF16")])
def test_matrices_are_quantized_as_the_library_does(kind, name, exported):
    source, out = exported("gguf_tied", kind)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    for tensor in gguf.GGUFReader(source).tensors:
        written, values = read[tensor.name], gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        wanted = gguf.GGMLQuantizationType[name if values.ndim > 1 else "F32"]
        assert written.tensor_type == wanted, tensor.name
        np.testing.assert_array_equal(written.data, gguf.quants.quantize(values, wanted), tensor.name)


def test_rows_that_blocks_do_not_fill_stay_float16(tmp_path, one_device, tokenizer_of):
    c = llama.preset("tiny", vocab_size=320)
    c = dataclasses.replace(c, num_layers=1, d_ff=48)
    params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), c, jnp.float32)
    gguf_export.export_gguf(tmp_path / "m.gguf", params, c, tokenizer_of("gguf"), "q8_0", "m")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


@pytest.fixture
def tokenizer_of(checkpoints, tmp_path):
    """case -> the folder of the tokenizer of its GGUF file."""

    def run(name):
        path = write_model(tmp_path / "tokenizer.gguf", checkpoints(name)[1])
        return model_source.open_model(str(path), "").folder

    return run


@pytest.mark.parametrize("kind", ["llama3", "factors", "yarn"])
def test_rope_scalings_survive(kind, checkpoints, tmp_path, one_device, tokenizer_of):
    folder, _ = checkpoints(kind)
    model = model_source.open_model(str(folder), "")
    c = dataclasses.replace(model.config, vocab_size=320)
    params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), c, jnp.float32)
    gguf_export.export_gguf(tmp_path / "m.gguf", params, c, tokenizer_of("gguf"), "f32", "m")
    again, same = opened(tmp_path / "m.gguf")
    tokens = np.arange(80, dtype=np.int32)[None]
    np.testing.assert_allclose(our_logits(same, again.config, tokens), our_logits(params, c, tokens), rtol=0, atol=2e-5)
    assert kind == "llama3" or again.config.rope_scaling == c.rope_scaling


def test_sentencepiece_survives(shared, tmp_path):
    """Llama 2's tokenizer: its merges become scores, and those the same merges again."""
    folder = shared / "tokenizer" / "llama2"
    vocabulary = read_vocabulary(folder, 32016)
    assert (vocabulary.model, vocabulary.adds_bos, vocabulary.adds_space) == ("llama", True, True)
    assert vocabulary.tokens[-1] == "[PAD32015]" and vocabulary.types[:4] == [2, 3, 3, 6]
    metadata = {f"tokenizer.ggml.{name}_token_id": number for name, number in vocabulary.ids.items()}
    metadata |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": vocabulary.tokens}
    metadata |= {"tokenizer.ggml.scores": vocabulary.scores, "tokenizer.ggml.token_type": vocabulary.types}
    for name, text in tokenizer_files(GGUFFile((folder,), metadata, {})).items():
        (tmp_path / name).write_text(text)
    again = load_tokenizer(str(tmp_path))
    for text in ("    def f(x):\n        return '''a'''", " a  b   c", "naïve 東京 \U0001f642", "12345,  6"):
        assert again.encode(text)[0] == load_tokenizer(str(folder)).encode(text)[0], text


def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused():
    with pytest.raises(InputError, match=r"base/tokenizer.json: llama.cpp has no name for its normalizer and pre-tok"):
        read_vocabulary(Path(BASE_FOLDER), 1024)


def test_a_weight_too_large_for_float16_is_named(tmp_path, one_device, tokenizer_of):
    c = dataclasses.replace(llama.preset("tiny", vocab_size=320), num_layers=1)
    params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), c, jnp.float32)
    params["layers"]["up"] = params["layers"]["up"] + jnp.float32(7e4)
    with pytest.raises(InputError, match=r"weight blk.0.ffn_up.weight is not finite in F16; export with .*bf16"):
        gguf_export.export_gguf(tmp_path / "m.gguf", params, c, tokenizer_of("gguf"), "f16", "m")
    assert not list(tmp_path.glob("*m.gguf*"))


def test_targets_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "m.gguf").write_text("")
    for name, message in (
        ("m.gguf", "is there already"),
        ("m.bin", "must end in .gguf"),
        ("m.gguf/x.gguf", "no folder"),
    ):
        with pytest.raises(InputError, match=message):
            check_target(tmp_path / name)


def test_the_script_exports_any_model_and_needs_no_config_named(checkpoints, tmp_path, launch, capsys):
    source, out = tmp_path / "source.gguf", tmp_path / "out.gguf"
    write_model(source, checkpoints("gguf_tied")[1])
    flags = (f"--config.run={source}", f"--config.out={out}")
    assert launch("export_gguf", *flags, "--config.type=bf16") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"exported {source} as bf16: {out}"
    assert model_source.open_model(str(out), "").dtype == "bfloat16"
    out.unlink()
    for flag, message in (
        ("--config.type=q4_0", "config.type is 'q4_0'; allowed: 'f32', 'f16', 'bf16', 'q8_0'"),
        ("--config.step=3", f"config.step is 3, but {source} is no run; leave it out"),
    ):
        assert launch("export_gguf", *flags, flag) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


def greedy(library, path, prompts, count):
    """The tokens that llama.cpp generates; its cache holds float16 unless it is told otherwise."""
    model = library.Llama(str(path), n_ctx=512, n_threads=1, type_k=0, type_v=0, verbose=False)
    replies = []
    for prompt in prompts:
        model.reset()
        tokens = model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        replies.append([next(tokens) for _ in range(count)])
    model.close()
    return replies


def our_greedy(params, c, prompts, count):
    """The same by the plain forward pass: without a cache, each token from the whole text before it."""
    replies = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(count):
            padded = np.array([[*tokens, *[0] * (64 - len(tokens))]], np.int32)
            tokens.append(int(our_logits(params, c, padded)[0, len(tokens) - 1].argmax()))
        replies.append(tokens[len(prompt) :])
    return replies


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.extended) for name in ("gguf", "gguf_qwen2", "gguf_qwen3")]
)
def test_llama_cpp_generates_the_same_tokens(name, llama_cpp, exported):
    """In float32: a random model's best two tokens lie too close for llama.cpp's float16 products."""
    _, out = exported(name, "f32")
    model, params = opened(out)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 250, length).tolist() for length in rng.integers(3, 12, 20)]
    assert greedy(llama_cpp, out, prompts[:4], 4) == our_greedy(params, model.config, prompts[:4], 4)
