"""A run of whole dialogues: its files and metrics, a kill, and bad values."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time

import pytest

from tests.rl.test_run import lines_of
from tljax.storage.atomic import read_jsonl


@pytest.fixture(scope="module")
def flags(ppo_of_base):
    return [
        *ppo_of_base,
        "--config.rollout.turns=multi",
        "--config.rollout.group=2",
        "--config.rollout.prompts=4",
        "--config.rollout.max_turns=3",
        "--config.rollout.max_new_tokens=24",
        "--config.rollout.max_dialogue_tokens=512",
        "--config.rollout.mae=void",
        "--config.eval.new_tokens=24",
    ]


@pytest.fixture(scope="module")
def learned(launch, flags, once):
    return once("learned-dialogues", lambda folder: launch("train", *flags, f"--config.out={folder}"))


@pytest.mark.extended
def test_a_run_leaves_its_files_and_metrics(learned):
    there = {path.name for path in learned.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "samples.jsonl", "scores", "hf"} <= there
    lines = lines_of(learned)
    updates = [line for line in lines if "reward" in line]
    assert [line["step"] for line in updates] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval_reward" in line] == [0, 2, 4]
    for line in updates:
        assert line["ratio_first"] == pytest.approx(1, abs=1e-3) and line["clipped_first"] == 0
        assert line["sampler_gap"] < 1e-3 and 0 <= line["learned"] <= 1
        for shares in ("share_", "end_"):
            assert sum(value for name, value in line.items() if name.startswith(shares)) == pytest.approx(1)
        assert {"success", "DE", "CE", "turns", "equal_groups", "explained_variance"} <= line.keys()
    for line in (line for line in lines if "eval_reward" in line):
        assert {"eval_domain_success", "eval_composition_reward", "eval_held_out_VA"} <= line.keys()
    samples = read_jsonl(learned / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [2] * 4 + [4] * 4
    for sample in samples:
        assert sample["reward"] == pytest.approx(sum(turn["reward"] for turn in sample["turns"]))
        assert sample["outcome"] and all(turn["kind"] for turn in sample["turns"])
    sets = [line["set"] for line in read_jsonl(learned / "scores" / "4.jsonl")]
    assert {name: sets.count(name) for name in sets} == {"held_out": 1, "composition": 3, "domain": 3}


@pytest.mark.whole_run
def test_a_killed_run_of_dialogues_gives_the_metrics_of_one_run(learned, launch, repo, flags, tmp_path, capsys):
    """After a kill -9 between the third rollout and its update, a restart reads the dialogues of the rollout."""
    folder = tmp_path / "run"
    command = [sys.executable, str(repo / "launch" / "train.py"), *flags, f"--config.out={folder}"]
    with open(tmp_path / "out.txt", "w") as out:
        process = subprocess.Popen(command, env=dict(os.environ), stdout=out, stderr=subprocess.STDOUT)
    while process.poll() is None and not (folder / "rollouts" / "2.jsonl").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "out.txt").read_text()
    assert launch("train", *flags, f"--config.out={folder}", "--config.resume=auto") == 0
    assert lines_of(folder) == lines_of(learned)
    third = next(json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines() if '"step": 3' in x)
    assert third["seconds_rollout"] == 0.0
    assert (folder / "samples.jsonl").read_bytes() == (learned / "samples.jsonl").read_bytes()
    for name in ("0.jsonl", "4.jsonl"):
        assert (folder / "scores" / name).read_bytes() == (learned / "scores" / name).read_bytes()
    assert (folder / "hf" / "model.safetensors").read_bytes() == (learned / "hf" / "model.safetensors").read_bytes()
    assert "greedy dialogues, one for each task" in capsys.readouterr().out


ENVIRONMENT = """
class Room:
    def reset(self, goal, **row):
        if goal == 3:
            raise ConnectionError("no room")
        self.reward, self.goal = -1.0, goal
        return f" The goal is {goal}."

    def look(self) -> str:
        "Look around."
        self.reward = 1.0
        return "a lamp"
"""
OWN_REWARD = """
def by_room(dialogue):
    return dialogue["environment"]["reward"] - len(dialogue["turns"]) / 4
