"""PKT in the policy's loss: the tokens of sampled replies are weighed by the rule by which SFT weighs golden ones."""

from collections.abc import Sequence

import numpy as np

from tljax.calls.compare import ToolList
from tljax.data.pkt import classify_tokens, key_offsets, key_weight, token_range, token_weights
from tljax.data.steps import tokens_instead
from tljax.data.tokenizer import Tokenizer

TOKEN_WEIGHTS = ("none", "pkt")
_CONTEXT = 8  # tokens of the prompt's end: whether a name follows a blank decides its tokens


def reply_priorities(
    prompt: Sequence[int], reply: Sequence[int], tools: ToolList, tokenizer: Tokenizer, w_max: float
) -> np.ndarray:
    """Returns the weights of a sampled reply's tokens and of its end token, float32 [len(reply) + 1].

    prompt, reply: token ids, the reply's without the end token. The key tokens are those of the name of the first call:
    its first token, and every token at which it branches off from the name of another tool of the list. They have the
    weight `pkt.key_weight` of the rule "paper", and all others have 1, as do the tokens of a reply whose call cannot be
    read. The reply's own tokens are weighed, although the tokenizer might divide its text otherwise.
    """
    tail = list(prompt[-_CONTEXT:])
    texts = _texts([*tail, *reply], tokenizer)
    text, ends = "".join(texts), np.cumsum([len(part) for part in texts]).tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    begin = ends[len(tail) - 1]
    calls = tools.parse(text[begin:].strip()).calls
    start = text.find(calls[0].name, begin) if calls else -1
    if start < 0:
        return np.ones(len(reply) + 1, np.float32)
    name = (start, start + len(calls[0].name))
    called = [i - len(tail) for i in token_range(text, spans, *name, lone_blank=False)]
    others = [tokens_instead(text, name, tool.name, tokenizer) for tool in tools.tools if tool.name != calls[0].name]
    key = [called[0] + offset for offset in key_offsets([reply[i] for i in called], others)]
    # A branch after the name lies behind the last token if the reply ends with the name.
    key = [position for position in key if position <= len(reply)]
    weight = key_weight("paper", w_max, key, texts[len(tail) :])
    return token_weights(classify_tokens(len(reply) + 1, key), weight)


def _texts(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Returns the text that each token adds to the text before it. A token within a character adds none."""
    texts, before = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(list(tokens[:end])).rstrip("\ufffd")
        texts.append(text[len(before) :])
        before = text if len(text) > len(before) else before
    return texts
