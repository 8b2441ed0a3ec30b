"""The command line: overrides, option strings, and what a mistake looks like."""

import os
import signal
import sys
import time

import pytest

from tljax.core import command as command_line
from tljax.core import gpu_memory
from tljax.core.command import main, parse_command_line, run_or_exit
from tljax.core.errors import InputError

CONFIG = """
from ml_collections import ConfigDict
from tljax.core.config import data_block, parse_options

def get_config(arg=""):
    size, flags = parse_options(arg, ("tiny", "7b"), ("release",), "tiny")
    config = ConfigDict({"size": size, "lr": 1e-6, "steps": 3, "release": "release" in flags})
    config.data = data_block()
    return config
"""


@pytest.fixture(autouse=True)
def fresh_module(monkeypatch):
    """ml_collections loads every config file under one module name, and into the module that is there."""
    monkeypatch.delitem(sys.modules, "config_config", raising=False)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Sets the command line: command(":7b", "--config.lr=1") names the config above with these flags."""
    file = tmp_path / "my config.py"
    file.write_text(CONFIG)

    def set_argv(option="", *flags):
        monkeypatch.setattr(sys, "argv", ["launch/x.py", f"--config={file}{option}", *flags])

    return set_argv


def test_overrides_win_over_options(command):
    command(":7b,release", "--config.lr=1", "--config.data.mae=none", "--config.steps=5")
    config = parse_command_line()
    assert (config.size, config.release, config.lr, config.steps, config.data.mae) == ("7b", True, 1.0, 5, "none")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config.lrr=1"], ["--config.lrr", 'Did you mean "lr"']),
        (["--config.data.foo=1"], ["--config.data.foo", "no such field; there are", "max_tokens"]),
        (["--config.learning_rate=1"], ["--config.learning_rate", "there are data, lr"]),
        (["--config.release=maybe"], ["config.release is 'maybe'", "true or false"]),
        (["--config.lr=abc"], ["config.lr is 'abc'", "a number"]),
        (["--config.steps=1.5"], ["config.steps is '1.5'", "a whole number"]),
        (["--config.data.mae"], ["--config.data.mae"]),
        (["--learning_rate=3"], ["--learning_rate is not understood", "usage"]),
        (["7b"], ["'7b'", "usage"]),
    ],
)
def test_mistakes_are_one_line(command, flags, told):
    command("", *flags)
    with pytest.raises(InputError) as caught:
        parse_command_line()
    assert all(word in str(caught.value) for word in told) and "\n" not in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("argument", "told"),
    [(":9b", "'9b' is unknown; allowed: tiny, 7b, release"), (":tiny,7b", "both sizes")],
)
def test_wrong_options_are_told_as_the_config_says_it(command, argument, told):
    command(argument)
    with pytest.raises(InputError, match=told):
        parse_command_line()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('my own mistake')", "my config.py, line 1: ValueError: my own mistake"),
        ("def get_config(:", "my config.py, line 1: invalid syntax"),
        ("import nosuchmodule", "my config.py, line 1: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("config = 3", "has no function get_config"),
        ("def get_config():\n    return {}", "returns a dict"),
        ("def get_config():\n    pass", "returns a NoneType"),
    ],
)
def test_a_broken_config_file(tmp_path, monkeypatch, body, told):
    file = tmp_path / "my config.py"
    file.write_text(body)
    monkeypatch.setattr(sys, "argv", ["x", f"--config={file}"])
    with pytest.raises(InputError, match=told) as caught:
        parse_command_line()
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_a_missing_config_and_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--config=configs/nope.py"])
    with pytest.raises(InputError, match=r"configs/nope.py: there is no such file"):
        parse_command_line()
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(InputError, match="usage"):
        parse_command_line()


def test_the_config_of_another_script_is_refused(command, capsys):
    command()
    with pytest.raises(SystemExit) as stop:
        main(lambda config: pytest.fail("ran"), about="use configs/y.py", required_fields=("size", "optim"))
    assert stop.value.code == 2 and "no optim" in (error := capsys.readouterr().err) and "configs/y.py" in error


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("row 3:\n bad"), 2, "error: row 3: bad"),
        (FloatingPointError("step 5: loss = nan"), 1, "stopped: step 5"),
        (OSError(28, "No space left on device", "/x/y"), 2, "error: /x/y: No space left on device"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), 2, "out of memory"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_code(capsys, error, code, told):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_or_exit(fail)
    printed = capsys.readouterr().err
    assert stop.value.code == code and told in printed and printed.count("\n") == 1


def test_an_interrupt_is_one_line_and_ends_the_process_at_once(capsys, monkeypatch):
    codes = []
    monkeypatch.setattr(command_line.os, "_exit", codes.append)

    def interrupted():
        signal.raise_signal(signal.SIGINT)

    run_or_exit(interrupted)
    assert codes == [130] and capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_inside_the_garbage_collectors_callback_is_not_lost(capsys, monkeypatch):
    codes = []
    monkeypatch.setattr(command_line.os, "_exit", codes.append)

    def _xla_gc_callback():
        signal.raise_signal(signal.SIGINT)

    def body():
        _xla_gc_callback()
        time.sleep(5)
        pytest.fail("the signal was lost")

    run_or_exit(body)
    assert codes == [130]


def test_a_defect_keeps_its_traceback():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_or_exit(fail)


def test_a_script_may_have_fields_of_its_own(command):
    found = []
    own = {"place": "", "search": False}

    def with_flags(*flags):
        command(":7b", "--config.lr=1", *flags)
        main(found.append, about="x", required_fields=("lr",), script_fields=own)
        return found[-1].place, found[-1].search, found[-1].lr

    assert with_flags("--config.place=here", "--search") == ("here", True, 1.0)
    assert with_flags("--place", "there") == ("there", False, 1.0)
    assert with_flags("--config.search=false") == ("", False, 1.0)


def test_a_script_takes_most_of_a_gpu_unless_told_otherwise(command, monkeypatch):
    """JAX, which refuses to be told by both names, would leave a quarter of it unused."""
    new, old = gpu_memory.VARIABLES
    seen = []
    for told in (None, "0.5"):
        monkeypatch.delenv(new, raising=False)
        monkeypatch.delenv(old, raising=False)
        if told:
            monkeypatch.setenv(old, told)
        command("")
        main(lambda config: seen.append((os.environ.get(new), os.environ.get(old))), "x", required_fields=("lr",))
    assert seen == [("0.92", None), (None, "0.5")]
