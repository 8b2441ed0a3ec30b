"""An address book; adding and removing change the episode's state."""

from tljax.toolbox.domains.tables import CITIES, PEOPLE, lookup
from tljax.toolbox.schema import local_tool


def all_contacts(state: dict) -> dict[str, tuple[str, str, str]]:
    """Returns the people in the address book: person -> (phone, email, city)."""
    everyone = {**PEOPLE, **{person: (phone, "", "") for person, phone in state.get("added", {}).items()}}
    return {person: facts for person, facts in everyone.items() if person not in state.get("removed", [])}


def find_phone(state: dict, /, person: str) -> str:
    """Find the phone number of a person.

    Args:
        person: The person.
    """
    return lookup(all_contacts(state), person, "person")[0]


def find_email(state: dict, /, person: str) -> str:
    """Find the email of a person.

    Args:
        person: The person.
    """
    return lookup(all_contacts(state), person, "person")[1]


def add_contact(state: dict, /, person: str, phone: str) -> str:
    """Add a person to the contacts.

    Args:
        person: The person.
        phone: The phone number.
    """
    if person in all_contacts(state):
        raise ValueError(f"'{person}' is known")
    state.setdefault("added", {})[person] = phone
    return f"added {person}"


def remove_contact(state: dict, /, person: str) -> str:
    """Remove a person from the contacts.

    Args:
        person: The person.
    """
    lookup(all_contacts(state), person, "person")
    state.setdefault("removed", []).append(person)
    return f"removed {person}"


def list_contacts(state: dict, /, city: str) -> list[str]:
    """List the contacts in a city.

    Args:
        city: The city.
    """
    lookup(CITIES, city, "city")
    return [person for person, facts in all_contacts(state).items() if facts[2] == city]


def count_contacts(state: dict, /, city: str) -> int:
    """Count the contacts in a city.

    Args:
        city: The city.
    """
    return len(list_contacts(state, city))


def find_city(state: dict, /, person: str) -> str:
    """Find the city of a person.

    Args:
        person: The person.
    """
    return lookup(all_contacts(state), person, "person")[2]


PERSON, CITY, BAD = tuple(PEOPLE), ("Paris", "London", "Madrid", "Berlin", "Rome", "Oslo"), ("Nobody", "Somebody")
NEW = {"person": ("Nina", "Peter", "Quentin", "Sofia", "Thomas"), "phone": ("555 0142", "555 0177", "555 0190")}

TOOLS = (
    local_tool(find_phone, {"person": PERSON}, {"person": BAD}),
    local_tool(find_email, {"person": PERSON}, {"person": BAD}),
    local_tool(add_contact, NEW, {"person": ("Alice", "Bob")}),
    local_tool(remove_contact, {"person": PERSON}, {"person": BAD}),
    local_tool(list_contacts, {"city": CITY}, {"city": ("Atlantis", "Gotham")}),
    local_tool(count_contacts, {"city": CITY}, {"city": ("Atlantis", "Gotham")}, split="composition"),
    local_tool(find_city, {"person": PERSON}, {"person": BAD}, split="composition"),
)
