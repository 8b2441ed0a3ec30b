"""Currencies at fixed rates, and everyday sums of money."""

from tljax.toolbox.domains.tables import RATES, lookup
from tljax.toolbox.schema import local_tool


def convert_currency(amount: float, source: str, target: str) -> float:
    """Convert an amount of money to another currency.

    Args:
        amount: The amount.
        source: The source currency.
        target: The target currency.
    """
    return round(amount / lookup(RATES, source, "currency") * lookup(RATES, target, "currency"), 2)


def get_rate(source: str, target: str) -> float:
    """Get the rate between two currencies.

    Args:
        source: The source currency.
        target: The target currency.
    """
    return round(lookup(RATES, target, "currency") / lookup(RATES, source, "currency"), 4)


def list_currencies() -> list[str]:
    """List the known currencies."""
    return list(RATES)


def get_tip(amount: float, percent: float) -> float:
    """Get the tip for a bill.

    Args:
        amount: The amount.
        percent: The percent.
    """
    if not 0 <= percent <= 100:
        raise ValueError("percent must be between 0 and 100")
    return round(amount * percent / 100, 2)


def get_discount(price: float, percent: float) -> float:
    """Get the price after a discount.

    Args:
        price: The price.
        percent: The percent.
    """
    if not 0 <= percent <= 100:
        raise ValueError("percent must be between 0 and 100")
    return round(price * (100 - percent) / 100, 2)


def split_bill(amount: float, people: int) -> float:
    """Split a bill between people.

    Args:
        amount: The amount.
        people: How many people.
    """
    if people < 1:
        raise ValueError("people must be at least 1")
    return round(amount / people, 2)


def get_interest(amount: float, rate: float, years: int = 1) -> float:
    """Get the interest on an amount of money.

    Args:
        amount: The amount.
        rate: The rate.
        years: How many years.
    """
    if not 0 <= years <= 100:
        raise ValueError("years must be between 0 and 100")
    return round(amount * rate / 100 * years, 2)


def compare_currencies(first: str, second: str) -> str:
    """Compare the price of two currencies.

    Args:
        first: The first currency.
        second: The second currency.
    """
    prices = {currency: lookup(RATES, currency, "currency") for currency in (first, second)}
    return min(prices, key=lambda currency: prices[currency])


def split_tip(amount: float, percent: float, people: int) -> float:
    """Split the tip for a bill between people.

    Args:
        amount: The amount.
        percent: The percent.
        people: How many people.
    """
    return split_bill(get_tip(amount, percent), people)


AMOUNT, PERCENT, PEOPLE = range(10, 900), range(5, 60, 5), range(2, 9)
CURRENCY, BAD, NO_PERCENT = tuple(RATES), ("gold", "shell"), (-5, 250)

TOOLS = (
    local_tool(
        convert_currency,
        {"amount": AMOUNT, "source": CURRENCY, "target": CURRENCY},
        {"source": BAD, "target": BAD},
    ),
    local_tool(get_rate, {"source": CURRENCY, "target": CURRENCY}, {"source": BAD, "target": BAD}),
    local_tool(list_currencies),
    local_tool(get_tip, {"amount": AMOUNT, "percent": PERCENT}, {"percent": NO_PERCENT}),
    local_tool(get_discount, {"price": AMOUNT, "percent": PERCENT}, {"percent": NO_PERCENT}),
    local_tool(split_bill, {"amount": AMOUNT, "people": PEOPLE}, {"people": (0, -2)}),
    local_tool(get_interest, {"amount": AMOUNT, "rate": range(1, 9), "years": range(2, 9)}, {"years": (-1, 500)}),
    local_tool(
        compare_currencies, {"first": CURRENCY, "second": CURRENCY}, {"first": BAD, "second": BAD}, split="composition"
    ),
    local_tool(
        split_tip,
        {"amount": AMOUNT, "percent": PERCENT, "people": PEOPLE},
        {"percent": NO_PERCENT, "people": (0, -2)},
        split="composition",
    ),
)
