"""Colours by name, as linear RGB: cloth, skin, hair, paint, facades, awnings and sign boards.

Skin and hair are drawn from the whole range everywhere; no list here depends on a city.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from worldloop.errors import UnknownKeyError

Color = tuple[float, float, float]
Choice = TypeVar("Choice")


def linear(code: str) -> Color:
    """A CSS hex code as linear RGB.

    Example:
        >>> linear("#ffffff")
        (1.0, 1.0, 1.0)
    """
    channels = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        round(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4, 5) for c in channels
    )
    return red, green, blue


COLORS: dict[str, Color] = {
    name: linear(code)
    for name, code in {
        "white": "#f2f2ee",
        "cream": "#efe6cf",
        "beige": "#cdb891",
        "khaki": "#a8986a",
        "olive": "#6b6f3a",
        "brown": "#6b4a32",
        "black": "#1d1e21",
        "charcoal": "#3a3d42",
        "gray": "#85898d",
        "silver": "#b9bdc1",
        "red": "#c22f2c",
        "maroon": "#702029",
        "orange": "#e0752a",
        "amber": "#eda52f",
        "yellow": "#eccb3a",
        "lime": "#c6e03a",
        "green": "#3c8a47",
        "dark green": "#21512f",
        "mint": "#a6d9c1",
        "teal": "#12808a",
        "turquoise": "#39b3b0",
        "pale blue": "#a9cbe3",
        "sky blue": "#5aa3d8",
        "blue": "#2b5fae",
        "navy": "#22305c",
        "purple": "#6d468f",
        "lavender": "#b3a5d6",
        "pink": "#e59cae",
        "magenta": "#bf3f80",
        "gold": "#c99a3c",
        "copper": "#b0643c",
        "ivory": "#f0ead8",
    }.items()
}

CLOTHES: tuple[str, ...] = (
    *("white", "cream", "beige", "khaki", "olive", "brown", "charcoal", "gray", "red", "maroon"),
    *("orange", "amber", "green", "dark green", "mint", "teal", "pale blue", "sky blue", "blue"),
    *("navy", "purple", "lavender", "pink", "magenta"),
)
EVERYDAY: tuple[str, ...] = (  # what the public wears: plain shades more often than loud ones
    *("white", "cream", "beige", "khaki", "olive", "brown", "black", "charcoal", "gray", "silver"),
    *("navy", "navy", "charcoal", "gray", "pale blue", "blue", "sky blue", "maroon", "dark green"),
    *("red", "orange", "amber", "green", "mint", "teal", "purple", "lavender", "pink", "white"),
)
OUTER: tuple[str, ...] = (  # jackets and coats
    *("black", "charcoal", "charcoal", "navy", "navy", "olive", "khaki", "brown", "beige", "gray"),
    *("maroon", "dark green", "blue", "red", "teal", "cream", "copper", "purple", "amber"),
)
TROUSERS: tuple[Color, ...] = tuple(
    linear(c)
    for c in (
        *("#23293a", "#2f3f5f", "#3a3a3c", "#4b4236", "#77705f", "#1f2023", "#52606d", "#44597c"),
        *("#8d8672", "#a89a7c", "#5d6247", "#5b2f30", "#6f8199", "#b5b3ab"),
    )
)
SHOES: tuple[Color, ...] = tuple(
    linear(c) for c in ("#1a1a1c", "#3a281c", "#c9c7c2", "#5a3a24", "#2b3242", "#8a3a34", "#6e6a62")
)
SKINS: tuple[Color, ...] = tuple(
    linear(c)
    for c in (
        *("#f0d0b8", "#e6bf9f", "#d9ab86", "#c8946b", "#b47d55"),
        *("#9a6544", "#7f5036", "#66402b", "#4e3022", "#3d261b"),
    )
)
HAIRS: tuple[Color, ...] = tuple(
    linear(c) for c in ("#17130f", "#241a14", "#3a2619", "#54351f", "#7a5230", "#a87b45", "#9b9a97")
)
CARS: dict[str, Color] = {
    name: linear(code)
    for name, code in {
        "white": "#e9eaea",
        "silver": "#aab0b5",
        "gray": "#5c6268",
        "black": "#15171a",
        "red": "#a51f22",
        "blue": "#1f4a8c",
        "dark green": "#1e4634",
        "sand-coloured": "#b7a483",
        "pale blue": "#86a9bf",
        "yellow": "#dcae2a",
    }.items()
}
FACADES: dict[str, tuple[Color, ...]] = {
    kind: tuple(linear(c) for c in codes)
    for kind, codes in {
        "brick": ("#8e4a38", "#a1583f", "#7b4335", "#b27a56", "#6b4038", "#a9876a"),
        "plaster": ("#e3d4b4", "#d9b98c", "#cfd3c8", "#e2c3ae", "#c7cfd6", "#e8e2d2", "#d0a184"),
        "stone": ("#c9bfab", "#b8ae9b", "#d3cbbb", "#a8a193", "#c2b08f"),
        "glass": ("#5d7480", "#4d6472", "#6f858e", "#49585f", "#7c8f92"),
        "concrete": ("#b5b3ac", "#a3a19b", "#c4c0b6", "#949590", "#bfb9ab"),
    }.items()
}
AWNINGS: tuple[Color, ...] = tuple(
    linear(c) for c in ("#b3302e", "#2f6f45", "#28487f", "#c98a2c", "#7a2f4e", "#2c7f86", "#5b4a3a")
)
FAIR: tuple[Color, ...] = tuple(
    linear(c) for c in ("#e3342f", "#f3b229", "#2f9be0", "#41b36a", "#e8559a", "#8b52c7", "#f4f0e2")
)
BULBS: tuple[Color, ...] = tuple(
    linear(c) for c in ("#ffd27a", "#ff6f61", "#5fd0ff", "#8dff9a", "#ff8ad0", "#ffe9b0")
)
SIGN_BOARDS: tuple[tuple[str, str], ...] = (  # board, letters
    ("#12305c", "#f7f3e6"),
    ("#a3221f", "#fff4d8"),
    ("#f3ecd9", "#7a1d1d"),
    ("#155c3c", "#f4f1dc"),
    ("#f6c632", "#20201f"),
    ("#1c1c1e", "#f6d98a"),
    ("#f5f5f1", "#16386b"),
    ("#0e6f78", "#fdf8e8"),
    ("#5a2a58", "#f8e3ee"),
    ("#c9541d", "#fff6e4"),
)


def color(name: str) -> Color:
    """A colour of `COLORS`.

    Raises:
        UnknownKeyError: If there is none of that name.
    """
    if name not in COLORS:
        raise UnknownKeyError("color", name, COLORS)
    return COLORS[name]


def pick(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """One of the choices, evenly."""
    return choices[int(rng.integers(len(choices)))]


def tinted(base: Color, rng: np.random.Generator, amount: float = 0.12) -> Color:
    """A colour near `base`: lighter or darker by up to `amount`, clipped to albedo."""
    factor = 1 + amount * (2 * rng.random() - 1)
    red, green, blue = (min(0.95, c * factor) for c in base)
    return red, green, blue
