"""Journeys between the cities of the table."""

import math

from tljax.toolbox.domains.tables import CITIES, lookup
from tljax.toolbox.schema import local_tool


def get_distance(source: str, target: str) -> int:
    """Get the distance between two cities.

    Args:
        source: The source city.
        target: The target city.
    """
    _, _, _, east, north = lookup(CITIES, source, "city")
    _, _, _, target_east, target_north = lookup(CITIES, target, "city")
    return round(math.hypot(east - target_east, north - target_north))


def find_flight(source: str, target: str) -> str:
    """Find a flight between two cities.

    Args:
        source: The source city.
        target: The target city.
    """
    if get_distance(source, target) == 0:
        raise ValueError("source and target are equal")
    return f"{source[0]}{target[0]} {get_distance(source, target) % 900 + 100}"


def get_flight_price(source: str, target: str, people: int = 1) -> float:
    """Get the price of a flight.

    Args:
        source: The source city.
        target: The target city.
        people: How many people.
    """
    if not 1 <= people <= 9:
        raise ValueError("people must be between 1 and 9")
    return round(people * (40 + 0.08 * get_distance(source, target)), 2)


def get_travel_time(distance: float, speed: float) -> float:
    """Get the hours that a travel takes.

    Args:
        distance: The distance.
        speed: The speed.
    """
    if speed <= 0:
        raise ValueError("speed must be positive")
    return round(distance / speed, 2)


def get_flight_time(source: str, target: str) -> float:
    """Get the hours that a flight takes.

    Args:
        source: The source city.
        target: The target city.
    """
    return get_travel_time(get_distance(source, target), 750)


CITY, BAD = tuple(CITIES), ("Atlantis", "Gotham")
ROUTE = {"source": ("Paris", "Rome", "Oslo", "Athens", "Lisbon"), "target": ("London", "Berlin", "Madrid", "Vienna")}
NOWHERE = {"source": BAD, "target": BAD}

TOOLS = (
    local_tool(get_distance, {"source": CITY, "target": CITY}, NOWHERE),
    local_tool(find_flight, ROUTE, NOWHERE),
    local_tool(get_flight_price, {**ROUTE, "people": range(2, 6)}, {**NOWHERE, "people": (0, 40)}),
    local_tool(get_travel_time, {"distance": range(50, 900), "speed": range(20, 200, 10)}, {"speed": (0, -30)}),
    local_tool(get_flight_time, ROUTE, NOWHERE, split="composition"),
)
