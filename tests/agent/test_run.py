"""The multi-turn command: real dialogues of a small model, files, resuming, and bad input in one line."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tljax.agent import run as multi_turn
from tljax.agent.files import InMemoryDialogues
from tljax.agent.worker import Worker
from tljax.core import command
from tljax.core.errors import InputError
from tljax.data.tokenizer import load_tokenizer
from tljax.toolbox.embedded import resolve_model_path

TOOLS = '''
def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: One number.
        second: Another one.
    """
    return first + second
'''
LISTED = [{"name": "look_up", "description": "Look.", "parameters": {"properties": {"word": {"type": "string"}}}}]


@pytest.fixture
def evaluate(launch, repo):
    config = f"--config={repo / 'configs' / 'evaluate.py'}"
    small = ["--config.turns=multi", "--config.queries=2", "--config.rows=8", "--config.new_tokens=16"]
    return lambda *flags: launch("evaluate", config, *small, *flags)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a user's files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mytools.py").write_text(TOOLS)
    rows = [{"id": f"q{i}", "query": f"Add {i} and 2."} for i in range(11)]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


class Replies:
    """A policy that gives each text in turn to all dialogues of as many calls; `asked` are the queries it saw."""

    def __init__(self, tokenizer, texts, stop_after=None):
        self.tokenizer, self.texts, self.stop_after, self.asked = tokenizer, texts, stop_after, []

    def __call__(self, dialogues):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise RuntimeError("power cut")
        shown = [self.tokenizer.decode(tokens) for tokens in dialogues]
        self.asked += [text.partition("User: ")[2].partition("\n")[0] for text in shown if "Output:" not in text]
        texts = [self.texts[text.count("\nOutput:")] for text in shown]
        return [SimpleNamespace(tokens=self.tokenizer.encode_continuation(" " + text), ended=True) for text in texts]


@pytest.fixture
def scripted(monkeypatch):
    """scripted(texts): the command's model is replaced by one that gives these replies."""
    tokenizer = load_tokenizer(resolve_model_path("base"))

    def use(texts, stop_after=None):
        policy = Replies(tokenizer, texts, stop_after)
        monkeypatch.setattr(multi_turn, "greedy_policy", lambda *_: policy)
        return policy

    return use


@pytest.mark.extended
def test_a_model_talks_to_the_toolbox(evaluate, place, capsys):
    assert (
        evaluate("--config.model.path=base", "--config.max_turns=2", "--config.queries=1", "--config.out=report.json")
        == 0
    )
    printed = capsys.readouterr().out
    assert "composition: 1 dialogues" in printed and "of 1 tasks" in printed and "by our definitions" in printed
    assert "DE       calls that contradict" in printed
    rows = [json.loads(line) for line in (place / "report.dialogues.jsonl").read_text().splitlines()]
    assert [row["set"] for row in rows] == ["composition", "domain"]
    assert all(row["exchanges"] and row["outcome"] for row in rows)
    report = json.loads((place / "report.json").read_text())
    assert [one["name"] for one in report["sets"]] == ["composition", "domain"]
    assert (place / "report.dialogues.txt").read_text().count("=== ") == 2
    assert sorted(file.name for file in place.iterdir() if file.name.startswith(("report", "."))) == [
        "report.dialogues.jsonl",
        "report.dialogues.txt",
        "report.json",
    ]


def test_a_users_tools_and_a_run_that_was_interrupted(evaluate, place, scripted, capsys):
    flags = ["--config.model.path=base", "--config.data=queries.jsonl", "--config.tools=mytools.py"]
    flags += ["--config.out=report.json"]
    texts = ["add(first=1, second=2)", 'finish(answer="3")']
    first = scripted(texts, stop_after=9)
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate(*flags)
    # The longest first, then in order.
    assert first.asked[:8] == [f"Add {i} and 2." for i in (10, *range(7))]
    assert not (place / "report.json").exists() and (place / "report.dialogues.jsonl.partial").exists()
    capsys.readouterr()
    second = scripted(texts)
    assert evaluate(*flags) == 0
    printed = capsys.readouterr().out
    assert "resumed: 8 of 11 dialogues" in printed and "11 of 11 queries" in printed and "0 of 22 calls" in printed
    assert second.asked == [f"Add {i} and 2." for i in range(7, 10)]
    rows = [json.loads(line) for line in (place / "report.dialogues.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(11)]
    assert all(row["exchanges"][0]["feedback"] == "3" and row["answer"] == "3" for row in rows)
    made_with = json.loads((place / "report.json").read_text())["made_with"]
    wanted = {"dialect": "mae", "new_tokens": 16, "max_turns": 10, "finish": "finish", "model.compute_dtype": "float32"}
    assert wanted.items() <= made_with.items()
    assert evaluate(*flags) == 2
    assert capsys.readouterr().err.startswith("error: file report.dialogues.jsonl is there already; name another")


def test_tools_end_with_a_run_that_fails(evaluate, place, scripted, monkeypatch):
    begun, told, start = [], [], Worker.start

    def kept(self):
        start(self)
        begun.append(self.child)

    def refuse(self, rows):
        raise InputError("the disk is full")

    def tell(error):  # while the error is handled, which keeps the dialogues
        told.append((str(error), [Path(f"/proc/{child.pid}").exists() for child in begun]))
        return 2, "error: told"

    monkeypatch.setattr(Worker, "start", kept)
    monkeypatch.setattr(InMemoryDialogues, "append", refuse)
    monkeypatch.setattr(command, "exit_code_and_line", tell)
    scripted(["add(first=1, second=2)", 'finish(answer="3")'])
    assert evaluate("--config.model.path=base", "--config.data=queries.jsonl", "--config.tools=mytools.py") == 2
    # One that reads the signatures, and those of the eight dialogues side by side.
    assert told == [("the disk is full", [False] * 9)]


def test_dialogues_that_do_not_fit(evaluate, place, scripted, capsys):
    rows = [{"id": "long", "query": "Add 1 and 2. " * 200}, {"id": "short", "query": "Add 1 and 2."}]
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scripted(['finish(answer="3")'])
    flags = ["--config.model.path=base", "--config.data=long.jsonl", "--config.tools=mytools.py"]
    assert evaluate(*flags, "--config.max_tokens=200") == 0
    printed = capsys.readouterr().out
    assert "length_limit 1" in printed and "end before they begin, over 200 tokens with a reply: 1" in printed
    assert evaluate(*flags, "--config.max_tokens=20") == 2
    assert "no dialogue has room for a reply: the shortest begins with" in capsys.readouterr().err


def test_other_settings_do_not_go_on_with_a_partial_file(evaluate, place, scripted, capsys):
    flags = ["--config.model.path=base", "--config.data=queries.jsonl", "--config.tools=mytools.py"]
    flags += ["--config.out=report.json"]
    scripted(['finish(answer="3")'], stop_after=8)
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate(*flags)
    assert evaluate(*flags, "--config.max_turns=3") == 2
    assert "config.max_turns is 3, but" in capsys.readouterr().err
    (place / "mytools.py").write_text(TOOLS + "\n# other\n")
    assert evaluate(*flags) == 2
    assert "was begun with another content of tools" in capsys.readouterr().err


def test_tools_that_are_listed_are_mocked(evaluate, place, scripted, capsys):
    row = {"id": 1, "messages": [{"role": "user", "content": "What is x?"}], "tools": LISTED}
    (place / "listed.jsonl").write_text(json.dumps(row) + "\n")
    scripted(["look_up(text=1)", 'look_up(word="x")', 'finish(answer="a letter")'])
    assert evaluate("--config.model.path=base", "--config.data=listed.jsonl") == 0
    printed = capsys.readouterr().out
    assert "listed: 1 dialogues, 3.0 replies each" in printed and "1 of 3 calls" in printed and "a mock" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.turns=two"], ["config.turns", "'two'", "'multi'"]),
        (["--config.max_turns=0"], ["config.max_turns is 0"]),
        (["--config.new_tokens=100000"], ["config.new_tokens and a prompt is 100001"]),
        (["--config.max_tokens=16"], ["config.max_tokens is 16", "config.new_tokens = 16"]),
        (["--config.tool_seconds=1e6"], ["config.tool_seconds is 1000000.0", "at most 86,400"]),
        (["--config.max_repeats=1"], ["config.max_repeats is 1", "allowed: 2"]),
        (["--config.tool_seconds=0.0"], ["config.tool_seconds is 0.0", "above 0"]),
        (["--config.tools=mytools.py"], ["config.tools", "'toolbox'"]),
        (["--config.noise=slight"], ["config.noise", "config.turns=single"]),
        (["--config.predictions=p.jsonl"], ["config.predictions", "config.turns=single"]),
        (["--config.predictions=p.jsonl", "--config.turns=two"], ["config.turns", "'two'"]),
        (["--config.data=nowhere.jsonl"], ["nowhere.jsonl", "does not exist"]),
        (["--config.data=queries.jsonl"], ["queries.jsonl, row 1, field tools", "config.tools"]),
        (["--config.data=queries.jsonl", "--config.tools=no.py"], ["no.py", "no such file"]),
        (["--config.data=queries.jsonl", "--config.tools=bad.py"], ["bad.py", "SyntaxError"]),
        (["--config.data=queries.jsonl", "--config.tools=kills.py"], ["kills.py", "ends its process"]),
        (["--config.data=both.jsonl", "--config.tools=mytools.py"], ["both.jsonl, row 1, field tools"]),
        (["--config.data=twice.jsonl", "--config.tools=mytools.py"], ["row 2, field id", "'a'"]),
        (["--config.data=raw.json"], ["raw.json, row 1", "id, conversations", "query", "benchmark"]),
        (["--config.data=raw.json", "--config.tools=mytools.py"], ["row 1", "neither query nor messages"]),
        (
            ["--config.data=queries.jsonl", "--config.tools=mytools.py", "--config.finish=done"],
            ["config.finish is 'done'", "add"],
        ),
        (["--config.out=mytools.py"], ["mytools.py is there already"]),
        (["--config.out=no/report.json"], ["there is no folder no"]),
        (["--config.model.path="], ["config.model.path is ''"]),
    ],
)
def test_bad_input_is_told_in_one_line(evaluate, place, capsys, flags, words):
    files = {
        "bad.py": "def f(:",
        "kills.py": "import os; os._exit(0)",
        "both.jsonl": json.dumps({"query": "x", "tools": LISTED}),
        "twice.jsonl": '{"id": "a", "query": "x"}\n{"id": "a", "query": "y"}',
        "raw.json": json.dumps([{"id": "a", "conversations": []}]),
    }
    for name, text in files.items():
        (place / name).write_text(text)
    assert evaluate("--config.model.path=base", *flags) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert all(word in lines[0] for word in words), lines[0]
