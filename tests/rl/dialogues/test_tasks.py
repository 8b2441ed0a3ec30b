"""Tasks of a config: what is trained on, what is held out, and what is left out."""

import runpy

import pytest

from tljax.agent.loop import DialogueLimits
from tljax.core.errors import InputError
from tljax.data.tokenizer import load_tokenizer
from tljax.rl.dialogues.tasks import load_tasks
from tljax.storage.atomic import write_jsonl
from tljax.toolbox.embedded import resolve_model_path

LIMITS = DialogueLimits(turns=4, tokens=400, new_tokens=48, repeats=2)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model_path("base"))


@pytest.fixture
def config(repo):
    config = runpy.run_path(str(repo / "configs" / "ppo.py"))["get_config"]("tiny,multi")
    config.toolbox.trajectories, config.eval.queries = 40, 5
    return config


def lengths(requests, tokenizer):
    return [len(tokenizer.encode(request.opening.prompt)[0]) for request in requests]


def test_tasks_of_the_toolbox(config, tokenizer):
    config.rollout.max_prompt_tokens = 250
    tasks = load_tasks(config, tokenizer, "mae", LIMITS)
    assert set(tasks.sets) == {"held_out", "composition", "domain"}
    sizes = lengths(tasks.train, tokenizer)
    assert 10 < len(sizes) < 36 and max(sizes) <= 250
    ids = {request.id for request in tasks.train}
    assert len(ids) == len(tasks.train) and not ids & {request.id for request in tasks.sets["held_out"]}
    assert {request.task.split for request in tasks.train} == {"train"}
    # Of the held-out splits a task with a prompt of more than 304 tokens is left out, and a line says so.
    kept = [len(tasks.sets[name]) for name in ("composition", "domain")]
    assert max(kept) <= 5 and tasks.summary.count("leave no room for a reply") == sum(n < 5 for n in kept)
    assert f"{len(tasks.train)} to train on, {len(tasks.sets['held_out'])} held out" in tasks.summary
    # The same config gives the same tasks, and others give another hash.
    again = load_tasks(config, tokenizer, "mae", LIMITS)
    assert again.content == tasks.content and [r.id for r in again.train] == [r.id for r in tasks.train]
    config.toolbox.seed += 1
    assert load_tasks(config, tokenizer, "mae", LIMITS).content != tasks.content


def test_a_prompt_without_room_for_a_reply_is_left_out(config, tokenizer):
    config.rollout.max_prompt_tokens = 10_000
    tasks = load_tasks(config, tokenizer, "mae", LIMITS)
    assert max(lengths(tasks.train, tokenizer)) + 48 <= 400 and tasks.longest == 352
    few = DialogueLimits(turns=4, tokens=260, new_tokens=48, repeats=2)
    found = load_tasks(config, tokenizer, "mae", few)
    assert len(found.train) < len(tasks.train) and "leave no room for a reply" in found.summary


def test_a_file_of_tasks(config, tokenizer, tmp_path):
    file, tools = tmp_path / "tasks.jsonl", tmp_path / "mytools.py"
    write_jsonl(file, [{"id": i, "query": f"Add {i}.", "answer": i} for i in range(20)])
    tools.write_text("def add(x: int) -> int:\n    return x\n")
    config.data.source, config.tools, config.eval.sets = str(file), str(tools), "held_out"
    tasks = load_tasks(config, tokenizer, "mae", LIMITS)
    assert len(tasks.train) == 18 and [len(members) for members in tasks.sets.values()] == [2]
    assert {tool.name for tool in tasks.train[0].opening.tools.tools} == {"add", "finish"}
    tools.write_text("def add(x: int) -> int:\n    return x + 1\n")
    assert load_tasks(config, tokenizer, "mae", LIMITS).content != tasks.content
    write_jsonl(file, [{"id": i, "query": "Add."} | ({} if i == 1 else {"answer": "x"}) for i in range(3)])
    with pytest.raises(InputError, match="1 of 3 rows have no field answer, the first one 1; give"):
        load_tasks(config, tokenizer, "mae", LIMITS)


def test_no_task_that_fits_is_one_line(config, tokenizer):
    config.rollout.max_prompt_tokens = 3
    with pytest.raises(InputError, match="no task is left to train on; the shortest prompt has"):
        load_tasks(config, tokenizer, "mae", LIMITS)
