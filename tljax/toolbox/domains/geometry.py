"""Areas, perimeters and volumes."""

import math

from tljax.toolbox.schema import local_tool


def check_positive(**lengths: float) -> None:
    """Raises ValueError for the first length that is not positive."""
    for name, length in lengths.items():
        if length <= 0:
            raise ValueError(f"{name} must be positive")


def get_circle_area(radius: float) -> float:
    """Get the area of a circle.

    Args:
        radius: The radius.
    """
    check_positive(radius=radius)
    return round(math.pi * radius**2, 2)


def get_rectangle_area(width: float, height: float) -> float:
    """Get the area of a rectangle.

    Args:
        width: The width.
        height: The height.
    """
    check_positive(width=width, height=height)
    return round(width * height, 2)


def get_triangle_area(base: float, height: float) -> float:
    """Get the area of a triangle.

    Args:
        base: The base.
        height: The height.
    """
    check_positive(base=base, height=height)
    return round(base * height / 2, 2)


def get_rectangle_perimeter(width: float, height: float) -> float:
    """Get the perimeter of a rectangle.

    Args:
        width: The width.
        height: The height.
    """
    check_positive(width=width, height=height)
    return round(2 * (width + height), 2)


def get_cube_volume(side: float) -> float:
    """Get the volume of a cube.

    Args:
        side: The side.
    """
    check_positive(side=side)
    return round(side**3, 2)


def get_circle_perimeter(radius: float) -> float:
    """Get the perimeter of a circle.

    Args:
        radius: The radius.
    """
    check_positive(radius=radius)
    return round(2 * math.pi * radius, 2)


def get_cube_area(side: float) -> float:
    """Get the area of a cube.

    Args:
        side: The side.
    """
    check_positive(side=side)
    return round(6 * side**2, 2)


LENGTH, BAD = range(2, 60), (0, -4)

TOOLS = (
    local_tool(get_circle_area, {"radius": LENGTH}, {"radius": BAD}),
    local_tool(get_rectangle_area, {"width": LENGTH, "height": LENGTH}, {"width": BAD, "height": BAD}),
    local_tool(get_triangle_area, {"base": LENGTH, "height": LENGTH}, {"base": BAD, "height": BAD}),
    local_tool(get_rectangle_perimeter, {"width": LENGTH, "height": LENGTH}, {"width": BAD, "height": BAD}),
    local_tool(get_cube_volume, {"side": LENGTH}, {"side": BAD}),
    local_tool(get_circle_perimeter, {"radius": LENGTH}, {"radius": BAD}, split="composition"),
    local_tool(get_cube_area, {"side": LENGTH}, {"side": BAD}, split="composition"),
)
