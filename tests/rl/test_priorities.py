"""PKT's weights of sampled replies: those that SFT gives to the same replies as golden ones."""

import json

import numpy as np
import pytest

from tests.data.test_steps import PAPERS, raw, steps
from tljax.calls.compare import as_tool_list
from tljax.data.formats.read import trajectory_from_record
from tljax.data.tokenizer import Tokenizer, load_tokenizer
from tljax.rl.priorities import reply_priorities
from tljax.toolbox.embedded import resolve_model_path

SHARED_PREFIXES = ["get_weather", "get_weather_at", "get", "set_weather", "finish"]


@pytest.fixture(scope="session")
def llama2(shared) -> Tokenizer:
    return load_tokenizer(str(shared / "tokenizer" / "llama2"))


@pytest.fixture(scope="session")
def base() -> Tokenizer:
    return load_tokenizer(resolve_model_path("base"))


def sampled_and_golden(trajectory, tokenizer, dialect="mae"):
    """Yields (weights of the reply as if it had been sampled, weights of SFT, the reply) of every kept step."""
    tools = as_tool_list(trajectory.tools)
    for step in steps(trajectory, tokenizer, dialect=dialect):
        if step.tokenized is None:
            continue
        tokens, start = step.tokenized.tokens.tolist(), step.tokenized.reply_start
        weights = reply_priorities(tokens[:start], tokens[start:-1], tools, tokenizer, 9.0)
        yield weights, step.tokenized.weights, step.reply


def check(trajectory, tokenizer, dialect="mae"):
    called = 0
    for ours, theirs, reply in sampled_and_golden(trajectory, tokenizer, dialect):
        np.testing.assert_allclose(ours, theirs, err_msg=reply)
        assert ours.dtype == np.float32
        called += ours.max() > 1
    return called


@pytest.mark.parametrize("dialect", ["mae", "readme", "full"])
def test_the_weights_are_those_of_the_same_golden_reply(llama2, base, dialect):
    call = ("assistant", 'get_weather_at\n{"a": "Rome, then Paris and Athens in the evening"}')
    mine = raw(("user", "?"), call, ("function", "x"), ("assistant", 'get\n{"a": "x"}'), tools=SHARED_PREFIXES)
    for tokenizer in (llama2, base):
        assert check(mine, tokenizer, dialect) == 2
        assert check(PAPERS, tokenizer, dialect) >= 2


def test_the_weights_are_those_of_real_golden_replies(llama2, shared):
    rows = json.loads((shared / "data/train/rotbench_third_clean.json").read_text())[:60]
    called = sum(check(trajectory_from_record(row, "r", i), llama2) for i, row in enumerate(rows, 1))
    assert called > 60


def test_a_name_in_other_tokens_has_its_key_tokens_by_these(llama2):
    """A sampler may draw tokens that the tokenizer would not choose for the text."""
    tools = as_tool_list(raw(("user", "?"), ("assistant", "x"), tools=["get_weather", "get_time"]).tools)
    usual, _ = llama2.encode('get_weather(a="Rome")')
    letters = [llama2.backend.token_to_id(letter) for letter in ("\u2581g", *"et_weather")]
    spelled = [*letters, *llama2.encode('(a="Rome")')[0]]
    assert llama2.decode(letters) == "get_weather" and spelled != usual
    weights = reply_priorities(llama2.encode("Assistant:")[0], spelled, tools, llama2, 9.0)
    # Another name has the tokens of the tokenizer, so that the first letter alone decides.
    assert weights[0] == weights.max() > 1 and weights[1:].max() == 1


@pytest.mark.parametrize("text", ["I cannot do that.", "", "unlisted_words", "caf\u00e9 \u6771 \U0001f600"])
def test_a_reply_without_a_readable_call_has_equal_weights(llama2, text):
    tools = as_tool_list(PAPERS.tools)
    tokens = llama2.encode(text)[0]
    weights = reply_priorities(llama2.encode("Assistant:")[0], tokens, tools, llama2, 9.0)
    np.testing.assert_array_equal(weights, np.ones(len(tokens) + 1, np.float32))
