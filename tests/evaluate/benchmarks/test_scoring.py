"""The command without a model: report, tables, drops and differences of predictions, and one line for bad input."""

import json
import subprocess
import sys

import pytest

from tljax.core.errors import InputError
from tljax.evaluate.benchmarks import scoring
from tljax.evaluate.benchmarks.bfcl_results import check_new_folder
from tljax.evaluate.benchmarks.discover import read_sets
from tljax.evaluate.benchmarks.published import published_figures
from tljax.evaluate.benchmarks.results import SetScores, benchmark_report, score_set
from tljax.evaluate.benchmarks.robustness import noise_level, robustness_groups, unpaired
from tljax.evaluate.benchmarks.sets import EvalSet, Example
from tljax.evaluate.benchmarks.tables import result_table

RIGHT = [
    'translate(text="cat", to="de")',
    'weather(city="Rome")',
    'ask_to_user(question="Which city?")',
    'finish(answer="It is.")',
]


@pytest.fixture
def evaluate(launch, repo):
    return lambda *flags: launch("evaluate", f"--config={repo / 'configs' / 'evaluate.py'}", *flags)


@pytest.fixture
def folder(make, tmp_path):
    """A set without noise and two levels of noise, the second without halves; predictions of which some are wrong."""
    make.json(tmp_path / "data" / "clean.json", make.rows)
    make.json(tmp_path / "data" / "slight.json", [*make.rows, *make.rows])
    make.json(tmp_path / "data" / "union.json", make.rows)
    replies = {"clean": RIGHT, "slight": [*RIGHT[:2], "x()", "", *RIGHT], "union": ["translate()", None, *RIGHT[2:]]}
    rows = [{"set": name, "index": i, "prediction": text} for name in replies for i, text in enumerate(replies[name])]
    make.lines(tmp_path / "p.jsonl", rows)
    return tmp_path


def run(evaluate, folder, *flags):
    return evaluate(f"--config.data={folder / 'data'}", f"--config.predictions={folder / 'p.jsonl'}", *flags)


def test_the_report(evaluate, folder, capsys):
    assert run(evaluate, folder, f"--config.out={folder / 'r.json'}") == 0
    clean, slight, union = json.loads((folder / "r.json").read_text())["sets"]
    assert (clean["name"], clean["n"], clean["skipped"]) == ("clean", 4, [])
    assert clean["scores"] == {
        "any": {"TS": 100.0, "PI": 100.0, "CF": 100.0},
        # The second row's first alternative wants a unit, and has two golden calls; one reply cannot be both.
        "first": {"TS": 100.0, "PI": 75.0, "CF": 75.0},
        "all": {"TS": 75.0, "PI": 75.0, "CF": 75.0},
        "loose": {"TS": 100.0, "PI": 100.0, "CF": 100.0},
        "rotbench_official": {"TS": 100.0, "PI": 100.0, "CF": 100.0},
    }
    levels = {"any": 3, "first": 1, "all": 0, "loose": 3, "rotbench_official": 3}
    assert clean["rows"][1] == {"index": 1, "levels": levels, "kind": "correct"}
    assert slight["scores"]["any"]["CF"] == 75.0 and [row["index"] for row in slight["rows"]] == list(range(8))
    assert slight["rows"][2]["kind"] == "tool_hallucination" and slight["rows"][3]["kind"] == "format"
    # Wilson's interval of 6 of 8.
    assert slight["intervals"]["any"]["CF"] == pytest.approx([40.93, 92.85], abs=0.01)
    assert union["unasked"] == 1 and union["rows"][1]["kind"] == "format"
    assert union["scores"]["any"] == {"TS": 75.0, "PI": 50.0, "CF": 50.0}
    # An empty list of arguments is worth nothing to the official script.
    assert union["scores"]["rotbench_official"]["TS"] == 50.0
    told = capsys.readouterr().out
    assert "clean (rotbench), 4 rows" in told and "not asked, 1 rows" in told and "published" not in told
    assert (folder / "r.robustness.png").read_bytes()[:4] == b"\x89PNG"


