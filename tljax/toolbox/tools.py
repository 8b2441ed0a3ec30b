"""The local tools of every domain, by split; `finish` and `ask_to_user` belong to all of them.

The tools themselves lie in `domains`, a file for each, since all of them would be 900 lines in one file; what makes a
function a tool (schema, samples) is in `schema`. A tool's split says where it may be called:

* train: the domains that training sees;
* composition: other tools of those domains, made of the same words;
* domain: domains of their own, with verbs, parameters and values of their own.
"""

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


def callable_tools(split: str) -> tuple[LocalTool, ...]:
    """The tools that a task of this split may call, in a fixed order."""
    return tuple(tool for tool in TOOLS.values() if tool.split == split)


def listed_tools(split: str) -> tuple[LocalTool, ...]:
    """The tools that a task of this split may list: composition tasks list train tools too."""
    splits = ("train", "composition") if split == "composition" else (split,)
    return tuple(tool for tool in TOOLS.values() if tool.split in splits)
