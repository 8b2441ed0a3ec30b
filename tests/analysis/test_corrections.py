"""Replies whose first wrong token is corrected, by a model whose replies are known: each letter decides the next."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tljax.analysis import token_classes as tc
from tljax.analysis.corrections import ANY, IN_NAME, NONE, ReplyCounts, corrected_prompt
from tljax.analysis.golden_steps import golden_steps
from tljax.analysis.run import score_window
from tljax.analysis.token_losses import ALL_TOKENS, TokenCounts, percentile
from tljax.calls.tool import Call
from tljax.data.formats.read import trajectory_from_record
from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.generate.sampling import SampleOptions
from tljax.model import llama

WORDS = ["<unk>", "<s>", "</s>", *map(chr, range(32, 127)), "\n"]
# What follows each letter; of the others, a blank.
NEXT = {":": " ", " ": "m", "m": "u", "u": "l", "l": "(", "(": "x", "x": "=", "=": "1", "1": "2", "2": ")"}
NEXT |= {")": "</s>", "3": ")", "a": "d", "d": "e", "e": "(", "b": "c", "c": "(", "y": "=", ",": ")"}
NEXT |= {"q": "("}
SECOND = {" ": "a"}  # what comes second
TOOLS = ("mul", "ade", "abc", "q")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Every letter is a token."""
    folder = tmp_path_factory.mktemp("letters")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "unk_token": "<unk>"}))
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def config():
    size = 128
    assert len(WORDS) <= size
    return llama.LlamaConfig(
        **dict(num_layers=1, d_model=size, num_heads=1, num_kv_heads=1, head_dim=8, d_ff=8, vocab_size=size),
        **dict(rope_theta=1e4, rope_scaling=None, norm_eps=1e-5, tie_embeddings=False, qkv_bias=False),
        **dict(max_positions=2048, sliding_window=None, architecture="LlamaForCausalLM"),
    )


@pytest.fixture(scope="module")
def one_device():
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def pairs_model(config, one_device):
    """Layers that add nothing; the embedding of a letter is its own axis, the head's row for it names the next."""
    params = llama.map_table(lambda p: jnp.zeros(p.shape, jnp.float32), config)
    params["embed"] = jnp.eye(config.vocab_size, dtype=jnp.float32)
    params["final_norm"] = jnp.ones_like(params["final_norm"])
    head = np.zeros((config.vocab_size, config.vocab_size), np.float32)
    for i, word in enumerate(WORDS):
        head[i, WORDS.index(NEXT.get(word, " "))] = 1
        if word in SECOND:
            head[i, WORDS.index(SECOND[word])] = 0.5
    return params | {"lm_head": jnp.asarray(head)}


GOLDEN = {
    "right": Call("mul", {"x": 12}),
    "first letter": Call("ade", {"x": 12}),
    "one letter": Call("q", {"x": 12}),
    "two letters": Call("abc", {"x": 12}),
    "value": Call("mul", {"x": 13}),
    "comma": Call("mul", {"x": 12, "y": 1}),
    "open": Call("mul", {"x": 1}),
}


class Data:
    dialect, pkt, w_max, max_tokens, new_names = "mae", "paper", 9.0, 1024, 0.0


@pytest.fixture(scope="module")
def asked(pairs_model, config, tokenizer):
    """Steps, scores and outcomes of all of GOLDEN, by its keys; each step is a trajectory of its own."""
    properties = {name: {"type": "integer"} for name in ("x", "y")}
    tools = [{"name": name, "parameters": {"properties": properties, "required": ["x"]}} for name in TOOLS]
    steps = []
    for call in GOLDEN.values():
        called = {"function": {"name": call.name, "arguments": call.arguments}}
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [called]}]
        trajectory = trajectory_from_record({"tools": tools, "messages": messages}, "test", 1)
        found, left_out = golden_steps(Data, [trajectory], tokenizer, (0, [0]), config.max_tokens, 24)
        assert not left_out
        steps += found
    options = SampleOptions.greedy(
        ConfigDict({"compute_dtype": "float32", "attention": "reference"}), 24, tokenizer.eos_id
    )
    scores, outcomes, replies = score_window(pairs_model, config, tokenizer, steps, options, rows=4)
    assert len(replies) == len(steps)
    return {name: (steps[i], scores[i], outcomes[i]) for i, name in enumerate(GOLDEN)}


