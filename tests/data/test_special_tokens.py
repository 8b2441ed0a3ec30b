"""Special tokens in prompts, and added tokens for which a model has no row."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tljax.core.errors import InputError
from tljax.data.tokenizer import Tokenizer, load_tokenizer

ROWS = 300  # the size of the byte-level tokenizer, and of the embedding of its model


@pytest.mark.parametrize(
    "text",
    [
        "<|begin|><|im_end|>\nuser: get it<|im_end|>\n",
        "a<|endoftext|> b <|im_end|>",
        "<s> [INST] get it [/INST]",
        "x </s><s>y<unk>",
        "no special token",
        "<|im_end",
    ],
)
@pytest.mark.parametrize("name", ["byte_level", "llama2"])
def test_prompts_with_special_tokens_are_read_as_transformers_reads_them(name, text, request):
    from transformers import PreTrainedTokenizerFast

    tokenizer = request.getfixturevalue(name)
    theirs = PreTrainedTokenizerFast.from_pretrained(tokenizer.folder)(text, add_special_tokens=False)["input_ids"]
    # BOS comes first where training has it, and only once if the text begins with it.
    begins = tokenizer.bos_id is None or theirs[0] == tokenizer.bos_id
    assert tokenizer.reading_special_tokens().encode(text)[0] == ([] if begins else [tokenizer.bos_id]) + theirs


def test_text_for_training_stays_text(byte_level):
    text = "<|im_end|>"
    before = byte_level.encode(text)
    assert byte_level.reading_special_tokens().encode(text)[0] == [byte_level.eos_id]
    assert byte_level.encode(text) == before and len(before[0]) > 1
    assert not byte_level.reads_special_tokens
    assert byte_level.special_tokens() == ["<|endoftext|>", "<|im_end|>", "<|begin|>"]


def with_added_tokens(folder: Path, target: Path, tokens: dict[str, bool], **config) -> Tokenizer:
    """The tokenizer with added tokens behind its last one: {text: True if it is special}."""
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in tokens.items()])
    backend.save(str(target / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", **config}
    (target / "tokenizer_config.json").write_text(json.dumps(names))
    return load_tokenizer(str(target))


def test_an_added_token_without_a_row_does_no_harm_until_a_text_needs_it(byte_level_folder, byte_level, tmp_path):
    tokenizer = with_added_tokens(byte_level_folder, tmp_path, {"<tool>": False, "<|fim|>": True})
    assert tokenizer.vocab_size == ROWS + 2
    fitted = tokenizer.fit_to_rows(ROWS)
    assert (fitted.vocab_size, fitted.lacking) == (ROWS, {ROWS, ROWS + 1})
    assert "<tool>, <|fim|>; a text that needs one is refused" in fitted.format_lacking()
    for text in ("get it", "<|fim|>", "<tool"):  # a special token is text
        assert fitted.encode(text) == byte_level.encode(text)
    with pytest.raises(
        InputError, match=rf"^the text holds '<tool>', a token \(id {ROWS}\) for which the model has no"
    ):
        fitted.encode("call <tool> now")
    with pytest.raises(InputError, match=r"'<\|fim\|>'"):
        fitted.reading_special_tokens().encode("<|fim|>")
    # Rows of the cache must not serve a model that lacks their tokens.
    assert len({t.fingerprint for t in (tokenizer, fitted, tokenizer.fit_to_rows(ROWS + 1))}) == 3


def test_padding_without_a_row_is_the_end_token(byte_level_folder, tmp_path):
    """Otherwise the embedding would be read beyond its last row, which gives NaN."""
    tokenizer = with_added_tokens(byte_level_folder, tmp_path, {"[PAD]": True}, pad_token="[PAD]")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, ROWS]}))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_id, tokenizer.eos_ids) == (ROWS, (1, ROWS))
    fitted = tokenizer.fit_to_rows(ROWS)
    assert (fitted.pad_id, fitted.eos_ids) == (1, (1,))


def test_an_end_token_without_a_row_is_refused(byte_level_folder, tmp_path):
    tokenizer = with_added_tokens(byte_level_folder, tmp_path, {"<|end|>": True}, eos_token="<|end|>")
    with pytest.raises(
        InputError, match=rf"has 300 rows in its embedding, and none for the end token <\|end\|> \(id {ROWS}"
    ):
        tokenizer.fit_to_rows(ROWS)


def test_padded_embeddings_and_other_models_tokenizers_are_left_as_they_are(byte_level_folder, byte_level, tmp_path):
    tokenizer = with_added_tokens(byte_level_folder, tmp_path, {"<tool>": False})
    for fitted, rows in ((byte_level, ROWS), (byte_level, 320), (tokenizer, 320), (tokenizer, 299)):
        assert fitted.fit_to_rows(rows) is fitted
