"""The command line of every script: reads a config with its overrides, and turns a user's mistake into one line."""

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

from tljax.core import compilation_cache, gpu_memory
from tljax.core.errors import InputError, exit_code_and_line, one_line

USAGE = "usage: python {script} --config configs/NAME.py[:option,option] [--config.field=value ...]"


def main(
    run: Callable[[Any], None],
    about: str,
    required_fields: Iterable[str],
    script_fields: Mapping[str, str | bool] | None = None,
) -> None:
    """Parses the command line and calls `run(config)`.

    about: the script's docstring, for --help. required_fields: fields that a config of this script has, and configs of
    other scripts lack. script_fields: fields that the script adds to the config, with their defaults; a user sets them
    by --config.NAME=VALUE or --NAME=VALUE.

    Exits with code 2 and one line on stderr for bad input, with code 1 if NaN stopped a training run, and with code 130
    if the user interrupted it.
    """
    if {"-h", "--help", "--helpfull"} & set(sys.argv[1:]):
        print(f"{about.strip()}\n{USAGE.format(script=sys.argv[0])}\nThe config file lists and explains every field.")
        return

    def start() -> None:
        values = _take_script_flags(script_fields or {})
        config = parse_command_line()
        missing = [field for field in required_fields if field not in config]
        if missing:
            raise InputError(
                f"this config has no {' and no '.join(missing)}: it belongs to another script; {about.strip()}"
            )
        with config.unlocked():
            config.update(values)
        gpu_memory.set_memory_fraction()
        compilation_cache.use_compilation_cache()
        run(config)

    run_or_exit(start)


def _take_script_flags(defaults: Mapping[str, str | bool]) -> dict[str, str | bool]:
    """Removes the script's own flags from sys.argv, which ml_collections does not know, and returns their values."""
    values, rest = dict(defaults), sys.argv[:1]
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = re.sub(r"^--?(config\.)?", "", name) if name.startswith("-") else ""
        if name not in defaults:
            rest.append(argument)
        elif isinstance(defaults[name], bool):
            words = {"true": True, "1": True, "false": False, "0": False}
            if equals and value.lower() not in words:
                raise InputError(f"config.{name} is {value!r}; it must be true or false")
            values[name] = words[value.lower()] if equals else True
        else:
            values[name] = value if equals else next(arguments, "")
    sys.argv[:] = rest
    return values


def parse_command_line() -> ConfigDict:
    """Returns the config that sys.argv names, with its overrides. (ml_collections reads no list but sys.argv.)

    Raises InputError for a missing or broken config file, an unknown field, or a value of the wrong type.
    """
    try:
        rest, config = _load(sys.argv)
    except Exception as error:  # a config file is the user's program, which may raise anything
        raise InputError(_explain(error)) from error
    if config is None and not _config_file():
        raise InputError(f"no config given; {USAGE.format(script=sys.argv[0])}")
    if not isinstance(config, ConfigDict):
        raise InputError(f"{_config_file()}: get_config returns a {type(config).__name__}; it must be a ConfigDict")
    if len(rest) > 1:
        raise InputError(f"argument {rest[1]!r} is not understood; {USAGE.format(script=sys.argv[0])}")
    return config


def run_or_exit(body: Callable[[], None]) -> None:
    """Calls `body`. Prints one line on stderr and exits with a code if it raises an error that the user can fix.

    Other exceptions are defects and keep their traceback. The codes are those of `exit_code_and_line`; an interrupt
    exits with code 130.
    """
    logging.set_verbosity(logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
    try:
        body()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # XLA's threads may still be compiling; they crash if the interpreter shuts down around them.
        os._exit(130)
    except Exception as error:
        code_and_line = exit_code_and_line(error)
        if code_and_line is None:
            raise
        code, line = code_and_line
        print(line, file=sys.stderr, flush=True)
        raise SystemExit(code) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handles SIGINT: raises KeyboardInterrupt, or sends the signal again after 0.1 s if the exception would be lost.

    It would be lost inside JAX's callback of the garbage collector: Python prints an exception there and goes on.
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
    """Returns the arguments that are no config flags, and the config, None without --config."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "config file", flag_values=values, lock_config=True)
    rest = values(argv)
    config = values["config"].value
    if config is not None:
        config.keys()  # for a missing file, ml_collections returns an object that fails at its first use
    return rest, config


def _config_arguments() -> list[str]:
    """Returns the part of sys.argv that names the config: [--config=FILE], [--config, FILE], or [] if it is missing."""
    index = next((i for i, a in enumerate(sys.argv) if i and re.match(r"--?config(=|$)", a)), None)
    return [] if index is None else sys.argv[index : index + 1 + ("=" not in sys.argv[index])]


def _config_file() -> str:
    """Returns the path that --config names, without its option string."""
    value = "=".join(_config_arguments()).partition("=")[2]
    return re.sub(r":[^:/]*$", "", value)


def _explain(error: BaseException) -> str:
    """Returns one line that explains an exception of Python, absl or ml_collections about a bad command line."""
    # The file itself: its syntax, its path.
    file = _config_file()
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if not os.path.isfile(file):
        return f"--config {file or sys.argv[-1]}: there is no such file; the project's configs are in configs/"
    # get_config raised. Some of the errors arrive as the repr of a text, with "\\n" for each newline.
    text = str(error.args[0] if error.args else error).replace("\\n", "\n").replace("\\'", "'")
    # An exception of get_config arrives with its whole traceback; the last line that names an exception is the message.
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
    # The overrides: an unknown field, a value of the wrong type, an unknown flag.
    if isinstance(error, AttributeError | KeyError):
        return _unknown_field(text)
    value = re.match(r"flag --(config\.[\w.]+)=(.*?): (.*)", text, re.DOTALL)
    if value:
        types = {"float": "a number", "int()": "a whole number", "boolean": "true or false"}
        allowed = next((text for word, text in types.items() if word in value.group(3)), _join_lines(value.group(3)))
        return f"{value.group(1)} is {value.group(2)!r}; it must be {allowed}"
    if "Unknown command line flag" in text:
        flag = re.search(r"flag '([^']*)'", text)
        name = flag.group(1) if flag else "?"
        return f"argument --{name} is not understood; {USAGE.format(script=sys.argv[0])}"
    return _join_lines(text)


def _join_lines(text: str) -> str:
    """Returns the lines of a text in one line, without the blanks and quotes around each."""
    return "; ".join(line for line in (part.strip(" '\"") for part in text.split("\n")) if line)


def _unknown_field(text: str) -> str:
    """Returns a message that names the flag of an unknown field, and the nearest field or the fields of its block."""
    text = _join_lines(text)
    word = re.match(r"\w+", text.rpartition("Attempting to lookup: ")[2])
    pattern = rf"--config\.(\w+\.)*{word.group() if word else ''}\b"
    flag = next((a for a in sys.argv if re.match(pattern, a)), text).partition("=")[0]
    suggestion = re.search(r"Did you mean.*", text)
    if suggestion:
        return f"{flag}: the config has no such field; {suggestion.group()}"
    block = _without_overrides()
    for part in flag.split(".")[1:-1]:
        block = block[part] if part in block else block
    names = ", ".join(sorted(block)) if isinstance(block, ConfigDict) else "none"
    return f"{flag}: the config has no such field; there are {names}"


def _without_overrides() -> Any:
    """Returns the config without overrides. Changes sys.argv meanwhile: ml_collections reads overrides only there."""
    before = sys.argv
    sys.argv = [before[0], *_config_arguments()]
    try:
        return _load(sys.argv)[1]
    finally:
        sys.argv = before
