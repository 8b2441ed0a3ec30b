"""Lists of numbers and of words."""

import math

from tljax.toolbox.domains.tables import WORDS, list_sampler
from tljax.toolbox.schema import local_tool


def check_not_empty(numbers: list[float]) -> list[float]:
    """Returns the numbers. Raises ValueError for an empty list."""
    if not numbers:
        raise ValueError("numbers must not be empty")
    return numbers


def sort_numbers(numbers: list[float], descending: bool = False) -> list[float]:
    """Sort a list of numbers.

    Args:
        numbers: The numbers.
        descending: Whether the largest is first.
    """
    return sorted(numbers, reverse=descending)


def sum_numbers(numbers: list[float]) -> float:
    """Find the sum of a list of numbers.

    Args:
        numbers: The numbers.
    """
    return round(math.fsum(numbers), 6)


def find_largest(numbers: list[float]) -> float:
    """Find the largest number of a list.

    Args:
        numbers: The numbers.
    """
    return max(check_not_empty(numbers))


def find_smallest(numbers: list[float]) -> float:
    """Find the smallest number of a list.

    Args:
        numbers: The numbers.
    """
    return min(check_not_empty(numbers))


def get_average(numbers: list[float]) -> float:
    """Get the average of a list of numbers.

    Args:
        numbers: The numbers.
    """
    return round(math.fsum(check_not_empty(numbers)) / len(numbers), 4)


def count_item(items: list[str], item: str) -> int:
    """Count how often an item is in a list.

    Args:
        items: The items.
        item: The item.
    """
    return items.count(item)


def remove_item(items: list[str], item: str) -> list[str]:
    """Remove an item from a list.

    Args:
        items: The items.
        item: The item.
    """
    if item not in items:
        raise ValueError(f"no item '{item}' in the list")
    return [other for other in items if other != item]


def sort_words(words: list[str], descending: bool = False) -> list[str]:
    """Sort a list of words.

    Args:
        words: The words.
        descending: Whether the largest is first.
    """
    return sorted(words, reverse=descending)


def count_numbers(numbers: list[float]) -> int:
    """Count the numbers of a list.

    Args:
        numbers: The numbers.
    """
    return len(numbers)


NUMBERS = list_sampler(range(1, 100), 3, 5)
FEW = ("apple", "bread", "river")

TOOLS = (
    local_tool(sort_numbers, {"numbers": NUMBERS, "descending": (True, False)}),
    local_tool(sum_numbers, {"numbers": NUMBERS}),
    local_tool(find_largest, {"numbers": NUMBERS}, {"numbers": ([],)}),
    local_tool(find_smallest, {"numbers": NUMBERS}, {"numbers": ([],)}),
    local_tool(get_average, {"numbers": NUMBERS}, {"numbers": ([],)}),
    local_tool(count_item, {"items": list_sampler(FEW, 3, 5), "item": FEW}),
    local_tool(
        remove_item,
        {"items": lambda rng: rng.sample(FEW, 3), "item": FEW},
        {"item": ("dog", "house")},
    ),
    local_tool(sort_words, {"words": list_sampler(WORDS, 3, 4), "descending": (True, False)}, split="composition"),
    local_tool(count_numbers, {"numbers": NUMBERS}, split="composition"),
)
