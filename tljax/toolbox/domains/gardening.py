"""Plants, soils and harvests. The domain is held out: none of its words may occur in another split."""

from tljax.toolbox.domains.tables import lookup
from tljax.toolbox.schema import local_tool

# plant -> (soil, fertilizer, kilograms for a seedling, litres under full sunlight)
PLANTS = {
    "tomato": ("loam", "potash", 2.5, 1.2),
    "carrot": ("sand", "compost", 0.2, 0.4),
    "lettuce": ("humus", "nitrogen", 0.3, 0.5),
    "pumpkin": ("loam", "manure", 6.0, 2.0),
    "basil": ("peat", "seaweed", 0.1, 0.3),
    "cucumber": ("humus", "potash", 3.0, 1.5),
    "radish": ("sand", "bonemeal", 0.1, 0.2),
}
SYMPTOMS = {"yellowing": "chlorosis", "wilting": "drought", "mildew": "fungus", "holes": "slugs", "curling": "aphids"}


def recommend_soil(plant: str) -> str:
    """Recommend a soil for a plant.

    Args:
        plant: The plant.
    """
    return lookup(PLANTS, plant, "plant")[0]


def recommend_fertilizer(plant: str) -> str:
    """Recommend a fertilizer for a plant.

    Args:
        plant: The plant.
    """
    return lookup(PLANTS, plant, "plant")[1]


def estimate_harvest(plant: str, seedlings: int) -> float:
    """Estimate the harvest of seedlings.

    Args:
        plant: The plant.
        seedlings: The seedlings.
    """
    if not 1 <= seedlings <= 10000:
        raise ValueError("seedlings must exceed 0 but not 10000")
    return round(seedlings * lookup(PLANTS, plant, "plant")[2], 2)


def estimate_watering(plant: str, sunlight: int) -> float:
    """Estimate the watering of a plant.

    Args:
        plant: The plant.
        sunlight: The sunlight.
    """
    if not 0 <= sunlight <= 24:
        raise ValueError("sunlight must not exceed 24")
    return round(lookup(PLANTS, plant, "plant")[3] * sunlight / 8, 2)


def diagnose_leaf(symptom: str) -> str:
    """Diagnose the disease of a leaf.

    Args:
        symptom: The symptom.
    """
    return lookup(SYMPTOMS, symptom, "symptom")


PLANT, BAD = tuple(PLANTS), ("cactus", "orchid")

TOOLS = (
    local_tool(recommend_soil, {"plant": PLANT}, {"plant": BAD}, split="domain"),
    local_tool(recommend_fertilizer, {"plant": PLANT}, {"plant": BAD}, split="domain"),
    local_tool(
        estimate_harvest, {"plant": PLANT, "seedlings": range(2, 60)}, {"plant": BAD, "seedlings": (0,)}, split="domain"
    ),
    local_tool(
        estimate_watering, {"plant": PLANT, "sunlight": range(1, 15)}, {"plant": BAD, "sunlight": (48,)}, split="domain"
    ),
    local_tool(diagnose_leaf, {"symptom": tuple(SYMPTOMS)}, {"symptom": ("sneezing", "limping")}, split="domain"),
)
