"""The tools of all domains, by name and by split; `finish` and `ask_to_user` belong to every split.

The split of a tool says which tasks may call it:

* train: tools for training;
* composition: held-out tools of the same domains, whose names combine the same words;
* domain: tools of held-out domains, with other verbs, parameters and values.
"""

import functools

from tljax.toolbox.domains import (
    arithmetic,
    astronomy,
    contacts,
    currency,
    dates,
    gardening,
    geometry,
    library,
    lists,
    music,
    shop,
    text,
    travel,
    units,
    weather,
)
from tljax.toolbox.schema import LocalTool, local_tool

SPLITS = ("train", "composition", "domain")
NO_USER_REPLY = "I have nothing to add; please decide yourself."


def finish(answer: str) -> str:
    """Finish the task and give your answer.

    Args:
        answer: Your answer.
    """
    return answer


def ask_to_user(question: str) -> str:
    """Ask the user when you need more information.

    Args:
        question: Your question.
    """
    return NO_USER_REPLY


FINISH = local_tool(finish)
ASK_TO_USER = local_tool(ask_to_user)

DOMAINS = (
    arithmetic,
    text,
    lists,
    geometry,
    dates,
    units,
    currency,
    weather,
    library,
    shop,
    contacts,
    travel,
    music,
    gardening,
    astronomy,
)
TOOLS: dict[str, LocalTool] = {tool.name: tool for domain in DOMAINS for tool in domain.TOOLS}


@functools.cache
def callable_tools(split: str) -> tuple[LocalTool, ...]:
    """Returns the tools that a task of this split may call, in a fixed order."""
    return tuple(tool for tool in TOOLS.values() if tool.split == split)


@functools.cache
def listed_tools(split: str) -> tuple[LocalTool, ...]:
    """Returns the tools that the prompt of such a task may list: for composition, train tools too."""
    splits = ("train", "composition") if split == "composition" else (split,)
    return tuple(tool for tool in TOOLS.values() if tool.split in splits)
