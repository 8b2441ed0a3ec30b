"""A file of prompts or messages -> PromptRecords; messages and tools are rendered in the dialect of training."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tljax.core.errors import InputError
from tljax.data.formats import openai
from tljax.data.formats.fields import ROLES
from tljax.data.prompt import Dialect, render_prompt
from tljax.data.records import read_records
from tljax.data.trajectory import Conversation

SCHEMAS = 'either {"id", "prompt"} or {"id", "tools", "messages"} (OpenAI)'
REPLIED_TO = tuple(name for name, role in ROLES.items() if role in ("user", "function"))  # roles before a reply


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """A prompt, and the identity of its record.

    id: the record's own id, or `row` if it has none
    row: the number of the record in its file, from 1
    rendered: True if the prompt was rendered from messages, False if it is the text of the field `prompt`
    """

    id: str | int
    row: int
    prompt: str
    rendered: bool


def read_prompt_records(file: str, dialect: Dialect) -> Iterator[PromptRecord]:
    """Yields the prompts of a JSONL file or a JSON array, one at a time.

    Raises InputError that names file, row and field for the first malformed row, and for an id that occurs twice.
    """
    file = check_input_file(file, SCHEMAS)
    rows: dict[str | int, int] = {}
    for number, record in read_records(file):
        if isinstance(record, InputError):
            raise record
        prompt = prompt_from_record(record, file, number, dialect)
        check_unique_id(prompt.id, rows, file, number)
        yield prompt


def prompt_from_record(record: Any, file: str, number: int, dialect: Dialect) -> PromptRecord:
    """Returns the prompt of a record of either schema; number: the row of the record in `file`, from 1.

    Raises InputError if the record is malformed.
    """
    location = f"file {file}, row {number}"
    if not isinstance(record, dict):
        raise InputError(f"{location}: is no object; a row is {SCHEMAS}")
    field = require_one_of(record, ("prompt", "messages"), location, SCHEMAS)
    identity = record_id(record, file, number)
    if field == "messages":
        conversation = unanswered_conversation(record, location)
        prompt = render_prompt(conversation.tools, conversation.turns, dialect, conversation.system)
    else:
        prompt = record["prompt"]
        check_nonempty(prompt, f"{location}, field prompt", "the text that the model is to continue")
    check_text(prompt, f"{location}, field {field}")
    return PromptRecord(identity, number, prompt, rendered=field == "messages")


def unanswered_conversation(record: dict[str, Any], location: str) -> Conversation:
    """Returns the record's tools and messages; the last message is the one that the assistant will reply to.

    location: the record's file and row, for messages of errors. Raises InputError if the last message is the
    assistant's, and for malformed messages.
    """
    messages = record["messages"]
    field = f"{location}, field messages"
    if messages == []:
        raise InputError(f"{field}: is empty; give the conversation up to the reply that is wanted")
    last = messages[-1] if isinstance(messages, list) else None
    if isinstance(last, dict) and last.get("role") == "assistant":
        raise InputError(
            f"{field}[{len(messages) - 1}].role: is 'assistant', but the reply that is wanted follows the last "
            f"message; end with one of the {' or '.join(REPLIED_TO)}"
        )
    return openai.read(record, location)


def check_input_file(file: str, schemas: str) -> str:
    """Returns the path with "~" expanded. Raises InputError if the file is missing or empty."""
    file = os.path.expanduser(file)
    if not os.path.isfile(file):
        problem = "is a folder" if os.path.isdir(file) else "does not exist"
        raise InputError(f"file {file}: {problem}; give a JSONL file with a row a line, {schemas}")
    if os.path.getsize(file) == 0:
        raise InputError(f"file {file}: is empty; give a row a line, {schemas}")
    return file


def require_one_of(record: dict[str, Any], fields: tuple[str, str], location: str, schemas: str) -> str:
    """Returns the one of two fields that the record has. Raises InputError if it has both or neither."""
    present = [field for field in fields if record.get(field) is not None]
    if len(present) != 1:
        problem = "{} and {} are both there" if present else "neither {} nor {} is there"
        raise InputError(
            f"{location}: {problem.format(*fields)} (fields here: {', '.join(record) or 'none'}); a row is {schemas}"
        )
    return present[0]


def check_nonempty(text: Any, location: str, description: str) -> None:
    """Raises InputError, which asks for `description`, unless `text` is a string with at least one character."""
    if not isinstance(text, str) or not text:
        raise InputError(f"{location}: {'is empty' if text == '' else 'is no string'}; give {description}")


def check_text(text: str, location: str) -> None:
    """Raises InputError for text that is not valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        raise InputError(f"{location}: holds {code}, half of a character pair; mend it or take the row out") from None


def record_id(record: dict[str, Any], file: str, number: int) -> str | int:
    """Returns the record's id, or `number` if it has none. Raises InputError unless it is a string or an integer."""
    identity = record.get("id")
    if identity is None or identity == "":
        identity = number
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise InputError(f"file {file}, row {number}, field id: is {identity!r:.60}; allowed: a string or an integer")
    check_text(str(identity), f"file {file}, row {number}, field id")
    return identity


def check_unique_id(identity: str | int, rows: dict[str | int, int], file: str, number: int) -> None:
    """Adds the id and its row number to `rows`. Raises InputError if an earlier row has the same id."""
    if identity in rows:
        raise InputError(
            f"file {file}, row {number}, field id: {identity!r} is that of row {rows[identity]} too (a row without "
            "one has its number); give each row its own, by which its answer is known"
        )
    rows[identity] = number
