"""Configs and the command line: shared blocks, option strings, and errors that are one line with exit code 2."""

import re
import sys
from collections.abc import Callable, Iterable

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from tljax.core.errors import InputError

LARGEST = 2**31 - 1  # numbers of steps and seeds become int32 on the devices
USAGE = "usage: python {script} --config configs/NAME.py[:option,option] [--config.field=value ...]"


def data_block() -> ConfigDict:
    """The `data` fields, the same in every config: from raw trajectories to weighted tokens."""
    data = ConfigDict()
    data.source = "toolbox"  # "toolbox", a JSON or JSONL file, or the name of a Hugging Face dataset
    data.tokenizer = ""  # folder or hub id; "" is the model's own, and the toolbox's where there is no model
    data.mae = "default"  # default | release | release_no_filter | none | ["regex", ...] | FILE.txt | module:function
    data.pkt = "paper"  # weights of key tokens: paper | release | none
    data.w_max = 9.0  # largest weight of a key token (released code: 9)
    data.dialect = "mae"  # how tools and calls are written: mae (the release's training data) | readme (its model card)
    data.rows = "trajectory"  # one row per trajectory, or per "step"; equal gradients, the first reads the history once
    data.max_tokens = 8192  # longest step in tokens, prompt, reply and end token together (released value)
    data.on_bad_row = "refuse"  # a malformed row stops the run, or "skip" counts and lists it
    data.eval_fraction = 0.05  # share of trajectories held out for the eval loss
    data.cache = ""  # folder of prepared rows; "" is the cache of the datasets library
    return data


def toolbox_block() -> ConfigDict:
    """What data.source = "toolbox" generates; read for that source only."""
    toolbox = ConfigDict()
    toolbox.trajectories = 2000  # how many
    toolbox.error_share = 0.17  # share of failing tool calls (the paper counts over 17 % in RoTLLaMA's data)
    toolbox.noise = ""  # RoTBench-style name noise: "" | slight | medium | heavy | union
    toolbox.seed = 0
    return toolbox


def options(arg: str, sizes: Iterable[str], flags_: Iterable[str], default: str) -> tuple[str, set[str]]:
    """The size and the flags in "7b,release".

    Raises InputError for an unknown word or two sizes.
    """
    sizes, flags_ = list(sizes), list(flags_)
    words = [word.strip() for word in arg.split(",") if word.strip()]
    unknown = [word for word in words if word not in sizes and word not in flags_]
    if unknown:
        raise InputError(f"config option {unknown[0]!r} is unknown; allowed: {', '.join(sizes + flags_)}")
    chosen = [word for word in words if word in sizes]
    if len(chosen) > 1:
        raise InputError(f"config options {' and '.join(chosen)} are both sizes; give one of {', '.join(sizes)}")
    return (chosen[0] if chosen else default), set(words) - set(chosen)


def check_choice(field: str, value: str, allowed: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"config.{field} is {value!r}; allowed: {', '.join(repr(a) for a in allowed)}")


def check_range(field: str, value: float, least: float, most: float = LARGEST) -> None:
    """Raises InputError unless `value` lies between `least` and `most`, both allowed."""
    if not least <= value <= most:
        raise InputError(f"config.{field} is {value}; allowed: {least} to {most:,}")


def parse() -> ConfigDict:
    """The config that the command line, sys.argv, names, with its overrides (ml_collections reads no other list).

    Raises InputError for a missing or broken config file, an unknown field, or a value of the wrong type.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "config file", flag_values=values, lock_config=True)
    try:
        rest = values(sys.argv)
        config = values["config"].value
        if config is not None:
            config.keys()  # a file that is missing makes an object that fails on its first use
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        raise InputError(_explain(error)) from error
    if config is None:
        raise InputError(f"no config given; {USAGE.format(script=sys.argv[0])}")
    if len(rest) > 1:
        raise InputError(f"argument {rest[1]!r} is not understood; {USAGE.format(script=sys.argv[0])}")
    return config


def main(run: Callable[[ConfigDict], None], about: str, needs: Iterable[str]) -> None:
    """Parses the command line and calls `run(config)`; bad input prints one line and exits with code 2.

    needs: fields that tell this script's configs from others. A training run that NaN ended exits with code 1, an
    interrupted one with 130.
    """
    if {"-h", "--help", "--helpfull"} & set(sys.argv[1:]):
        print(f"{about}\n{USAGE.format(script=sys.argv[0])}\nEvery field is listed and explained in the config file.")
        return

    def start() -> None:
        config = parse()
        missing = [field for field in needs if field not in config]
        if missing:
            raise InputError(f"this config has no {' and no '.join(missing)}: it is another script's; {about.strip()}")
        run(config)

    guard(start)


def guard(body: Callable[[], None]) -> None:
    """Runs `body`; what a user can mend becomes one line on stderr and an exit code."""
    logging.set_verbosity(logging.ERROR)
    try:
        body()
    except InputError as error:
        _exit(2, f"error: {_one_line(error)}")
    except FloatingPointError as error:
        _exit(1, f"stopped: {_one_line(error)}")
    except OSError as error:
        place = error.filename or ""
        _exit(2, f"error: {place}{': ' if place else ''}{error.strerror or _one_line(error)}")
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        told = re.search(r"RESOURCE_EXHAUSTED:?\s*([^.\n]*)", str(error))
        _exit(
            2,
            f"error: the device is out of memory ({told.group(1).strip() if told else 'no more known'}); raise "
            "config.batch.accumulate, lower batch.rows or batch.tokens, or set model.remat=full",
        )
    except KeyboardInterrupt:
        _exit(130, "interrupted")


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return re.sub(r"\s+", " ", text).strip() or type(error).__name__


def _explain(error: BaseException) -> str:
    """What absl and ml_collections say of a bad command line, in one line."""
    # Some of their errors arrive as the repr of a text, with its newlines spelled out.
    text = str(error.args[0] if error.args else error).replace("\\n", "\n").replace("\\'", "'")
    missing = re.search(r"No such file or directory: '([^']*)'", text)
    if missing:
        return f"--config {missing.group(1)}: there is no such file; the project's configs lie in configs/"
    # What get_config raised arrives with its whole trace; the last line that names an exception is the message.
    raised = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception): .*)", text, re.MULTILINE)
    if "Traceback" in text and raised:
        return raised[-1].removeprefix("InputError: ")
    value = re.match(r"flag --(config\.[\w.]+)=(.*?): (could not convert .* float|invalid literal for int)", text)
    if value:
        kind = "number" if "float" in value.group(3) else "whole number"
        return f"{value.group(1)} is {value.group(2)!r}; it must be a {kind}"
    text = "; ".join(line for line in (part.strip(" '\"") for part in text.split("\n")) if line)
    if isinstance(error, AttributeError | KeyError):
        word = re.match(r"\w+", text.rpartition("Attempting to lookup: ")[2])
        flag = next((a for a in sys.argv if word and re.match(rf"--config\.(\w+\.)*{word.group()}\b", a)), text)
        meant = re.search(r"Did you mean.*", text)
        hint = meant.group() if meant else "its file lists the fields"
        return f"{flag.partition('=')[0]}: the config has no such field; {hint}"
    return text


def _exit(code: int, line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(code)
