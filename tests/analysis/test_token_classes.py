"""Classes of golden tokens: they equal labels made by hand and the parser's spans, with two tokenizers."""

import pytest

from tljax.analysis import token_classes as tc
from tljax.analysis.golden_steps import add_steps, candidates, choose_steps, golden_steps
from tljax.calls.parse import parse_calls
from tljax.calls.render import DIALECTS, render_call
from tljax.calls.tool import Call
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import Decision
from tljax.data.reader import open_trajectories
from tljax.data.tokenizer import load_tokenizer
from tljax.toolbox.embedded import BASE_FOLDER

LETTERS = {tc.NAME: "n", tc.PARAMETER: "p", tc.VALUE: "v", tc.SYNTAX: ".", tc.TEXT: "t"}
SHORT = LETTERS | {tc.FIRST_NAME: "F", tc.BRANCH: "B", tc.BLANK: "_", tc.END: "e"}

# Reply, its characters' classes by hand, and the call that it writes.
LABELLED = {
    "mae": [
        ('f(a="x, y", n=12)', "n.p..vvvv...p.vv.", Call("f", {"a": "x, y", "n": 12})),
        ("get_it()", "nnnnnn..", Call("get_it", {})),
        ('code:(from="a(b)", k="")', "nnnnn.pppp..vvvv...p....", Call("code:", {"from": "a(b)", "k": ""})),
        ('a b(c=d="=")', "nnn.ppp..v..", Call("a b", {"c=d": "="})),
        ('f(x=[{"a": [1, "(2)"]}], y=null)', "n.p.vvvvvvvvvvvvvvvvvvv..p.vvvv.", None),
        ('f(s="a\\"b", t=-1.5)', "n.p..vvvv...p.vvvv.", Call("f", {"s": 'a"b', "t": -1.5})),
        ('So (now):\nf(q="ü")', "ttttttttttn.p..v..", Call("f", {"q": "ü"})),
    ],
    "readme": [
        ("f(a = 'x, y', n = 12)", "n.p....vvvv...p...vv.", Call("f", {"a": "x, y", "n": 12})),
        ("get_it()", "nnnnnn..", Call("get_it", {})),
        ('f(s = "it\'s", b = True)', "n.p....vvvv...p...vvvv.", Call("f", {"s": "it's", "b": True})),
        ("pre-routes_get(x = ['a', {'b': (1)}])", None, Call("pre-routes_get", {"x": ["a", {"b": 1}]})),
    ],
}
NESTED = Call("f", {"x": [{"a": [1, "(2)"]}], "y": None})


def letters(reply, call, dialect):
    stretches = tc.character_classes(reply, call, dialect)
    ends = [start for start, _ in stretches[1:]] + [len(reply)]
    return "".join(LETTERS[kind] * (end - start) for (start, kind), end in zip(stretches, ends, strict=True))


@pytest.mark.parametrize(("dialect", "case"), [(d, i) for d in LABELLED for i in range(len(LABELLED[d]))])
def test_characters_labelled_by_hand(dialect, case):
    reply, wanted, call = LABELLED[dialect][case]
    call = call or NESTED
    if wanted is None:  # a value without brackets around the number, as Python writes it
        reply, wanted = "pre-routes_get(x = ['a', {'b': 1}])", "nnnnnnnnnnnnnn.p...vvvvvvvvvvvvvvv."
    assert reply.endswith(render_call(call, dialect))
    assert letters(reply, call, dialect) == wanted


def test_a_reply_without_a_call_is_text():
    assert letters("Done. f(x)", None, "mae") == "t" * 10


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["rotbench_third_slight", "toolalpaca_verified", "bfcl_multiturn_errors"])
def test_the_parser_finds_names_and_values_where_the_classes_are(shared, name, dialect):
    """All real calls are checked; the names of many are no identifiers."""
    calls = 0
    for trajectory in open_trajectories(str(shared / f"data/train/{name}.json"), "refuse").trajectories():
        for turn in trajectory.turns:
            if turn.call is None or turn.role != "assistant":
                continue
            reply = render_call(turn.call, dialect)
            marks = letters(reply, turn.call, dialect)
            assert len(marks) == len(reply)
            (parsed,) = parse_calls(reply, trajectory.tools).calls
            assert reply[: marks.index(".")] == parsed.name == turn.call.name
            runs, kind = [], ""
            for char, mark in zip(reply, marks, strict=True):
                if mark != kind:
                    runs.append([mark, ""])
                runs[-1][1] += char
                kind = mark
            assert [text for mark, text in runs if mark == "p"] == list(parsed.arguments)
            shown = [value for value in parsed.arguments.values() if value != ""]
            texts = [text for mark, text in runs if mark == "v"]
            assert len(texts) == len(shown)
            for text, value in zip(texts, shown, strict=True):
                assert not isinstance(value, str) or "\\" in text or text == value
            calls += 1
    assert calls > 300


class Data:
    """The fields of a config's `data` block that are read."""

    def __init__(self, dialect):
        self.dialect, self.pkt, self.w_max, self.max_tokens, self.new_names = dialect, "paper", 9.0, 8192, 0.0


class Rows(list):
    """What stands in for a source."""


