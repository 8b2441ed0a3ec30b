"""Models that name several end tokens: each of them ends a reply, as in torch, and exports name them all."""

import json
import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tljax.data.tokenizer import load_tokenizer
from tljax.evaluate.toolbox_queries import held_out_queries
from tljax.generate.sampling import SampleOptions
from tljax.toolbox.embedded import BASE_FOLDER

BASE = load_tokenizer(BASE_FOLDER)
PROMPTS = [query.prompt for query in held_out_queries("domain", 8, "mae")]
NEW = 24
AN = 363  # in three of the eight greedy replies, such as describe_planet(planet="Venus")


@pytest.fixture(scope="module")
def listing(tmp_path_factory) -> Path:
    """The small base, with a list of two end tokens in its generation_config.json and a part of words."""
    folder = Path(shutil.copytree(BASE_FOLDER, tmp_path_factory.mktemp("listing") / "model"))
    assert BASE.pieces([AN]) == ["an"]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [BASE.eos_id, AN]}))
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def generate(launch, repo, tmp_path):
    """generate(model, *flags) -> rows: greedy replies to PROMPTS."""

    def run(model, *flags):
        file, out = tmp_path / "prompts.jsonl", tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
        given = [f"--config={repo / 'configs' / 'generate.py'}", f"--config.model.path={model}"]
        given += [f"--config.prompts={file}", f"--config.out={out}", f"--config.sample.max_new_tokens={NEW}"]
        assert launch("generate", *given, "--config.rows=8", *flags) == 0
        return read(out)

    return run


def torch_replies(model):
    """The greedy replies of transformers, by the folder's own generation_config.json."""
    torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    replies = []
    for text in PROMPTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        replies.append(model.float().generate(ids, do_sample=False, max_new_tokens=NEW)[0, ids.shape[1] :].tolist())
    return replies


@pytest.mark.extended
def test_a_reply_ends_where_torch_ends_it(generate, listing):
    rows, replies = generate(listing), torch_replies(listing)
    assert {reply[-1] for reply in replies} > {BASE.eos_id, AN}
    for row, reply in zip(rows, replies, strict=True):
        assert row["tokens"] == (reply[:-1] if row["ended"] else reply)
        assert row["ended"] == (reply[-1] in (BASE.eos_id, AN))


def test_a_tokenizer_of_its_own_folder_keeps_the_models_end_tokens(listing):
    tokenizer = load_tokenizer(BASE_FOLDER, listing)
    assert (tokenizer.eos_id, tokenizer.eos_ids) == (BASE.eos_id, (BASE.eos_id, AN))
    model = ConfigDict({"compute_dtype": "float32", "attention": "reference"})
    assert SampleOptions.greedy(model, NEW, tokenizer.eos_ids).eos_ids == (BASE.eos_id, AN)


@pytest.mark.extended
def test_a_run_scores_and_exports_with_all_of_them(generate, launch, quick, listing, tmp_path):
    """No scored reply passes such a token, and the export lists both tokens in both files, so that torch stops too."""
    run = tmp_path / "run"
    flags = [f"--config.model.path={listing}", "--config.optim.max_steps=1", "--config.eval.best=loss"]
    assert launch("train", *quick, *flags, f"--config.out={run}") == 0
    scored = [row["prediction"] for file in (run / "scores").glob("*.jsonl") for row in read(file)]
    assert scored and not any(AN in BASE.encode(f" {reply}")[0] for reply in scored)
    for folder in (run / "model", run / "hf"):
        for name in ("config.json", "generation_config.json"):
            assert json.loads((folder / name).read_text())["eos_token_id"] == [BASE.eos_id, AN]
    rows, replies = generate(run / "hf"), torch_replies(run / "hf")
    assert [row["tokens"] for row in rows] == [r[:-1] if r[-1] in (BASE.eos_id, AN) else r for r in replies]
