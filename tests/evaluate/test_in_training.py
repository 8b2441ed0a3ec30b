"""Sets asked while a model trains: which there are, which rows of them, what goes into the file and into the choice."""

import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tljax.core.errors import InputError
from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.evaluate import in_training, scored_replies
from tljax.evaluate.score import Score
from tljax.evaluate.scored_replies import ScoredReply
from tljax.generate.sampling import SampleOptions
from tljax.training import model_source


def config(sets, best="loss", queries=3, run="sft"):
    return ConfigDict(
        {"run": run, "data": {"dialect": "mae"}, "eval": {"sets": sets, "best": best, "queries": queries}}
    )


def test_names_stand_for_sets(rotbench):
    sets = in_training.open_eval_sets(config(f"toolbox, {rotbench},held_out", best="clean_PI"))
    assert {name: len(queries) for name, queries in sets.items()} == {
        "composition": 3,
        "domain": 3,
        "clean": 3,
        "held_out": 0,
    }
    # Of four rows the first, second and third, each with its own number.
    assert [query.example.index for query in sets["clean"]] == [0, 1, 2]
    assert all(query.prompt.endswith("\nAssistant:") for queries in sets.values() for query in queries)


def test_rows_of_a_benchmark_are_evenly_spread(make, tmp_path):
    path = make.json(tmp_path / "many.json", [make.rows[i % 4] | {"id": str(i)} for i in range(12)])
    assert [q.example.index for q in in_training.open_eval_sets(config(str(path)))["many"]] == [0, 4, 8]
    everything = in_training.open_eval_sets(config(str(path), queries=50))["many"]
    assert [q.example.index for q in everything] == list(range(12))


def test_what_cannot_be_asked(make, rotbench, tmp_path):
    for sets, best, words in (
        ("rotbench", "loss", "'rotbench'.*held_out.*toolbox.*benchmarks"),
        (f"{rotbench},{tmp_path}", "loss", "two sets called 'clean'"),
        ("toolbox", "held_out_CF", "eval.best is 'held_out_CF'; allowed.*loss, composition_TS.*domain_CF"),
        ("toolbox", "reward", "eval.best is 'reward'"),
    ):
        with pytest.raises(InputError, match=words):
            in_training.open_eval_sets(config(sets, best))
    with pytest.raises(InputError, match="'reward', which is measured on held_out"):
        in_training.open_eval_sets(config("toolbox", "reward", run="ppo"))
    assert in_training.open_eval_sets(config("", "reward", run="ppo")) == {}
    with pytest.raises(InputError, match="no row is held out"):
        in_training.add_held_out_rows(config("held_out", "held_out_CF"), {"held_out": []}, cast(Any, []))


def test_parts_of_a_joined_set_are_not_asked_twice(shared):
    found = in_training.open_eval_sets(config(str(shared / "data" / "eval" / "BFCL_v3"), queries=1000))
    assert {name: len(queries) for name, queries in found.items()} == {"BFCL_v3_simple": 400, "bfcl_exec": 240}


def test_a_table_compares_the_same_queries_alone(rotbench, make, tmp_path):
    """Lines that a model broke at U+0085 or U+2028 are one line each."""
    sets = in_training.open_eval_sets(config(str(rotbench)))
    found = {"clean": [ScoredReply("no\x85call\u2028at all", Score({"any": 0}, "format", "")) for _ in sets["clean"]]}
    (tmp_path / "scores").mkdir()
    scored_replies.write_scored_replies(in_training.scores_path(tmp_path, 4), sets, found, "mae")
    alone = in_training.score_report(sets, tmp_path, 4)
    assert "clean, 3 queries" in alone and "gain" not in alone
    scored_replies.write_scored_replies(in_training.scores_path(tmp_path, 0), sets, found, "mae")
    assert "gain" in in_training.score_report(sets, tmp_path, 4)
    # As many rows of another file of that name are other queries.
    other = make.json(tmp_path / "other" / "clean.json", make.rows[1:])
    assert in_training.score_report(in_training.open_eval_sets(config(str(other), queries=2)), tmp_path, 4) == ""


def test_a_better_metric_is_a_lower_selection_loss():
    def answered(*levels):
        return {"clean": [ScoredReply("", Score({"any": level}, "correct", "")) for level in levels]}

    few, many = answered(0, 1), answered(3, 1)
    assert in_training.selection_loss(config("", "clean_TS"), {}, many) < in_training.selection_loss(
        config("", "clean_TS"), {}, few
    )
    assert in_training.selection_loss(config("", "loss"), {"loss": 2.0}, many) == 2.0
    assert in_training.selection_loss(config("", "reward"), {"reward": 2.0}, many) == -2.0
    assert in_training.selection_loss(config("", "loss"), {}, many) is None


def test_benchmark_rows_are_answered_scored_and_written(one_layer_base, make, tmp_path):
    """One prompt is longer than the model can read, which is an error of form."""
    long = make.row("Translate " + "cat " * 9000, make.listed, [make.react("translate", text="cat", to="de")])
    path = make.json(tmp_path / "clean.json", [*make.rows, long])
    sets = in_training.open_eval_sets(config(str(path), queries=9))
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        model = model_source.open_model(str(one_layer_base), "")
        tokenizer = load_tokenizer(str(one_layer_base))
        options = SampleOptions.greedy(
            ConfigDict({"compute_dtype": "float32", "attention": "reference"}), 8, tokenizer.eos_id
        )
        params = model_source.load_params(model, jnp.float32, 0)
        found = scored_replies.score_replies(params, model.config, tokenizer, sets, options, 8)
    assert found["clean"][4].score.kind == "format" and found["clean"][4].text == ""
    assert "4 held-out queries" in scored_replies.format_summary(
        found, 1.0
    ) and "1 more too long" in scored_replies.format_summary(found, 1.0)
    assert any(answer.text for answer in found["clean"][:4])
    scored_replies.write_scored_replies(tmp_path / "a.jsonl", sets, found, "mae")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["golden"] == 'translate(text="cat", to="de")'
    # "None" in a golden call of RoTBench means that the value is not judged, which no text can say.
    assert rows[1]["golden"] is None
