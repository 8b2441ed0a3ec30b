"""Reads what a function computes from its jaxpr, nested ones included, before XLA compiles it."""

from collections import Counter
from collections.abc import Callable, Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def array_types(function: Callable, *args) -> set[tuple[tuple[int, ...], str]]:
    """Returns shape and dtype of all arrays that a function computes."""
    values = (value.aval for equation in equations(function, *args) for value in equation.outvars)
    return {(value.shape, str(value.dtype)) for value in values if isinstance(value, jax.core.ShapedArray)}


def primitive_counts(function: Callable, *args) -> Counter[str]:
    """Returns how often each primitive stands in a function; the body of a loop counts once."""
    return Counter(equation.primitive.name for equation in equations(function, *args))


def equations(function: Callable, *args) -> Iterator[JaxprEqn]:
    """Yields the equations of a function, and of the jaxprs within them."""

    def is_jaxpr(x) -> bool:
        return isinstance(x, ClosedJaxpr | Jaxpr)

    jaxprs = [jax.make_jaxpr(function)(*args).jaxpr]
    while jaxprs:
        for equation in jaxprs.pop().eqns:
            yield equation
            inner = jax.tree.leaves(equation.params, is_leaf=is_jaxpr)
            jaxprs += [x.jaxpr if isinstance(x, ClosedJaxpr) else x for x in inner if is_jaxpr(x)]
