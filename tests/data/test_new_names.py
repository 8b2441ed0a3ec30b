"""Trajectories with new names: the same calls of the same tools, which only the prompt's names can tell."""

import json
import random
import re
from itertools import permutations

import pytest

from tljax.calls.tool import Call, Tool
from tljax.core.config import data_block
from tljax.core.errors import InputError
from tljax.data.check import check_data
from tljax.data.examples import load_examples
from tljax.data.mae import load_rule
from tljax.data.new_names import PARAMETER_WORDS, TOOL_WORDS, rename_trajectory
from tljax.data.reader import open_trajectories
from tljax.data.steps import TokenizeOptions, tokenize_steps
from tljax.data.trajectory import Trajectory, Turn
from tljax.toolbox.embedded import BASE_FOLDER


def tool(name, *parameters, description="Does it.", parameter_description="A value."):
    properties = {p: {"type": "string", "description": parameter_description} for p in parameters}
    return Tool(name, description, properties, parameters[:1])


TOOLS = (tool("getWeather", "city", "day"), tool("search", "query"), tool("send_mail", "to"))


def trajectory(*turns, tools=TOOLS):
    return Trajectory("t", tools, (Turn("user", "Is it raining in Paris?"), *turns), row=1)


def call(name, **arguments):
    return Turn("assistant", call=Call(name, arguments))


def both_kinds(original):
    """A renaming with new names of tools alone, and one with new names of parameters too."""
    renamed = [rename_trajectory(original, random.Random(seed)) for seed in range(20)]
    with_parameters = [r for r in renamed if any("city" not in t.properties for t in r.tools[:1])]
    assert 4 <= len(with_parameters) <= 16
    return next(r for r in renamed if r not in with_parameters), with_parameters[0]