def test_drops_are_paired_with_the_rows_without_noise(evaluate, folder, capsys):
    assert run(evaluate, folder, f"--config.out={folder / 'r.json'}") == 0
    found = json.loads((folder / "r.json").read_text())["robustness"]
    assert [(one["name"], one["policy"]) for one in found] == [("clean", "any"), ("clean", "rotbench_official")]
    drops = {(one["level"], one["part"]): one for one in found[0]["drops"]}
    assert list(drops) == [("slight", "all"), ("slight", "tools"), ("slight", "parameters"), ("union", "all")]
    means = {key: [one["drops"][m][0] for m in ("TS", "PI", "CF")] for key, one in drops.items()}
    assert means == {
        ("slight", "all"): [25.0] * 3,
        ("slight", "tools"): [50.0] * 3,
        ("slight", "parameters"): [0.0] * 3,
        ("union", "all"): [25.0, 50.0, 50.0],
    }
    _, low, high = drops["slight", "all"]["drops"]["CF"]
    assert (low, high) == (0.0, 50.0)
    table = capsys.readouterr().out.partition("robustness of clean")[2].partition("robustness of clean")[0]
    assert "without noise" in table and "slight, tools" in table and "+50.0" in table


def test_any_number_of_panels_is_plotted(evaluate, make, tmp_path):
    rows = []
    for folder in ("a", "b", "c"):
        for level in ("clean", "slight"):
            make.json(tmp_path / "data" / folder / f"{level}.json", make.rows)
            rows += [{"set": f"{folder}/{level}", "index": i, "prediction": text} for i, text in enumerate(RIGHT)]
    make.lines(tmp_path / "p.jsonl", rows)
    assert run(evaluate, tmp_path, f"--config.out={tmp_path / 'r.json'}") == 0
    assert (tmp_path / "r.robustness.png").stat().st_size > 10_000


def test_rows_left_out_of_the_noisy_set_are_paired_by_number(make, tmp_path):
    make.json(tmp_path / "clean.json", make.rows)
    broken = make.row("Translate cat", make.listed, ["?"])
    make.json(tmp_path / "heavy.json", [broken, *make.rows[1:], *make.rows])
    clean, heavy = read_sets(tmp_path)
    results = [
        score_set(clean, dict(enumerate(["no", *RIGHT[1:]]))),
        score_set(heavy, dict(enumerate([*RIGHT, "no", *RIGHT[1:]]))),
    ]
    (any_, _) = robustness_groups(results)
    assert {drop.part: drop.drops["TS"][0] for drop in any_.drops} == {"all": 0.0, "tools": 0.0, "parameters": 0.0}


def test_a_level_with_other_rows_is_left_out_and_told(evaluate, make, tmp_path, capsys):
    make.json(tmp_path / "data" / "clean.json", make.rows)
    make.json(tmp_path / "data" / "slight.json", make.rows[:3])
    rows = [{"set": "clean", "index": i, "prediction": text} for i, text in enumerate(RIGHT)]
    rows += [{"set": "slight", "index": i, "prediction": text} for i, text in enumerate(RIGHT[:3])]
    make.lines(tmp_path / "p.jsonl", rows)
    assert run(evaluate, tmp_path, f"--config.out={tmp_path / 'r.json'}") == 0
    assert "robustness" not in json.loads((tmp_path / "r.json").read_text())
    assert not (tmp_path / "r.robustness.png").exists()
    told = "robustness of clean: slight is left out, since its 3 rows are neither as many as the 4 without noise nor"
    assert told in capsys.readouterr().out


