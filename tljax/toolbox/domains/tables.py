"""The facts that the tools look up, and samplers for arguments.

Where Python's message differs between its versions, a tool checks the argument itself, so that the generated text is
the same on all versions.
"""

import random
from collections.abc import Callable, Mapping
from typing import TypeVar

Fact = TypeVar("Fact")

# city -> (temperature in celsius, humidity in percent, forecast, kilometres east, kilometres north)
CITIES = {
    "Paris": (18, 62, "cloudy", 160, 5400),
    "London": (14, 75, "rainy", 0, 5700),
    "Berlin": (16, 58, "windy", 900, 5830),
    "Madrid": (27, 34, "sunny", -300, 4490),
    "Rome": (25, 48, "sunny", 1000, 4650),
    "Vienna": (19, 55, "cloudy", 1200, 5350),
    "Oslo": (9, 66, "snowy", 800, 6650),
    "Dublin": (13, 80, "rainy", -440, 5920),
    "Athens": (30, 40, "sunny", 2000, 4220),
    "Lisbon": (24, 60, "windy", -780, 4300),
    "Prague": (17, 57, "foggy", 1020, 5560),
    "Warsaw": (15, 63, "foggy", 1450, 5800),
}
# person -> (phone, email, city)
PEOPLE = {
    "Alice": ("555 0101", "alice@mail.com", "Paris"),
    "Bob": ("555 0102", "bob@mail.com", "London"),
    "Carla": ("555 0103", "carla@post.org", "Madrid"),
    "David": ("555 0104", "david@post.org", "Berlin"),
    "Emma": ("555 0105", "emma@mail.com", "Rome"),
    "Frank": ("555 0106", "frank@web.net", "Oslo"),
    "Grace": ("555 0107", "grace@web.net", "Dublin"),
    "Henry": ("555 0108", "henry@mail.com", "Paris"),
    "Julia": ("555 0109", "julia@post.org", "Vienna"),
    "Kevin": ("555 0110", "kevin@web.net", "London"),
    "Laura": ("555 0111", "laura@mail.com", "Athens"),
    "Oscar": ("555 0112", "oscar@post.org", "Prague"),
}
# title -> (author, shelf, copies)
BOOKS = {
    "Dune": ("Herbert", "fiction", 4),
    "Emma": ("Austen", "romance", 2),
    "Persuasion": ("Austen", "romance", 1),
    "Hamlet": ("Shakespeare", "drama", 5),
    "Macbeth": ("Shakespeare", "drama", 3),
    "Ulysses": ("Joyce", "fiction", 1),
    "Walden": ("Thoreau", "nature", 2),
    "Candide": ("Voltaire", "satire", 3),
    "Dubliners": ("Joyce", "fiction", 2),
    "Frankenstein": ("Shelley", "horror", 6),
}
# item -> (price, stock)
GOODS = {
    "pencil": (1.5, 120),
    "notebook": (3.25, 80),
    "lamp": (24.0, 12),
    "chair": (49.5, 7),
    "desk": (120.0, 3),
    "mug": (6.75, 40),
    "jacket": (79.9, 15),
    "umbrella": (14.2, 22),
    "backpack": (39.0, 18),
    "clock": (17.6, 9),
}
# currency -> how many of it one euro buys
RATES = {"euro": 1.0, "dollar": 1.1, "pound": 0.85, "yen": 160.0, "franc": 0.95, "krone": 11.5, "peso": 20.0}

WORDS = ("apple", "river", "castle", "cloud", "tiger", "bread", "window", "silver", "ocean", "paper", "rocket")
PHRASES = (
    "the cat sat on the mat",
    "a red fox runs fast",
    "never give up",
    "birds sing in the morning",
    "good things take time",
    "we drink green tea",
    "level up",
    "snow falls on the mountain",
)


def lookup(table: Mapping[str, Fact], key: str, kind: str) -> Fact:
    """Returns the fact of a key. Raises ValueError for an unknown key; `kind` is its name in the message."""
    if key not in table:
        raise ValueError(f"unknown {kind} '{key}'")
    return table[key]


def decimal_sampler(low: int, high: int) -> Callable[[random.Random], float]:
    """Returns a sampler of numbers with one decimal in [low, high]."""
    return lambda rng: rng.randint(10 * low, 10 * high) / 10


def list_sampler(pool, low: int, high: int) -> Callable[[random.Random], list]:
    """Returns a sampler of lists of `low` to `high` members of the pool, with repetition."""
    return lambda rng: [rng.choice(pool) for _ in range(rng.randint(low, high))]
