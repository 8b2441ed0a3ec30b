"""The analysis command writes a report with the figures of its CSV files, or one line of error and no file."""

import csv
import json

import pytest

from tljax.analysis import run as command
from tljax.analysis.report import new_report_folder
from tljax.calls.compare import KINDS
from tljax.core.errors import InputError

pytest.importorskip("matplotlib")

PLOTS_OF_DATA = {"feedback_errors", "call_errors"}
PLOTS_OF_MODEL = {"token_classes", "token_ranks", "token_shares", "corrections", "error_kinds"}


TOOLS = [
    {
        "name": "add",
        "parameters": {"properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a"]},
    },
    {"name": "addText", "parameters": {"properties": {"text": {"type": "string"}}}},
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A file of a user with calls and their feedback, whose prompts have almost the same length."""
    path, rows = tmp_path_factory.mktemp("raw") / "raw.json", []
    for i in range(6):
        calls = [("add", {"a": i, "b": 2}, str(i + 2)), ("addText", {"text": "it's (x)"}, "ok")]
        if i % 2:
            calls.append(("add", {"b": i}, "add() missing 1 required positional argument: 'a'"))
        messages = [{"role": "user", "content": f"Add {i}."}]
        for name, arguments, output in calls:
            messages.append({"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]})
            messages.append({"role": "tool", "content": output})
        rows.append({"id": f"r{i}", "tools": TOOLS, "messages": messages})
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def analyse(launch, repo, raw, tmp_path_factory):
    """analyse(out, *flags) -> exit code."""
    flags = [f"--config={repo / 'configs' / 'analyse.py'}", f"--config.source={raw}"]
    flags += [f"--config.data.cache={tmp_path_factory.mktemp('cache')}", "--config.rows=8", "--config.new_tokens=16"]
    return lambda out, *more: launch("analyse", *flags, f"--config.out={out}", *more)


@pytest.fixture(scope="module")
def asked(analyse, one_layer_base, tmp_path_factory):
    """The report of an analysis with a model, on a sample of the steps."""
    out = tmp_path_factory.mktemp("asked") / "report"
    assert analyse(out, f"--config.model.path={one_layer_base}", "--config.limit=8") == 0
    return out


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tables_of(folder):
    return json.loads((folder / "report.json").read_text())["tables"]


def test_without_a_model_the_data_alone_is_analysed(analyse, tmp_path, capsys):
    out = tmp_path / "report"
    assert analyse(out) == 0
    printed = capsys.readouterr().out
    assert "6 trajectories" in printed and "fits the documentation" in printed and "asking" not in printed
    files = {f"{name}.{ending}" for name in PLOTS_OF_DATA for ending in ("png", "pdf")}
    assert {path.name for path in out.iterdir()} == files | {"report.md", "report.json", "steps.csv"}
    steps, tables = rows_of(out / "steps.csv"), tables_of(out)
    answered = [step for step in steps if step["answered"] == "1"]
    failed = sum(step["default"] != "" for step in answered)
    found = {row["feedback (rule default)"]: row for row in tables["feedback_errors"]["rows"]}
    assert 0 < failed == found["any error"]["steps"] and found["any error"]["% [95 %]"]["n"] == len(answered)
    calls = {row["call"]: row["calls"] for row in tables["call_errors"]["rows"]}
    assert calls["fits the documentation"] == sum(step["call_errors"] == "" for step in steps)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_the_figures_are_those_of_the_rows(asked):
    files = {f"{name}.{ending}" for name in PLOTS_OF_DATA | PLOTS_OF_MODEL for ending in ("png", "pdf")}
    names = {"report.md", "report.json", "steps.csv", "tokens.csv", "replies.csv"}
    assert {path.name for path in asked.iterdir()} == files | names
    tables, tokens, replies = tables_of(asked), rows_of(asked / "tokens.csv"), rows_of(asked / "replies.csv")
    assert len(replies) == 8
    kinds = {row["kind"]: row["replies"] for row in tables["error_kinds"]["rows"]}
    assert [kinds[kind] for kind in KINDS] == [sum(row["kind"] == kind for row in replies) for kind in KINDS]
    for row in tables["token_classes"]["rows"]:
        own = [token for token in tokens if row["token"] in (token["class"], "all tokens")]
        assert row["n"] == len(own)
        assert row["loss, nats [95 %]"]["value"] == pytest.approx(
            sum(float(t["nll"]) for t in own) / len(own), rel=1e-4
        )
        first = sum(token["rank"] == "1" for token in own)
        assert row["first choice, % [95 %]"]["value"] == pytest.approx(100 * first / len(own))
    for reply in replies:
        own = [t for t in tokens if (t["trajectory"], t["step"]) == (reply["trajectory"], reply["step"])]
        wrong = [t for t in own if t["rank"] != "1"]
        assert len(wrong) == int(reply["wrong_tokens"])
        if wrong:
            first = wrong[0]
            found = [reply[name] for name in ("first_wrong", "class", "golden_token", "model_token")]
            assert found == [first[name] for name in ("position", "class", "token", "best")]
            # Up to there the reply is the golden one.
            same = 0
            while reply["reply"][: same + 1] == reply["golden"][: same + 1] and same < len(reply["golden"]):
                same += 1
            assert same < len(reply["golden"]) or len(reply["reply"]) != len(reply["golden"])
        else:
            assert reply["reply"] == reply["golden"] and reply["kind"] == "correct" and reply["kind_corrected"] == ""
    steps = {(row["trajectory"], row["step"]): row for row in rows_of(asked / "steps.csv")}
    assert all(steps[(row["trajectory"], row["step"])]["default"] == "" for row in replies)


@pytest.mark.extended
def test_a_sample_is_reproducible_and_no_limit_takes_all_steps(analyse, asked, one_layer_base, tmp_path, capsys):
    flags = (f"--config.model.path={one_layer_base}", "--config.plots=false")
    assert analyse(tmp_path / "again", *flags, "--config.limit=8") == 0
    for name in ("tokens.csv", "replies.csv", "steps.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (asked / name).read_bytes()
    assert not list((tmp_path / "again").glob("*.png"))
    capsys.readouterr()
    # The other dialect, other windows, all kept steps.
    assert analyse(tmp_path / "all", *flags, "--config.data.dialect=readme", "--config.data.mae=none") == 0
    printed = capsys.readouterr().out
    steps, replies = rows_of(tmp_path / "all" / "steps.csv"), rows_of(tmp_path / "all" / "replies.csv")
    assert len(replies) == len(steps) and f"asked {len(steps)} of {len(steps)} kept steps" in printed
    # Of these the first analysis is told whatever rule chooses the steps.
    assert tables_of(tmp_path / "all")["feedback_errors"] == tables_of(asked)["feedback_errors"]
    assert "(" in replies[0]["golden"] and any(" = " in row["golden"] for row in replies)


def test_the_report_shows_every_table_and_plot(asked):
    text = (asked / "report.md").read_text()
    for table in tables_of(asked).values():
        assert f"### {table['title']}" in text
    for name in PLOTS_OF_DATA | PLOTS_OF_MODEL:
        assert f"({name}.png)" in text and (asked / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (asked / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"


def test_every_report_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wanted in ("analyses/my-data", "analyses/my-data-2"):
        with new_report_folder("", "some/my data.json") as (out, part):
            assert str(out) == wanted and not out.exists()
            (part / "x").touch()
        assert [path.name for path in out.iterdir()] == ["x"]
    assert sorted(path.name for path in (tmp_path / "analyses").iterdir()) == ["my-data", "my-data-2"]


def test_nothing_half_written_stays(analyse, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise InputError("the disk is gone")

    monkeypatch.setattr(command, "write_report", broken)
    assert analyse(tmp_path / "report") == 2
    assert "the disk is gone" in capsys.readouterr().err and not list(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError), new_report_folder("", "data.json"):
        broken()
    assert not list(tmp_path.iterdir())


BAD = {
    "source": (["--config.source=nowhere.json"], ["nowhere.json", "does not exist"]),
    "out there": (["--config.out=README.md"], ["README.md is there already"]),
    "no folder": (["--config.out=no/such/report"], ["there is no folder no/such"]),
    "mae": (["--config.data.mae=x"], ["data.mae", "'x'"]),
    "dialect": (["--config.data.dialect=xml"], ["config.data.dialect", "readme"]),
    "limit": (["--config.limit=-1"], ["config.limit is -1", "allowed: 0 to"]),
    "rows": (["--config.rows=12", "--config.model.path=base"], ["config.rows is 12", "8 or 16"]),
    "new_tokens": (["--config.new_tokens=0"], ["config.new_tokens is 0"]),
    "too many": (["--config.new_tokens=99999", "--config.model.path=base"], ["config.new_tokens", "16384"]),
    "no model": (["--config.model.path=/nowhere"], ["/nowhere"]),
    "scratch": (["--config.model.path=scratch"], ["'scratch'"]),
    "dtype": (["--config.model.compute_dtype=int8"], ["model.compute_dtype", "bfloat16"]),
    "too short": (
        ["--config.data.max_tokens=20", "--config.model.path=base"],
        ["no step to ask", "12, too long, over 20 tokens (the smaller of data.max_tokens"],
    ),
    "no room": (
        ["--config.new_tokens=16380", "--config.model.path=base"],
        ["no step to ask", "12, no room for the model's reply, over 4 tokens (the model's less config.new_tokens)"],
    ),
    "field": (["--config.sauce=x"], ["--config.sauce", "source"]),
}


def test_data_without_a_call_gives_a_report_without_tables(launch, repo, tmp_path, capsys):
    said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([{"id": "a", "messages": said}]))
    flags = [f"--config={repo / 'configs' / 'analyse.py'}", f"--config.source={file}"]
    flags += [f"--config.data.cache={tmp_path / 'cache'}", f"--config.out={tmp_path / 'report'}"]
    assert launch("analyse", *flags) == 0
    told = capsys.readouterr().out
    assert "no step makes a call, so there are no tables" in told and "Steps by kind of feedback" not in told
    assert (
        tables_of(tmp_path / "report") == {} and "no step makes a call" in (tmp_path / "report/report.md").read_text()
    )
    assert launch("analyse", *flags[:-1], f"--config.out={tmp_path / 'asked'}", "--config.model.path=base") == 2
    assert "(no step that data.mae keeps makes a call)" in capsys.readouterr().err


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(analyse, repo, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(repo)
    flags, words = BAD[case]
    assert analyse(tmp_path / "report", *flags) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    assert all(word in lines[0] for word in words), lines[0]
    assert not list(tmp_path.iterdir())
