"""PKT, prioritizing key tokens: finds the tokens that decide which tool is called, and weighs them.

The first token of the tool's name is a key token, and so is every token at which the name branches off from another
tool's name (TL-Training, section 4.2).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from tljax.data.batch_arrays import KEY_TOKEN, NAME_TOKEN, OTHER_TOKEN

PKT_RULES = ("paper", "release", "none")

# Tokens of the Llama 2 vocabulary that the released code takes for the end of an argument. "▁" is a blank.
_CLOSING = frozenset(("',", "')", ")", ")_", "()", "()_", "▁'')", "▁')", '")', '▁")', '▁"")', '.")', ')")'))

# The tokens at which the released code ends a tool's name: in the prompt's tool list the first of them after the name's
# beginning, in a reply the first of the tuple that occurs at all.
_LISTED_NAME_ENDS = ("(", "()", "():")
_CALLED_NAME_ENDS = ("(", "()", "(_", "_(", "_()", "()_", '("')


def token_range(text: str, spans: Sequence[tuple[int, int]], start: int, end: int, *, lone_blank: bool) -> range:
    """Returns the indices of the tokens that cover a character of `text[start:end]`, a tool's name.

    spans: the character ranges of the tokens of `text`, in order
    lone_blank: True if a blank before the name that is a token of its own counts as the name's first token, as in the
        released code. Most vocabularies have "▁get" as one token, but not the first letters of every name. Such a
        blank does not decide which tool is called, so the rule of the paper leaves it out.
    """
    first = bisect_right(spans, start, key=lambda span: span[1])
    last = bisect_left(spans, end, lo=first, key=lambda span: span[0])
    if lone_blank and first and spans[first - 1] == (start - 1, start) and text[start - 1] == " ":
        first -= 1
    return range(first, last)


def released_listed_name(texts: Sequence[str], name: range) -> range:
    """Returns the tokens that the released code takes for a name in the tool list, whose own tokens are `name`.

    texts: the tokens of the prompt as text. The name runs on into its parameters where no token is exactly "(", as in
    "f", "(:", "edoc" for a parameter that is called ":edoc".
    """
    end = next((i for i in range(name.start, len(texts)) if texts[i] in _LISTED_NAME_ENDS), name.stop)
    return range(name.start, end)


def released_called_name(texts: Sequence[str], name: range) -> range:
    """Returns the tokens that the released code takes for the name of the called tool, whose own tokens are `name`.

    texts: the tokens up to the end of the reply as text. The released code stops with an error if none of them ends a
    name; `name` is returned then.
    """
    rest = texts[name.start :]
    end = next((name.start + rest.index(end) for end in _CALLED_NAME_ENDS if end in rest), name.stop)
    return range(name.start, end)


def key_offsets(called: Sequence[int], others: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Returns the key tokens K_i of the called tool's name, counted from its first token.

    called, others: the token ids of the called name and of the other names. The first token is a key token. If another
    name shares a prefix with the called one, the token after the prefix is one too; if the whole called name is that
    prefix, it is the token after the name.
    """
    offsets = {0}
    for other in others:
        pairs = enumerate(zip(called, other, strict=False))
        offsets.add(next((i for i, (a, b) in pairs if a != b), min(len(called), len(other))))
    return tuple(sorted(offsets))


def key_weight(rule: str, w_max: float, key: Sequence[int], texts: Sequence[str]) -> float:
    """Returns w = clip(|NK_i| / |K_i|, 1, w_max), the weight of a reply's key tokens.

    texts: the reply's tokens as text, without the end token; key: the positions of the key tokens. NK_i are the other
    tokens: without the end token in rule "paper"; with it, but without the ends of arguments, in rule "release".
    """
    if rule == "none" or not key:
        return 1.0
    if rule == "paper":
        others = len(texts) - len(key)
    else:
        closing = [i for i, text in enumerate(texts) if text.replace(" ", "▁") in _CLOSING]
        others = len(texts) + 1 - len({*key, *(closing or [len(texts) - 1])})
    return float(min(max(others / len(key), 1.0), w_max))


def classify_tokens(num_tokens: int, key: Sequence[int]) -> np.ndarray:
    """Returns the classes of a reply's tokens, int8 [num_tokens]; `key` are the positions of its key tokens, ascending.

    The first key token is NAME_TOKEN, the others are KEY_TOKEN, and all other tokens are OTHER_TOKEN.
    """
    classes = np.full(num_tokens, OTHER_TOKEN, np.int8)
    classes[list(key)] = KEY_TOKEN
    classes[list(key[:1])] = NAME_TOKEN
    return classes


def token_weights(classes: np.ndarray, weight: float) -> np.ndarray:
    """Returns the weights of a reply's tokens, float32 [n]: `weight` for key tokens, 1 for the others.

    classes: int8 [n], as `classify_tokens` returns them.
    """
    return np.where(classes >= KEY_TOKEN, weight, 1.0).astype(np.float32)
