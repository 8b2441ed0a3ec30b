"""The tokenizer in the metadata of a GGUF file -> the files of a Hugging Face tokenizer."""

import json
from typing import Any

from tljax.core.errors import InputError
from tljax.model.hf.gguf_file import GGUFFile
from tljax.model.hf.pre_tokenizers import PRE_TOKENIZERS, find_pre_tokenizer, pre_tokenizer_json
from tljax.storage.atomic import format_json

PREFIX = "tokenizer.ggml."
# The types of tokens, by their numbers in a GGUF file.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"  # how SentencePiece writes a blank
# Fields of tokenizer_config.json -> names in the metadata, before "_token_id".
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_ALSO_END = ("eot", "eom")  # tokens that end a turn or a message, and so a reply


def tokenizer_files(file: GGUFFile) -> dict[str, str]:
    """Returns the texts of a tokenizer's files by name.

    Raises InputError for a kind of tokenizer or a pre-tokenizer that is unknown, and for a vocabulary that does not fit
    together.
    """
    tokens, types = _vocabulary(file)
    kind = file.metadata.get(f"{PREFIX}model")
    if kind not in ("gpt2", "llama"):
        raise InputError(
            f"{file}: {PREFIX}model is {kind!r}; supported are gpt2 (byte-level BPE) and llama (SentencePiece)"
        )
    content, adds_bos = (_byte_level if kind == "gpt2" else _sentencepiece)(file, tokens, types)
    ids = {name: _token_id(file, gguf_name, tokens) for name, gguf_name in SPECIAL.items()}
    if ids["eos_token"] is None:
        raise InputError(f"{file}: {PREFIX}eos_token_id is missing, so that no reply would end; use another file")
    adds_bos = file.metadata.get(f"{PREFIX}add_bos_token", adds_bos) and ids["bos_token"] is not None
    special = {i for i in ids.values() if i is not None} | {i for i, x in enumerate(types) if x in (CONTROL, UNKNOWN)}
    content["added_tokens"] = [_added_token(i, tokens[i], i in special) for i in _added(types, special)]
    content["post_processor"] = _prepend(ids["bos_token"], tokens) if adds_bos else None
    content = {"version": "1.0", "truncation": None, "padding": None, **content}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": adds_bos}
    config |= {name: tokens[i] for name, i in ids.items() if i is not None} | {"clean_up_tokenization_spaces": False}
    files = {"tokenizer.json": json.dumps(content, ensure_ascii=False)}
    template = file.metadata.get("tokenizer.chat_template")
    if template:
        config["chat_template"] = files["chat_template.jinja"] = template
    files["tokenizer_config.json"] = format_json(config)
    ends = [ids["eos_token"], *(_token_id(file, name, tokens) for name in _ALSO_END)]
    ends = list(dict.fromkeys(i for i in ends if i is not None))
    generation = {"bos_token_id": ids["bos_token"], "eos_token_id": ends if len(ends) > 1 else ends[0]}
    generation |= {"pad_token_id": ids["pad_token"]}
    files["generation_config.json"] = format_json({name: i for name, i in generation.items() if i is not None})
    return files


