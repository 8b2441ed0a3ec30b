"""data.dialect = template, from trajectories through SFT, scores, generation, PPO and dialogues, with one template."""

import json
from pathlib import Path

import pytest
import transformers

import tljax.data

OURS = (Path(tljax.data.__file__).parent / "hermes.jinja").read_text().strip()


@pytest.mark.whole_run
def test_every_stage_reads_and_writes_the_template(repo, launch, tmp_path, capsys):
    sft, ppo = tmp_path / "sft", tmp_path / "ppo"
    data = ["--config.data.dialect=template", f"--config.data.cache={tmp_path / 'cache'}"]
    scores = ["--config.eval.queries=2", "--config.eval.new_tokens=8", "--config.eval.rows=8", "--config.mesh.data=1"]
    small = ["--config.toolbox.trajectories=24", *data, *scores]
    rows = ["--config.optim.max_steps=2", "--config.batch.rows=8", "--config.batch.tokens=1024"]
    options = ["--config.data.chat_template=hermes", "--config.model.path=base", "--config.data.max_tokens=1024"]
    assert launch("train", f"--config={repo}/configs/sft.py", *small, *rows, *options, f"--config.out={sft}") == 0
    said = capsys.readouterr().out
    assert "steps kept" in said and "chat template" not in said
    # The export has the template as it was, so that later stages find it there.
    assert (sft / "hf" / "chat_template.jinja").read_text() == OURS
    reference = transformers.AutoTokenizer.from_pretrained(sft / "hf")
    reply = '<tool_call>\n{"name": "find", "arguments": {"a": "x"}}\n</tool_call></s>'
    message = reference.parse_response(reply, prefix="<|im_start|>user\nhi</s>\n<|im_start|>assistant\n")
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "find", "arguments": {"a": "x"}}]

    model = [f"--config.model.path={sft}", "--config.dialect=template", "--config.mesh.data=1"]
    config = f"--config={repo}/configs/evaluate.py"
    short = ["--config.queries=2", "--config.new_tokens=8", "--config.rows=8"]
    replies = tmp_path / "replies.jsonl"
    assert launch("evaluate", config, *model, *short, f"--config.out={replies}") == 0
    sets = [json.loads(line)["set"] for line in replies.read_text().splitlines()]
    assert sets == ["composition"] * 2 + ["domain"] * 2
    report = tmp_path / "report.json"
    assert launch("evaluate", config, *model, *short, "--config.turns=multi", f"--config.out={report}") == 0
    assert len((tmp_path / "report.dialogues.jsonl").read_text().splitlines()) == 4

    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    tool = {"name": "find", "description": "", "parameters": {"properties": {"a": {"type": "string"}}}}
    prompts.write_text(json.dumps({"id": 1, "tools": [tool], "messages": [{"role": "user", "content": "hi"}]}) + "\n")
    generate = [f"--config.prompts={prompts}", f"--config.out={out}", "--config.sample.max_new_tokens=8"]
    assert launch("generate", f"--config={repo}/configs/generate.py", *model, *generate, "--config.rows=8") == 0
    assert json.loads(out.read_text())["id"] == 1

    learn = [
        f"--config.model.path={sft}",
        "--config.rollout.prompts=16",
        "--config.rollout.group=1",
        "--config.rollout.max_new_tokens=8",
    ]
    limits = [
        "--config.rollout.max_prompt_tokens=1700",
        "--config.critic.warmup=0",
        "--config.ppo.updates=1",
        f"--config.out={ppo}",
    ]
    assert launch("train", f"--config={repo}/configs/ppo.py", *small, *learn, *limits) == 0
    assert (ppo / "hf" / "chat_template.jinja").read_text() == OURS
    # The released rule reads calls of the form f(a = 'x') alone.
    rule = ["--config.reward.rule=release", f"--config.out={tmp_path / 'other'}"]
    capsys.readouterr()
    assert launch("train", f"--config={repo}/configs/ppo.py", *small, *learn, *rule) == 2
    assert "config.reward.rule is 'release', which cannot read" in capsys.readouterr().err
