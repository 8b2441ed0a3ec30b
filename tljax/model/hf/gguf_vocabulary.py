"""The files of a Hugging Face tokenizer -> the tokenizer in the metadata of a GGUF file, for llama.cpp."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from tljax.core.errors import InputError
from tljax.model.hf.gguf_tokenizer import BYTE, CONTROL, NORMAL, SPACE, SPECIAL, UNKNOWN, UNUSED, USER_DEFINED
from tljax.model.hf.pre_tokenizers import recognize_pre_tokenizer


class Vocabulary(NamedTuple):
    """A tokenizer as a GGUF file holds it.

    model: "gpt2" (byte-level BPE with `merges`, and a pre-tokenizer that llama.cpp knows as `pre`) or "llama"
    (SentencePiece with `scores`). ids: the special tokens by llama.cpp's names, such as "eos".
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    ids: dict[str, int]
    adds_bos: bool
    adds_space: bool
    chat_template: str


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Returns the tokenizer of a folder, filled up with unused tokens to `size`, the rows of the embedding.

    Raises InputError for a tokenizer that llama.cpp could not reproduce token by token.
    """
    file = folder / "tokenizer.json"
    try:
        content = json.loads(file.read_bytes())
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{file}: is not a tokenizer ({error}); give the folder of a fast tokenizer") from None
    model = content["model"]
    if model.get("type") != "BPE":
        raise InputError(f"{file}: model.type is {model.get('type')!r}; a GGUF file can hold BPE alone")
    config = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    tokens, types = _tokens(content, size, config)
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    adds_space = _adds_space(content)
    pre = recognize_pre_tokenizer(content["pre_tokenizer"], bool(model.get("ignore_merges")))
    if pre is not None and (content.get("normalizer") or {"type": "NFC"})["type"] == "NFC":
        kind, scores, lines = "gpt2", [], [" ".join(merge) for merge in merges]
    elif adds_space is not None:
        kind, scores, lines = "llama", _scores(tokens, types, merges), []
    else:
        raise InputError(
            f"{file}: llama.cpp has no name for its normalizer and pre-tokenizer, and would cut text into other "
            "tokens; supported are SentencePiece's BPE (as of Llama 2 and Mistral) and byte-level BPE as of GPT-2, "
            "SmolLM, Llama 3, Qwen 2, tekken and GPT-4o"
        )
    return Vocabulary(
        model=kind,
        pre=pre.names[0] if kind == "gpt2" and pre is not None else "default",
        tokens=tokens,
        types=types,
        scores=scores,
        merges=lines,
        ids=_special_ids(folder, config, backend),
        adds_bos=_adds_bos(backend, config),
        adds_space=bool(adds_space),
        chat_template=_chat_template(folder, config),
    )


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes()) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> Any:
    """Returns a token that is written as a string or as {"content": string}."""
    return value.get("content") if isinstance(value, dict) else value


def _tokens(content: dict[str, Any], size: int, config: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Returns the tokens by id and their types. Tokens behind the embedding's rows are left out."""
    is_sentencepiece = bool(content["model"].get("byte_fallback"))
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for token, i in content["model"]["vocab"].items():
        if i < size:
            is_byte = is_sentencepiece and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
            tokens[i], types[i] = token, BYTE if is_byte else NORMAL
    for added in content["added_tokens"]:
        if added["id"] < size:
            tokens[added["id"]] = added["content"]
            types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    unknown = content["model"].get("unk_token") if is_sentencepiece else None
    if unknown in tokens:
        types[tokens.index(unknown)] = UNKNOWN
    return tokens, types


def _adds_space(content: dict[str, Any]) -> bool | None:
    """Returns True if SentencePiece's blank goes before a text, False if not, None for any other normalizer."""
    normalizer, pre = content.get("normalizer"), content["pre_tokenizer"]
    if not content["model"].get("byte_fallback"):
        return None
    if normalizer is None and pre is not None:
        is_metaspace = pre.get("type") == "Metaspace" and pre.get("replacement") == SPACE and not pre.get("split", True)
        return pre.get("prepend_scheme") in ("first", "always") if is_metaspace else None
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if pre is not None or not steps or steps[-1] != replace:
        return None
    if steps[:-1] == [{"type": "Prepend", "prepend": SPACE}]:
        return True
    return None if steps[:-1] else False


def _scores(tokens: list[str], types: list[int], merges: list[tuple[str, ...]]) -> list[float]:
    """Returns scores by which SentencePiece merges in the order of `merges`.

    A piece's score is minus the rank of its first merge. Letters, which no merge makes, come after all pieces.
    """
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    last = len(merges)
    return [
        float(-ranks.get(token, last)) if kind in (NORMAL, USER_DEFINED) else 0.0
        for token, kind in zip(tokens, types, strict=True)
    ]


def _special_ids(folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer) -> dict[str, int]:
    """Returns the ids of special tokens by llama.cpp's names; further end tokens are "eot" and "eom"."""
    generation = _json(folder / "generation_config.json")
    ids: dict[str, int] = {}
    for field, name in SPECIAL.items():
        word = _word(config.get(field))
        number = None if word is None else backend.token_to_id(str(word))
        number = generation.get(f"{field}_id") if number is None else number
        if isinstance(number, int):
            ids[name] = number
    ends = generation.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    others = [end for end in ends if isinstance(end, int) and end != ids.get("eos")]
    names = ("eot", "eom") if "eos" in ids else ("eos", "eot", "eom")
    ids.update(zip(names, others, strict=False))
    return ids


def _adds_bos(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> bool:
    """Returns True if the tokenizer puts a token before a text."""
    plain, processed = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    return processed[:1] != plain[:1] or (config.get("add_bos_token") is True and config.get("bos_token") is not None)


def _chat_template(folder: Path, config: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    return template if isinstance(template, str) else ""
