"""Compiles a program, and reads its memory, its collectives and the warnings of the compiler."""

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

from tljax.plan.collectives import Transfer, find_transfers
from tljax.plan.hlo import Module

WARNING = re.compile(r"Involuntary full rematerialization\..*?for HLO operation:?\s*(.*)")
UNITS = {"K": 1024.0, "M": 1024.0**2, "G": 1024.0**3, "T": 1024.0**4, "": 1.0}


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """One compiled program; sizes are bytes on one device.

    compile_seconds: the time that compiling took. temp_bytes: work space, gradients included. output_bytes: outputs
    that are not written over an argument. num_pallas_calls: calls of Pallas kernels in its text; a loop runs each many
    times. replicated: operations that the partitioner replicates on every device because it found no better way.
    out_of_memory: the message of the compiler if the program is too large, and `temp_bytes` is then the only known
    size.
    """

    compile_seconds: float
    temp_bytes: float
    output_bytes: float = 0.0
    code_bytes: float = 0.0
    transfers: tuple[Transfer, ...] = ()
    num_pallas_calls: int = 0
    replicated: tuple[str, ...] = ()
    out_of_memory: str = ""


def compile_program(lower: Callable[[], Any], num_layers: int) -> CompiledProgram:
    """Lowers and compiles a program. num_layers: the layers of the model."""
    start = time.perf_counter()
    with _captured_stderr() as stderr:
        try:
            program = lower().compile()
        except jax.errors.JaxRuntimeError as error:
            message = str(error)
            if "RESOURCE_EXHAUSTED" not in message:
                raise
            line = re.sub(r"\s+", " ", message).removeprefix("RESOURCE_EXHAUSTED: ")[:220]
            return CompiledProgram(time.perf_counter() - start, parse_program_size(message), out_of_memory=line)
    memory, text = program.memory_analysis(), program.as_text()
    transfers = find_transfers(Module(text), num_layers)
    return CompiledProgram(
        compile_seconds=time.perf_counter() - start,
        temp_bytes=memory.temp_size_in_bytes,
        output_bytes=max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        code_bytes=memory.generated_code_size_in_bytes,
        transfers=tuple(transfers),
        num_pallas_calls=text.count('custom_call_target="tpu_custom_call"'),
        replicated=find_replicated(stderr()),
    )


def find_replicated(log: str) -> tuple[str, ...]:
    """Returns the operations of which XLA's partitioner warns on stderr that it replicates them, each once."""
    operations = (match.group(1) for match in WARNING.finditer(log))
    names = (re.sub(r"\{[^{}]*\}", "", text.split(", sharding=")[0] + _source_operation(text)) for text in operations)
    return tuple(dict.fromkeys(names))


def parse_program_size(message: str) -> float:
    """Returns the bytes in the compiler's message "program 18.29G arguments 2.27G" or "(29.79G)", or 0 if none.

    If the message has only the sum, "Used 20.5G of 15.75G hbm", returns the sum.
    """
    for prefix in (r"\bprogram ", r"(?:\(|Used )"):
        match = re.search(rf"{prefix}([\d.]+)([KMGT]?)\b", message)
        if match:
            return float(match.group(1)) * UNITS[match.group(2)]
    return 0.0


def _source_operation(text: str) -> str:
    """Returns the operation of JAX that an operation of XLA came from, as " of NAME", or ""."""
    name = re.search(r'op_name="([^"]*)"', text)
    return f" of {name.group(1)}" if name else ""


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Captures the text that C++ and Python write to stderr; yields a function that returns it afterwards."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        original = os.dup(2)
        os.dup2(file.fileno(), 2)
        text: list[str] = []
        try:
            yield lambda: text[0] if text else ""
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))
