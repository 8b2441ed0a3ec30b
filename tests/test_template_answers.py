"""A model that was trained in a chat template answers in `transformers` alone, with the same text as in tljax."""

import json

import pytest

from tljax.toolbox import trajectories


@pytest.fixture
def chats(tmp_path):
    """Dialogues of held-out tasks up to a step, as {"id", "tools", "messages"} in OpenAI's format."""
    raw = tmp_path / "raw.json"
    trajectories.write_trajectories(raw, seed=5, n=6, error_share=0.0, split="train")
    rows = []
    for row in json.loads(raw.read_text()):
        system, user, *_ = row["conversations"]
        rows.append({"id": row["id"], "tools": json.loads(system["content"]), "messages": [user]})
    return rows


@pytest.mark.whole_run
@pytest.mark.parametrize("template", ["hermes", *(pytest.param(x, marks=pytest.mark.slow) for x in ("qwen", "llama3"))])
def test_transformers_alone_answers_with_the_same_text(template, chats, repo, launch, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = tmp_path / "run"
    file = template if template == "hermes" else str(repo / "tests/data/chat_templates" / f"{template}.jinja")
    data = ["--config.data.dialect=template", f"--config.data.chat_template={file}", "--config.data.max_tokens=1024"]
    small = ["--config.toolbox.trajectories=24", "--config.optim.max_steps=3", "--config.optim.lr=3e-3"]
    rows = ["--config.batch.rows=8", "--config.batch.tokens=1024", "--config.eval.sets="]
    flags = [*data, *small, *rows, f"--config.data.cache={tmp_path / 'cache'}", "--config.model.path=base"]
    assert launch("train", f"--config={repo}/configs/sft.py", *flags, f"--config.out={run}") == 0

    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    answer = [f"--config.prompts={prompts}", f"--config.out={out}", "--config.sample.max_new_tokens=24"]
    model = [f"--config.model.path={run}", "--config.dialect=template", "--config.rows=8", "--config.mesh.data=1"]
    assert launch("generate", f"--config={repo}/configs/generate.py", *model, *answer) == 0
    ours = [json.loads(line)["completion"] for line in out.read_text().splitlines()]

    tokenizer = AutoTokenizer.from_pretrained(run / "hf")
    reference = AutoModelForCausalLM.from_pretrained(run / "hf", dtype=torch.float32)
    assert len(set(ours)) > 1 and all(ours)
    for chat, reply in zip(chats, ours, strict=True):
        ids = tokenizer.apply_chat_template(
            chat["messages"], tools=chat["tools"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        tokens = reference.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
        ends = reference.generation_config.eos_token_id
        ended = tokens[-1].item() in (ends if isinstance(ends, list) else [ends])
        assert tokenizer.decode(tokens[: len(tokens) - ended]) == reply
