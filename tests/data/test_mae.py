"""Rules that block steps by their feedback: the released script, the default, patterns and functions of a user."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import Decision, load_rule
from tljax.data.records import read_records
from tljax.data.trajectory import Trajectory, Turn

NAMED = ("default", "release", "release_no_filter", "none")

# Steps of rotbench_third_clean whose feedback a person read as a failure, as row.step; the other 77 are answers.
FAILED = """
1.1 1.2 2.1 2.2 4.1 4.2 6.1 7.1 8.2 9.1 10.1 11.1 12.1 12.2 14.2 15.1 16.2 17.1 17.2 23.1 23.2 25.1 25.2 27.1 28.1
29.1 29.2 31.2 32.2 33.2 35.1 36.1 36.2 38.1 39.2 41.1 43.1 45.1 46.1 46.2 49.1 49.2 51.1 51.2 52.1 54.1 55.2 65.1
65.2 66.1 66.2 68.1 68.2 69.1 69.2 70.2
""".split()


def conversation(*turns, row=7):
    roles = {"a": "assistant", "f": "function", "u": "user"}
    return Trajectory(
        id="chat-1",
        tools=(),
        turns=tuple(
            Turn(roles[role], text, Call("get_x", {"q": 1}) if role == "a" and not text else None)
            for role, text in turns
        ),
        row=row,
    )


def one_step(feedback):
    return conversation(("u", "hi"), ("a", ""), ("f", feedback), ("a", "done"))


def trajectories(shared, name):
    file = str(shared / f"data/train/{name}.json")
    return [trajectory_from_record(obj, file, row) for row, obj in read_records(file)]


def blocked(rule, trajectory):
    return {f"{trajectory.row}.{step}" for step, d in enumerate(rule(trajectory), 1) if not d.kept}


@pytest.mark.parametrize("noise", ["clean", "slight"])
@pytest.mark.parametrize(("rule", "golden"), [("release", "filtered"), ("release_no_filter", "unfiltered")])
def test_release_keeps_what_the_released_script_keeps(shared, noise, rule, golden):
    kept = []
    for trajectory in trajectories(shared, f"rotbench_third_{noise}"):
        decisions = load_rule(rule)(trajectory)
        at = [i for i, turn in enumerate(trajectory.turns) if turn.role == "assistant"]
        kept += [
            # The script counts the system message, which is no turn, and the reply itself.
            (f"Turn {step}: {trajectory.id}", i + 2)
            for step, (i, decision) in enumerate(zip(at, decisions, strict=True), 1)
            if decision.kept
        ]
    facts = json.loads((shared / f"golden/mae_{noise}_{golden}.json").read_text(encoding="utf-8"))
    assert kept == [(fact["id"], int(fact["messages"])) for fact in facts]


def test_release_reads_only_the_next_message():
    talk = conversation(
        ("u", "hi"),
        ("a", "not followed by a function"),
        ("u", "go on"),
        ("a", ""),
        ("f", "fine"),
        ("f", "name 'x' is not defined"),
        ("a", ""),
        ("f", "4\u4e00 0-0 CLIENT^error: NAME x Is,Not De-fined"),
    )
    kept = {rule: [d.kept for d in load_rule(rule)(talk)] for rule in NAMED}
    assert kept == {
        "release": [False, True, False],
        "release_no_filter": [False, True, True],
        "none": [True, True, True],
        "default": [True, False, True],
    }
    # "^" survives the folding, so this is not the keyword "400 Client Error".
    assert load_rule("release")(one_step("400 Client^Err^or"))[0].kept


def test_default_judges_each_of_several_replies():
    talk = conversation(("a", ""), ("f", '{"a": 1}'), ("f", '{"error": "gone"}'), ("a", ""), ("u", "'ja'"))
    assert load_rule("default")(talk) == [Decision(False, "error field: error: gone"), Decision(True, None)]


def test_default_agrees_with_the_labels_of_a_reader(shared):
    rule = load_rule("default")
    found = set().union(*(blocked(rule, t) for t in trajectories(shared, "rotbench_third_clean")))
    assert found == set(FAILED)


@pytest.mark.parametrize(
    ("name", "count"), [("rotbench_third_slight", 112), ("toolalpaca_verified", 10), ("bfcl_multiturn_errors", 214)]
)
def test_default_counts_on_the_other_sets(shared, name, count):
    # slight: two noisy copies of clean's 56; ToolAlpaca: its simulator's refusals; BFCL: the injected calls alone.
    rule = load_rule("default")
    assert sum(len(blocked(rule, t)) for t in trajectories(shared, name)) == count


def test_release_flags_that_the_default_clears(shared):
    talks = trajectories(shared, "rotbench_third_clean")
    release, unfiltered = (
        set().union(*(blocked(load_rule(rule), t) for t in talks)) for rule in ("release", "release_no_filter")
    )
    flagged = release - unfiltered
    assert len(flagged) == 46
    assert flagged - set(FAILED) == {"18.2", "43.2", "45.2", "54.2", "56.1", "56.2", "61.1", "61.2"}
    assert len(set(FAILED) - flagged) == 18


PIECES = st.sampled_from(
    r"""{ } [ ] ( ) ' " , : \ ^ 0 error errors status 404 null true 1e999 NaN 0x \d""".split()
) | st.sampled_from(["\n", " ", "\u4e00", "\ud800", "\x00", "'ja'", "not found", "Status Code: 200. Response: "])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "errors", "status", "code", "message", "data", "success", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.lists(PIECES, max_size=12).map("".join) | JSON.map(json.dumps) | JSON.map(repr))
def test_no_rule_raises_and_a_reason_stands_exactly_at_blocked_steps(feedback):
    for spec in (*NAMED, ["err.r", r"\d{3}"]):
        decisions = load_rule(spec)(one_step(feedback))
        assert len(decisions) == 2
        assert all(d.kept == (d.reason is None) and d.reason != "" for d in decisions)


