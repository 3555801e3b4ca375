"""A map of the world in the Natural Earth projection: how much accepted footage each city has, as SVG.

The outlines are Natural Earth's, baked into the atlas by `worldloop/atlas/bake_map.py`. Pictures have a
dark ground of their own, so they read the same in a light and in a dark user interface.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import polars as pl

from worldloop.atlas.atlas import Atlas
from worldloop.coverage_counts import by_city

OUTLINES = Path(__file__).parent / "atlas/data/world_map.json"
INK, DIM_INK = "#f1f5f9", "#a8b6c8"
GROUND, LAND, REACHED_LAND, BORDER = "#0f1a2b", "#27384f", "#3d5673", "#0f1a2b"
EMPTY, WAITING = "#8296ad", "#5cc8d7"
STEPS = ("#b5367a", "#e3546b", "#fb8861", "#fec287", "#fcfdbf")  # matplotlib's magma, bright half
FONT = 'font-family="Helvetica,Arial,sans-serif"'
_WIDTH_PX, _MARGIN_PX, _TOP_PX, _BOTTOM_PX = 960, 14, 58, 46
_SOUTH_DEG, _NORTH_DEG = -57.0, 84.0
_GRID = 2  # outlines are drawn on a grid of half pixels
_LEAST_STEP = 2  # of that grid: what is nearer to the last point is left out
_MOST_X = 0.8707 * math.pi  # of the projection, at the equator


@dataclass(frozen=True)
class Scale:
    """Classes of numbers of clips, each with a colour.

    Attributes:
        floors: Least number of each class, rising from 1.
    """

    floors: tuple[int, ...]

    def colour(self, num_clips: int) -> str:
        """Colour of a number of clips, at least 1."""
        return STEPS[max(k for k, floor in enumerate(self.floors) if num_clips >= floor)]

    def labels(self) -> list[tuple[str, str]]:
        """Colour and range of each class, such as `5-9`; the last one has no end."""
        ends = [f"-{floor - 1}" for floor in self.floors[1:]]
        ranges = [
            f"{floor}{end if end[1:] != str(floor) else ''}"
            for floor, end in zip(self.floors, ends, strict=False)
        ]
        return list(zip(STEPS, [*ranges, f"{self.floors[-1]}+"], strict=False))


def scale_for(most: int) -> Scale:
    """Up to five classes of round numbers, spread evenly over the orders of magnitude.

    Example:
        >>> scale_for(3).floors, scale_for(400).floors
        ((1, 2, 3), (1, 5, 10, 50, 100))
    """
    round_numbers = [lead * 10**power for power in range(12) for lead in (1, 2, 5)]
    if most <= len(STEPS):
        return Scale(tuple(range(1, max(most, 1) + 1)))
    wanted = [most ** (k / len(STEPS)) for k in range(len(STEPS))]
    nearest = [min(round_numbers, key=lambda n, w=w: abs(math.log(n / w))) for w in wanted]  # type: ignore[misc]
    return Scale(tuple(sorted(set(nearest))))


def project(longitude_deg: float, latitude_deg: float) -> tuple[float, float]:
    """A point in the Natural Earth projection, unit sphere; north and east are positive.

    The polynomial is that of Šavrič, Patterson and Jenny, "The Natural Earth II world map projection"
    and its predecessor, International Journal of Cartography, 2015.

    Example:
        >>> project(0.0, 0.0)
        (0.0, 0.0)
    """
    x, y = math.radians(longitude_deg), math.radians(latitude_deg)
    y2 = y * y
    y4 = y2 * y2
    across = 0.8707 - 0.131979 * y2 + y4 * (-0.013791 + y4 * (0.003971 * y2 - 0.001529 * y4))
    up = 1.007226 + y2 * (0.015085 + y4 * (-0.044475 + 0.028874 * y2 - 0.005916 * y4))
    return x * across, y * up


def coverage_map(atlas: Atlas, places: pl.DataFrame, *, title: str, hover: bool = True) -> str:
    """The map as an SVG picture.

    Args:
        atlas: Where the cities lie.
        places: What `coverage_counts.count_places` gives.
        title: What is drawn.
        hover: Whether each city tells its name and numbers when pointed at. A picture that is shown
            as an image cannot do that, and is a third smaller without.

    Returns:
        The SVG element, 960 pixels wide.
    """
    cities = by_city(places).to_dicts()
    reached = {row["country"] for row in cities if row["num_accepted"]}
    scale = scale_for(max((row["num_accepted"] for row in cities), default=0))
    dots = _dots_with_titles(atlas, cities, scale) if hover else _dots(atlas, cities, scale)
    height = _height_px()
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {height}" ',
            f'width="{_WIDTH_PX}" height="{height}" role="img"><title>{escape(title)}</title>',
            f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>',
            f'<text x="{_MARGIN_PX + 4}" y="26" {FONT} font-size="17" font-weight="bold" ',
            f'fill="{INK}">{escape(title)}</text>',
            f'<text x="{_MARGIN_PX + 4}" y="46" {FONT} font-size="13" fill="{DIM_INK}">',
            f"{escape(_said(cities, reached))}</text>",
            *_land(reached),
            *dots,
            *_legend(cities, scale, height - 18),
            "</svg>",
        )
    )


def _said(cities: Sequence[Mapping[str, Any]], reached: set[str]) -> str:
    covered = sum(row["num_accepted"] > 0 for row in cities)
    countries = len({row["country"] for row in cities})
    clips = sum(row["num_accepted"] for row in cities)
    return (
        f"{clips:,} accepted clips in {covered} of {len(cities)} cities, "
        f"{len(reached)} of {countries} countries"
    )


def _scale_px() -> float:
    return (_WIDTH_PX - 2 * _MARGIN_PX) / (2 * _MOST_X)


def _height_px() -> int:
    north, south = project(0, _NORTH_DEG)[1], project(0, _SOUTH_DEG)[1]
    return round(_TOP_PX + (north - south) * _scale_px() + _BOTTOM_PX)


def _at(longitude_deg: float, latitude_deg: float) -> tuple[float, float]:
    """A point in pixels of the picture; what lies south of it is drawn at its edge."""
    x, y = project(longitude_deg, max(latitude_deg, _SOUTH_DEG))
    top = project(0, _NORTH_DEG)[1]
    return _WIDTH_PX / 2 + x * _scale_px(), _TOP_PX + (top - y) * _scale_px()


def _land(reached: set[str]) -> list[str]:
    """Countries as two paths: those with accepted footage, and the others."""
    lines = _country_lines()
    parts = []
    for fill, wanted in ((LAND, False), (REACHED_LAND, True)):
        drawn = "".join(line for code, line in lines if (code in reached) == wanted)
        if drawn:
            parts.append(
                f'<path transform="scale({1 / _GRID})" fill="{fill}" fill-rule="evenodd" '
                f'stroke="{BORDER}" stroke-width="1" stroke-linejoin="round" d="{drawn}"/>'
            )
    return parts


@cache
def _country_lines() -> tuple[tuple[str, str], ...]:
    """Code and SVG path of each country, on the grid of the picture."""
    baked = json.loads(OUTLINES.read_text(encoding="utf-8"))
    per_degree = baked["units_per_degree"]
    return tuple(
        (shape["country"], "".join(_line(ring, per_degree) for ring in shape["rings"]))
        for shape in baked["shapes"]
    )


def _line(ring: Sequence[int], per_degree: int) -> str:
    """A ring as a closed path of steps; empty if it is too small to be seen."""
    east = north = 0
    points: list[tuple[int, int]] = []
    for step_east, step_north in zip(ring[::2], ring[1::2], strict=True):
        east, north = east + step_east, north + step_north
        x, y = _at(east / per_degree, north / per_degree)
        here = round(x * _GRID), round(y * _GRID)
        if not points or _distance(here, points[-1]) >= _LEAST_STEP:
            points.append(here)
    if len(points) > 1 and _distance(points[0], points[-1]) < _LEAST_STEP:
        points.pop()
    if len(points) < 3:
        return ""
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(points)]
    return f"M{_numbers([points[0]])}l{_numbers(steps)}z"


def _distance(a: tuple[int, int], b: tuple[int, int]) -> int:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1]))


def _numbers(pairs: Iterable[tuple[int, int]]) -> str:
    """Numbers of an SVG path; a minus sign parts them as well as a space does."""
    text = " ".join(str(number) for pair in pairs for number in pair)
    return text.replace(" -", "-")


def _kind(row: Mapping[str, Any], scale: Scale) -> tuple[str, float, bool]:
    """Colour, radius in pixels, and whether the dot is filled."""
    if row["num_accepted"]:
        colour = scale.colour(row["num_accepted"])
        return colour, 3.4 + 0.45 * STEPS.index(colour), True
    return (WAITING, 2.9, False) if row["num_planned"] else (EMPTY, 2.2, False)


def _dots_with_titles(
    atlas: Atlas, cities: Iterable[Mapping[str, Any]], scale: Scale
) -> Iterable[str]:
    for row in sorted(cities, key=_rank):
        colour, radius, filled = _kind(row, scale)
        city = atlas.cities[row["city"]]
        x, y = _at(city.longitude_deg, city.latitude_deg)
        paint = (
            f'fill="{colour}" stroke="{GROUND}" stroke-width=".8"'
            if filled
            else f'fill="{GROUND}" stroke="{colour}" stroke-width="1.3"'
        )
        said = (
            f"{row['name']}, {row['country_name']}: {row['num_accepted']} accepted of "
            f"{row['num_made']} made, {row['num_planned']} planned"
        )
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" {paint}><title>{escape(said)}</title></circle>'


def _dots(atlas: Atlas, cities: Iterable[Mapping[str, Any]], scale: Scale) -> Iterable[str]:
    """Cities that look alike as one path: points of no length with round ends."""
    alike: dict[tuple[str, float, bool], list[tuple[int, int]]] = {}
    for row in sorted(cities, key=_rank):
        city = atlas.cities[row["city"]]
        x, y = _at(city.longitude_deg, city.latitude_deg)
        alike.setdefault(_kind(row, scale), []).append((round(x * _GRID), round(y * _GRID)))
    for (colour, radius, filled), points in alike.items():
        line = "".join(f"M{_numbers([point])}h0" for point in points)
        edge = 0.8 if filled else 1.3
        rings = [(GROUND, radius + edge / 2), (colour, radius - edge / 2)]
        for paint, r in rings if filled else [(colour, rings[0][1]), (GROUND, rings[1][1])]:
            yield (
                f'<path transform="scale({1 / _GRID})" fill="none" stroke="{paint}" '
                f'stroke-width="{2 * _GRID * r:.1f}" stroke-linecap="round" d="{line}"/>'
            )


def _rank(row: Mapping[str, Any]) -> tuple[int, int, str]:
    """What has more is drawn above."""
    return row["num_accepted"], row["num_planned"], row["city"]


def _legend(cities: Sequence[Mapping[str, Any]], scale: Scale, y: int) -> Iterable[str]:
    waiting = sum(bool(r["num_planned"] and not r["num_accepted"]) for r in cities)
    empty = sum(not (r["num_planned"] or r["num_accepted"]) for r in cities)
    entries = [
        (EMPTY, f"not planned yet: {empty} cities", False),
        (WAITING, f"planned, none accepted: {waiting}", False),
    ]
    x = _MARGIN_PX + 10.0
    for colour, text, filled in entries:
        yield _legend_dot(x, y, colour, filled)
        yield _legend_text(x + 9, y, text)
        x += 18 + 6.6 * len(text)
    if not any(row["num_accepted"] for row in cities):
        return
    yield _legend_text(x, y, "accepted clips:")
    x += 100
    for colour, text in scale.labels():
        yield _legend_dot(x, y, colour, filled=True)
        yield _legend_text(x + 9, y, text)
        x += 26 + 7.2 * len(text)


def _legend_dot(x: float, y: float, colour: str, filled: bool) -> str:
    paint = f'fill="{colour}"' if filled else f'fill="none" stroke="{colour}" stroke-width="1.5"'
    return f'<circle cx="{x:.0f}" cy="{y - 4}" r="{4.5 if filled else 3.6}" {paint}/>'


def _legend_text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y}" {FONT} font-size="12" fill="{INK}">{escape(text)}</text>'
