"""Prompts as a model reads them: special tokens where they are asked for, and tokens that the model does not have."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tljax.data.tokenizer import load_tokenizer
from tljax.evaluate.toolbox_queries import held_out_queries
from tljax.generate import run as command
from tljax.toolbox.embedded import BASE_FOLDER

BASE = load_tokenizer(BASE_FOLDER)
PROMPT = held_out_queries("domain", 1, "mae")[0].prompt


@pytest.fixture
def generate(launch, repo, tmp_path, one_layer_base):
    """generate(rows, *flags) -> exit code; the replies to rows of a prompt file are in out.jsonl."""

    def run(rows, *flags, model=one_layer_base):
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        given = [f"--config={repo / 'configs' / 'generate.py'}", f"--config.model.path={model}", "--config.rows=8"]
        given += [f"--config.prompts={tmp_path / 'prompts.jsonl'}", f"--config.out={tmp_path / 'out.jsonl'}"]
        return launch("generate", *given, "--config.sample.max_new_tokens=4", *flags)

    return run


@pytest.fixture
def read_tokens(monkeypatch):
    """The tokens of the prompts that were read last."""
    read = []
    original = command.read_prompts

    def read_prompts(*arguments):
        prompts = original(*arguments)
        read[:] = [list(tokens) for tokens in prompts.tokens]
        return prompts

    monkeypatch.setattr(command, "read_prompts", read_prompts)
    return read


def test_a_prompt_has_special_tokens_if_the_config_says_so(generate, read_tokens, capsys):
    text = f"<s>{PROMPT} x</s>y"
    rows = [{"prompt": text}, {"messages": [{"role": "user", "content": "x</s>y"}]}]
    assert generate(rows) == 0
    plain, rendered = read_tokens
    assert plain == BASE.encode(text)[0] and BASE.eos_id not in plain and plain.count(BASE.bos_id) == 1
    assert "note: 1 prompts spell special tokens, such as <s>, which are read as text" in capsys.readouterr().out
    assert generate(rows, "--config.special_tokens=true") == 0
    assert read_tokens[0].count(BASE.eos_id) == 1 and read_tokens[0].count(BASE.bos_id) == 1
    assert read_tokens[0] == BASE.reading_special_tokens().encode(text)[0]
    # The text of messages is never read so, as in training.
    assert read_tokens[1] == rendered and BASE.eos_id not in rendered
    assert "spell special tokens" not in capsys.readouterr().out


@pytest.fixture
def published_with(tmp_path, one_layer_base):
    """published_with(text, special) -> the one-layer base with an added token behind the rows of its embedding."""

    def make(text: str, special: bool) -> Path:
        folder = Path(shutil.copytree(one_layer_base, tmp_path / "model"))
        backend = Backend.from_file(str(folder / "tokenizer.json"))
        backend.add_tokens([AddedToken(text, special=special, normalized=False)])
        backend.save(str(folder / "tokenizer.json"))
        return folder

    return make


def test_a_model_without_a_row_for_an_added_token_answers(generate, published_with, tmp_path, capsys):
    assert generate([{"prompt": PROMPT}]) == 0
    wanted = (tmp_path / "out.jsonl").read_text()
    model = published_with("<PRE>", special=False)
    assert generate([{"prompt": PROMPT}], model=model) == 0
    assert (tmp_path / "out.jsonl").read_text() == wanted
    assert (
        "the tokenizer has added tokens for which the model has no row in its embedding: <PRE>;"
        in capsys.readouterr().out
    )
    assert generate([{"prompt": PROMPT}, {"prompt": "complete <PRE>"}], model=model) == 2
    error = capsys.readouterr().err
    assert "prompts.jsonl, row 2: the text holds '<PRE>', a token (id 1024)" in error and error.count("\n") == 1


@pytest.mark.extended
@pytest.mark.parametrize("text", ["<PRE>", "Function:"])
def test_a_model_trains_without_a_row_for_an_added_token(text, launch, quick, published_with, tmp_path, capsys):
    model = published_with(text, special=False)
    flags = [
        f"--config.model.path={model}",
        "--config.optim.max_steps=1",
        "--config.eval.sets=",
        "--config.eval.best=loss",
    ]
    code = launch("train", *quick, *flags, f"--config.out={tmp_path / 'run'}")
    captured = capsys.readouterr()
    if text == "<PRE>":
        assert code == 0 and "no row in its embedding: <PRE>" in captured.out
        assert json.loads((tmp_path / "run" / "hf" / "config.json").read_text())["vocab_size"] == BASE.vocab_size
    else:
        assert code == 2 and "row 1: the text holds 'Function:', a token (id 1024)" in captured.err


def test_padded_embeddings_answer_as_torch_does(generate, tmp_path, one_layer_base):
    """An embedding of 1,088 rows for 1,024 tokens; the head gives the added ones likely logits now and then."""
    torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(one_layer_base, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = (rng.normal(0, 0.05, (64, 128)) * (1 if "embed" in name else 3)).astype(np.float16)
        tensors[name] = np.concatenate([tensors[name], rows])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 1088}))
    assert generate([{"prompt": PROMPT}], model=folder) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    ids = torch.tensor([BASE.encode(PROMPT)[0]])
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").generate(
        ids, do_sample=False, max_new_tokens=4
    )
    assert row["tokens"] == theirs[0, ids.shape[1] :].tolist()
