"""The tokenizer: ids, ranges of characters, special tokens, and folders that are refused."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from tljax.core.errors import InputError
from tljax.data.tokenizer import load_tokenizer


def copy_of(folder, target, **config):
    """`folder`'s tokenizer.json with tokenizer_config.json replaced by `config`."""
    (target / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


def test_ids_of_the_released_samples(llama2, golden_pkt):
    for row in golden_pkt:
        ids, spans = llama2.encode(row["text"].removesuffix("</s>"))
        assert len(ids) == len(spans) == row["n_tokens"] - 1
        assert llama2.pieces([*ids[row["answer_start"] :], llama2.eos_id]) == row["answer_tokens"]


def test_special_ids_of_llama2(llama2):
    # Neither Llama 2 nor CodeLLaMA names a pad token; the released code pads with the unknown token.
    assert (llama2.bos_id, llama2.eos_id, llama2.pad_id, llama2.vocab_size) == (1, 2, 0, 32000)
    ids, spans = llama2.encode("get it")
    assert ids[0] == 1 and spans == [(0, 0), (0, 3), (3, 6)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
def test_ranges_cover_the_text_and_decode_returns_it(tokenizer, text):
    ids, spans = tokenizer.encode(text)
    assert {i for a, b in spans for i in range(a, b)} == set(range(len(text)))
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(spans))
    assert tokenizer.decode(ids) == text


def test_bytes_of_one_character_share_its_range(tokenizer):
    text = "a 😀b"
    ids, spans = tokenizer.encode(text)
    inside = [i for i, span in zip(ids, spans, strict=True) if span == (2, 3)]
    assert len(inside) > 1 and tokenizer.decode(inside) == "😀"


@pytest.mark.parametrize("text", ["</s>", "a</s>b", "x <s> <unk>", "<|im_end|>", "q<|endoftext|>r<|begin|>"])
def test_text_that_spells_a_special_token_is_text(tokenizer, text):
    ids, _ = tokenizer.encode(text)
    named = {"</s>", "<s>", "<unk>", "<|im_end|>", "<|endoftext|>", "<|begin|>"}
    special = {tokenizer.backend.token_to_id(name) for name in named} - {None}
    assert special and not special & set(ids[tokenizer.bos_id is not None :])
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("in_file", "config"),
    [
        (False, {}),
        (False, {"add_bos_token": False}),
        (False, {"add_bos_token": True, "bos_token": None}),
        (True, {}),
        (True, {"add_bos_token": True}),
        (True, {"add_bos_token": False}),
        (True, {"bos_token": None}),
    ],
)
def test_bos_as_transformers_decides(byte_level_folder, tmp_path, in_file, config):
    from transformers import PreTrainedTokenizerFast

    config = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", **config}
    copy_of(byte_level_folder, tmp_path, tokenizer_class="PreTrainedTokenizerFast", **config)
    if in_file:
        backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
        bos = [("<|begin|>", backend.token_to_id("<|begin|>"))]
        template = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=bos)
        # Llama 3 has both in this order.
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
        backend.save(str(tmp_path / "tokenizer.json"))
    text = "User: Wetter in Köln?\nAssistant: get_weather("
    want = PreTrainedTokenizerFast.from_pretrained(tmp_path)(text)["input_ids"]
    assert load_tokenizer(str(tmp_path)).encode(text)[0] == want


def test_bos_that_only_the_config_asks_for(byte_level_folder, tmp_path):
    names = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>"}
    loaded = load_tokenizer(str(copy_of(byte_level_folder, tmp_path, add_bos_token=True, **names)))
    assert loaded.pieces(loaded.encode("a")[0]) == ["<|begin|>", "a"]


