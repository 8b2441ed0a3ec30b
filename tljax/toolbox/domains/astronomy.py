"""Planets, moons and stars. The domain is held out: none of its words may occur in another split."""

from tljax.toolbox.domains.tables import lookup
from tljax.toolbox.schema import local_tool

# planet -> (sort, gravity compared with the Earth's, orbit in Earth's rotations)
PLANETS = {
    "Mercury": ("rocky", 0.38, 88.0),
    "Venus": ("rocky", 0.91, 224.7),
    "Mars": ("rocky", 0.38, 687.0),
    "Jupiter": ("gaseous", 2.53, 4331.0),
    "Saturn": ("gaseous", 1.07, 10747.0),
    "Uranus": ("icy", 0.91, 30589.0),
    "Neptune": ("icy", 1.14, 59800.0),
}
MOONS = {"Titan": "Saturn", "Europa": "Jupiter", "Phobos": "Mars", "Triton": "Neptune", "Oberon": "Uranus"}
STARS = {"Rigel": "Orion", "Vega": "Lyra", "Deneb": "Cygnus", "Antares": "Scorpius", "Spica": "Virgo"}


def describe_planet(planet: str) -> str:
    """Describe the surface of a planet.

    Args:
        planet: The planet.
    """
    return lookup(PLANETS, planet, "planet")[0]


def describe_gravity(planet: str, mass: float) -> float:
    """Describe the gravity acting upon a mass.

    Args:
        planet: The planet.
        mass: The mass.
    """
    if mass < 0:
        raise ValueError("mass must not be negative")
    return round(lookup(PLANETS, planet, "planet")[1] * mass, 2)


def simulate_orbit(planet: str, revolutions: int) -> float:
    """Simulate the orbit of a planet.

    Args:
        planet: The planet.
        revolutions: The revolutions.
    """
    if not 1 <= revolutions <= 1000:
        raise ValueError("revolutions must exceed 0 but not 1000")
    return round(revolutions * lookup(PLANETS, planet, "planet")[2], 1)


def locate_moon(moon: str) -> str:
    """Locate the planet of a moon.

    Args:
        moon: The moon.
    """
    return lookup(MOONS, moon, "moon")


def locate_star(star: str) -> str:
    """Locate the constellation of a star.

    Args:
        star: The star.
    """
    return lookup(STARS, star, "star")


PLANET, BAD = tuple(PLANETS), ("Krypton", "Vulcan")

TOOLS = (
    local_tool(describe_planet, {"planet": PLANET}, {"planet": BAD}, split="domain"),
    local_tool(
        describe_gravity, {"planet": PLANET, "mass": range(2, 90)}, {"planet": BAD, "mass": (-8,)}, split="domain"
    ),
    local_tool(
        simulate_orbit,
        {"planet": PLANET, "revolutions": range(2, 20)},
        {"planet": BAD, "revolutions": (0,)},
        split="domain",
    ),
    local_tool(locate_moon, {"moon": tuple(MOONS)}, {"moon": ("Endor", "Pandora")}, split="domain"),
    local_tool(locate_star, {"star": tuple(STARS)}, {"star": ("Nemesis", "Tatooine")}, split="domain"),
)
