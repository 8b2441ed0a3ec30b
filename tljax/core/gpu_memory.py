"""The fraction of a GPU's memory that JAX reserves for its arrays when it starts."""

import os

from tljax.core.errors import InputError

VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the second is the older name of the first
# JAX's default of 0.75 leaves 20 of 80 GB unused. CUDA, cuDNN and NCCL need a few GB beside the arrays.
DEFAULT_FRACTION = 0.92


def memory_fraction() -> float:
    """Returns the fraction of a GPU's memory that JAX reserves.

    Raises InputError if an environment variable sets it to something other than a fraction.
    """
    name, text = next(
        ((name, os.environ[name]) for name in VARIABLES if os.environ.get(name)), ("", str(DEFAULT_FRACTION))
    )
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise InputError(f"{name} is {text!r}; allowed: a fraction of a GPU's memory, above 0 and at most 1")
    return fraction


def set_memory_fraction() -> None:
    """Sets the default fraction for this process, unless an environment variable sets one.

    JAX reads it when it looks for devices, so this is called before.
    """
    if not any(os.environ.get(name) for name in VARIABLES):
        os.environ[VARIABLES[0]] = str(DEFAULT_FRACTION)
