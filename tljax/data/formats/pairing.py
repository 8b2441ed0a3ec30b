"""Pairing of the tool messages after an assistant message with the calls that they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tljax.calls.tool import Call


def pair_feedback(calls: Sequence[Call], ids: Sequence[Any], messages: Sequence[dict[str, Any]]) -> list[int]:
    """Returns for each tool message the index of the call that it answers; data/chat_template.jinja does the same.

    ids: the calls' ids, None or "" for none. Messages are paired by id first, then by the name of the tool, and the
    others by order; each goes to the first matching call without feedback. So calls of equal ids are answered in order.
    A message whose id has no call without feedback belongs to the last call of this id.
    """
    owners: list[int] = [-1] * len(messages)
    answered: set[int] = set()

    def assign(matches: Callable[[int, dict[str, Any]], bool], again: bool) -> None:
        for m, message in enumerate(messages):
            if owners[m] < 0:
                matching = [k for k in range(len(calls)) if matches(k, message)]
                free = [k for k in matching if k not in answered]
                if free or (again and matching):
                    owners[m] = free[0] if free else matching[-1]
                    answered.add(owners[m])

    assign(lambda k, message: bool(message.get("tool_call_id")) and ids[k] == message["tool_call_id"], again=True)
    assign(lambda k, message: calls[k].name == message.get("name"), again=False)
    assign(lambda k, message: True, again=True)
    return owners
