"""Benchmarks of tiny shapes, whose sides run in this process: its programs are compiled already, or in the cache."""

import json
import runpy

import pytest

from tljax.bench import devices
from tljax.bench import run as bench_run
from tljax.bench import side as bench_side
from tljax.bench.measurement import Measurement

TINY = {
    "repeats": 1,
    "warmup": 1,
    "batches": "1,3",
    "sft.toolbox.trajectories": 24,
    "sft.data.max_tokens": 320,
    "generate.sample.max_new_tokens": 4,
    "generate.rows": 8,
    "ppo.toolbox.trajectories": 40,
    "ppo.rollout.prompts": 8,
    "ppo.rollout.group": 1,
    "ppo.critic.minibatches": 1,
    "ppo.rollout.rows": 8,
    "ppo.rollout.max_new_tokens": 8,
    "ppo.rollout.max_prompt_tokens": 192,
    "ppo.ppo.minibatches": 1,
    "ppo.critic.warmup": 0,
}


@pytest.fixture
def bench(repo, tmp_path, monkeypatch, capsys):
    """bench(what, fields...) -> (the printed report, the report's JSON), of configs/bench.py with tiny shapes."""

    def in_this_process(side, work, environment):
        (work / f"{side.name}.options.json").write_text(json.dumps({**side.options, "begun": 0.0}))
        bench_side.main(side.module, str(work), side.name)
        result = json.loads((work / f"{side.name}.json").read_text())
        result["measurements"] = {k: Measurement.from_json(v) for k, v in result["measurements"].items()}
        return result

    monkeypatch.setattr(bench_run, "run_side", in_this_process)
    monkeypatch.setattr(devices, "PROBE_BYTES", 2**20)
    get_config = runpy.run_path(str(repo / "configs" / "bench.py"))["get_config"]

    def run(what: str, **fields):
        config = get_config()
        config.update_from_flattened_dict(TINY | {"what": what, "out": str(tmp_path / "report.json")} | fields)
        capsys.readouterr()
        bench_run.run(config)
        return capsys.readouterr().out, json.loads((tmp_path / "report.json").read_text())

    return run
