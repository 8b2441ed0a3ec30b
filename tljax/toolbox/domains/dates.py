"""Dates, such as 2024-05-17, and times, such as 14:30."""

import calendar
import datetime

from tljax.toolbox.schema import local_tool

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def parse_date(date: str) -> datetime.date:
    """Returns a date. Raises ValueError if the text is not one."""
    try:
        return datetime.date.fromisoformat(date)
    except ValueError:
        raise ValueError(f"no date '{date}'") from None


def parse_time(time: str) -> datetime.time:
    """Returns a time of day. Raises ValueError if the text is not one."""
    try:
        return datetime.time.fromisoformat(time)
    except ValueError:
        raise ValueError(f"no time '{time}'") from None


def shift_date(date: str, days: int) -> str:
    if abs(days) > 100000:
        raise ValueError("days must be at most 100000")
    return (parse_date(date) + datetime.timedelta(days=days)).isoformat()


def add_days(date: str, days: int) -> str:
    """Add days to a date.

    Args:
        date: The date.
        days: How many days.
    """
    return shift_date(date, days)


def count_days(start: str, end: str) -> int:
    """Count the days between two dates.

    Args:
        start: The first date.
        end: The second date.
    """
    return (parse_date(end) - parse_date(start)).days


def get_weekday(date: str) -> str:
    """Get the weekday of a date.

    Args:
        date: The date.
    """
    return WEEKDAYS[parse_date(date).weekday()]


def check_leap_year(year: int) -> bool:
    """Check if a year is a leap year.

    Args:
        year: The year.
    """
    if not 1 <= year <= 9999:
        raise ValueError("year must be between 1 and 9999")
    return calendar.isleap(year)


def add_minutes(time: str, minutes: int) -> str:
    """Add minutes to a time of day.

    Args:
        time: The time.
        minutes: How many minutes.
    """
    start = datetime.datetime.combine(datetime.date(2000, 1, 2), parse_time(time))
    return f"{start + datetime.timedelta(minutes=minutes % 1440):%H:%M}"


def subtract_days(date: str, days: int) -> str:
    """Subtract days from a date.

    Args:
        date: The date.
        days: How many days.
    """
    return shift_date(date, -days)


def subtract_minutes(time: str, minutes: int) -> str:
    """Subtract minutes from a time of day.

    Args:
        time: The time.
        minutes: How many minutes.
    """
    return add_minutes(time, -minutes)


def draw_date(rng) -> str:
    return f"{rng.randint(2000, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def draw_time(rng) -> str:
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"


NO_DATE, NO_TIME = ("2023-02-30", "2021-13-01"), ("25:10", "12:75")

TOOLS = (
    local_tool(add_days, {"date": draw_date, "days": range(1, 90)}, {"date": NO_DATE}),
    local_tool(count_days, {"start": draw_date, "end": draw_date}, {"start": NO_DATE, "end": NO_DATE}),
    local_tool(get_weekday, {"date": draw_date}, {"date": NO_DATE}),
    local_tool(check_leap_year, {"year": range(1900, 2100)}, {"year": (0, 12000)}),
    local_tool(add_minutes, {"time": draw_time, "minutes": range(5, 240)}, {"time": NO_TIME}),
    local_tool(subtract_days, {"date": draw_date, "days": range(1, 90)}, {"date": NO_DATE}, split="composition"),
    local_tool(subtract_minutes, {"time": draw_time, "minutes": range(5, 240)}, {"time": NO_TIME}, split="composition"),
)
