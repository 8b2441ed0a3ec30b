"""Arithmetic on one or two numbers."""

from tljax.toolbox.domains.tables import decimal_sampler
from tljax.toolbox.schema import local_tool


def add_numbers(first: float, second: float) -> float:
    """Add two numbers.

    Args:
        first: The first number.
        second: The second number.
    """
    return round(first + second, 6)


def subtract_numbers(first: float, second: float) -> float:
    """Subtract the second number from the first.

    Args:
        first: The first number.
        second: The second number.
    """
    return round(first - second, 6)


def multiply_numbers(first: float, second: float) -> float:
    """Multiply two numbers.

    Args:
        first: The first number.
        second: The second number.
    """
    return round(first * second, 6)


def divide_numbers(first: float, second: float) -> float:
    """Divide the first number by the second.

    Args:
        first: The first number.
        second: The second number.
    """
    if second == 0:
        raise ZeroDivisionError("division by zero")
    return round(first / second, 6)


def get_power(base: float, exponent: int) -> float:
    """Raise a base to a power.

    Args:
        base: The base.
        exponent: The exponent.
    """
    if abs(base) > 1e4 or abs(exponent) > 20:
        raise ValueError("base must be at most 10000 and exponent at most 20")
    return round(base**exponent, 6)


def get_remainder(first: int, second: int) -> int:
    """Get what is left when the first number is divided by the second.

    Args:
        first: The first number.
        second: The second number.
    """
    if second == 0:
        raise ZeroDivisionError("division by zero")
    return first % second


def round_number(number: float, digits: int = 0) -> float:
    """Round a number to some digits.

    Args:
        number: The number.
        digits: How many digits.
    """
    if not 0 <= digits <= 10:
        raise ValueError("digits must be between 0 and 10")
    return round(number, digits)


def check_prime(number: int) -> bool:
    """Check if a number is prime.

    Args:
        number: The number.
    """
    if not 0 <= number <= 10**6:
        raise ValueError("number must be between 0 and 1000000")
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def compare_numbers(first: float, second: float) -> float:
    """Compare two numbers.

    Args:
        first: The first number.
        second: The second number.
    """
    return max(first, second)


PAIR = {"first": range(2, 500), "second": range(2, 100)}

TOOLS = (
    local_tool(add_numbers, PAIR),
    local_tool(subtract_numbers, PAIR),
    local_tool(multiply_numbers, PAIR),
    local_tool(divide_numbers, PAIR, {"second": (0,)}),
    local_tool(get_power, {"base": range(2, 12), "exponent": range(2, 6)}, {"exponent": (64, 500), "base": (90000,)}),
    local_tool(get_remainder, PAIR, {"second": (0,)}),
    local_tool(
        round_number,
        {"number": lambda rng: rng.randint(10000, 999999) / 10000, "digits": range(1, 4)},
        {"digits": (-1, 25)},
    ),
    local_tool(check_prime, {"number": range(2, 1000)}, {"number": (-7, 5000000)}),
    local_tool(
        compare_numbers, {"first": decimal_sampler(1, 90), "second": decimal_sampler(1, 90)}, split="composition"
    ),
)
