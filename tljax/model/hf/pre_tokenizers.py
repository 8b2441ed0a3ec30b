"""llama.cpp's names of pre-tokenizers <-> the pre-tokenizer of a tokenizer.json.

A pre-tokenizer cuts a text into pieces, within which byte-level BPE merges. A GGUF file names its pre-tokenizer, and
llama.cpp knows the patterns by heart.
"""

from typing import Any, NamedTuple

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_AFTER_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_AFTER_WORDS}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_AFTER_WORDS}"
# Words in which capitals come first: of tekken, Mistral's tokenizer, and of GPT-4o's.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD_1, _WORD_2 = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_AFTER_CASED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_WORD_1}|{_WORD_2}|\p{{N}}{_AFTER_CASED}"
_GPT4O = rf"{_WORD_1}{_CONTRACTIONS}?|{_WORD_2}{_CONTRACTIONS}?|\p{{N}}{{1,3}}{_AFTER_CASED}"


class PreTokenizer(NamedTuple):
    """The patterns that cut a text one after the other; pieces between the matches of a pattern are pieces too.

    names: those of llama.cpp; the first is written. ignore_merges: a piece that is a token becomes that token, whatever
    the merges give. adds_bos: llama.cpp's choice where a file does not name one.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False


_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
PRE_TOKENIZERS = (
    PreTokenizer(("gpt-2", "phi-2", "mpt", "olmo", "jais"), (_GPT2,)),
    PreTokenizer(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), (r"\p{N}", _GPT2)
    ),
    PreTokenizer(_LLAMA3_NAMES, (_LLAMA3,), ignore_merges=True, adds_bos=True),
    PreTokenizer(("smaug-bpe", "dbrx"), (_LLAMA3,)),
    PreTokenizer(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"), (_QWEN2,)),
    PreTokenizer(("tekken",), (_TEKKEN,), ignore_merges=True, adds_bos=True),
    PreTokenizer(("gpt-4o", "llama4", "kanana2"), (_GPT4O,)),
    PreTokenizer(("default",), (r"[\p{P}\$\+<=>\^~\|]+", _GPT2.removesuffix(r"|\s+"), r"\p{N}+", "[0-9][0-9][0-9]")),
)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def find_pre_tokenizer(name: str) -> PreTokenizer | None:
    """Returns the pre-tokenizer of llama.cpp's `name`, None if it is unknown."""
    return next((pre for pre in PRE_TOKENIZERS if name in pre.names), None)


def pre_tokenizer_json(pre: PreTokenizer) -> dict[str, Any]:
    """Returns the value of `pre_tokenizer` in a tokenizer.json."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, _BYTE_LEVEL | {"use_regex": False}]}


def _patterns(value: dict[str, Any] | None) -> list[str] | None:
    """Returns the patterns of a tokenizer.json's pre-tokenizer, None if it does not have the form of one above."""
    steps = value.get("pretokenizers", [value]) if value else []
    patterns, is_byte_level = [], False
    for step in steps:
        if is_byte_level:
            return None
        if step.get("type") == "Digits" and step.get("individual_digits"):
            patterns.append(r"\p{N}")
        elif step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            patterns.append(step.get("pattern", {}).get("Regex"))
        elif step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
            patterns += [_GPT2] if step.get("use_regex", True) else []
            is_byte_level = True
        else:
            return None
    return patterns if is_byte_level else None


def recognize_pre_tokenizer(value: dict[str, Any] | None, ignore_merges: bool) -> PreTokenizer | None:
    """Returns the pre-tokenizer that a tokenizer.json has, None if llama.cpp has no name for it."""
    patterns = _patterns(value)
    return next(
        (pre for pre in PRE_TOKENIZERS if list(pre.patterns) == patterns and pre.ignore_merges == ignore_merges), None
    )
