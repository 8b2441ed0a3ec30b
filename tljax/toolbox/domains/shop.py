"""A shop, whose stock is part of the episode's state."""

from tljax.toolbox.domains.tables import GOODS, lookup
from tljax.toolbox.schema import local_tool


def get_price(item: str) -> float:
    """Get the price of an item in the shop.

    Args:
        item: The item.
    """
    return lookup(GOODS, item, "item")[0]


def get_stock(state: dict, /, item: str) -> int:
    """Get how many of an item are left in the shop.

    Args:
        item: The item.
    """
    return lookup(GOODS, item, "item")[1] + state.get("stock", {}).get(item, 0)


def add_stock(state: dict, /, item: str, amount: int) -> int:
    """Put more of an item in the shop.

    Args:
        item: The item.
        amount: How many.
    """
    if amount < 1:
        raise ValueError("amount must be at least 1")
    change_stock(state, item, amount)
    return get_stock(state, item)


def order_item(state: dict, /, item: str, amount: int = 1) -> str:
    """Order an item from the shop.

    Args:
        item: The item.
        amount: How many.
    """
    if amount < 1:
        raise ValueError("amount must be at least 1")
    change_stock(state, item, -amount)
    return f"ordered {amount} {item} for {round(amount * get_price(item), 2)}"


def get_basket_price(basket: dict[str, int]) -> float:
    """Get the price of all items of a basket.

    Args:
        basket: How many of each item.
    """
    return round(sum(get_price(item) * amount for item, amount in basket.items()), 2)


def remove_stock(state: dict, /, item: str, amount: int) -> int:
    """Remove some of an item from the shop.

    Args:
        item: The item.
        amount: How many.
    """
    if amount < 1:
        raise ValueError("amount must be at least 1")
    change_stock(state, item, -amount)
    return get_stock(state, item)


def compare_price(first: str, second: str) -> str:
    """Compare the price of two items.

    Args:
        first: The first item.
        second: The second item.
    """
    return min((first, second), key=get_price)


def change_stock(state: dict, item: str, amount: int) -> None:
    if get_stock(state, item) + amount < 0:
        raise ValueError(f"only {get_stock(state, item)} of '{item}' are left")
    stock = state.setdefault("stock", {})
    stock[item] = stock.get(item, 0) + amount


def draw_basket(rng) -> dict[str, int]:
    return {item: rng.randint(1, 5) for item in rng.sample(ITEM, 2)}


ITEM, AMOUNT, BAD = tuple(GOODS), range(1, 4), ("dragon", "spaceship")

TOOLS = (
    local_tool(get_price, {"item": ITEM}, {"item": BAD}),
    local_tool(get_stock, {"item": ITEM}, {"item": BAD}),
    local_tool(add_stock, {"item": ITEM, "amount": range(2, 60)}, {"item": BAD, "amount": (0, -3)}),
    local_tool(order_item, {"item": ITEM, "amount": AMOUNT}, {"item": BAD, "amount": (0, 400)}),
    local_tool(get_basket_price, {"basket": draw_basket}, {"basket": ({"dragon": 1}, {"spaceship": 2})}),
    local_tool(remove_stock, {"item": ITEM, "amount": AMOUNT}, {"item": BAD, "amount": (0, 400)}, split="composition"),
    local_tool(compare_price, {"first": ITEM, "second": ITEM}, {"first": BAD, "second": BAD}, split="composition"),
)