"""


@pytest.mark.extended
def test_a_run_in_a_users_environment_with_his_reward(launch, flags, tmp_path, monkeypatch):
    """One task of four cannot begin, which costs its dialogues alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "room.py").write_text(ENVIRONMENT)
    (tmp_path / "my_rewards.py").write_text(OWN_REWARD)
    (tmp_path / "tasks.jsonl").write_text("".join(f'{{"id": {i}, "query": "Go.", "goal": {i}}}\n' for i in range(4)))
    own = {"data.source": "tasks.jsonl", "tools": "room.py:Room", "finish": "", "reward.rule": "my_rewards:by_room"}
    own |= {"ppo.updates": 1, "eval.sets": "", "data.eval_fraction": 0.0, "log.samples": 8, "rollout.mae": "off"}
    own |= {"algorithm": "rloo", "checkpoint.keep_best": 0}
    options = [f"--config.{name}={value}" for name, value in own.items()]
    assert launch("train", *flags, *options, f"--config.out={tmp_path / 'run'}") == 0
    (line,) = lines_of(tmp_path / "run")
    assert line["end_environment"] == 0.25 and line["sampler_gap"] < 1e-3 and "success" not in line
    samples = read_jsonl(tmp_path / "run" / "samples.jsonl")
    for sample in samples:
        turns = sample["turns"]
        assert bool(turns) == (sample["id"] != 3)
        if turns:
            looked = any(turn.get("feedback") == "a lamp" for turn in turns)
            assert turns[-1]["reward"] == (1 if looked else -1) - len(turns) / 4
            assert not any(turn["reward"] for turn in turns[:-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rollout.turns=many"], "allowed: 'single', 'multi'"),
        (["rollout.mae=some"], "allowed: 'off', 'void', 'failed', 'void_or_failed'"),
        (["rollout.max_turns=0"], "config.rollout.max_turns is 0"),
        (["rollout.max_repeats=1"], "config.rollout.max_repeats is 1"),
        (["rollout.max_dialogue_tokens=24"], "but a reply may have 24 tokens"),
        (["tool_calls=0"], "config.tool_calls is 0"),
        (["tool_seconds=0.0"], "config.tool_seconds is 0.0; it must be above 0"),
        (["reward.rule=toolrl"], "which compares with golden calls, and dialogues have none"),
        (["reward.rule=no_such_module:f"], "importing no_such_module failed"),
        (["reward.clip=-1.0"], "config.reward.clip is -1.0; allowed: 0.0 to"),
        (["reward.timeout=0.0"], "config.reward.timeout is 0.0; it must be above 0"),
        (["reward.steps.format=nan"], "config.reward.steps.format is nan; it must be a finite number"),
        (["reward.success=inf"], "config.reward.success is inf"),
        (["tools=mytools.py"], "config.tools is 'mytools.py', but config.data.source is 'toolbox'"),
        (["finish=end"], "config.finish is 'end', but config.data.source is 'toolbox'"),
        (["data.source=nowhere.jsonl"], "a JSONL file of tasks"),
        (["eval.sets=bench.json"], "config.eval.sets names 'bench.json'; allowed with rollout.turns = multi"),
        (["eval.best=held_out_TS"], "config.eval.best is 'held_out_TS'; allowed with rollout.turns = multi"),
        (["rollout.max_prompt_tokens=3"], "no task is left to train on"),
        (["rollout.resample=1"], "config.rollout.resample is 1, which is for single replies"),
        (["ppo.token_weights=pkt"], "config.ppo.token_weights is 'pkt', which is for single replies"),
        (["rollout.turns=single", "tools=mytools.py"], "which is for dialogues; set config.rollout.turns=multi"),
        (["rollout.turns=single"], "config.rollout.mae is 'void', which is for dialogues"),
    ],
)
def test_bad_values_are_one_line_and_leave_no_folder(launch, flags, tmp_path, capsys, changes, message):
    overrides = [f"--config.{change}" for change in changes]
    assert launch("train", *flags, *overrides, f"--config.out={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run").exists()


def test_a_file_of_tools_that_is_absent_is_one_line(launch, flags, tmp_path, capsys):
    (tmp_path / "tasks.jsonl").write_text('{"id": 1, "query": "Go."}\n')
    source = [f"--config.data.source={tmp_path / 'tasks.jsonl'}", "--config.tools=nowhere.py:Class"]
    assert launch("train", *flags, *source, f"--config.out={tmp_path / 'run'}") == 2
    assert "config.tools is 'nowhere.py:Class', which is no file" in capsys.readouterr().err


def test_a_plan_of_dialogues_is_refused(launch, repo, capsys):
    options = ["--topology=gpu:8x80GB", f"--config={repo / 'configs' / 'ppo.py'}:7b", "--config.rollout.turns=multi"]
    assert launch("plan", *options) == 2
    assert "a plan knows single replies alone" in capsys.readouterr().err


def test_the_option_multi_sets_what_dialogues_need(repo):
    get_config = runpy.run_path(str(repo / "configs" / "ppo.py"))["get_config"]
    for size in ("tiny", "7b"):
        assert get_config(f"{size},multi").rollout.turns == "multi" and get_config(size).rollout.turns == "single"
