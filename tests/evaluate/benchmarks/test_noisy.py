"""Noise renames documentation, golden calls and history alike: a model that follows the documentation loses nothing."""

import pytest

from tljax.calls.compare import AnyValue
from tljax.calls.render import render_call
from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.discover import read_sets
from tljax.evaluate.benchmarks.noisy import add_noisy_sets, noisy_set, parse_levels
from tljax.evaluate.benchmarks.results import score_set
from tljax.evaluate.benchmarks.sets import example_prompt
from tljax.toolbox.noise import NOISE_LEVELS


@pytest.fixture
def clean(rotbench):
    return read_sets(rotbench)[0]


def golden_replies(one):
    """The first golden call of every row, with something in place of what is not judged."""

    def said(call):
        arguments = {k: "?" if isinstance(v, AnyValue) else v for k, v in call.arguments.items()}
        return render_call(type(call)(call.name, arguments), "mae")

    return {example.index: said(example.golden[0]) for example in one.examples}


@pytest.mark.parametrize("level", NOISE_LEVELS)
def test_golden_calls_follow_the_documentation(clean, level):
    for seed in range(4):
        noisy = noisy_set(clean, level, seed)
        assert noisy.name == f"clean+{level}" and noisy.rows == (4 if level == "union" else 8)
        assert [example.index for example in noisy.examples] == list(range(noisy.rows))
        assert {score.levels["any"] for score in score_set(noisy, golden_replies(noisy)).scores} == {3}
        for example in noisy.examples:
            for call in example.golden:
                (tool,) = [tool for tool in example.tools if tool.name == call.name]
                assert call.arguments.keys() <= tool.properties.keys()
                assert set(tool.required) <= call.arguments.keys()
            prompt = example_prompt(example, "mae")
            assert all(f"def {tool.name}(" in prompt for tool in example.tools)


def test_halves_are_names_of_tools_then_of_parameters(clean):
    noisy = noisy_set(clean, "medium", 0)
    for before, tools, parameters in zip(clean.examples, noisy.examples[:4], noisy.examples[4:], strict=True):
        assert tools.golden[0].name != before.golden[0].name
        assert tools.golden[0].arguments == before.golden[0].arguments
        assert parameters.golden[0].name == before.golden[0].name
        assert not parameters.golden[0].arguments.keys() & before.golden[0].arguments.keys()
        assert before.id == tools.id == parameters.id


def test_history_and_the_tool_that_finishes_are_renamed_too(clean):
    noisy = noisy_set(clean, "medium", 1).examples[3]
    renamed = {tool.name for tool in noisy.tools}
    assert noisy.turns[1].call.name in renamed and noisy.finish == noisy.tools[-1].name == noisy.golden[0].name
    name = noisy.turns[1].call.name
    assert noisy.turns[2].text in ("weather() is 'wet'", f"{name}() is 'wet'")
    assert (noisy.turns[2].text == "weather() is 'wet'") is (name == "weather")


def test_noise_depends_on_its_seed_and_row_alone(clean):
    assert noisy_set(clean, "slight", 0) == noisy_set(clean, "slight", 0)
    assert noisy_set(clean, "slight", 0).examples[0].tools != noisy_set(clean, "slight", 1).examples[0].tools
    fewer = type(clean)(clean.name, clean.benchmark, clean.examples[2:3], file=clean.file)
    assert noisy_set(fewer, "slight", 0).examples[0].tools == noisy_set(clean, "slight", 0).examples[2].tools


def test_rows_left_out_stay_left_out(make, tmp_path):
    rows = [make.row("q", make.listed, ["no call"]), *make.rows]
    (one,) = read_sets(make.json(tmp_path / "x.json", rows))
    noisy = noisy_set(one, "slight", 0)
    assert [row.index for row in noisy.skipped] == [0, 5] and noisy.rows == 10


def test_which_sets_get_noise(clean):
    slight = type(clean)("First_Turn/slight", clean.benchmark, clean.examples)
    whole = type(clean)("whole", clean.benchmark, clean.examples, parts=(("part", 4),))
    part = type(clean)("part", clean.benchmark, clean.examples)
    names = [one.name for one in add_noisy_sets([clean, slight, part, whole], ["heavy", "union"], 0)]
    assert names == [
        *("clean", "clean+heavy", "clean+union", "First_Turn/slight", "part"),
        *("whole", "whole+heavy", "whole+union"),
    ]
    assert parse_levels("") == [] and parse_levels(" slight, union,slight") == ["slight", "union"]
    with pytest.raises(InputError, match=r"config\.noise is 'strong'; allowed: slight, medium, heavy, union"):
        parse_levels("strong")