def steps(tokenizer, dialect, calls, text=""):
    names = ["getPaperDetails", "getPapersByKeywords", "finish", "get"]
    tools = [{"name": name, "parameters": {"properties": {}}} for name in names]
    messages = [{"role": "user", "content": "?"}]
    for call in calls:
        called = {"function": {"name": call.name, "arguments": call.arguments}}
        messages += [{"role": "assistant", "content": text, "tool_calls": [called]}, {"role": "tool", "content": "1"}]
    trajectory = trajectory_from_record({"tools": tools, "messages": messages}, "test", 1)
    wanted = (0, list(range(len(calls))))
    found, left_out = golden_steps(Data(dialect), Rows([trajectory]), tokenizer, wanted, 4096, 64)
    assert not left_out
    return found


PAPERS = Call("getPapersByKeywords", {"keywords": "it's [a]"})
NO_ARGUMENTS = Call("get", {})
FINISH = Call("finish", {"answer": ["x", {"b": 1}]})


def check(tokenizer, step, *pairs):
    pieces = [piece for piece, _ in pairs]
    assert tokenizer.pieces(step.reply) == [*pieces, "</s>"]
    assert "".join(SHORT[kind] for kind in step.classes) == "".join(mark for _, mark in pairs) + "e"


def test_llama_tokens_labelled_by_hand(shared):
    """The method figure's example: "_get" and "apers" decide between the tools, and "P" between those and get."""
    llama2 = load_tokenizer(str(shared / "tokenizer" / "llama2"))
    papers, none, finish = steps(llama2, "mae", [PAPERS, NO_ARGUMENTS, FINISH])
    name = [("P", "B"), ("apers", "B"), ("By", "n"), ("Key", "n"), ("words", "n"), ("(", ".")]
    key = [("key", "p"), ("words", "p")]
    value = [("it", "v"), ("'", "v"), ("s", "v"), ("▁[", "v"), ("a", "v"), ("]", "v"), ('")', ".")]
    check(llama2, papers, ("▁get", "F"), *name, *key, ('="', "."), *value)
    # The called name begins two others, so what follows it decides.
    check(llama2, none, ("▁get", "F"), ("()", "B"))
    inner = [('["', "v"), ("x", "v"), ('",', "v"), ('▁{"', "v"), ("b", "v"), ('":', "v"), ("▁", "v"), ("1", "v")]
    check(llama2, finish, ("▁finish", "F"), ("(", "."), ("answer", "p"), ("=", "."), *inner, ("}", "v"), ("])", "v"))
    (papers,) = steps(llama2, "readme", [PAPERS])
    check(llama2, papers, ("▁get", "F"), *name, *key, ("▁=", "."), ('▁"', "."), *value)
    (papers,) = steps(llama2, "mae", [PAPERS], text="I see.")
    text = [("▁I", "t"), ("▁see", "t"), (".", "t"), ("<0x0A>", "t")]
    check(llama2, papers, *text, ("get", "F"), *name, *key, ('="', "."), *value)


def test_the_small_tokenizers_tokens_labelled_by_hand():
    """In it, the blank before a reply is a separate token, and one token may hold marks of two classes."""
    base = load_tokenizer(BASE_FOLDER)
    none, finish = steps(base, "readme", [NO_ARGUMENTS, FINISH])
    check(base, none, ("▁", "_"), ("g", "F"), ("et", "n"), ("(", "B"), (")", "."))
    inner = [("'", "v"), ("x", "v"), ("',▁", "v"), ("{", "v"), ("'", "v"), ("b", "v"), ("'", "v"), (":▁", "v")]
    check(
        base,
        finish,
        *[("▁", "_"), ("finish", "F"), ("(", "."), ("answer", "p"), ("▁=▁[", "v"), *inner],
        *[("1", "v"), ("}", "v"), ("])", "v")],
    )


def test_prompt_and_reply_are_the_steps_own():
    base = load_tokenizer(BASE_FOLDER)
    papers, none = steps(base, "mae", [PAPERS, NO_ARGUMENTS])
    assert base.decode(papers.prompt).endswith("\nUser: ?\nAssistant:")
    assert base.decode(none.prompt).endswith("Output: 1\nAssistant:") and base.decode(none.reply).strip() == "get()"
    assert (papers.step, none.step) == (1, 2) and papers.golden == PAPERS
    assert len(papers.weights) == len(papers.reply) == len(papers.classes) and papers.weights.max() > 1


def test_steps_that_do_not_fit_are_left_out_with_their_reason():
    base = load_tokenizer(BASE_FOLDER)
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]
    trajectory = trajectory_from_record({"tools": [{"name": "f"}], "messages": turns}, "test", 1)
    for most, words in ((20, "too long: 27 tokens"), (60, "no room for the model's reply: ")):
        found, left_out = golden_steps(Data("mae"), Rows([trajectory]), base, (0, [0]), most, 64)
        assert not found and len(left_out) == 1 and words in left_out[0]


def test_a_sample_of_steps_is_seeded_and_ordered():
    found = candidates()
    rule = {number: [Decision(k != 1, None) for k in range(4)] for number in range(50)}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    said = {"role": "assistant", "content": "text"}
    row = {"tools": [{"name": "f"}], "messages": [{"role": "user", "content": "?"}, call, call, said, call]}
    for number in range(50):
        blocked = add_steps(found, number, trajectory_from_record(row, "test", 1), lambda _, n=number: rule[n])
        assert blocked == 1
    everything = list(choose_steps(found, 0, 0))
    assert everything == [(number, [0, 3]) for number in range(50)]
    few = list(choose_steps(found, 20, 0))
    assert few == list(choose_steps(found, 20, 0)) != list(choose_steps(found, 20, 1))
    assert sum(len(picks) for _, picks in few) == 20 and [n for n, _ in few] == sorted({n for n, _ in few})
    assert list(choose_steps(found, 100, 5)) == everything
