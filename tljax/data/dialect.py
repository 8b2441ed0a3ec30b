"""A config's dialect -> the text format of conversations, and the tokenizer that reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from tljax.calls.render import DIALECTS
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError
from tljax.data.model_template import ModelTemplate, render_feedback, render_prompt, render_steps
from tljax.data.prompt import Dialect
from tljax.data.rendered import RenderedStep
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory, Turn
from tljax.storage.remote import local_path
from tljax.storage.token_files import TEMPLATE_FILES, TEXT_FILES, read_object

TEMPLATE = "template"
DIALECT_NAMES = (*DIALECTS, TEMPLATE)
HERMES = "hermes"  # the name of our own template
_TEMPLATE_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_REMEDY = (
    "choose one that does by config.{field}=FILE.jinja, or ours with Hermes' tags by config.{field}=hermes, or another "
    "dialect: full, mae, readme"
)


def open_dialect(name: str, chat_template: str, tokenizer: Tokenizer, field: str) -> tuple[Dialect, Tokenizer]:
    """Returns the dialect of a config, and the tokenizer for its text.

    For `template`, the tokenizer reads special tokens, which the template writes, prepends none of its own, and ends a
    reply with the token that closes the template's turns.

    chat_template: a Jinja file, "hermes", or "" for the template in the tokenizer's folder; field: the config's field
    of that name. Raises InputError for a template that is missing, refuses tools or does not show them.
    """
    if name != TEMPLATE:
        if chat_template:
            raise InputError(
                f"config.{field} is {chat_template!r}, which only the dialect template reads; leave it out"
            )
        return name, tokenizer
    template = _read_template(chat_template, tokenizer, field)
    called, answered = _try_template(template, field)
    ends = [step.closing for step in (called, answered) if step.closing]
    template = dataclasses.replace(template, parallel=_takes_parallel_calls(template), keeps_text=_keeps_text(template))
    return template, _with_special_tokens(tokenizer, template, ends)


def _read_template(chat_template: str, tokenizer: Tokenizer, field: str) -> ModelTemplate:
    folder = Path(tokenizer.folder)
    if chat_template == HERMES:
        file = Path(__file__).with_name("hermes.jinja")
        source = file.read_text(encoding="utf-8").strip()
    elif chat_template:
        file = local_path(chat_template, f"config.{field}")
        if not file.is_file():
            raise InputError(
                f"config.{field} {file}: there is no such file; allowed: a Jinja file, {HERMES}, or nothing"
            )
        source = file.read_text(encoding="utf-8")
    else:
        file, source = _template_of_folder(folder, field)
    return ModelTemplate(source, _special_names(folder), tuple(tokenizer.special_tokens()), str(file))


def _template_of_folder(folder: Path, field: str) -> tuple[Path, str]:
    """Returns the file that holds the template of a tokenizer, and the template."""
    file, with_tools = (folder / name for name in TEMPLATE_FILES)
    config = folder / "tokenizer_config.json"
    if file.is_file():
        named = {"default": file.read_text(encoding="utf-8")}
        if with_tools.is_file():
            named["tool_use"] = with_tools.read_text(encoding="utf-8")
    else:
        file, stored = config, read_object(config).get("chat_template")
        named = {"default": stored} if isinstance(stored, str) else {}
        if isinstance(stored, list):
            named = {entry["name"]: entry["template"] for entry in stored}
    default = named.get("default", "")
    tools = named.get("tool_use", default)
    if not tools:
        raise InputError(
            f"tokenizer {folder}: has no chat template, neither in chat_template.jinja nor in tokenizer_config.json; "
            + _REMEDY.format(field=field)
        )
    # One template for both kinds of conversations, as transformers chooses between them.
    return (
        file,
        tools if tools == default or not default else f"{{% if tools %}}{tools}{{% else %}}{default}{{% endif %}}",
    )


def _special_names(folder: Path) -> tuple[tuple[str, str], ...]:
    names = {}
    for file in TEXT_FILES:
        for name, token in read_object(folder / file).items():
            token = token.get("content") if isinstance(token, dict) else token
            if name in _TEMPLATE_NAMES and isinstance(token, str):
                names.setdefault(name, token)
    return tuple(names.items())


def _with_special_tokens(tokenizer: Tokenizer, template: ModelTemplate, ends: list[str]) -> Tokenizer:
    """Returns the tokenizer of a template's text; `ends` are the tokens that close its turns."""
    reader = tokenizer.reading_special_tokens()
    eos_ids = tuple(dict.fromkeys([*map(reader.backend.token_to_id, ends), *tokenizer.eos_ids]))
    content = json.dumps([tokenizer.fingerprint, template.source, template.names, ends])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return dataclasses.replace(
        reader,
        bos_id=None,
        eos_id=eos_ids[0] if ends else tokenizer.eos_id,
        eos_ids=eos_ids,
        fingerprint=fingerprint,
    )


_TOWN = Tool("find_town", "Finds a town.", {"river": {"type": "string", "description": "Its river."}}, ("river",))


def _try_template(template: ModelTemplate, field: str) -> tuple[RenderedStep, RenderedStep]:
    """Returns a step with a call and one with an answer. Raises InputError if the template leaves out part of them."""
    turns = (
        Turn("user", "Which town is on the Limmat?"),
        Turn("assistant", call=Call("find_town", {"river": "Limmat"})),
        Turn("function", "Zurich it is"),
        Turn("assistant", "Zurich."),
    )
    remedy = _REMEDY.format(field=field)
    try:
        prompt = render_prompt([_TOWN], turns[:1], template, "")
        feedback = render_feedback("Zurich it is", template)
    except InputError as error:
        raise InputError(f"{error} (a conversation with a tool); {remedy}") from None
    if "find_town" not in prompt or "river" not in prompt:
        raise InputError(f"the chat template {template.location} does not show the tools to the model; {remedy}")
    called, answered = render_steps(Trajectory("", (_TOWN,), turns), template)
    reply = called.text[called.reply.start :]
    if called.problem or answered.problem:
        raise InputError(f"{template.location}: {called.problem or answered.problem}; {remedy}")
    if "find_town" not in reply or "Limmat" not in reply or "Zurich it is" not in feedback:
        raise InputError(f"the chat template {template.location} does not write calls and their results; {remedy}")
    return called, answered


def _takes_parallel_calls(template: ModelTemplate) -> bool:
    """Returns True if the template writes all calls of a message that has two."""
    calls = [Call("find_town", {"river": river}) for river in ("Limmat", "Reuss")]
    turns = (Turn("user", "Two?"), Turn("assistant", call=calls[0]), Turn("assistant", call=calls[1], parallel=True))
    step = render_steps(Trajectory("", (_TOWN,), turns), template)[0]
    reply = step.text[step.reply.start :]
    return not step.problem and "Limmat" in reply and "Reuss" in reply


def _keeps_text(template: ModelTemplate) -> bool:
    """Returns True if the template writes the text of a message that also has a call."""
    turns = (Turn("user", "Which?"), Turn("assistant", "Let me look.", Call("find_town", {"river": "Limmat"})))
    step = render_steps(Trajectory("", (_TOWN,), turns), template)[0]
    return "Let me look." in step.text[step.reply.start :]
