"""Rows of preferences: the chosen reply is the one to learn.

{"messages" or "prompt": [...], "chosen": <message or list of messages>, "rejected": ...}, as TRL and LLaMA-Factory
write it; without a prompt, the chosen messages are the whole conversation.
"""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import shorten
from tljax.data.formats.openai import MESSAGES, MESSAGES_FIELDS

_CHOSEN, _REJECTED, _PROMPT = "chosen", "rejected", "prompt"
_MEDIA = ("images", "videos", "audios", "image", "video", "audio")


def with_chosen_reply(record: dict[str, Any], location: str) -> dict[str, Any]:
    """Returns the record with the chosen reply as its last messages; a record without one stays as it is.

    Raises InputError for a reply that the row calls undesired, and for media, since only text is learned.
    """
    for field in _MEDIA:
        if record.get(field) and isinstance(record[field], list | dict | str):
            raise InputError(
                f"{location}, field {field}: is {shorten(record[field])}; only text is read: take the row out"
            )
    if record.get("label") is False:
        raise InputError(
            f"{location}, field label: is false, which marks an undesired reply (KTO); take the row out, or the field"
        )
    chosen = record.get(_CHOSEN)
    if isinstance(chosen, dict):
        chosen = [chosen]
    if not isinstance(chosen, list) or not all(isinstance(message, dict) for message in chosen):
        return record
    name = next((field for field in (*MESSAGES_FIELDS, _PROMPT) if isinstance(record.get(field), list)), MESSAGES)
    before = record.get(name) or []
    rest = {key: value for key, value in record.items() if key not in (_CHOSEN, _REJECTED, name)}
    messages = chosen if before and chosen[: len(before)] == before else [*before, *chosen]
    return {**rest, MESSAGES if name == _PROMPT else name: messages}
