"""Key tokens and weights: the released code's numbers, the paper's figure, and every branch between tool names."""

import re

import numpy as np
import pytest

from tljax.data.batch_arrays import KEY_TOKEN, NAME_TOKEN, OTHER_TOKEN
from tljax.data.pkt import (
    classify_tokens,
    key_offsets,
    key_weight,
    released_called_name,
    released_listed_name,
    token_range,
    token_weights,
)

PAPER_TOOLS = ["getPaperDetails", "getPapersByKeywords", "finish"]


def prompt_of(tools, reply):
    """A prompt that defines `tools`, then `reply`; the ranges of the defined names and of the called one."""
    text = "System: " + "\n\n".join(f"Function:\ndef {tool}(a: string):" for tool in tools) + "\nUser: q\nAssistant:"
    names = [match.span(1) for match in re.finditer(r"def (.+?)\(", text)]
    called = (len(text) + 1, len(text) + 1 + reply.index("("))
    return f"{text} {reply}", names, called


def key_pieces(tokenizer, tools, reply):
    """The key tokens of `reply` as text."""
    text, names, called = prompt_of(tools, reply)
    ids, spans = tokenizer.encode(text)
    at = token_range(text, spans, *called, lone_blank=True)
    others = [
        [ids[i] for i in token_range(text, spans, *n, lone_blank=True)]
        for n in names
        if text[slice(*n)] != text[slice(*called)]
    ]
    return [text[slice(*spans[at.start + k])] for k in key_offsets([ids[i] for i in at], others)]


def test_released_key_tokens_weight_and_loss(llama2, golden_pkt):
    for row in golden_pkt:
        text, first = row["text"].removesuffix("</s>"), row["answer_start"]
        ids, spans = llama2.encode(text)
        called = re.compile(r" (.+?)\(").match(text, spans[first][0]).span(1)
        names = [match.span(1) for match in re.finditer(r"Function:\ndef (.+?)\(", text)]
        others = [n for n in names if text[slice(*n)] != text[slice(*called)]]
        at = token_range(text, spans, *called, lone_blank=True)
        listed = [[ids[i] for i in token_range(text, spans, *n, lone_blank=True)] for n in others]
        key = [at.start - first + k for k in key_offsets([ids[i] for i in at], listed)]
        assert key == sorted(row["key"])
        weight = key_weight("release", 9, key, [text[a:b] for a, b in spans[first:]])
        assert weight == pytest.approx(row["weight"], abs=1e-6)
        weights = token_weights(classify_tokens(len(row["target_logit"]), key), weight)
        nll = np.logaddexp(0, -np.array(row["target_logit"]))
        assert (weights * nll).sum() / weights.sum() == pytest.approx(row["loss"], abs=1e-5)


def test_key_tokens_and_weight_are_those_of_the_papers_figure(llama2):
    # The figure sets " get" and what follows "getP" in bold; "finish" shares no prefix.
    assert key_pieces(llama2, PAPER_TOOLS, 'getPaperDetails(a="x")') == [" get", "aper"]
    assert key_pieces(llama2, PAPER_TOOLS, 'getPapersByKeywords(a="x")') == [" get", "apers"]
    assert key_pieces(llama2, PAPER_TOOLS, 'finish(a="x")') == [" finish"]


def test_every_branch_is_a_key_token_in_both_families(tokenizer):
    tools = ["get_weather", "get_wind", "send_mail", "get_weather_at"]
    text, _, called = prompt_of(tools, "get_weather(a=1)")
    _, spans = tokenizer.encode(text)
    name = [text[slice(*spans[i])] for i in token_range(text, spans, *called, lone_blank=True)]
    keys = key_pieces(tokenizer, tools, "get_weather(a=1)")
    # The first token, the branch to get_wind inside the name, and the one to get_weather_at right after it.
    assert keys[0] == name[0] and keys[1] in name[1:] and keys[-1].startswith("(")
    assert "".join(name) == " get_weather"


def test_no_key_token_but_the_first_without_a_shared_prefix(tokenizer):
    assert len(key_pieces(tokenizer, ["get_weather", "send_mail", "get_weather"], "get_weather(a=1)")) == 1


@pytest.mark.parametrize(
    ("called", "others", "offsets"),
    [
        ([5, 6, 7], [], (0,)),
        ([5, 6, 7], [[8], [9, 6, 7]], (0,)),
        ([5, 6, 7], [[5, 6, 8], [5, 6, 9]], (0, 2)),
        ([5, 6, 7], [[5], [5, 6]], (0, 1, 2)),
        ([5, 6], [[5, 6, 7], [5, 9]], (0, 1, 2)),
    ],
)
def test_key_offsets_lie_where_other_names_branch_off(called, others, offsets):
    assert key_offsets(called, others) == offsets


