import json
import string
from pathlib import Path

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tljax.calls.render import DIALECTS
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.prompt import render_trajectory
from tljax.data.rows import build_rows
from tljax.data.steps import TokenizeOptions, tokenize_steps
from tljax.data.tokenizer import load_tokenizer
from tljax.toolbox import tokenizer as trainer
from tljax.toolbox.tools import SPLITS
from tljax.toolbox.trajectories import BASE_FOLDER, generate_trajectories

TOKENIZER = load_tokenizer(BASE_FOLDER)
# U+2581 stands for the blank and comes back as one, as with Llama 2's tokenizer.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))
MARKS = st.text(st.sampled_from(string.ascii_letters[:4] + "0_\"'(), =:.\n\t é漢🦊"))


def rendered(split, n, dialect="mae"):
    for i, row in enumerate(generate_trajectories(seed=21, n=n, error_share=0.17, split=split, noise=None), start=1):
        yield render_trajectory(trajectory_from_record(row, "toolbox", i), dialect)


@settings(max_examples=100, deadline=None)
@given(text=TEXT | MARKS)
@example(text=" a")
@example(text="  ")
@example(text="\n")
@example(text="Assistant: f()\nOutput:\nUser:: x")
@example(text="<0x41></s><s>")
def test_any_text_comes_back_and_offsets_cover_it(text):
    ids, spans = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert ids[0] == 1 and spans[0] == (0, 0)
    assert 0 not in ids
    end = 0
    for a, b in spans[1:]:
        # Bytes of one character share its range; the blank put before the text has an empty one.
        assert a <= end <= b or (a, b) == (0, 0)
        end = max(end, b)
    assert end == len(text)


def test_transformers_gives_the_same_ids():
    theirs = transformers.AutoTokenizer.from_pretrained(BASE_FOLDER)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert len(theirs) == TOKENIZER.vocab_size == trainer.VOCAB_SIZE <= 2048
    texts = [r.text for split in SPLITS for dialect in DIALECTS for r in rendered(split, 20, dialect)]
    for text in [*texts, "", " ", "naïve 漢字 🦊\t\r\n", "a  b"]:
        ids = TOKENIZER.encode(text)[0]
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == text


def test_laid_out_as_llama_2(shared):
    ours = json.loads(Path(BASE_FOLDER, "tokenizer.json").read_text(encoding="utf-8"))
    llama = json.loads((shared / "tokenizer" / "llama2" / "tokenizer.json").read_text())
    for field in ("normalizer", "decoder", "added_tokens", "truncation", "padding"):
        assert ours[field] == llama[field]
    for field in ("type", "byte_fallback", "unk_token", "fuse_unk", "dropout", "ignore_merges"):
        assert ours["model"][field] == llama["model"][field]
    first = sorted(llama["model"]["vocab"], key=llama["model"]["vocab"].get)[:259]
    assert sorted(ours["model"]["vocab"], key=ours["model"]["vocab"].get)[:259] == first
    assert ours["post_processor"]["single"] == llama["post_processor"]["single"]


@pytest.mark.whole_run
def test_the_command_makes_the_shipped_files_again(tmp_path):
    trainer.write_tokenizer(str(tmp_path))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        made, shipped = (tmp_path / name).read_bytes(), Path(BASE_FOLDER, name).read_bytes()
        assert made == shipped, "the text it is made from is another: run `python -m tljax.toolbox.tokenizer`"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("split", SPLITS)
def test_tokens_of_a_prompt_are_a_prefix_of_the_rows(split, dialect):
    for r in rendered(split, 60, dialect):
        whole = TOKENIZER.encode(r.text)[0]
        for reply in r.replies:
            for cut in (reply.start, reply.end):
                ids = TOKENIZER.encode(r.text[:cut])[0]
                assert ids == whole[: len(ids)]


def test_a_trajectory_is_one_row():
    rule = load_rule("default")
    for i, row in enumerate(generate_trajectories(seed=22, n=60, error_share=0.3, split="train"), start=1):
        trajectory = trajectory_from_record(row, "toolbox", i)
        options = TokenizeOptions(dialect="mae", pkt="paper", w_max=9.0, max_tokens=2048)
        steps = tokenize_steps(trajectory, rule, TOKENIZER, options)
        assert len(build_rows(steps, "trajectory", 0.0)) == 1
        for step in steps:
            if step.kept:
                # The blank before the name is a token of its own, so the name begins at the second token.
                assert step.tokenized.key_positions[0] == 1


def test_a_word_is_the_same_tokens_wherever_it_stands():
    for word in ("Paris", "get", "temperature", "zyzzyva", "Csharp", "kilometer"):
        alone = TOKENIZER.encode(f" {word} ")[0][2:-1]
        for frame in ('city="{}"', "get_{}(x=1)", "the {}.", "'{}'", "\n    {}:", "x={},"):
            ids, spans = TOKENIZER.encode(frame.format(word))
            start = frame.index("{")
            inside = [
                i for i, (a, b) in zip(ids, spans, strict=True) if a >= start and b <= start + len(word) and b > a
            ]
            assert inside == alone, frame


def test_prompts_are_short():
    first, replies = [], []
    for r in rendered("train", 300):
        lengths = [
            (len(TOKENIZER.encode(r.text[: p.start])[0]), len(TOKENIZER.encode(r.text[: p.end])[0])) for p in r.replies
        ]
        first.append(lengths[0][0])
        replies += [end - start for start, end in lengths]
    assert 200 < sorted(first)[len(first) // 2] < 350
    assert sorted(replies)[len(replies) // 2] < 30


def test_it_was_made_from_no_word_of_the_toolbox():
    """Such a word would be a token that the base has never been trained on."""
    text = "\n".join(r for r, _ in zip(trainer.training_texts(), range(300), strict=False))
    vocabulary = Tokenizer.from_file(f"{BASE_FOLDER}/tokenizer.json").get_vocab()
    for word in ("planet", "weather", "currency", "celsius", "guitar"):
        assert word not in text.lower() and word not in vocabulary
    assert "▁" in vocabulary and "Assistant" in vocabulary and "string" in vocabulary


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        trainer.write_tokenizer(str(tmp_path / "file" / "base"))