def test_saved_truncation_and_padding_are_ignored(byte_level_folder, tmp_path):
    copy_of(byte_level_folder, tmp_path, eos_token="<|im_end|>")
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.save(str(tmp_path / "tokenizer.json"))
    long, short = "finish " * 40, "a"
    plain = load_tokenizer(str(byte_level_folder))
    assert load_tokenizer(str(tmp_path)).encode(long) == plain.encode(long)
    backend.no_truncation()
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).encode(short) == plain.encode(short)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"eos_token": {"content": "<|im_end|>", "special": True}}),
        ("special_tokens_map.json", {"eos_token": "<|im_end|>"}),
        ("generation_config.json", {"eos_token_id": [1, 0]}),
        ("config.json", {"eos_token_id": 1}),
    ],
)
def test_where_the_end_token_is_named(byte_level_folder, tmp_path, file, content):
    copy_of(byte_level_folder, tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pieces([loaded.eos_id]) == ["<|im_end|>"]
    assert (loaded.pad_id, loaded.bos_id) == (loaded.eos_id, None)


@pytest.mark.parametrize(
    ("named", "generation", "config", "ends"),
    [
        ("<|im_end|>", [1, 198, 28], None, (1, 198, 28)),
        ("<|im_end|>", [198, 1], 198, (198, 1)),
        ("<|im_end|>", [198, 28], None, (1, 198, 28)),
        ("<|im_end|>", None, [198, 1], (198, 1)),
        ("<|im_end|>", 0, None, (1, 0)),
        ("<|im_end|>", 1, 0, (1,)),
        (None, [198, 1], None, (198, 1)),
        ("<|im_end|>", None, None, (1,)),
    ],
)
def test_every_token_of_a_list_ends_a_reply(byte_level_folder, tmp_path, named, generation, config, ends):
    """Training's own end token is among them: the one that the tokenizer names, or else the first of the list."""
    copy_of(byte_level_folder, tmp_path, **({"eos_token": named} if named else {}))
    for name, value in (("generation_config.json", generation), ("config.json", config)):
        (tmp_path / name).write_text(json.dumps({} if value is None else {"eos_token_id": value}))
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded.eos_id, loaded.eos_ids) == (1 if named else ends[0], ends)


def test_the_fingerprint_follows_content_not_path(byte_level, byte_level_folder, tmp_path):
    names = json.loads((byte_level_folder / "tokenizer_config.json").read_text())
    assert load_tokenizer(str(copy_of(byte_level_folder, tmp_path, **names))).fingerprint == byte_level.fingerprint
    other = load_tokenizer(str(copy_of(byte_level_folder, tmp_path, **{**names, "eos_token": "<|begin|>"})))
    assert other.fingerprint != byte_level.fingerprint
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text + "\n")
    assert load_tokenizer(str(tmp_path)).fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has no tokenizer.json"),
        ({"tokenizer.model": "x"}, "another merge order"),
        ({"tokenizer.json": "{}"}, "is not a tokenizer"),
        ({"tokenizer.json": None, "tokenizer_config.json": "{"}, "is not JSON"),
        ({"tokenizer.json": None}, "names no end token"),
        ({"tokenizer.json": None, "tokenizer_config.json": '{"eos_token": "<eos>"}'}, "field eos_token: '<eos>'"),
        ({"tokenizer.json": None, "config.json": '{"eos_token_id": 99999}'}, "field eos_token_id: 99999"),
        ({"tokenizer.json": None, "generation_config.json": '{"eos_token_id": [1, "</s>"]}'}, "eos_token_id: '</s>'"),
        ({"tokenizer.json": None, "generation_config.json": '{"eos_token_id": [1, 99999]}'}, "eos_token_id: 99999"),
    ],
)
def test_folders_that_hold_no_usable_tokenizer_are_refused(byte_level_folder, tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_bytes((byte_level_folder / name).read_bytes() if text is None else text.encode())
    with pytest.raises(InputError, match=words) as error:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_paths_without_a_tokenizer_are_refused(tmp_path):
    (tmp_path / "f").write_text("")
    for path, words in [
        (str(tmp_path / "f"), "is a file"),
        (str(tmp_path / "absent"), "no such folder"),
        ("", "no such folder"),
        # The hub is out of reach in tests: HF_HUB_OFFLINE is set.
        ("someone/no-such-model", "neither a folder here nor a model"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            load_tokenizer(path)
        assert "\n" not in str(error.value)


def test_text_that_is_not_unicode_is_refused(byte_level):
    with pytest.raises(InputError, match="lone surrogate"):
        byte_level.encode("a\ud800")


def test_neither_transformers_nor_jax_is_imported(byte_level_folder, repo):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from tljax.data.tokenizer import load_tokenizer; "
        "load_tokenizer(sys.argv[1]); print(sorted({'transformers', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, byte_level_folder, repo], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
