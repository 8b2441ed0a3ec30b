"""Each benchmark measures the project's own path, and its report holds what the config promises."""

import numpy as np
import pytest

from tljax.training import metrics


def quantities(report, side="tljax"):
    """{quantity: its values} of a side; each is positive, and its median lies within its spread."""
    for measurement in report["sides"][side]["measurements"].values():
        assert 0 < measurement["min"] <= measurement["median"] <= measurement["max"]
    return {name: m["values"] for name, m in report["sides"][side]["measurements"].items()}


@pytest.mark.whole_run
def test_sft_measures_its_rate_its_memory_and_the_first_step_of_both_starts(bench, monkeypatch):
    monkeypatch.setattr(metrics, "mfu", lambda rate, flops, devices: rate * flops / 1e15)
    text, report = bench("sft")
    found = quantities(report)
    names = {"tokens per second", "replies per second", "MFU", "peak host memory"}
    names |= {"first step, cold start", "first step, warm start"}
    assert set(found) == names and len(found["tokens per second"]) == len(found["MFU"]) == 1
    assert report["shapes"] | {"weights": 1_115_264, "rows": 8, "tokens of a row": 384} == report["shapes"]
    assert {"python", "jax", "jaxlib", "tljax"} <= set(report["versions"])
    for shown in ("8 x cpu", f"jax {report['versions']['jax']}", "tokens of a row 384", "MFU", "load:"):
        assert shown in text
    assert len(report["sides"]["tljax"]["losses"]) == 2


@pytest.mark.whole_run
def test_generate_measures_prefill_and_decoding_of_every_batch(bench):
    text, report = bench("generate")
    found = quantities(report)
    for size in (1, 3):
        assert {f"{name}, batch {size}" for name in ("first token", "last token", "prefill")} <= set(found)
        # Noise may leave decoding no time; then nothing is said of it.
        assert (f"decode, batch {size}" in found) == (f"decode against bandwidth, batch {size}" in found)
    assert "GB/s a device, measured" in report["shapes"]["bandwidth"] and "new tokens 4" in text


@pytest.mark.whole_run
def test_ppo_measures_the_seconds_of_each_phase(bench):
    _, report = bench("ppo")
    found = quantities(report)
    phases = [found[f"{phase}, seconds"] for phase in ("rollout", "reward", "experience", "update")]
    assert np.allclose(np.sum(phases, axis=0), found["all phases, seconds"], rtol=1e-6)
    assert report["shapes"]["algorithm"] == "ppo" and report["shapes"]["prompts"] == 8


def test_data_measures_each_stage(bench):
    _, report = bench("data")
    stages = ["reading", "MAE", "text, MAE, tokens and PKT weights", "packing", "all, empty cache", "all, full cache"]
    assert list(quantities(report)) == [*stages, "peak host memory"]
    assert report["shapes"]["trajectories"] == 24


@pytest.mark.parametrize("path", ["base", pytest.param("scratch", marks=pytest.mark.extended)])
def test_hf_measures_import_and_export(bench, path):
    _, report = bench("hf", **{"model.path": path})
    names = [f"{way}, {what}" for way in ("import", "export") for what in ("seconds", "peak host memory")]
    assert list(quantities(report)) == names
    assert report["shapes"]["stored as"] == {"base": "float16", "scratch": "bfloat16"}[path]
