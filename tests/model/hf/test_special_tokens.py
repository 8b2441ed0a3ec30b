"""The special tokens of an export: the ones that the source names, in the files that transformers reads."""

import json

import pytest

from tljax.model.hf.export import ChatTokenizer, write_config_and_tokenizer

UNK, BOS, EOS, A, B = range(5)  # the ids of the fixture's tokenizer


@pytest.fixture
def write(tokenizer_folder, tmp_path):
    """write(generation, config, tokenizer_config, token_map) -> folder of an export with these source files."""

    def run(generation=None, config=None, tokenizer_config=None, token_map=None):
        source, target = tmp_path / "source", tmp_path / "target"
        source.mkdir()
        target.mkdir()
        (source / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
        named = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for name, content in (
            ("tokenizer_config.json", {"eos_token": "</s>"} if tokenizer_config is None else tokenizer_config),
            ("special_tokens_map.json", token_map),
            ("generation_config.json", generation),
            ("config.json", config),
        ):
            if content is not None:
                (source / name).write_text(json.dumps(named | content if name.startswith("tokenizer") else content))
        write_config_and_tokenizer(target, config or {}, ChatTokenizer(source, "{{ messages }}"))
        return target

    return run


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [EOS, A, B]}, {"eos_token_id": [EOS, A, B]}, [EOS, A, B]),
        ({"eos_token_id": [A, EOS]}, {"eos_token_id": EOS}, [A, EOS]),
        ({"eos_token_id": [A, EOS]}, {}, [A, EOS]),
        (None, {"eos_token_id": [A, EOS]}, [A, EOS]),
        (None, {"eos_token_id": A}, [EOS, A]),
        # Training appends the tokenizer's end token, so it ends replies whatever the files say.
        ({"eos_token_id": [A, B]}, {"eos_token_id": [A, B]}, [EOS, A, B]),
        ({"eos_token_id": A}, {"eos_token_id": [B, EOS]}, [A, B, EOS]),
        # transformers reads config.json only where the other file has no end token.
        ({"eos_token_id": EOS}, {"eos_token_id": A}, EOS),
        ({"eos_token_id": None}, {"eos_token_id": None}, EOS),
        ({}, {}, EOS),
    ],
)
def test_both_files_name_every_end_token(write, generation, config, ends):
    folder = write(generation, config)
    assert read(folder / "config.json")["eos_token_id"] == ends
    assert read(folder / "generation_config.json")["eos_token_id"] == ends


@pytest.mark.parametrize(
    ("tokenizer_config", "token_map", "generation"),
    [
        ({}, {"eos_token": "</s>"}, None),
        ({"added_tokens_decoder": {"2": {"content": "</s>"}}}, {"eos_token": {"content": "</s>"}}, None),
        ({"eos_token": None}, {"eos_token": "</s>"}, None),
        ({}, None, {"eos_token_id": EOS}),
    ],
)
def test_an_end_token_that_one_file_names_is_the_exports(write, torch, tokenizer_config, token_map, generation):
    from transformers import AutoTokenizer

    folder = write(generation, {}, tokenizer_config, token_map)
    assert read(folder / "generation_config.json")["eos_token_id"] == read(folder / "config.json")["eos_token_id"] == 2
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == EOS


def test_other_fields_of_the_generation_config_stay(write):
    folder = write({"eos_token_id": [EOS, A], "temperature": 0.6, "do_sample": True}, {"vocab_size": 5})
    assert read(folder / "generation_config.json") == {"eos_token_id": [2, 3], "temperature": 0.6, "do_sample": True}
    assert read(folder / "config.json") == {"eos_token_id": [2, 3], "vocab_size": 5}
