"""A conversation between a user, an assistant and its tools."""

from __future__ import annotations

from dataclasses import dataclass, field

from tljax.calls.tool import Call, Tool


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    role: system, user, assistant or function (a tool's feedback)
    text: the text before the call, or the whole message where there is no call
    call: the call of an assistant turn, which makes at most one
    learned: False if the record says that this assistant turn is not to be learned; it stays as context
    parallel: True if the call belongs to the same message of the record as the call of the assistant turn before it
    """

    role: str
    text: str = ""
    call: Call | None = None
    learned: bool = True
    parallel: bool = field(default=False, compare=False)  # turns of the same content are equal


@dataclass(frozen=True, slots=True)
class Conversation:
    """The content of a record. Its leading system message becomes `tools` and the free text `system`, not a turn."""

    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    system: str = ""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A conversation with the identity of its record.

    id: the record's own id, or `row` where it has none
    row: the number of the record in its file, from 1
    The other fields are those of Conversation.
    """

    id: str | int
    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    system: str = ""
    row: int = 0