@pytest.mark.parametrize("file", ["sealtools_dev.jsonl", "bfcl_multiturn_errors.json", "tau_airline.jsonl"])
def test_real_trajectories_keep_their_calls_tools_and_values(shared, file, tmp_path):
    source = open_trajectories(str(shared / "data/train" / file), "refuse", str(tmp_path))
    changed = 0
    for number in range(0, len(source), max(1, len(source) // 60)):
        before = source[number]
        after = rename_trajectory(before, random.Random(number))
        names = dict(zip([t.name for t in before.tools], after.tools, strict=True))
        assert len({t.name for t in after.tools}) == len({t.name for t in before.tools})
        for old, new in zip(before.tools, after.tools, strict=True):
            assert list(old.properties.values()) == list(new.properties.values())
            positions = dict(zip(old.properties, new.properties, strict=True))
            assert new.required == tuple(positions[name] for name in old.required)
            assert re.fullmatch(r"[A-Za-z]\w*", new.name) or new.name == old.name
            changed += new.name != old.name
        for old, new in zip(before.turns, after.turns, strict=True):
            assert (old.role, old.learned, old.parallel) == (new.role, new.learned, new.parallel)
            assert old.role != "user" or old.text == new.text
            assert (old.call is None) == (new.call is None)
            if old.call is not None and new.call is not None and old.call.name in names:
                called = names[old.call.name]
                assert new.call.name == called.name
                assert list(new.call.arguments.values()) == list(old.call.arguments.values())
                known = next(t for t in before.tools if t.name == old.call.name).properties
                for p, q in zip(old.call.arguments, new.call.arguments, strict=True):
                    assert list(called.properties)[list(known).index(p)] == q if p in known else p == q
    assert changed > 100


def test_a_renaming_changes_every_tool_and_depends_on_the_seed_alone():
    original = trajectory(call("getWeather", city="Paris"))
    first, again, other = (rename_trajectory(original, random.Random(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert not {t.name for t in first.tools} & {t.name for t in original.tools}


def test_feedback_and_replies_name_the_tool_as_its_call_does():
    turns = (
        call("getWeather", city="Paris", when="today"),
        Turn("function", "TypeError: getWeather() got an unexpected keyword argument 'when'; use 'city'"),
        call("search", query="search Paris"),
        Turn("function", "The search found getWeather; search(query) takes 'query', see `search`."),
        Turn("assistant", "I used getWeather."),
    )
    tools_alone, all_names = both_kinds(trajectory(*turns))
    for renamed, city in ((tools_alone, "city"), (all_names, next(iter(all_names.tools[0].properties)))):
        weather, search = renamed.tools[0].name, renamed.tools[1].name
        query = next(iter(renamed.tools[1].properties))
        assert [turn.text for turn in renamed.turns[2:] if turn.call is None] == [
            f"TypeError: {weather}() got an unexpected keyword argument 'when'; use '{city}'",
            f"The search found {weather}; {search}(query) takes '{query}', see `{search}`.",
            f"I used {weather}.",
        ]
        assert renamed.turns[1].call == Call(weather, {city: "Paris", "when": "today"})
        assert renamed.turns[3].call == Call(search, {query: "search Paris"})


def test_names_that_nothing_else_explains_stay():
    bare = tool("f", "x", description="", parameter_description="")
    original = trajectory(call("f", x="1"), call("unlisted", y="2"), tools=(bare, *TOOLS))
    for seed in range(20):
        renamed = rename_trajectory(original, random.Random(seed))
        assert renamed.tools[0] == bare and renamed.turns[1:] == original.turns[1:]


def test_a_tool_that_the_user_names_keeps_its_name():
    original = Trajectory("t", TOOLS, (Turn("user", "Please search with getWeather."), call("getWeather", city="A")))
    for seed in range(20):
        weather, search, mail = (t.name for t in rename_trajectory(original, random.Random(seed)).tools)
        assert weather == "getWeather" and search != "search" and mail != "send_mail"


def test_a_new_name_is_never_that_of_another_call_or_argument():
    """Calls of unlisted tools and unlisted arguments stay errors, whatever is drawn."""
    pairs = [pair for words in (TOOL_WORDS, PARAMETER_WORDS) for pair in permutations(words, 2)]
    names = {f"{a}_{b}" for a, b in pairs} | {f"{a}{b}" for a, b in pairs} | {f"{a}{b.title()}" for a, b in pairs}
    turns = [call("getWeather", city="A", **dict.fromkeys(names, 1)), *(call(name) for name in names)]
    for seed in range(40):
        renamed = rename_trajectory(trajectory(*turns), random.Random(seed))
        assert not {t.name for t in renamed.tools} & names
        assert not set(renamed.tools[0].properties) & names


def test_errors_are_found_and_key_tokens_lie_on_the_new_name(byte_level):
    original = trajectory(
        call("getWeather", city="Paris"), Turn("function", "Error: No data"), call("getWeather", city="Rome")
    )
    rule = load_rule("default")
    options = TokenizeOptions(dialect="mae", pkt="paper", w_max=9.0, max_tokens=8192)
    renamed = TokenizeOptions(dialect="mae", pkt="paper", w_max=9.0, max_tokens=8192, new_names=1.0)
    before, after = (tokenize_steps(original, rule, byte_level, o) for o in (options, renamed))
    assert [step.kept for step in before] == [step.kept for step in after] == [False, True]
    reply = after[1].tokenized
    assert reply is not None and not reply.unlisted and "getWeather" not in after[1].text
    name = after[1].reply.partition("(")[0]
    assert f"def {name}(" in after[1].text
    start = reply.reply_start + reply.key_positions[0]
    assert byte_level.decode(reply.tokens[start:].tolist()).lstrip().startswith(name)


@pytest.fixture
def load(shared, llama2, tmp_path):
    """Returns the held-out and the training rows' texts of some Seal-Tools rows."""
    file = tmp_path / "rows.jsonl"
    with (shared / "data/train/sealtools_dev.jsonl").open() as lines:
        file.write_text("".join(next(lines) for _ in range(60)))

    def run(**fields):
        data = data_block()
        data.update({"source": str(file), "cache": str(tmp_path / "cache"), "eval_fraction": 0.2} | fields)
        examples = load_examples(data, str(file), llama2, seed=0)
        assert examples.held_out is not None
        return {
            part: dict(zip(rows["id"], (llama2.decode(row.tolist()) for row in rows["tokens"]), strict=True))
            for part, rows in (("train", examples.train), ("held_out", examples.held_out))
        }

    return run


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 48, 48), (0.5, 14, 34), (0.0, 0, 0)])
def test_the_share_of_training_rows_is_renamed_and_held_out_rows_are_not(load, share, least, most):
    plain, renamed = load(), load(new_names=share)
    assert plain["held_out"] == renamed["held_out"] and len(plain["held_out"]) == 12
    changed = sum(plain["train"][key] != text for key, text in renamed["train"].items())
    assert least <= changed <= most


def test_other_held_out_rows_are_tokenized_again(load):
    """The rows on disk depend on which trajectories are held out, as those keep their names."""
    plain, renamed = load(eval_fraction=0.4), load(new_names=1.0)
    again = load(new_names=1.0, eval_fraction=0.4)
    assert again["held_out"] == plain["held_out"] and len(again["held_out"]) == 24
    assert all(renamed["train"][key] == text for key, text in again["train"].items())


def test_prepared_steps_show_the_new_names(launch, repo, shared, tmp_path):
    with (shared / "data/train/sealtools_dev.jsonl").open() as lines:
        (tmp_path / "rows.jsonl").write_text(next(lines))
    flags = [
        f"--config.data.source={tmp_path / 'rows.jsonl'}",
        f"--config.data.cache={tmp_path / 'cache'}",
        f"--config.data.tokenizer={BASE_FOLDER}",
    ]
    for out, share in (("plain.jsonl", 0.0), ("new.jsonl", 1.0)):
        own = [f"--config.data.new_names={share}", f"--config.out={tmp_path / out}"]
        assert launch("prepare_data", f"--config={repo / 'configs/data.py'}", *flags, *own) == 0
    plain, new = (
        [json.loads(line) for line in (tmp_path / out).read_text().splitlines()] for out in ("plain.jsonl", "new.jsonl")
    )
    assert [step["kept"] for step in plain] == [step["kept"] for step in new]
    assert "calculateNursingHours" in plain[0]["text"] and "calculateNursingHours" not in new[0]["text"]


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    data = data_block()
    data.new_names = share
    with pytest.raises(InputError, match=r"config.data.new_names is .*; it must be from 0 to 1"):
        check_data(data)
