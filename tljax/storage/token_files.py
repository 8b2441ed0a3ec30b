"""The special tokens that the files of a Hugging Face folder name, beside its tokenizer.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tljax.core.errors import InputError

# The files that name special tokens by their text, and those that name them by their ids.
TEXT_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TEMPLATE_FILES = ("chat_template.jinja", "additional_chat_templates/tool_use.jinja")
GENERATION_FILE, CONFIG_FILE = ID_FILES = ("generation_config.json", "config.json")


class Vocabulary(Protocol):
    """A tokenizer of the `tokenizers` library, as far as this module needs it."""

    def token_to_id(self, token: str) -> int | None: ...
    def id_to_token(self, id: int) -> str | None: ...


def read_object(file: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, {} if there is no such file. Raises InputError for a file that is not JSON."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file}: is not JSON ({error}); copy it again from the model it belongs to") from None
    return value if isinstance(value, dict) else {}


def named_token(vocabulary: Vocabulary, folder: Path, field: str) -> tuple[str, int] | None:
    """Returns the text and the id of the token in a field of TEXT_FILES, such as "eos_token"; None if none is named.

    The field is a string or {"content": string}. Raises InputError for a token that the vocabulary does not have.
    """
    for name in TEXT_FILES:
        token = read_object(folder / name).get(field)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            token_id = vocabulary.token_to_id(str(token))
            if token_id is None:
                raise InputError(f"{folder / name}, field {field}: {token!r} is not in tokenizer.json's vocabulary")
            return str(token), token_id
    return None


def end_ids(own: int | None, generation_config: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """Returns the ids of all tokens that end a reply, in the order of the files.

    own: the end token of the tokenizer, which training appends to replies; it comes first if no file has it. The
    arguments after it are the contents of generation_config.json and config.json. transformers reads the second one
    only if the first has no eos_token_id; a list in the second one counts too, since no default is a list.
    """
    ids = _as_list(generation_config.get("eos_token_id"))
    value = config.get("eos_token_id")
    if not ids or isinstance(value, list):
        ids = [*ids, *_as_list(value)]
    return list(dict.fromkeys(ids if own is None or own in ids else [own, *ids]))


def read_end_ids(vocabulary: Vocabulary, folder: Path, model_folder: Path | None = None) -> tuple[int, tuple[int, ...]]:
    """Returns the end token that training appends to replies, and all tokens that end a reply.

    folder: the tokenizer's. model_folder: the model's, whose files count before those of `folder`. Raises InputError if
    no file names an end token, or one names a token that the vocabulary does not have.
    """
    named = named_token(vocabulary, folder, "eos_token")
    own = None if named is None else named[1]
    folders = [folder] if model_folder is None else [model_folder, folder]
    contents = [_read_ids(vocabulary, name, folders) for name in ID_FILES]
    ids = end_ids(own, *contents)
    if not ids:
        raise InputError(f"tokenizer {folder}: names no end token; set eos_token in its tokenizer_config.json")
    return ids[0] if own is None else own, tuple(ids)


def _read_ids(vocabulary: Vocabulary, name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """Returns the content of the first of the folders' files of a name. Raises InputError for ids that do not exist."""
    file = next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
    content = read_object(file)
    for value in _as_list(content.get("eos_token_id")):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0 or vocabulary.id_to_token(value) is None:
            raise InputError(
                f"{file}, field eos_token_id: {value!r} is not in tokenizer.json's vocabulary; write the ids of the "
                "tokens that end a reply"
            )
    return content


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]
