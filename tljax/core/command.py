"""The command line of every script: a config with overrides in; for what a user can mend, one line and exit code 2."""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from tljax.core import gpu_memory
from tljax.core.errors import InputError, exit_code_and_line, one_line

USAGE = "usage: python {script} --config configs/NAME.py[:option,option] [--config.field=value ...]"


def main(
    run: Callable[[Any], None], about: str, needs: Iterable[str], own: Mapping[str, str | bool] | None = None
) -> None:
    """Parses the command line and calls `run(config)`; bad input prints one line and exits with code 2.

    needs: fields that tell this script's configs from others. own: fields that the script adds to the config, with
    their defaults, set by --config.NAME=VALUE or --NAME=VALUE. A training run that NaN ended exits with code 1, an
    interrupted one with 130.
    """
    if {"-h", "--help", "--helpfull"} & set(sys.argv[1:]):
        print(f"{about.strip()}\n{USAGE.format(script=sys.argv[0])}\nThe config file lists and explains every field.")
        return

    def start() -> None:
        added = _take(own or {})
        config = parse()
        missing = [field for field in needs if field not in config]
        if missing:
            raise InputError(f"this config has no {' and no '.join(missing)}: it is another script's; {about.strip()}")
        with config.unlocked():
            config.update(added)
        gpu_memory.set_memory_fraction()
        run(config)

    guard(start)


def _take(own: Mapping[str, str | bool]) -> dict[str, str | bool]:
    """The values of a script's own flags, which are taken out of sys.argv: ml_collections would not know them."""
    values, rest = dict(own), sys.argv[:1]
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = re.sub(r"^--?(config\.)?", "", name) if name.startswith("-") else ""
        if name not in own:
            rest.append(argument)
        elif isinstance(own[name], bool):
            words = {"true": True, "1": True, "false": False, "0": False}
            if equals and value.lower() not in words:
                raise InputError(f"config.{name} is {value!r}; it must be true or false")
            values[name] = words[value.lower()] if equals else True
        else:
            values[name] = value if equals else next(arguments, "")
    sys.argv[:] = rest
    return values


def parse() -> ConfigDict:
    """The config that the command line, sys.argv, names, with its overrides (ml_collections reads no other list).

    Raises InputError for a missing or broken config file, an unknown field, or a value of the wrong type.
    """
    try:
        rest, config = _load(sys.argv)
    # A config file is a program of the user's, and may fail in any way.
    except Exception as error:
        raise InputError(_explain(error)) from error
    if config is None and not _config_file():
        raise InputError(f"no config given; {USAGE.format(script=sys.argv[0])}")
    if not isinstance(config, ConfigDict):
        raise InputError(f"{_config_file()}: get_config returns a {type(config).__name__}; it must be a ConfigDict")
    if len(rest) > 1:
        raise InputError(f"argument {rest[1]!r} is not understood; {USAGE.format(script=sys.argv[0])}")
    return config


def guard(body: Callable[[], None]) -> None:
    """Runs `body`; what a user can mend becomes one line on stderr and an exit code."""
    logging.set_verbosity(logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
    try:
        body()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # XLA's threads may still be compiling, and crash while the interpreter is taken down around them.
        os._exit(130)
    except Exception as error:
        told = exit_code_and_line(error)
        if told is None:
            raise
        code, line = told
        print(line, file=sys.stderr, flush=True)
        raise SystemExit(code) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, and tries again shortly where it would be lost.

    What is raised inside JAX's callback of the garbage collector is printed and forgotten.
    """
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _load(argv: list[str]) -> tuple[list[str], Any]:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "config file", flag_values=values, lock_config=True)
    rest = values(argv)
    config = values["config"].value
    if config is not None:
        config.keys()  # a file that is missing makes an object that fails on its first use
    return rest, config


def _config_arguments() -> list[str]:
    """The one or two words of the command line that name the config."""
    at = next((i for i, a in enumerate(sys.argv) if i and re.match(r"--?config(=|$)", a)), None)
    return [] if at is None else sys.argv[at : at + 1 + ("=" not in sys.argv[at])]


def _config_file() -> str:
    """The path that --config names, without its option string."""
    value = "=".join(_config_arguments()).partition("=")[2]
    return re.sub(r":[^:/]*$", "", value)


def _explain(error: BaseException) -> str:
    """What Python, absl and ml_collections say of a bad command line, in one line."""
    file = _config_file()
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if not os.path.isfile(file):
        return f"--config {file or sys.argv[-1]}: there is no such file; the project's configs lie in configs/"
    # Some of their errors arrive as the repr of a text, with its newlines spelled out.
    text = str(error.args[0] if error.args else error).replace("\\n", "\n").replace("\\'", "'")
    # What get_config raised arrives with its whole trace; the last line that names an exception is the message.
    raised = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception): .*)", text, re.MULTILINE)
    if "Traceback" in text and raised:
        if raised[-1].startswith("InputError: "):
            return raised[-1].removeprefix("InputError: ")
        lines = re.findall(rf'File "{re.escape(file)}", line (\d+)', text)
        return f"{file}, line {lines[-1] if lines else '?'}: {raised[-1]}"
    line = next((f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == file), None)
    if line is not None:
        return f"{file}, line {line}: {type(error).__name__}: {one_line(error)}"
    if "no attribute 'get_config" in text:
        return f"{file}: has no function get_config; a config file must define one that returns a ConfigDict"
    if isinstance(error, AttributeError | KeyError):
        return _unknown_field(text)
    value = re.match(r"flag --(config\.[\w.]+)=(.*?): (.*)", text, re.DOTALL)
    if value:
        kinds = {"float": "a number", "int()": "a whole number", "boolean": "true or false"}
        kind = next((kind for word, kind in kinds.items() if word in value.group(3)), _flat(value.group(3)))
        return f"{value.group(1)} is {value.group(2)!r}; it must be {kind}"
    if "Unknown command line flag" in text:
        flag = re.search(r"flag '([^']*)'", text)
        name = flag.group(1) if flag else "?"
        return f"argument --{name} is not understood; {USAGE.format(script=sys.argv[0])}"
    return _flat(text)


def _flat(text: str) -> str:
    return "; ".join(line for line in (part.strip(" '\"") for part in text.split("\n")) if line)


def _unknown_field(text: str) -> str:
    """The flag whose field the config lacks, with the nearest name, or those that stand where it was looked for."""
    text = _flat(text)
    word = re.match(r"\w+", text.rpartition("Attempting to lookup: ")[2])
    pattern = rf"--config\.(\w+\.)*{word.group() if word else ''}\b"
    flag = next((a for a in sys.argv if re.match(pattern, a)), text).partition("=")[0]
    meant = re.search(r"Did you mean.*", text)
    if meant:
        return f"{flag}: the config has no such field; {meant.group()}"
    block = _without_overrides()
    for part in flag.split(".")[1:-1]:
        block = block[part] if part in block else block
    names = ", ".join(sorted(block)) if isinstance(block, ConfigDict) else "none"
    return f"{flag}: the config has no such field; there are {names}"


def _without_overrides() -> Any:
    """The config as its file has it; ml_collections takes overrides from sys.argv whatever list it is given."""
    before = sys.argv
    sys.argv = [before[0], *_config_arguments()]
    try:
        return _load(sys.argv)[1]
    finally:
        sys.argv = before