EXPECTED = {
    # kind and text as decoded; class of the first wrong token, wrong tokens; kind, text and name once it is corrected
    "right": ("correct", "mul(x=12)", None, 0, None),
    "first letter": ("wrong_tool", "mul(x=12)", tc.FIRST_NAME, 1, ("correct", "ade(x=12)", True)),
    "one letter": ("wrong_tool", "mul(x=12)", tc.FIRST_NAME, 1, ("correct", "q(x=12)", True)),
    "two letters": ("wrong_tool", "mul(x=12)", tc.FIRST_NAME, 2, ("wrong_tool", "ade(x=12)", False)),
    "value": ("content", "mul(x=12)", tc.VALUE, 1, ("correct", "mul(x=13)", True)),
    # After the comma it closes the call at once, where a blank, the second parameter and then no 2 are golden.
    "comma": ("parameter", "mul(x=12)", tc.SYNTAX, 4, ("parameter", "mul(x=12,)", True)),
    "open": ("content", "mul(x=12)", tc.SYNTAX, 1, ("correct", "mul(x=1)", True)),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_every_outcome_is_the_known_one(asked, name):
    step, _, outcome = asked[name]
    kind, text, where, wrong, corrected = EXPECTED[name]
    assert (outcome.greedy.comparison.kind, outcome.greedy.text) == (kind, text)
    assert outcome.num_wrong == wrong
    if where is None:
        assert outcome.first_wrong is None and outcome.corrected is None
        return
    assert step.classes[outcome.first_wrong] == where
    after = outcome.corrected
    assert (after.comparison.kind, after.text, after.named) == corrected
    # Decoding goes on to the golden reply exactly where no second token is wrong.
    golden = "".join(WORDS[i] for i in step.reply[1:-1])
    assert (after.text == golden) == (wrong == 1)


def test_losses_and_ranks_are_the_known_ones(asked):
    """The normed embedding has one number that is not 0, and the head gives it, or half of it, to the letters above."""
    step, scores, _ = asked["two letters"]
    top, golden = (1 / 128 + 1e-5) ** -0.5, [WORDS[i] for i in step.reply]
    for i, (before, after) in enumerate(zip([":", *golden[:-1]], golden, strict=True)):
        logits = {NEXT[before]: top} | ({SECOND[before]: top / 2} if before in SECOND else {})
        whole = sum(np.exp(x) for x in logits.values()) + 128 - len(logits)
        assert scores.nll[i] == pytest.approx(np.log(whole) - logits.get(after, 0), rel=1e-3)
    # "a" is the second choice after the blank; "b" is one of many that the model does not know after "a".
    assert golden[1:3] == ["a", "b"] and scores.rank[1] == 2 and scores.rank[2] == 2 + WORDS.index("b")
    assert (np.delete(scores.rank, [1, 2]) == 1).all()


def test_the_tables_count_what_there_is(asked):
    replies, tokens = ReplyCounts(), TokenCounts()
    for step, scores, outcome in asked.values():
        replies.add([outcome])
        tokens.add([step], [scores])
    tables = {table.name: {row[0]: row for row in table.rows} for table in [*replies.tables(), *tokens.tables()]}
    kinds = {kind: row[1] for kind, row in tables["error_kinds"].items()}
    assert kinds == {
        **{"correct": 1, "format": 0, "tool_hallucination": 0, "wrong_tool": 3, "parameter": 1, "- missing": 1},
        "content": 2,
    }
    assert [row[1] for row in tables["scores"].values()] == [4, 3, 1]
    values = {name: [cell and cell.value for cell in row[3:]] for name, row in tables["corrections"].items()}
    assert values[NONE] == [100, None, None]
    assert values[tc.FIRST_NAME] == pytest.approx([0, 200 / 3, 200 / 3]) and values[tc.VALUE] == [0, 100, 100]
    assert values[tc.SYNTAX] == [0, 50, 50] and values[ANY] == pytest.approx([0, 200 / 3, 200 / 3])
    assert [row[1] for row in tables["corrections"].values()] == [1, 3, 1, 2, 6]
    name = tables["names"]
    assert name[tc.FIRST_NAME][1:3] == [3, 2] and name[tc.FIRST_NAME][3].value == 50
    assert name[tc.BRANCH][1:3] == [0, 0] and name[tc.BRANCH][3] is None and name[IN_NAME][1] == 3
    assert [row[1] for row in tables["wrong_tokens"].values()] == [1, 4, 1, 0, 1, 0, 0]
    steps = [step for step, _, _ in asked.values()]
    total = sum(len(step.reply) for step in steps)
    assert tables["token_classes"][ALL_TOKENS][1] == total
    assert tables["token_classes"][tc.FIRST_NAME][1] == 7
    assert tables["token_classes"][tc.FIRST_NAME][3].value == pytest.approx(100 * 4 / 7)
    for column in (4, 5, 6):
        assert sum(row[column].value for row in tables["token_classes"].values() if row[column]) == pytest.approx(100)
    nll = np.concatenate([scores.nll for _, scores, _ in asked.values()])
    assert tables["token_classes"][ALL_TOKENS][2].value == pytest.approx(nll.mean(), rel=1e-5)
    weights = np.concatenate([step.weights for step in steps])
    first = sum(step.weights[1] for step in steps)
    assert tables["token_classes"][tc.FIRST_NAME][6].value == pytest.approx(100 * first / weights.sum(), rel=1e-5)


def test_a_correction_that_ends_the_reply_is_final(asked):
    step, _, _ = asked["right"]
    assert corrected_prompt(step, len(step.reply) - 1) is None
    assert corrected_prompt(step, 1) == [*step.prompt, *step.reply[:2]]


def test_percentiles_of_counts():
    from collections import Counter

    ranks = [1] * 6 + [2] * 3 + [50]
    assert [percentile(Counter(ranks), share) for share in (0.5, 0.9, 0.95)] == [1, 2, 50]
