"""Scored replies: greedy, in the order of the queries, equal for every size of batch, and read back from a file."""

import json

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.evaluate import scored_replies
from tljax.evaluate.score import Score
from tljax.evaluate.toolbox_queries import held_out_sets
from tljax.generate.sampling import SampleOptions
from tljax.storage.atomic import read_jsonl
from tljax.training import model_source


@pytest.fixture(scope="module")
def sets():
    return held_out_sets(3, "mae")


@pytest.fixture(scope="module")
def replies_of_two_sizes(trained, sets):
    """The replies of a model after a few updates, generated in batches of 4 and of 3."""
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        model = model_source.open_model(str(trained / "hf"), "")
        tokenizer = load_tokenizer(str(trained / "hf"))
        params = model_source.load_params(model, jnp.float32, 0)
        options = SampleOptions.greedy(
            ConfigDict({"compute_dtype": "float32", "attention": "reference"}), 12, tokenizer.eos_id
        )
        return [scored_replies.score_replies(params, model.config, tokenizer, sets, options, rows) for rows in (4, 3)]


@pytest.mark.extended
def test_the_size_of_a_batch_changes_no_reply(replies_of_two_sizes, sets):
    replies, replies_in_smaller_batches = replies_of_two_sizes
    assert replies == replies_in_smaller_batches
    assert {name: len(members) for name, members in replies.items()} == {name: 3 for name in sets}


def test_scores_are_read_back_from_the_file_of_replies(replies_of_two_sizes, sets, tmp_path):
    replies = replies_of_two_sizes[0]
    scored_replies.write_scored_replies(tmp_path / "a.jsonl", sets, replies, "mae")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(row["set"], row["index"]) for row in rows] == [(name, i) for name in sets for i in range(3)]
    for row in rows:
        query = sets[row["set"]][row["index"]]
        assert row["golden"].startswith(f"{query.golden.name}(")
        assert row["prediction"] == replies[row["set"]][row["index"]].text
    read = scored_replies.scores_from_rows(read_jsonl(tmp_path / "a.jsonl"))
    for name, scores in scored_replies.scores_by_set(replies).items():
        assert [(s.levels["any"], s.kind, s.detail) for s in scores] == [
            (s.levels["any"], s.kind, s.detail) for s in read[name]
        ]


def test_metrics_are_percentages_by_set():
    scores = [Score({"any": 3}, "correct", ""), Score({"any": 1}, "parameter", ""), Score({"any": 0}, "format", "")]
    metrics = scored_replies.score_metrics({"domain": [*scores, scores[0]]})
    assert (metrics["domain_TS"], metrics["domain_PI"], metrics["domain_CF"]) == (75, 50, 50)
    assert (metrics["domain_format"], metrics["domain_parameter"], metrics["domain_wrong_tool"]) == (25, 25, 0)
