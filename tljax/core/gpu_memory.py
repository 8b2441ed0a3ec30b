"""How much of a GPU's memory JAX takes for its arrays, at once and for good."""

import os

from tljax.core.errors import InputError

VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the second is the first's older name
# JAX's own 0.75 leaves 20 GB of 80 unused; what CUDA, cuDNN and NCCL hold besides takes a few.
DEFAULT_FRACTION = 0.92


def memory_fraction() -> float:
    """The part of a GPU's memory that programs get. Raises InputError where a variable holds no part."""
    name, text = next(
        ((name, os.environ[name]) for name in VARIABLES if os.environ.get(name)), ("", str(DEFAULT_FRACTION))
    )
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise InputError(f"{name} is {text!r}; allowed is above 0 to 1, a part of a GPU's memory")
    return found


def set_memory_fraction() -> None:
    """Sets the part for this process, before JAX looks for devices; what a variable says is left as it is."""
    if not any(os.environ.get(name) for name in VARIABLES):
        os.environ[VARIABLES[0]] = str(DEFAULT_FRACTION)
