"""Text to tokens and back, with the characters that every token covers.

Read from tokenizer.json through the `tokenizers` library; which tokens begin, end and pad a text comes from the
configuration files beside it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from tljax.core.errors import InputError
from tljax.storage.hub import local_or_hub

TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")
ID_FILES = ("generation_config.json", "config.json")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer whose input is plain text: what spells a special token, such as `</s>`, becomes ordinary tokens.

    `bos_id` is what `encode` prepends, None where it prepends nothing. `pad_id` fills rows and is often a token of
    other meaning (CodeLLaMA: the unknown token), so masks never come from ids. `vocab_size` is the largest id plus 1.
    """

    folder: str
    bos_id: int | None
    eos_id: int
    pad_id: int
    vocab_size: int
    fingerprint: str
    backend: tokenizers.Tokenizer

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and the half-open character range of `text` that each covers; BOS covers (0, 0).

        A blank before a word belongs to the range of the token that holds it; tokens of one multi-byte character
        all cover that character. Raises InputError for text that is no valid Unicode.
        """
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except TypeError:
            raise InputError(f"text is not valid Unicode (a lone surrogate): {text[:60]!r}; mend the row") from None
        if self.bos_id is None:
            return encoding.ids, encoding.offsets
        return [self.bos_id, *encoding.ids], [(0, 0), *encoding.offsets]

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of `text`, which begins with a blank or a newline, where it follows other text.

        Text and continuation are tokenized as training tokenizes them together, unless the vocabulary has tokens that
        reach over the seam, such as ")" with a newline (tiktoken's pre-tokenizers, not Llama's): there training has one
        token and this has two. Raises InputError as `encode` does.
        """
        ids, spans = self.encode("a" + text)
        first = next((i for i, (start, _) in enumerate(spans) if start >= 1), len(ids))
        return ids[first:]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens; SentencePiece tokenizers drop one leading blank."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's own spelling of every token, for people to read."""
        return [self.backend.id_to_token(int(i)) or f"<{i}>" for i in ids]


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer in a folder or of a model on the Hugging Face hub.

    Raises InputError where tokenizer.json is missing or broken, no end token is known, or the hub has no such model.
    """
    folder = local_or_hub(path, "tokenizer", ["tokenizer.json", "tokenizer.model", *TOKEN_FILES, *ID_FILES])
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InputError(_missing(folder))
    try:
        content = file.read_bytes()
        backend = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{file}: is not a tokenizer ({error}); copy it again from the model it belongs to") from None
    # A tokenizer.json may carry the settings of whoever saved it; both would alter rows silently.
    backend.no_truncation()
    backend.no_padding()
    bos = _bos_id(backend, folder)
    # Some post-processors cut the leading blank off a token's range; BOS, their other work, is known by now.
    backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    backend.encode_special_tokens = True
    eos = _eos_id(backend, folder)
    unk = _named_id(backend, folder, "unk_token")
    pad = _named_id(backend, folder, "pad_token")
    pad = next(i for i in (pad, unk, eos) if i is not None)
    digest = hashlib.sha256(content + json.dumps([bos, eos, pad]).encode()).hexdigest()
    return Tokenizer(str(folder), bos, eos, pad, max(backend.get_vocab().values()) + 1, digest, backend)


def _missing(folder: Path) -> str:
    if not (folder / "tokenizer.model").is_file():
        return f"tokenizer {folder}: has no tokenizer.json; give the folder of a Hugging Face model"
    return (
        f"tokenizer {folder}: has only tokenizer.model, and transformers 5 builds another merge order from it (4 "
        "spaces come out differently); copy tokenizer.json from the model's hub page, or save it with transformers 4"
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file}: is not JSON ({error}); copy it again from the model it belongs to") from None
    return value if isinstance(value, dict) else {}


def _named_id(backend: tokenizers.Tokenizer, folder: Path, field: str) -> int | None:
    """The id of a token that the files name, as a string or as {"content": string}."""
    for name in TOKEN_FILES:
        token = _read_json(folder / name).get(field)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            found = backend.token_to_id(str(token))
            if found is None:
                raise InputError(f"{folder / name}, field {field}: {token!r} is not in tokenizer.json's vocabulary")
            return found
    return None


def _eos_id(backend: tokenizers.Tokenizer, folder: Path) -> int:
    eos = _named_id(backend, folder, "eos_token")
    if eos is not None:
        return eos
    for name in ID_FILES:
        value = _read_json(folder / name).get("eos_token_id")
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            if backend.id_to_token(value) is None:
                raise InputError(f"{folder / name}, field eos_token_id: {value} is not in tokenizer.json's vocabulary")
            return value
    raise InputError(f"tokenizer {folder}: names no end token; set eos_token in its tokenizer_config.json")


def _bos_id(backend: tokenizers.Tokenizer, folder: Path) -> int | None:
    """What a text begins with: what the post-processor prepends, else bos_token where add_bos_token is set.

    transformers 5 reads the post-processor alone, version 4 the field too for Llama's classes.
    """
    plain = backend.encode("a", add_special_tokens=False).ids
    processed = backend.encode("a").ids
    if processed[:1] != plain[:1]:
        return processed[0]
    add = _read_json(folder / "tokenizer_config.json").get("add_bos_token")
    return _named_id(backend, folder, "bos_token") if add is True else None
