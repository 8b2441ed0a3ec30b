"""Training rows as sets: which messages are queries, their prompts and golden lists, and the scores of replies."""

import gzip
import json

import datasets
import pytest
from ml_collections import ConfigDict

from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.prompt import render_trajectory
from tljax.evaluate import in_training
from tljax.evaluate.benchmarks.discover import discover_sets
from tljax.evaluate.benchmarks.noisy import noisy_set
from tljax.evaluate.benchmarks.results import score_set
from tljax.evaluate.benchmarks.sets import example_prompt
from tljax.evaluate.benchmarks.training_rows import TrainingRowOptions, why_no_training_rows


def tool(name, *parameters):
    properties = {parameter: {"type": "string", "description": "It."} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": []}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


def calls(*pairs):
    return [{"function": {"name": name, "arguments": json.dumps(arguments)}} for name, arguments in pairs]


TOOLS = [tool("weather", "city"), tool("time", "city")]
# Messages of the assistant: 0 two calls, 1 text, 2 a call that fails, 3 its correction, 4 text.
LONG = {
    "id": "long",
    "tools": TOOLS,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Bonn and Rome?"},
        {
            "role": "assistant",
            "content": "Both.",
            "tool_calls": calls(("weather", {"city": "Bonn"}), ("weather", {"city": "Rome"})),
        },
        {"role": "tool", "content": "wet"},
        {"role": "tool", "content": "dry"},
        {"role": "assistant", "content": "Wet and dry."},
        {"role": "user", "content": "What time is it in Oslo?"},
        {"role": "assistant", "tool_calls": calls(("time", {"town": "Oslo"}))},
        {"role": "tool", "content": "time() got an unexpected keyword argument 'town'"},
        {"role": "assistant", "tool_calls": calls(("time", {"city": "Oslo"}))},
        {"role": "tool", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
    ],
}
SHORT = {
    "id": 7,
    "tools": TOOLS,
    "messages": [
        {"role": "user", "content": "Time in Lima?"},
        {"role": "assistant", "tool_calls": calls(("time", {"city": "Lima"}))},
    ],
}
TEXT = {"tools": [], "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
# The replies that are right for the queries of LONG and SHORT.
GOLDEN = {0: 'weather(city="Bonn")\nweather(city="Rome")', 3: 'time(city="Oslo")', 5: 'time(city="Lima")'}


@pytest.fixture
def options(tmp_path):
    def make(mae="default", on_bad_row="refuse", data_format="auto"):
        return lambda: TrainingRowOptions(data_format, mae, on_bad_row, str(tmp_path / "cache"))

    return make


@pytest.fixture
def file(make, tmp_path):
    return make.lines(tmp_path / "data" / "mine.jsonl", [LONG, SHORT])


@pytest.fixture
def score(launch, repo, make, tmp_path):
    """score(file, {index: reply}) -> exit code; the report is report.json."""

    def run(file, replies, *flags):
        rows = [{"index": index, "prediction": reply} for index, reply in replies.items()]
        predictions = make.lines(tmp_path / "p.jsonl", rows)
        given = [f"--config.data={file}", f"--config.predictions={predictions}", f"--config.cache={tmp_path / 'cache'}"]
        return launch("evaluate", f"--config={repo / 'configs' / 'evaluate.py'}", *given, *flags)

    return run


def read(path, options):
    (eval_set,) = discover_sets(path, training_rows=options).sets
    return eval_set


def test_kept_messages_with_calls_are_queries_numbered_by_the_messages_of_the_assistant(file, options):
    eval_set = read(file, options())
    assert (eval_set.name, eval_set.benchmark, eval_set.rows) == ("mine", "training rows", 6)
    assert [(e.index, e.id) for e in eval_set.examples] == [(0, "long, step 1"), (3, "long, step 5"), (5, "7, step 1")]
    assert [[(c.name, c.arguments) for c in e.golden] for e in eval_set.examples] == [
        [("weather", {"city": "Bonn"}), ("weather", {"city": "Rome"})],  # the parallel calls of one message
        [("time", {"city": "Oslo"})],
        [("time", {"city": "Lima"})],
    ]
    kinds = [(row.index, row.reason.partition(":")[0]) for row in eval_set.skipped]
    assert kinds == [(1, "text without a call"), (2, "blocked (unexpected argument)"), (4, "text without a call")]
    counts, formats = eval_set.notes
    assert counts == (
        "training rows, 6 messages of the assistant in 2 rows: 3 queries; not scored: text without a call 2, "
        "blocked (unexpected argument) 1"
    )
    assert "mine.jsonl: openai, 2 rows" in formats


def test_another_rule_takes_other_messages_and_leaves_their_numbers(file, options):
    assert [example.index for example in read(file, options("none")).examples] == [0, 2, 3, 5]


def test_a_parallel_call_that_is_blocked_is_not_golden(make, tmp_path, options):
    messages = [dict(message) for message in LONG["messages"]]
    messages[3] = {"role": "tool", "content": "Error: no such city"}
    (example, *_) = read(make.lines(tmp_path / "x.jsonl", [LONG | {"messages": messages}]), options()).examples
    assert [call.arguments for call in example.golden] == [{"city": "Rome"}]


@pytest.mark.parametrize("dialect", ["mae", "readme"])
def test_a_prompt_is_the_text_of_training_before_the_reply(file, options, dialect):
    texts = []
    for number, row in enumerate((LONG, SHORT), start=1):
        rendered = render_trajectory(trajectory_from_record(row, "mine.jsonl", number), dialect)
        texts += [rendered.text[: reply.start] for reply in rendered.replies]
    del texts[1]  # the second call of message 0, which the record does not separate from the first
    for example in read(file, options()).examples:
        assert example_prompt(example, dialect) == texts[example.index]
    assert "Output: dry" in texts[3] and texts[3].endswith("unexpected keyword argument 'town'\nAssistant:")


def test_golden_text_scores_100_under_every_policy(score, file, tmp_path, capsys):
    # Replies to messages that are not scored do no harm.
    assert score(file, GOLDEN | {1: "whatever"}, f"--config.out={tmp_path / 'report.json'}") == 0
    (report,) = json.loads((tmp_path / "report.json").read_text())["sets"]
    assert (report["benchmark"], report["n"], report["skipped"]) == ("training rows", 3, [1, 2, 4])
    for policy in ("any", "first", "all"):
        assert report["scores"][policy] == {"TS": 100.0, "PI": 100.0, "CF": 100.0}
    out = capsys.readouterr().out
    assert "mine (training rows), 3 rows" in out and "openai, 2 rows" in out
    assert "not scored, 3 messages: text without a call 2, blocked (unexpected argument) 1" in out


@pytest.mark.extended
def test_a_model_answers_the_queries_and_its_replies_can_be_scored_again(launch, repo, file, score, tmp_path):
    report, again = tmp_path / "model.json", tmp_path / "again.json"
    given = [f"--config.data={file}", f"--config.cache={tmp_path / 'cache'}", f"--config.out={report}"]
    small = ["--config.model.path=base", "--config.rows=8", "--config.new_tokens=8"]
    assert launch("evaluate", f"--config={repo / 'configs' / 'evaluate.py'}", *given, *small) == 0
    rows = [json.loads(line) for line in (tmp_path / "model.predictions.jsonl").read_text().splitlines()]
    assert [(row["set"], row["index"], row["id"]) for row in rows] == [
        ("mine", 0, "long, step 1"),
        ("mine", 3, "long, step 5"),
        ("mine", 5, "7, step 1"),
    ]
    assert score(file, {row["index"]: row["prediction"] for row in rows}, f"--config.out={again}") == 0
    assert json.loads(again.read_text()) == json.loads(report.read_text())


def test_policies_compare_with_the_calls_of_one_message(file, options):
    replies = {0: 'weather(city="Rome")', 3: 'time(city="Rome")', 5: "No."}
    scores = score_set(read(file, options()), replies).scores
    assert [(s.levels["any"], s.levels["first"], s.levels["all"]) for s in scores] == [(3, 2, 0), (2, 2, 2), (0, 0, 0)]


def test_a_missing_reply_is_told_by_its_number(score, file, capsys):
    assert score(file, {0: "x", 3: "y"}) == 2
    assert "lacks 1 of 6 rows: 5" in capsys.readouterr().err


def test_noise_renames_tools_calls_and_history_alike(file, options):
    eval_set = read(file, options())
    noisy = noisy_set(eval_set, "union", 0)
    assert [example.index for example in noisy.examples] == [0, 3, 5]
    renamed = noisy.examples[1]
    assert renamed.golden[0].name in {t.name for t in renamed.tools} and renamed.golden[0].name != "time"
    assert renamed.turns[-2].call.name == renamed.golden[0].name and renamed.system == "Be brief."


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([TEXT], ["none of its 1 messages", "text without a call 1", "choose another rule"]),
        ([TEXT, {"id": "b"}], ["row 2, field", "on_bad_row"]),
        (
            [{"a": 1}],
            ["not a known benchmark (fields of its first row: a)", "no training rows (row 1, field", "allowed"],
        ),
    ],
)
def test_a_file_without_queries_is_refused_in_one_line(score, make, tmp_path, capsys, rows, words):
    assert score(make.lines(tmp_path / "x.jsonl", rows), {0: ""}) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and str(tmp_path / "x.jsonl") in line and all(word in line for word in words), line


