"""The peers do the same work as tljax, and a comparison of different work is void."""

import runpy
import warnings

import numpy as np
import pytest

from tljax.bench import run as bench_run
from tljax.bench import sft
from tljax.bench.side import SideFailed
from tljax.sft import run as sft_run

pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def ignored_warnings():
    """Warnings of torch are no errors of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.extended
def test_torch_trains_on_the_same_batches_with_the_same_losses(bench):
    text, report = bench("sft", peer=True, **{"sft.batch.accumulate": 1, "sft.optim.lr": 1e-3})
    ours = report["sides"]["tljax"]["losses"]
    theirs = report["sides"]["torch float32"]["losses"]
    assert theirs == pytest.approx(ours, rel=2e-4) and len(set(ours)) == 2
    comparison = report["comparisons"][0]
    assert comparison["void"] == "" and comparison["ratios"]["tokens per second"] > 0
    assert "torch float32: the losses of 2 updates differ by at most" in text


def test_trainers_of_single_replies_get_each_kept_step_once(repo, tmp_path):
    get_config = runpy.run_path(str(repo / "configs" / "bench.py"))["get_config"]
    block = get_config().sft
    block.update_from_flattened_dict(
        {"model.path": "base", "toolbox.trajectories": 12, "data.cache": str(tmp_path), "data.eval_fraction": 0.0}
    )
    inputs = sft_run.open_inputs(block)
    _, examples = sft_run.load(block, inputs.tokenizer, inputs.dialect)
    rows = list(sft.single_replies(block, inputs))
    assert len(rows) == sum(len(row["steps"]) for row in examples.train)
    calls = set()
    for row in rows:
        mask, ids = np.asarray(row["completion_mask"]), np.asarray(row["input_ids"])
        start = int(np.flatnonzero(mask)[0])
        assert len(ids) == len(mask) and mask[start:].all() and ids[-1] == inputs.tokenizer.eos_id
        assert inputs.tokenizer.decode(ids[:start].tolist()).endswith("Assistant:")
        calls.add(inputs.tokenizer.decode(ids[start:-1].tolist()).partition("(")[0].strip())
    assert calls and all(name.isidentifier() for name in calls)


@pytest.mark.extended
def test_trl_trains_single_replies(bench):
    pytest.importorskip("trl")
    _, report = bench("sft", peer=True)
    comparison = next(c for c in report["comparisons"] if c["peer"] == "TRL float32")
    assert comparison["void"] == "" and comparison["ratios"]["replies per second"] > 0


@pytest.mark.extended
def test_transformers_generates_the_same_tokens(bench):
    text, report = bench("generate", peer=True)
    comparison = report["comparisons"][0]
    assert comparison["void"] == "" and comparison["ratios"]["last token, batch 3"] > 0
    assert comparison["agreement"].startswith("100.0 % of the replies' tokens are equal") and "transformers" in text


def test_transformers_loads_the_same_weights(bench):
    _, report = bench("hf", peer=True)
    names = [f"{way}, {what}" for way in ("import", "export") for what in ("seconds", "peak host memory")]
    assert list(report["comparisons"][0]["ratios"]) == names


def test_absent_peers_are_named_in_one_line_with_the_command(bench, monkeypatch):
    monkeypatch.setattr(bench_run.importlib.util, "find_spec", lambda name: None)
    text, report = bench("hf", peer=True)
    line = "not measured: transformers, since not installed: torch, transformers; pip install 'tljax[peers]'"
    assert report["notes"] == [line] and f"note: {line}" in text and not report["comparisons"]


def test_a_peer_that_fails_leaves_the_rest_of_the_report(bench, monkeypatch):
    in_this_process = bench_run.run_side

    def fail(side, work, environment):
        if side.is_peer:
            raise SideFailed("the process of transformers ended with signal 9")
        return in_this_process(side, work, environment)

    monkeypatch.setattr(bench_run, "run_side", fail)
    _, report = bench("hf", peer=True)
    assert report["notes"] == ["transformers is not measured: the process of transformers ended with signal 9"]
    assert "import, seconds" in report["sides"]["tljax"]["measurements"]