def test_a_noisy_version_without_a_row_in_common_is_left_out(make, tmp_path):
    broken = make.row("Translate cat", make.listed, ["?"])
    make.json(tmp_path / "clean.json", [broken, *make.rows[1:2]])
    make.json(tmp_path / "union.json", [make.rows[0], broken])
    results = [score_set(one, dict.fromkeys(range(2), "no")) for one in read_sets(tmp_path)]
    assert robustness_groups(results) == [] and "none of its rows has a golden answer both with" in unpaired(results)[0]


def test_a_plot_that_fails_costs_no_report(evaluate, folder, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(scoring, "plot_drops", broken)
    with pytest.raises(ZeroDivisionError):
        run(evaluate, folder, f"--config.out={folder / 'r.json'}")
    assert len(json.loads((folder / "r.json").read_text())["robustness"]) == 2


def test_files_beside_a_report_keep_its_whole_name(evaluate, folder):
    for name in ("scores.7b", "scores.13b.json"):
        assert run(evaluate, folder, f"--config.out={folder / name}") == 0
    assert {path.name for path in folder.glob("*.png")} == {"scores.7b.robustness.png", "scores.13b.robustness.png"}
    assert scoring.path_beside_report("a.7b", "predictions.jsonl").name == "a.7b.predictions.jsonl"


def test_two_sets_of_one_level_go_by_their_names(evaluate, folder, make, capsys):
    rows = [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]
    rows += [{"set": "clean+slight", "index": i, "prediction": "no"} for i in range(8)]
    make.lines(folder / "p.jsonl", rows)
    assert run(evaluate, folder, "--config.noise=slight", f"--config.out={folder / 'r.json'}") == 0
    found = json.loads((folder / "r.json").read_text())["robustness"][0]["drops"]
    drops = {one["level"]: one["drops"]["TS"][0] for one in found if one["part"] == "all"}
    assert drops == {"slight": 25.0, "clean+slight": 100.0, "union": 25.0}
    assert "  clean+slight, parameters" in capsys.readouterr().out


def test_which_sets_are_levels_of_one():
    assert noise_level("First_Turn/heavy") == ("First_Turn/clean", "heavy")
    assert noise_level("eval_real+slight") == ("eval_real", "slight")
    assert noise_level("First_Turn/clean+union") == ("First_Turn/clean", "union")
    assert noise_level("clean") == ("clean", "") and noise_level("a+b") == ("a+b", "")


def test_noise_on_any_set(evaluate, make, tmp_path, capsys):
    data = make.json(tmp_path / "clean.json", make.rows)
    replies = [{"set": "clean", "index": i, "prediction": text} for i, text in enumerate(RIGHT)]
    replies += [{"set": "clean+medium", "index": i, "prediction": text} for i, text in enumerate(RIGHT * 2)]
    file = make.lines(tmp_path / "p.jsonl", replies)
    flags = [f"--config.data={data}", f"--config.predictions={file}", "--config.noise=medium,heavy"]
    assert evaluate(*flags) == 0
    told = capsys.readouterr().out
    assert "clean+medium (rotbench), 8 rows" in told and "medium, tools" in told
    assert "set clean+heavy: has no predictions, and is left out" in told


def test_differences_from_another_report(evaluate, folder, make, capsys):
    assert run(evaluate, folder, f"--config.out={folder / 'a.json'}") == 0
    rows = [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]
    make.lines(folder / "p.jsonl", [row | ({"prediction": "none"} if row["index"] < 2 else {}) for row in rows])
    flags = [f"--config.compare={folder / 'a.json'}", f"--config.out={folder / 'b.json'}"]
    assert run(evaluate, folder, *flags) == 0
    found = {
        (one["name"], one["policy"]): one
        for one in json.loads((folder / "b.json").read_text())["compared"]["differences"]
    }
    assert found["clean", "any"]["metrics"]["CF"][0] == -50.0 and found["clean", "any"]["n"] == 4
    assert found["slight", "any"]["metrics"]["TS"][0] == -25.0
    assert found["union", "rotbench_official"]["metrics"]["CF"] == [0.0, 0.0, 0.0]
    assert "difference from" in capsys.readouterr().out
    # Other rows in one of them are no pairs.
    report = json.loads((folder / "a.json").read_text())
    del report["sets"][1]["rows"][5]
    (folder / "a.json").write_text(json.dumps(report))
    (folder / "b.json").unlink()  # the plot is made anew
    assert run(evaluate, folder, *flags) == 2
    assert "set slight has other rows there (rows in one alone: 5)" in capsys.readouterr().err
    assert not (folder / "b.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.data=toolbox"], ["config.data is 'toolbox'", "--config.data=RoTBench/Data"]),
        (["--config.data=gone"], ["config.data gone", "no such file or folder"]),
        (["--config.predictions=gone.jsonl"], ["gone.jsonl", "does not exist"]),
        (["--config.noise=loud"], ["config.noise is 'loud'", "slight, medium"]),
        (["--config.noise_seed=-1"], ["config.noise_seed is -1"]),
        (["--config.compare=gone.json"], ["config.compare gone.json", "cannot be read"]),
        (["--config.compare=p.jsonl"], ["config.compare p.jsonl", "is no report"]),
        (["--config.compare=other.json"], ["has none of the sets", "its sets: x"]),
        (
            ["--config.compare=odd.json"],
            ["config.compare odd.json", "is no report", "row 3, any: 'x' is no whole number"],
        ),
        (["--config.out=p.jsonl"], ["p.jsonl is there already"]),
        (["--config.out=gone/r.json"], ["there is no folder gone"]),
        (["--config.bfcl_out=data"], ["config.bfcl_out data", "not empty"]),
        (["--config.bfcl_out=new"], ["no set of BFCL is scored"]),
    ],
)
def test_bad_input_is_told_in_one_line(evaluate, folder, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(folder)
    (folder / "other.json").write_text('{"sets": [{"name": "x", "rows": []}]}')
    odd = {"index": 3, "levels": {"any": "x"}, "kind": "correct"}
    (folder / "odd.json").write_text(json.dumps({"sets": [{"name": "clean", "rows": [odd]}]}))
    assert run(evaluate, folder, *flags) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert all(word in lines[0] for word in words), lines[0]


def test_jax_is_not_loaded_for_it(repo, folder):
    argv = ["launch/evaluate.py", f"--config={repo / 'configs' / 'evaluate.py'}", f"--config.data={folder / 'data'}"]
    argv += [f"--config.predictions={folder / 'p.jsonl'}", f"--config.out={folder / 'r.json'}"]
    code = f"import runpy, sys; sys.argv = {argv!r}; runpy.run_path('launch/evaluate.py', run_name='__main__')"
    code += "; sys.exit(3 if 'jax' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (folder / "r.json").exists(), done.stderr


def bfcl_set(make, folder, category, truths):
    rows = [
        {"id": f"{category}_{i}", "question": [[{"role": "user", "content": "?"}]]}
        | {"function": [make.tool("add.all", "a", optional=("b",))], "ground_truth": truth}
        for i, truth in enumerate(truths)
    ]
    return make.lines(folder / f"BFCL_v3_{category}.json", [{k: v for k, v in row.items() if v} for row in rows])


def test_bfcls_result_files(evaluate, make, tmp_path):
    data, out = tmp_path / "data", tmp_path / "result" / "ours"
    bfcl_set(make, data, "exec_simple", [["add.all(a=1)"], ["broken("], ["add.all(a=1)"], ["add.all(a=1)"]])
    bfcl_set(make, data, "live_irrelevance", [None])
    texts = [
        'add.all(a=[true, null], b="it\'s")\nadd.all({"k": 1.5})',
        "left out",
        "add.all(a=1",
        None,
    ]
    rows = [{"set": "BFCL_v3_exec_simple", "index": i, "prediction": text} for i, text in enumerate(texts)]
    rows.append({"set": "BFCL_v3_live_irrelevance", "index": 0, "prediction": "I have no tool for that."})
    file = make.lines(tmp_path / "p.jsonl", rows)
    assert evaluate(f"--config.data={data}", f"--config.predictions={file}", f"--config.bfcl_out={out}") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "BFCL_v3_exec_simple_result.json",
        "BFCL_v3_live_irrelevance_result.json",
    ]
    lines = [json.loads(line) for line in (out / "BFCL_v3_exec_simple_result.json").read_text().splitlines()]
    assert lines == [
        {"id": "exec_simple_0", "result": "[add.all(a=[True, None], b=\"it's\"), add.all(a={'k': 1.5})]"},
        {"id": "exec_simple_1", "result": "left out"},
        {"id": "exec_simple_2", "result": "add.all(a=1"},
        {"id": "exec_simple_3", "result": ""},
    ]
    assert "no tool for that" in (out / "BFCL_v3_live_irrelevance_result.json").read_text()


