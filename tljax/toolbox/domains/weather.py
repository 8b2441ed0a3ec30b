"""Weather from a fixed table."""

from tljax.toolbox.domains.tables import CITIES, lookup
from tljax.toolbox.schema import local_tool


def get_temperature(city: str, unit: str = "celsius") -> float:
    """Get the temperature in a city.

    Args:
        city: The city.
        unit: The unit, celsius or fahrenheit.
    """
    celsius = lookup(CITIES, city, "city")[0]
    if unit not in ("celsius", "fahrenheit"):
        raise ValueError(f"unknown unit '{unit}'")
    return celsius if unit == "celsius" else celsius * 9 / 5 + 32


def get_humidity(city: str) -> int:
    """Get the humidity in a city.

    Args:
        city: The city.
    """
    return lookup(CITIES, city, "city")[1]


def get_forecast(city: str, days: int) -> str:
    """Get the weather in a city some days later.

    Args:
        city: The city.
        days: How many days.
    """
    if not 0 <= days <= 14:
        raise ValueError("days must be between 0 and 14")
    skies = [weather for _, _, weather, _, _ in CITIES.values()]
    lookup(CITIES, city, "city")
    return skies[(list(CITIES).index(city) + days) % len(skies)]


def compare_temperature(first: str, second: str) -> str:
    """Find the warmer one of two cities.

    Args:
        first: The first city.
        second: The second city.
    """
    return max((first, second), key=lambda city: lookup(CITIES, city, "city")[0])


def list_cities(weather: str) -> list[str]:
    """List the cities with some weather.

    Args:
        weather: The weather.
    """
    cities = [city for city, facts in CITIES.items() if facts[2] == weather]
    if not cities:
        raise ValueError(f"unknown weather '{weather}'")
    return cities


def compare_humidity(first: str, second: str) -> str:
    """Compare the humidity of two cities.

    Args:
        first: The first city.
        second: The second city.
    """
    return max((first, second), key=lambda city: lookup(CITIES, city, "city")[1])


def count_cities(weather: str) -> int:
    """Count the cities with some weather.

    Args:
        weather: The weather.
    """
    return len(list_cities(weather))


CITY, BAD = tuple(CITIES), ("Atlantis", "Gotham")
WEATHER = ("cloudy", "rainy", "windy", "sunny", "snowy", "foggy")

TOOLS = (
    local_tool(
        get_temperature, {"city": CITY, "unit": ("celsius", "fahrenheit")}, {"city": BAD, "unit": ("parsec", "barrel")}
    ),
    local_tool(get_humidity, {"city": CITY}, {"city": BAD}),
    local_tool(get_forecast, {"city": CITY, "days": range(1, 8)}, {"city": BAD, "days": (-3, 90)}),
    local_tool(compare_temperature, {"first": CITY, "second": CITY}, {"first": BAD, "second": BAD}),
    local_tool(list_cities, {"weather": WEATHER}, {"weather": ("purple", "wooden")}),
    local_tool(compare_humidity, {"first": CITY, "second": CITY}, {"first": BAD, "second": BAD}, split="composition"),
    local_tool(count_cities, {"weather": WEATHER}, {"weather": ("purple", "wooden")}, split="composition"),
)