@pytest.mark.parametrize(
    ("name", "spans", "want"),
    [
        ((5, 8), [(0, 4), (4, 8), (8, 9)], range(1, 2)),  # " get", "("
        ((5, 8), [(0, 4), (4, 5), (5, 8), (8, 9)], range(1, 3)),  # " ", "get", "("
        ((5, 8), [(0, 4), (4, 6), (6, 9)], range(1, 3)),  # " g", "et("
        ((5, 8), [(0, 3), (3, 5), (5, 8)], range(2, 3)),  # "f ", "get": more than the blank is not the name's
        ((5, 6), [(0, 4), (4, 5), (5, 6), (5, 6), (5, 6), (6, 9)], range(1, 5)),  # bytes of one character
        ((5, 8), [(0, 0), (0, 4), (4, 8)], range(2, 3)),  # BOS
    ],
)
def test_the_tokens_of_a_name_are_those_that_hold_its_characters(name, spans, want):
    assert token_range("-def get(", spans, *name, lone_blank=True) == want


def test_a_lone_blank_decides_nothing_for_the_paper():
    assert token_range("-def get(", [(0, 4), (4, 5), (5, 8), (8, 9)], 5, 8, lone_blank=False) == range(2, 3)


def test_a_lone_blank_is_no_part_of_a_name_after_a_newline():
    assert token_range("x\nget", [(0, 1), (1, 2), (2, 5)], 2, 5, lone_blank=True) == range(2, 3)


@pytest.mark.parametrize(
    ("texts", "num_tokens"),
    [
        ([" f", "(", "a", ":"], 1),
        ([" f", "g", "():"], 2),
        ([" f", "(:", "ed", "oc", ": string", ")", ":", "(", "b", "("], 7),
        ([" f", "(_", "x", "():"], 3),
        ([" f", "_(", "a", "()"], 3),
        ([" f", " (", "a"], 1),  # the text ends first
    ],
)
def test_the_released_code_ends_a_listed_name_at_a_token_that_is_exactly_a_parenthesis(texts, num_tokens):
    name = range(1, 3 if texts[1] == "g" else 2)
    assert released_listed_name(["def", *texts], name) == range(1, 1 + num_tokens)


@pytest.mark.parametrize(
    ("texts", "num_tokens"),
    [
        ([" f", "(", "a", '="', "(", '")'], 1),
        ([" f", "(_", "a", '="', "x", '")'], 1),  # in a reply "(_" ends a name
        ([" f", "(_", "a", '="', "b", "(", '")'], 5),  # but "(" is looked for first, everywhere
        ([" f", "(:", "ed", '="', "b", "()", '")'], 5),
        ([" f", "_(", "a", ")"], 1),
        ([" f", "(:", "ed", '="', "b", '")'], 1),  # the released code fails here
    ],
)
def test_the_released_code_ends_a_called_name_at_the_first_of_its_marks_that_occurs(texts, num_tokens):
    assert released_called_name(["Assistant:", *texts], range(1, 2)) == range(1, 1 + num_tokens)


def test_weight_counts_other_tokens():
    # Ten tokens of which two are key tokens: NK = 8 without the end token.
    texts = [" f", "x", "(", "a", "='", "b", "c", "d", "e", "')"]
    assert key_weight("paper", 9.0, (0, 1), texts) == 4.0
    # The released count: + end token, - "')".
    assert key_weight("release", 9.0, (0, 1), texts) == 4.0
    # Nothing of the list: the token before the end token stands in for it.
    assert key_weight("release", 9.0, (0, 1), [*texts[:-1], "x"]) == 4.0
    assert key_weight("release", 9.0, (0, 1), [*texts[:4], "',", " ')", *texts[6:]]) == 3.0
    # A closing token that is a key token counts once.
    assert key_weight("release", 9.0, (0, 9), texts) == 4.5
    assert key_weight("none", 9.0, (0, 1), texts) == 1.0


@pytest.mark.parametrize("rule", ["paper", "release"])
def test_weight_is_clipped(rule):
    assert key_weight(rule, 9.0, (0,), [" f"] + ["x"] * 60) == 9.0
    assert key_weight(rule, 3.5, (0,), [" f"] + ["x"] * 60) == 3.5
    assert key_weight(rule, 9.0, (0, 1, 2), [" f", "g", "h", "("]) == 1.0
    assert key_weight(rule, 9.0, (), ["any", " text"]) == 1.0


def test_weights_are_float32_with_fractions():
    weights = token_weights(classify_tokens(5, (0, 3)), 5 / 3)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.array([5 / 3, 1, 1, 5 / 3, 1], np.float32))


def test_the_first_key_token_is_the_name_token():
    assert classify_tokens(5, (1, 3)).tolist() == [OTHER_TOKEN, NAME_TOKEN, OTHER_TOKEN, KEY_TOKEN, OTHER_TOKEN]
    assert classify_tokens(2, ()).tolist() == [OTHER_TOKEN, OTHER_TOKEN]
