"""Compiles a program: its memory, its collectives and the warnings of the compiler."""

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from tljax.plan.collectives import Transfer, transfers
from tljax.plan.hlo import Module

WARNING = re.compile(r"Involuntary full rematerialization\..*?for HLO operation:?\s*(.*)")
UNITS = {"K": 1024.0, "M": 1024.0**2, "G": 1024.0**3, "T": 1024.0**4, "": 1.0}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One compiled program; sizes are bytes on one device.

    temporaries: work space, including gradients. results: outputs that are not written over an argument. refused: the
    message of the compiler if the program is too large; `temporaries` is then the only size that is known.
    """

    seconds: float
    temporaries: float
    results: float
    code: float
    transfers: tuple[Transfer, ...]
    kernels: int  # calls of Pallas kernels in its text, which a loop runs many times
    warnings: tuple[str, ...]  # operations that the partitioner replicates on every device, against its will
    refused: str = ""


def compile_program(lower: Callable[[], Any], layers: int) -> Compiled:
    """Lowers and compiles a program. layers: the number of layers of the model."""
    begun = time.perf_counter()
    with _stderr() as said:
        try:
            program = lower().compile()
        except jax.errors.JaxRuntimeError as error:
            refused = str(error)
            if "RESOURCE_EXHAUSTED" not in refused:
                raise
            return _refused(refused, time.perf_counter() - begun)
    memory, text = program.memory_analysis(), program.as_text()
    module = Module(text)
    return Compiled(
        seconds=time.perf_counter() - begun,
        temporaries=memory.temp_size_in_bytes,
        results=max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        code=memory.generated_code_size_in_bytes,
        transfers=tuple(transfers(module, layers)),
        kernels=text.count('custom_call_target="tpu_custom_call"'),
        warnings=warnings_in(said()),
    )


def warnings_in(log: str) -> tuple[str, ...]:
    """Returns the operations that XLA's partitioner warned of on stderr, each of them once and shortened."""
    found = (match.group(1) for match in WARNING.finditer(log))
    named = (re.sub(r"\{[^{}]*\}", "", text.split(", sharding=")[0] + _source(text)) for text in found)
    return tuple(dict.fromkeys(named))


def size_in(text: str) -> float:
    """Returns the bytes in the compiler's message "program 18.29G arguments 2.27G" or "(29.79G)", or 0 if none.

    If the message has only the sum, "Used 20.5G of 15.75G hbm", returns the sum.
    """
    words = (r"\bprogram ", r"(?:\(|Used )")
    sizes = (re.search(rf"{word}([\d.]+)([KMGT]?)\b", text) for word in words)
    match = next((size for size in sizes if size), None)
    return float(match.group(1)) * UNITS[match.group(2)] if match else 0.0


def _refused(message: str, seconds: float) -> Compiled:
    line = re.sub(r"\s+", " ", message).removeprefix("RESOURCE_EXHAUSTED: ")[:220]
    return Compiled(seconds, size_in(message), 0.0, 0.0, (), 0, (), line)


def _source(text: str) -> str:
    name = re.search(r'op_name="([^"]*)"', text)
    return f" of {name.group(1)}" if name else ""


@contextlib.contextmanager
def _stderr() -> Iterator[Callable[[], str]]:
    """Captures the text that C++ and Python write to stderr; yields a function that returns it afterwards."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        text: list[str] = []
        try:
            yield lambda: text[0] if text else ""
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))
