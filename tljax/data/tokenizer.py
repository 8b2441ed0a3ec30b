"""Text -> tokens with the characters that each covers, and tokens -> text.

The `tokenizers` library reads tokenizer.json. The configuration files beside it name the tokens that begin, end and pad
a text.
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
    """A tokenizer for plain text: text that spells a special token, such as `</s>`, becomes ordinary tokens.

    bos_id: the token that `encode` prepends, None if it prepends nothing
    pad_id: fills rows. It is often a token with another meaning (CodeLLaMA: the unknown token), so never derive a mask
        from ids.
    vocab_size: the largest id plus 1
    """

    folder: str
    bos_id: int | None
    eos_id: int
    pad_id: int
    vocab_size: int
    fingerprint: str
    backend: tokenizers.Tokenizer

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns token ids and the half-open range of characters that each covers; BOS covers (0, 0).

        A blank before a word belongs to the range of the token that contains it. If several tokens encode the bytes of
        one character, each covers it. Raises InputError for text that is not valid Unicode.
        """
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except TypeError:
            raise InputError(f"text is not valid Unicode (a lone surrogate): {text[:60]!r}; mend the row") from None
        if self.bos_id is None:
            return encoding.ids, encoding.offsets
        return [self.bos_id, *encoding.ids], [(0, 0), *encoding.offsets]

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the token ids of a text that follows other text and begins with a blank or a newline.

        They are the tokens of training, which tokenizes both texts together, unless a token of the vocabulary covers
        the end of one and the start of the other, such as ")" with a newline (in tiktoken's pre-tokenizers, not in
        Llama's). Training then has one token, and this method returns two. Raises InputError as `encode` does.
        """
        ids, spans = self.encode("a" + text)
        first = next((i for i, (start, _) in enumerate(spans) if start >= 1), len(ids))
        return ids[first:]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` without special tokens; SentencePiece tokenizers drop one leading blank."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Returns the vocabulary's spelling of every token, for people to read."""
        return [self.backend.id_to_token(int(i)) or f"<{i}>" for i in ids]


def load_tokenizer(path: str) -> Tokenizer:
    """Returns the tokenizer in a folder, or of a model on the Hugging Face hub.

    Raises InputError if tokenizer.json is missing or broken, if no file names the end token, or if the hub does not
    have the model.
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
    # Truncation and padding may be saved in tokenizer.json; both would change rows silently.
    backend.no_truncation()
    backend.no_padding()
    bos = _bos_id(backend, folder)
    # Some post-processors remove the leading blank from a token's range. They also prepend BOS, which `bos` replaces.
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
    """Returns the id of the token in a field of TOKEN_FILES, which is a string or {"content": string}."""
    for name in TOKEN_FILES:
        token = _read_json(folder / name).get(field)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            token_id = backend.token_to_id(str(token))
            if token_id is None:
                raise InputError(f"{folder / name}, field {field}: {token!r} is not in tokenizer.json's vocabulary")
            return token_id
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
    """Returns the token that the post-processor prepends, or else bos_token if add_bos_token is true.

    transformers 5 reads the post-processor alone; version 4 also reads the field for Llama's classes.
    """
    plain = backend.encode("a", add_special_tokens=False).ids
    processed = backend.encode("a").ids
    if processed[:1] != plain[:1]:
        return processed[0]
    add = _read_json(folder / "tokenizer_config.json").get("add_bos_token")
    return _named_id(backend, folder, "bos_token") if add is True else None
