"""A model on benchmark files: replies are kept, a stopped run repeats none, and what is kept can be scored again."""

import json
import signal
import sys

import pytest

from tljax.evaluate import benchmark_run
from tljax.evaluate.benchmarks import scoring
from tljax.storage.resumable import ResumableWriter

SMALL = ["--config.rows=8", "--config.new_tokens=8", "--config.model.path=base"]


@pytest.fixture(scope="module")
def data(make, tmp_path_factory):
    """Two sets of four and of eight rows."""
    folder = tmp_path_factory.mktemp("data")
    make.json(folder / "clean.json", make.rows)
    make.json(folder / "slight.json", [*make.rows, *make.rows])
    return folder


@pytest.fixture(scope="module")
def evaluate(launch, repo, data):
    config = [f"--config={repo / 'configs' / 'evaluate.py'}", f"--config.data={data}", *SMALL]
    return lambda out, *flags: launch("evaluate", *config, f"--config.out={out}", *flags)


@pytest.fixture(scope="module")
def whole(evaluate, tmp_path_factory):
    """The report of a run that was not stopped."""
    out = tmp_path_factory.mktemp("whole") / "report.json"
    assert evaluate(out) == 0
    return out


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_replies_are_kept_and_can_be_scored_again(whole, launch, repo, data, tmp_path, capsys):
    kept = whole.with_name("report.predictions.jsonl")
    assert [(row["set"], row["index"]) for row in read(kept)] == [
        *(("clean", i) for i in range(4)),
        *(("slight", i) for i in range(8)),
    ]
    assert all(isinstance(row["prediction"], str) and isinstance(row["ended"], bool) for row in read(kept))
    # Rows 0 to 3 of all three are the same questions.
    texts = [row["prediction"] for row in read(kept)]
    assert texts[:4] == texts[4:8] == texts[8:]
    again = tmp_path / "again.json"
    flags = [f"--config={repo / 'configs' / 'evaluate.py'}", f"--config.data={data}", f"--config.predictions={kept}"]
    assert launch("evaluate", *flags, f"--config.out={again}") == 0
    assert json.loads(again.read_text()) == json.loads(whole.read_text())
    assert "clean (rotbench), 4 rows" in capsys.readouterr().out


@pytest.mark.extended
def test_a_stopped_run_repeats_no_row(evaluate, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "report.json"
    append, asked, stopped = ResumableWriter.append, [], []

    def stopping(self, answers):
        append(self, answers)
        asked.extend(index for index, _ in answers)
        if not stopped:
            stopped.append(len(asked))
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ResumableWriter, "append", stopping)
    assert evaluate(out) == 130
    assert 0 < stopped[0] < 12  # a batch holds prompts of one padded length, and there are two
    assert f"stopped by SIGINT after {stopped[0]} of 12 replies" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["report.predictions.jsonl.partial"]
    assert evaluate(out, "--config.new_tokens=9") == 2
    assert "config.new_tokens is 9" in capsys.readouterr().err
    assert evaluate(out, "--config.noise=heavy") == 2
    assert "begun with another set of prompts" in capsys.readouterr().err
    assert evaluate(out) == 0
    assert sorted(asked) == list(range(12)) and f"resumed: {stopped[0]} of 12" in capsys.readouterr().out
    for name in ("report.json", "report.predictions.jsonl"):
        assert (tmp_path / name).read_text() == (whole.parent / name).read_text()
    (tmp_path / "report.json").unlink()
    assert evaluate(out) == 2
    assert "--config.predictions=" in capsys.readouterr().err


def test_a_run_that_ends_after_the_last_reply_goes_on_to_the_report(evaluate, whole, tmp_path, monkeypatch, capsys):
    """Killed before the report, the plot and the replies are written, one after the other."""
    out, append, asked = tmp_path / "report.json", ResumableWriter.append, []

    def counted(self, answers):
        append(self, answers)
        asked.extend(index for index, _ in answers)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ResumableWriter, "append", counted)
    left = {"report.predictions.jsonl.partial"}
    for place, name, written in (
        (scoring, "write_json", "report.json"),
        (scoring, "plot_drops", "report.robustness.png"),
        (ResumableWriter, "finish", "report.predictions.jsonl"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, killed)
            patched.setattr("os._exit", sys.exit)
            assert evaluate(out) == 130
        assert {path.name for path in tmp_path.iterdir()} == left
        left.add(written)
    assert evaluate(out) == 0
    assert sorted(asked) == list(range(12)) and "resumed: 12 of 12" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.parent.iterdir()}
    for name in ("report.json", "report.predictions.jsonl"):
        assert (tmp_path / name).read_text() == (whole.parent / name).read_text()


def test_what_can_be_known_before_is_told_before_a_row_is_asked(evaluate, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_run, "generate_missing_replies", lambda *_: pytest.fail("rows are asked"))
    out = tmp_path / "r.json"
    assert evaluate(out, f"--config.bfcl_out={tmp_path / 'bfcl'}") == 2
    assert "no set of BFCL is scored" in capsys.readouterr().err
    report = json.loads(whole.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"sets": [one | {"name": "theirs"} for one in report["sets"][:1]]}))
    assert evaluate(out, f"--config.compare={other}") == 2
    assert "has none of the sets clean, slight; its sets: theirs" in capsys.readouterr().err
    del report["sets"][1]["rows"][5]
    other.write_text(json.dumps(report))
    assert evaluate(out, f"--config.compare={other}") == 2
    assert "set slight has other rows there (rows in one alone: 5)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_a_prompt_too_long_is_an_error_of_form(evaluate, make, tmp_path, capsys):
    rows = [make.row("word " * 40_000, make.listed, [make.react("translate", text="a", to="b")]), *make.rows]
    file = make.json(tmp_path / "clean.json", rows)
    assert evaluate(tmp_path / "r.json", f"--config.data={file}") == 0
    (one,) = json.loads((tmp_path / "r.json").read_text())["sets"]
    assert (one["n"], one["unasked"], one["rows"][0]["kind"]) == (5, 1, "format")
    assert read(tmp_path / "r.predictions.jsonl")[0]["prediction"] is None
    assert "not asked" in capsys.readouterr().out
    only = make.json(tmp_path / "long.json", rows[:1])
    assert evaluate(tmp_path / "s.json", f"--config.data={only}") == 2
    assert "no prompt fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.out="], ["config.out is empty", "--config.out=report.json"]),
        (["--config.data=gone"], ["config.data gone", "'toolbox'"]),
        (["--config.model.path="], ["config.model.path"]),
        (["--config.rows=12"], ["rows", "12"]),
        (["--config.new_tokens=0"], ["config.new_tokens is 0"]),
        (["--config.noise=loud"], ["config.noise"]),
        (["--config.data=eyes.json"], ["no row has a golden answer"]),
        (["--config.data=toolbox", "--config.noise=heavy"], ["config.noise", "'toolbox'"]),
    ],
)
def test_bad_input_is_told_in_one_line(evaluate, make, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    row = make.row("q", make.listed, "")
    make.json(tmp_path / "eyes.json", [row | {"path": "x", "conversations": row["conversations"][:2]}])
    assert evaluate(tmp_path / "r.json", *flags) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert all(word in lines[0] for word in words), lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["eyes.json"]