@pytest.mark.parametrize("form", ["json", "list", "tuple", "file"])
def test_own_patterns_search_the_feedback_without_regard_to_case(form, tmp_path):
    patterns = [r"quota\s+exceeded", r"^oops"]
    file = tmp_path / "patterns.txt"
    file.write_text("\n".join([patterns[0], "", patterns[1]]) + "\n", encoding="utf-8")
    spec = {"json": json.dumps(patterns), "list": patterns, "tuple": tuple(patterns), "file": str(file)}[form]
    rule = load_rule(spec)
    talk = conversation(
        ("a", ""),
        ("f", "The QUOTA\nexceeded"),
        ("a", ""),
        ("f", "not oops"),
        ("a", "oops"),
        ("f", "Oops!"),
        ("a", "oops"),
    )
    assert rule(talk) == [
        Decision(False, r"pattern quota\s+exceeded: The QUOTA exceeded"),
        Decision(True, None),
        Decision(False, "pattern ^oops: Oops!"),
        Decision(True, None),
    ]


def test_own_function_sees_call_and_feedback_of_every_step(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(
        "def only_x(call, feedback):\n"
        "    if call is None: return 'no\\ncall' if feedback is None else None\n"
        "    return f'{call.name} {call.arguments}' if feedback == 'bad' else None\n"
        "def breaks(call, feedback): raise KeyError('a\\nb')\n"
        "def says_true(call, feedback): return True\n"
        "def says_nothing(call, feedback): return ' '\n"
        "number = 3\n",
        encoding="utf-8",
    )
    (tmp_path / "broken_rules.py").write_text("raise AttributeError('from inside')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    talk = conversation(("a", ""), ("f", "bad"), ("a", ""), ("f", "good"), ("a", "bye"))
    assert load_rule("my_rules:only_x")(talk) == [
        Decision(False, "get_x {'q': 1}"),
        Decision(True, None),
        Decision(False, "no call"),
    ]
    for name, said in [
        ("breaks", r"raised KeyError"),
        ("says_true", r"returned True; allowed: None, or"),
        ("says_nothing", r"returned ' '; allowed"),
    ]:
        with pytest.raises(
            InputError, match=rf"row 7 \(id 'chat-1'\), step 1: data.mae my_rules:{name} {said}"
        ) as error:
            load_rule(f"my_rules:{name}")(talk)
        assert "\n" not in str(error.value)
    for path, said in [
        ("my_rules:absent", "has no absent"),
        ("my_rules:number", "is of type int, not a function"),
        ("broken_rules:f", "AttributeError: from inside"),
        ("no_such_module_here:f", "No module named 'no_such_module_here'"),
    ]:
        with pytest.raises(InputError, match=said):
            load_rule(path)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("paper", r"unknown rule 'paper'; allowed: default, release, release_no_filter, none, "),
        ("", "unknown rule"),
        ("my module:f", "unknown rule"),
        ('["(unclosed"]', r"pattern 1, '\(unclosed', is no regular expression \(.*\); escape"),
        (["fine", "*"], r"pattern 2, '\*', is no regular expression"),
        ("[Ee]rror", "is no JSON list"),
        ("[3]", r"\[3\] is neither a string nor a list of strings; allowed: default"),
        (None, "None is neither a string nor"),
        ("[]", "list of regular expressions is empty"),
        ([], "list of regular expressions is empty"),
        ("absent.txt", r"cannot read absent\.txt \(.*No such file"),
    ],
)
def test_bad_rules_are_refused_in_one_line(spec, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        load_rule(spec)
    assert "\n" not in str(error.value)


def test_bad_pattern_file_names_the_line(tmp_path):
    file = tmp_path / "patterns.txt"
    file.write_text("fine\n\n(unclosed\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"patterns\.txt, line 3, '\(unclosed', is no regular expression"):
        load_rule(str(file))
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="allowed: a UTF-8 text file"):
        load_rule(str(file))