def _vocabulary(file: GGUFFile) -> tuple[list[str], list[int]]:
    """Returns the tokens, and their types; where the file has no types, all are normal."""
    tokens = file.metadata.get(f"{PREFIX}tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{file}: {PREFIX}tokens is missing; use a file with its vocabulary")
    if len(set(tokens)) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if token in tokens[:i])
        raise InputError(f"{file}: {PREFIX}tokens names {twice!r} twice; fetch the file again")
    types = file.metadata.get(f"{PREFIX}token_type", [NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise InputError(
            f"{file}: {PREFIX}token_type has {len(types):,} entries, {PREFIX}tokens has {len(tokens):,}; fetch the "
            "file again"
        )
    return tokens, types


def _token_id(file: GGUFFile, name: str, tokens: list[str]) -> int | None:
    """Returns a special token's id, None where the file names none. Raises InputError for an id without a token."""
    field = f"{PREFIX}{name}_token_id"
    number = file.metadata.get(field)
    if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
        raise InputError(f"{file}: {field} is {number}, but the vocabulary has {len(tokens):,} tokens; fetch it again")
    return number


def _added(types: list[int], special: set[int]) -> list[int]:
    """Returns the ids of tokens that are found in a text before any other: special ones and the user's."""
    return [i for i, kind in enumerate(types) if i in special or kind == USER_DEFINED]


def _added_token(number: int, content: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **flags, "special": special}


def _prepend(bos: int | None, tokens: list[str]) -> dict[str, Any]:
    """Returns the post-processor that puts the token `bos` before a text."""
    assert bos is not None
    word = tokens[bos]
    first = {"SpecialToken": {"id": word, "type_id": 0}}
    single = [first, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"SpecialToken": {"id": word, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    known = {word: {"id": word, "ids": [bos], "tokens": [word]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


def _bpe(tokens: list[str], merges: list[tuple[str, str]], **fields: Any) -> dict[str, Any]:
    """Returns the `model` of a tokenizer.json."""
    defaults = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    flags = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return {
        "type": "BPE",
        **defaults,
        **flags,
        **fields,
        "vocab": vocabulary,
        "merges": [list(pair) for pair in merges],
    }


def _byte_level(file: GGUFFile, tokens: list[str], types: list[int]) -> tuple[dict[str, Any], bool]:
    """Returns a byte-level BPE for tokenizer.json, and True if it prepends BOS where the file does not say."""
    name = file.metadata.get(f"{PREFIX}pre", "default")  # as llama.cpp reads files older than the field
    pre = find_pre_tokenizer(name)
    if pre is None:
        known = ", ".join(name for pre in PRE_TOKENIZERS for name in pre.names)
        raise InputError(f"{file}: {PREFIX}pre is {name!r}, an unknown pre-tokenizer; supported are {known}")
    lines = file.metadata.get(f"{PREFIX}merges")
    if not isinstance(lines, list):
        raise InputError(f"{file}: {PREFIX}merges is missing; use a file with its vocabulary")
    words, merges = set(tokens), []
    for line in lines:
        middle = line.find(" ", 1)
        left, right = line[:middle], line[middle + 1 :]
        unknown = [word for word in (left, right, left + right) if word not in words]
        if middle < 0 or unknown:
            raise InputError(
                f"{file}: {PREFIX}merges has {line!r}, whose tokens are not in the vocabulary; fetch the file again"
            )
        merges.append((left, right))
    model = _bpe(tokens, merges, ignore_merges=pre.ignore_merges)
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer_json(pre),
        "decoder": decoder,
        "model": model,
    }, pre.adds_bos


def _sentencepiece(file: GGUFFile, tokens: list[str], types: list[int]) -> tuple[dict[str, Any], bool]:
    """Returns SentencePiece's BPE for tokenizer.json, and True, since it prepends BOS where the file does not say."""
    scores = file.metadata.get(f"{PREFIX}scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        state = f"has {len(scores):,} entries" if isinstance(scores, list) else "is missing"
        raise InputError(f"{file}: {PREFIX}scores {state}, {PREFIX}tokens has {len(tokens):,}; fetch the file again")
    spaces = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if file.metadata.get(f"{PREFIX}add_space_prefix", True):  # llama.cpp's choice where the file does not say
        spaces.insert(0, {"type": "Prepend", "prepend": SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    unknown_id = _token_id(file, SPECIAL["unk_token"], tokens)
    unknown = tokens[unknown_id] if unknown is None and unknown_id is not None else unknown
    has_bytes = {f"<0x{byte:02X}>" for byte in range(256)} <= set(tokens)
    merges = merges_by_score(tokens, scores, types)
    return {
        "normalizer": {"type": "Sequence", "normalizers": spaces},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes),
    }, True


def merges_by_score(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """Returns the merges in the order in which SentencePiece makes them: the piece with the best score comes first.

    Of pairs with equal scores those of the smallest ids come first, as in Hugging Face's own conversion of Llama 2.
    """
    normal = {
        token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in (NORMAL, USER_DEFINED)
    }
    merges = []
    for token, i in normal.items():
        for cut in range(1, len(token)):
            left, right = normal.get(token[:cut]), normal.get(token[cut:])
            if left is not None and right is not None:
                merges.append((-scores[i], left, right))
    return [(tokens[left], tokens[right]) for _, left, right in sorted(merges)]
