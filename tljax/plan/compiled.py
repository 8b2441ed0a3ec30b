"""A program as the compiler made it: its memory, what it moves, what it warned of."""

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

from tljax.plan.hlo import Module
from tljax.plan.movement import Transfer, traffic, transfers

WARNING = re.compile(r"Involuntary full rematerialization\..*?for HLO operation:?\s*(.*)")
UNITS = {"K": 1024.0, "M": 1024.0**2, "G": 1024.0**3, "T": 1024.0**4, "": 1.0}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program on one device; bytes.

    temporaries: work space, gradients among it; results: what it gives and does not write over an argument. refused:
    what the compiler said of a program too large, whose `temporaries` is then all that is known.
    """

    seconds: float
    temporaries: float
    results: float
    code: float
    traffic: float
    transfers: tuple[Transfer, ...]
    kernels: int  # calls of Pallas kernels in its text, which a loop runs many times
    warnings: tuple[str, ...]  # operations that the partitioner replicates on every device, against its will
    refused: str = ""


def compile_program(lower: Callable[[], Any], layers: int) -> Compiled:
    """Lowers and compiles; layers: of the model, by which the loop over them is known."""
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
        traffic=traffic(module, layers),
        transfers=tuple(transfers(module, layers)),
        kernels=text.count('custom_call_target="tpu_custom_call"'),
        warnings=warnings_in(said()),
    )


def warnings_in(log: str) -> tuple[str, ...]:
    """The operations that XLA's partitioner warns of in what it wrote to stderr, each once and cut short."""
    found = (match.group(1) for match in WARNING.finditer(log))
    named = (re.sub(r"\{[^{}]*\}", "", text.split(", sharding=")[0] + _source(text)) for text in found)
    return tuple(dict.fromkeys(named))


def size_in(text: str) -> float:
    """Bytes of a program in the compiler's words, "program 18.29G arguments 2.27G" or "(29.79G)"; 0 without.

    Where they give the sum alone, "Used 20.5G of 15.75G hbm", that.
    """
    words = (r"\bprogram ", r"(?:\(|Used )")
    sizes = (re.search(rf"{word}([\d.]+)([KMGT]?)\b", text) for word in words)
    found = next((size for size in sizes if size), None)
    return float(found.group(1)) * UNITS[found.group(2)] if found else 0.0


def _refused(told: str, seconds: float) -> Compiled:
    line = re.sub(r"\s+", " ", told).removeprefix("RESOURCE_EXHAUSTED: ")[:220]
    return Compiled(seconds, size_in(told), 0.0, 0.0, 0.0, (), 0, (), line)


def _source(text: str) -> str:
    name = re.search(r'op_name="([^"]*)"', text)
    return f" of {name.group(1)}" if name else ""


@contextlib.contextmanager
def _stderr() -> Iterator[Callable[[], str]]:
    """Keeps back what C++ and Python write to stderr; gives a function that reads it afterwards."""
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