def test_malformed_rows_are_left_out_and_told(make, tmp_path, options):
    eval_set = read(make.lines(tmp_path / "x.jsonl", [{"id": "b"}, SHORT]), options(on_bad_row="skip"))
    assert [example.index for example in eval_set.examples] == [0]
    assert eval_set.notes[-1].startswith("malformed rows left out: 1\n  file ")


def test_a_folder_mixes_benchmarks_and_files_of_every_kind(make, file, tmp_path, options):
    folder = tmp_path / "data"
    make.json(folder / "clean.json", make.rows)
    make.json(folder / "package.json", {"name": "x"})
    with gzip.open(folder / "zipped.jsonl.gz", "wt") as lines:
        lines.write(json.dumps(SHORT) + "\n")
    (folder / "notes.json.gz").write_bytes(gzip.compress(b"notes"))
    rows = {"query": "q", "tools": json.dumps(TOOLS), "answers": json.dumps([{"name": "time", "arguments": {}}])}
    datasets.Dataset.from_list([rows]).save_to_disk(str(folder / "stored"))
    datasets.Dataset.from_list([rows]).to_parquet(str(folder / "table.parquet"))
    found = discover_sets(folder, training_rows=options())
    assert [(one.name, one.benchmark) for one in found.sets] == [
        ("clean", "rotbench"),
        *((name, "training rows") for name in ("mine", "stored", "table", "zipped")),
    ]
    assert len(found.unread) == 2 and "notes.json.gz: holds no training rows" in found.unread[0]
    assert read(folder / "stored", options()).examples[0].golden[0].name == "time"


