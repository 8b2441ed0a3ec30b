"""A small library; borrowing and returning change the episode's state."""

from tljax.toolbox.domains.tables import BOOKS, PEOPLE, lookup
from tljax.toolbox.schema import local_tool


def find_shelf(title: str) -> str:
    """Find the shelf of a book.

    Args:
        title: The title.
    """
    return lookup(BOOKS, title, "book")[1]


def find_author(title: str) -> str:
    """Find who wrote a book.

    Args:
        title: The title.
    """
    return lookup(BOOKS, title, "book")[0]


def list_books(author: str) -> list[str]:
    """List the books of an author.

    Args:
        author: The author.
    """
    titles = [title for title, facts in BOOKS.items() if facts[0] == author]
    if not titles:
        raise ValueError(f"unknown author '{author}'")
    return titles


def count_copies(state: dict, /, title: str) -> int:
    """Count the copies of a book that are left.

    Args:
        title: The title.
    """
    return lookup(BOOKS, title, "book")[2] - len(state.get("loans", {}).get(title, []))


def borrow_book(state: dict, /, title: str, person: str) -> str:
    """Borrow a book for a person.

    Args:
        title: The title.
        person: The person.
    """
    if count_copies(state, title) < 1:
        raise ValueError(f"no copies of '{title}' are left")
    state.setdefault("loans", {}).setdefault(title, []).append(person)
    return f"{person} has {title}"


def return_book(state: dict, /, title: str, person: str) -> str:
    """Bring a book back to the library.

    Args:
        title: The title.
        person: The person.
    """
    readers = state.get("loans", {}).get(title, [])
    lookup(BOOKS, title, "book")
    if person in readers:
        readers.remove(person)
    return f"{person} returned {title}"


def count_books(author: str) -> int:
    """Count the books of an author.

    Args:
        author: The author.
    """
    return len(list_books(author))


TITLE, BAD = tuple(BOOKS), ("Moby", "Inferno")
AUTHOR = tuple(dict.fromkeys(author for author, _, _ in BOOKS.values()))
LOAN = {"title": TITLE, "person": tuple(PEOPLE)}

TOOLS = (
    local_tool(find_shelf, {"title": TITLE}, {"title": BAD}),
    local_tool(find_author, {"title": TITLE}, {"title": BAD}),
    local_tool(list_books, {"author": AUTHOR}, {"author": ("Nobody", "Somebody")}),
    local_tool(count_copies, {"title": TITLE}, {"title": BAD}),
    local_tool(borrow_book, LOAN, {"title": BAD}),
    local_tool(return_book, LOAN, {"title": BAD}),
    local_tool(count_books, {"author": AUTHOR}, {"author": ("Nobody", "Somebody")}, split="composition"),
)