def test_a_folder_of_results_is_new_or_a_stopped_runs_own(make, tmp_path):
    check_new_folder(tmp_path / "new")
    make.lines(tmp_path / "out" / "BFCL_v3_exec_simple_result.json", [])
    make.lines(tmp_path / "out" / ".BFCL_v3_live_simple_result.json.tmp", [])
    check_new_folder(tmp_path / "out", begun=True)
    with pytest.raises(InputError, match="not empty"):
        check_new_folder(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        check_new_folder(tmp_path / "out", begun=True)


def test_wanting_no_call_or_any(make, tmp_path):
    for category in ("irrelevance", "live_relevance"):
        bfcl_set(make, tmp_path, category, [None] * 3)
    no_call, any_call = (score_set(one, {0: "add.all(a=1)", 1: "No.", 2: None}) for one in read_sets(tmp_path))
    assert [score.levels["any"] for score in no_call.scores] == [0, 3, 0]
    assert [score.levels["any"] for score in any_call.scores] == [3, 0, 0]
    assert [score.kind for score in no_call.scores] == ["wrong_tool", "correct", "format"]
    assert "makes no call" in result_table(no_call) and "makes a call" in result_table(any_call)


def test_the_papers_figures_stand_beside_its_own_sets_alone():
    rows = tuple(Example(i, "", (), ()) for i in range(105))
    n, models = published_figures(EvalSet("First_Turn/clean", "rotbench", rows))
    assert n == 105 and models[0] == ("TL-CodeLLaMA-2 7B", (83.81, 54.29, 42.86)) and models[1].model == "standard SFT"
    assert all(
        100 * round(f * 105 / 100) / 105 == pytest.approx(f, abs=0.005) for _, figures in models for f in figures
    )
    for other in ("slight", "Third_Turn/clean", "clean+slight"):
        assert published_figures(EvalSet(other, "rotbench", rows[:70] if "Third" in other else rows)) == (0, [])
    bfcl = tuple(Example(i, "", (), ()) for i in range(240))
    _, models = published_figures(EvalSet("bfcl_exec", "bfcl", bfcl))
    assert len(models) == 10
    assert all(
        100 * round(f * 240 / 100) / 240 == pytest.approx(f, abs=0.005) for _, figures in models for f in figures
    )


def test_levels_fall_from_right_to_left_in_the_report(rotbench):
    (one,) = read_sets(rotbench)
    replies = ["translate(text='cat', to='fr')", "weather(town='Rome')", "finish(answer='?')", "gone()"]
    result = score_set(one, dict(enumerate(replies)))
    report = benchmark_report([result])["sets"][0]
    assert [row["kind"] for row in report["rows"]] == ["content", "parameter", "wrong_tool", "tool_hallucination"]
    assert report["scores"]["any"] == {"TS": 50.0, "PI": 25.0, "CF": 0.0}
    assert report["kinds"]["content"] == 25.0 and isinstance(result, SetScores)