def test_a_training_run_scores_such_a_file(file, tmp_path):
    data = {"dialect": "mae", "mae": "verdicts.jsonl", "on_bad_row": "refuse", "cache": str(tmp_path / "cache")}
    scored = ConfigDict({"run": "sft", "data": data, "eval": {"sets": str(file), "best": "mine_CF", "queries": 2}})
    queries = in_training.open_eval_sets(scored)["mine"]
    # Evenly spread, and numbered as in the whole file. Verdicts on the training rows say nothing about these.
    assert [query.example.index for query in queries] == [0, 3]
    assert all(query.prompt.endswith("\nAssistant:") for query in queries)


def test_a_benchmark_whose_rows_could_be_training_rows_stays_a_benchmark(make, tmp_path, options):
    asked = make.row("Is it wet?", make.listed, "unused", [("assistant", make.react("weather", city="Bonn"))])
    messages = [*asked["conversations"][:-1], {"from": "function", "value": "wet"}, {"from": "user", "value": "Sure?"}]
    path = make.json(tmp_path / "eyes.json", [{"id": "q", "path": "p", "conversations": messages}])
    assert why_no_training_rows(path, options()()) is None
    assert read(path, options()).benchmark == "tooleyes"


def test_only_benchmarks_are_read_where_training_rows_are_not_allowed(rotbench, file, options):
    assert read(rotbench, options()).benchmark == "rotbench"
    with pytest.raises(InputError, match="not a known benchmark"):
        discover_sets(file)
