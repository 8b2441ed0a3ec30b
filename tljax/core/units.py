"""Formatting of bytes and seconds as text."""

BYTE_UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}


def format_bytes(count: float, digits: int = 2, min_unit: str = "B") -> str:
    """Returns a number of bytes in powers of ten, such as "3.37 GB", in no smaller unit than `min_unit`."""
    unit = next((unit for unit, scale in BYTE_UNITS.items() if count >= scale or unit == min_unit), "B")
    return f"{count / BYTE_UNITS[unit]:,.{0 if unit == 'B' else digits}f} {unit}"


def format_seconds(duration: float) -> str:
    """Returns a duration such as "1.19 s", or "44.6 ms" below one second."""
    return f"{duration:.2f} s" if duration >= 1 else f"{1e3 * duration:.1f} ms"
