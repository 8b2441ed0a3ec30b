"""The examples that training reads from a source: the cache, the held-out part, the summary."""

import sys

import pytest

from tljax.core.config import data_block
from tljax.core.errors import InputError
from tljax.data.examples import load_examples
from tljax.data.tokenizer import load_tokenizer
from tljax.toolbox import trajectories


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "raw.json"
    trajectories.write_trajectories(path, seed=1, n=30, error_share=0.3, split="train")
    return str(path)


@pytest.fixture
def load(file, tmp_path):
    def run(**fields):
        data = data_block()
        data.update({"source": file, "cache": str(tmp_path / "cache"), "eval_fraction": 0.2} | fields)
        return load_examples(data, file, load_tokenizer(trajectories.BASE_FOLDER), seed=0)

    return run


def test_every_kept_step_is_in_one_part(load):
    examples = load()
    assert examples.held_out is not None
    kept, apart = set(examples.train["trajectory"]), set(examples.held_out["trajectory"])
    assert len(apart) == 6 and not kept & apart and len(kept) == 24
    steps = sum(map(len, examples.train["steps"])) + sum(map(len, examples.held_out["steps"]))
    assert f"{steps:,} steps kept" in examples.summary and "unknown tool" in examples.summary


def test_the_held_out_trajectories_do_not_depend_on_the_rules(load):
    strict, loose = load(max_tokens=300), load(mae="none")
    assert strict.held_out is not None and loose.held_out is not None
    assert set(strict.held_out["trajectory"]) <= set(loose.held_out["trajectory"])
    assert not set(strict.train["trajectory"]) & set(loose.held_out["trajectory"])


def test_content_changes_with_what_is_trained_on(load):
    base = load().content
    assert base == load().content == load(rows="trajectory").content
    assert len({base, load(pkt="none").content, load(mae="none").content, load(eval_fraction=0.3).content}) == 4


def test_a_users_rule_is_read_again_when_a_file_of_its_package_changes(load, tmp_path, monkeypatch):
    package = tmp_path / "rules_of_examples"
    package.mkdir()
    (package / "__init__.py").write_text("from rules_of_examples.inner import block\n")
    (package / "inner.py").write_text("def block(call, feedback):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert " 0 blocked" in load(mae="rules_of_examples:block").summary
    (package / "inner.py").write_text("def block(call, feedback):\n    return 'mine' if feedback else None\n")
    for name in [name for name in sys.modules if name.startswith("rules_of_examples")]:
        monkeypatch.delitem(sys.modules, name)
    assert "mine" in load(mae="rules_of_examples:block").summary


def test_nothing_left_is_one_line_with_the_reasons(load, file):
    with pytest.raises(InputError) as caught:
        load(max_tokens=20)
    assert file in str(caught.value) and "too long" in str(caught.value) and "unknown tool" in str(caught.value)


def test_skipped_rows_are_listed(load, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = '{"tools": [], "messages": [{"role": "assistant", "content": "hi"}]}'
    path.write_text("\n".join([row] * 3 + ['{"messages": 1}'] * 25))
    data = data_block()
    data.update({"source": str(path), "cache": str(tmp_path), "on_bad_row": "skip", "eval_fraction": 0.0})
    summary = load_examples(data, str(path), load_tokenizer(trajectories.BASE_FOLDER), seed=0).summary
    assert "rows skipped: 25" in summary and summary.count("row ") >= 20 and "and 5 more" in summary
