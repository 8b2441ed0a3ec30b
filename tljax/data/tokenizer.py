"""Text -> tokens with the characters that each covers, and tokens -> text.

The `tokenizers` library reads tokenizer.json. The configuration files beside it name the tokens that begin, end and pad
a text.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from tljax.core.errors import InputError
from tljax.storage.hub import local_or_hub
from tljax.storage.token_files import ID_FILES, TEMPLATE_FILES, TEXT_FILES, named_token, read_end_ids, read_object


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer for plain text: text that spells a special token, such as `</s>`, becomes ordinary tokens.

    `reading_special_tokens` returns the exception.

    bos_id: the token that `encode` prepends, None if it prepends nothing
    eos_id: the end token of training; eos_ids: all tokens that end a reply, in the order of the model's files
    pad_id: fills rows. It is often a token with another meaning (CodeLLaMA: the unknown token), so never derive a mask
        from ids.
    vocab_size: the largest id plus 1
    lacking: the ids for which the model has no row in its embedding; see `fit_to_rows`
    """

    folder: str
    bos_id: int | None
    eos_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int
    fingerprint: str
    backend: tokenizers.Tokenizer
    lacking: frozenset[int] = frozenset()

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns token ids and the half-open range of characters that each covers; BOS covers (0, 0).

        A blank before a word belongs to the range of the token that contains it. If several tokens encode the bytes of
        one character, each covers it. Raises InputError for text that is not valid Unicode,
        or that needs a token without a row.
        """
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except TypeError:
            raise InputError(f"text is not valid Unicode (a lone surrogate): {text[:60]!r}; mend the row") from None
        if self.lacking:
            self._check_rows(encoding.ids)
        if self.bos_id is None or (self.reads_special_tokens and encoding.ids[:1] == [self.bos_id]):
            return encoding.ids, encoding.offsets
        return [self.bos_id, *encoding.ids], [(0, 0), *encoding.offsets]

    @property
    def reads_special_tokens(self) -> bool:
        """True if text that spells a special token becomes that token."""
        return not self.backend.encode_special_tokens

    def reading_special_tokens(self) -> "Tokenizer":
        """Returns this tokenizer for prompts in which text that spells a special token is meant as that token.

        A prompt that begins with BOS gets no second one. Chat templates write such prompts; text for training, and text
        of users and tools, must not be read so.
        """
        backend = copy.deepcopy(self.backend)
        backend.encode_special_tokens = False
        return dataclasses.replace(self, backend=backend)

    def special_tokens(self) -> list[str]:
        """Returns the texts of the special tokens."""
        return [token.content for token in self.backend.get_added_tokens_decoder().values() if token.special]

    def fit_to_rows(self, rows: int) -> "Tokenizer":
        """Returns this tokenizer for a model whose embedding has `rows` rows.

        Some models were published with added tokens that have no row. A text that needs such a token is refused by
        `encode`; padding is the end token then, if it was one of them. A tokenizer with other tokens behind the rows is
        returned as it is: it belongs to another model. Raises InputError if BOS or the end token has no row.
        """
        vocabulary = self.backend.get_vocab(with_added_tokens=False)
        lacking = {i for i in self.backend.get_added_tokens_decoder() if i >= rows}
        if not lacking or max(vocabulary.values(), default=0) >= rows:
            return self
        for field, token in (("end token", self.eos_id), ("first token", self.bos_id)):
            if token in lacking:
                raise InputError(
                    f"tokenizer {self.folder}: the model has {rows:,} rows in its embedding, and none for the {field} "
                    f"{self.pieces([token])[0]} (id {token}); give the tokenizer that belongs to the model"
                )
        return dataclasses.replace(
            self,
            eos_ids=tuple(i for i in self.eos_ids if i not in lacking),
            pad_id=self.eos_id if self.pad_id in lacking else self.pad_id,
            vocab_size=rows,
            fingerprint=hashlib.sha256(f"{self.fingerprint} {rows}".encode()).hexdigest(),
            lacking=frozenset(lacking),
        )

    def format_lacking(self) -> str:
        """Returns a note on the tokens in `lacking`, which must not be empty."""
        names = [self.backend.get_added_tokens_decoder()[token].content for token in sorted(self.lacking)]
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        return (
            f"note:  the tokenizer has added tokens for which the model has no row in its embedding: "
            f"{', '.join(names[:3])}{more}; a text that needs one is refused"
        )

    def _check_rows(self, ids: Sequence[int]) -> None:
        token = next((i for i in ids if i in self.lacking), None)
        if token is not None:
            name = self.backend.get_added_tokens_decoder()[token].content
            raise InputError(
                f"the text holds {name!r}, a token (id {token}) for which the model has no row in "
                "its embedding; take it out of the text, or give a model that has it"
            )

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


def load_tokenizer(path: str, model_folder: Path | None = None) -> Tokenizer:
    """Returns the tokenizer in a folder, or of a model on the Hugging Face hub.

    model_folder: the folder of the model's config.json, if it is another one; its files may name more end tokens.
    Raises InputError if tokenizer.json is missing or broken, if no file names the end token, or if the hub does not
    have the model.
    """
    folder = local_or_hub(
        path, "tokenizer", ["tokenizer.json", "tokenizer.model", *TEXT_FILES, *ID_FILES, *TEMPLATE_FILES]
    )
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
    eos, eos_ids = read_end_ids(backend, folder, model_folder)
    unk = _named_id(backend, folder, "unk_token")
    pad = _named_id(backend, folder, "pad_token")
    pad = next(i for i in (pad, unk, eos) if i is not None)
    named = [bos, eos, pad, *(sorted(eos_ids) if len(eos_ids) > 1 else ())]
    digest = hashlib.sha256(content + json.dumps(named).encode()).hexdigest()
    size = max(backend.get_vocab().values()) + 1
    return Tokenizer(str(folder), bos, eos, eos_ids, pad, size, digest, backend)


def _missing(folder: Path) -> str:
    if not (folder / "tokenizer.model").is_file():
        return f"tokenizer {folder}: has no tokenizer.json; give the folder of a Hugging Face model"
    return (
        f"tokenizer {folder}: has only tokenizer.model, and transformers 5 builds another merge order from it (4 "
        "spaces come out differently); copy tokenizer.json from the model's hub page, or save it with transformers 4"
    )


def _bos_id(backend: tokenizers.Tokenizer, folder: Path) -> int | None:
    """Returns the token that the post-processor prepends, or else bos_token if add_bos_token is true.

    transformers 5 reads the post-processor alone; version 4 also reads the field for Llama's classes.
    """
    plain = backend.encode("a", add_special_tokens=False).ids
    processed = backend.encode("a").ids
    if processed[:1] != plain[:1]:
        return processed[0]
    add = read_object(folder / "tokenizer_config.json").get("add_bos_token")
    return _named_id(backend, folder, "bos_token") if add is True else None


def _named_id(backend: tokenizers.Tokenizer, folder: Path, field: str) -> int | None:
    named = named_token(backend, folder, field)
    return None if named is None else named[1]
