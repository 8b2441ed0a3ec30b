"""Units of length, weight, temperature and time."""

from tljax.toolbox.domains.tables import lookup
from tljax.toolbox.schema import local_tool

METRES = {"meter": 1.0, "kilometer": 1000.0, "mile": 1609.344, "foot": 0.3048, "inch": 0.0254}
GRAMS = {"gram": 1.0, "kilogram": 1000.0, "ton": 1e6, "pound": 453.592, "ounce": 28.3495}
SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}
# kelvin = (value + offset) * scale
KELVIN = {"celsius": (273.15, 1.0), "kelvin": (0.0, 1.0), "fahrenheit": (459.67, 5 / 9)}


def convert_length(value: float, source: str, target: str) -> float:
    """Convert a length to another unit.

    Args:
        value: The length.
        source: The source unit.
        target: The target unit.
    """
    return round(value * lookup(METRES, source, "unit") / lookup(METRES, target, "unit"), 4)


def convert_weight(value: float, source: str, target: str) -> float:
    """Convert a weight to another unit.

    Args:
        value: The weight.
        source: The source unit.
        target: The target unit.
    """
    return round(value * lookup(GRAMS, source, "unit") / lookup(GRAMS, target, "unit"), 4)


def convert_temperature(value: float, source: str, target: str) -> float:
    """Convert a temperature to another unit.

    Args:
        value: The temperature.
        source: The source unit.
        target: The target unit.
    """
    offset, scale = lookup(KELVIN, source, "unit")
    target_offset, target_scale = lookup(KELVIN, target, "unit")
    return round((value + offset) * scale / target_scale - target_offset, 2)


def convert_time(value: float, source: str, target: str) -> float:
    """Convert a time to another unit.

    Args:
        value: The time.
        source: The source unit.
        target: The target unit.
    """
    return round(value * lookup(SECONDS, source, "unit") / lookup(SECONDS, target, "unit"), 4)


def compare_length(first: float, second: float, unit: str) -> str:
    """Compare a length to another length.

    Args:
        first: The first length.
        second: The second length.
        unit: The unit of both.
    """
    lookup(METRES, unit, "unit")
    return f"{max(first, second)} {unit}"


BAD = ("parsec", "barrel", "unit")


def samples(table) -> dict:
    return {"value": range(1, 200), "source": tuple(table), "target": tuple(table)}


TOOLS = (
    local_tool(convert_length, samples(METRES), {"source": BAD, "target": BAD}),
    local_tool(convert_weight, samples(GRAMS), {"source": BAD, "target": BAD}),
    local_tool(convert_temperature, samples(KELVIN), {"source": BAD, "target": BAD}),
    local_tool(convert_time, samples(SECONDS), {"source": BAD, "target": BAD}),
    local_tool(
        compare_length,
        {"first": range(2, 99), "second": range(2, 99), "unit": tuple(METRES)},
        {"unit": BAD},
        split="composition",
    ),
)
