"""The evaluation command: a table and a file of answers, or one line that says what is wrong."""

import pytest

from tljax.storage.atomic import read_jsonl


@pytest.fixture
def evaluate(launch, repo):
    config = f"--config={repo / 'configs' / 'evaluate.py'}"
    small = ["--config.queries=2", "--config.rows=8", "--config.new_tokens=16"]
    return lambda *flags: launch("evaluate", config, *small, *flags)


@pytest.mark.extended
def test_any_model_is_scored(evaluate, trained, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    assert evaluate(f"--config.model.path={trained}", f"--config.out={out}") == 0
    printed = capsys.readouterr().out
    assert "answered 4 held-out queries" in printed
    assert "composition, 2 queries" in printed and "domain, 2 queries" in printed and printed.count("random") == 2
    rows = read_jsonl(out)
    assert [row["set"] for row in rows] == ["composition"] * 2 + ["domain"] * 2
    # The same queries as in training, and of the same weights the same answers.
    last = read_jsonl(trained / "scores" / "6.jsonl")
    assert [row["prediction"] for row in rows] == [
        row["prediction"] for row in last if row["set"] != "held_out" and row["index"] < 2
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["config.model.path is ''", "'base'"]),
        (["--config.model.path=scratch"], ["'scratch'"]),
        (["--config.model.path=/nowhere"], ["/nowhere"]),
        (["--config.model.path=base", "--config.data=rotbench"], ["config.data", "'toolbox'"]),
        (["--config.model.path=base", "--config.dialect=xml"], ["config.dialect", "mae"]),
        (["--config.model.path=base", "--config.queries=0"], ["config.queries is 0", "allowed: 1 to"]),
        (["--config.model.path=base", "--config.rows=12"], ["rows", "12", "8"]),
        (["--config.model.path=base", "--config.tools=t.py"], ["config.tools is 't.py'", "--config.turns=multi"]),
        (["--config.predictions=p.jsonl", "--config.data=d", "--config.tools=t.py"], ["config.tools is 't.py'"]),
        (["--config.model.path=base", "--config.out=README.md"], ["README.md is there already"]),
        (["--config.model.path=base", "--config.out=no/such/place.jsonl"], ["there is no folder no/such"]),
    ],
)
def test_bad_input_is_told_in_one_line(evaluate, repo, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(repo)
    assert evaluate(*flags) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert all(word in lines[0] for word in words), lines[0]
