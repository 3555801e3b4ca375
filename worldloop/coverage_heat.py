"""City by institution: which places have footage, as one picture of all places and as a table to read."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import polars as pl

from worldloop.coverage_map import (
    DIM_INK,
    FONT,
    GROUND,
    INK,
    LAND,
    Scale,
    scale_for,
)

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "N. America",
    "SA": "S. America",
    "OC": "Oceania",
}
WAITING_CELL = "#2f7280"
_WIDTH_PX, _LEFT_PX, _RIGHT_PX, _TOP_PX, _ROW_PX, _BOTTOM_PX = 960, 130, 44, 78, 12, 44

Cell = tuple[int, int]  # column, row


def coverage_heat(places: pl.DataFrame, *, title: str) -> str:
    """All places as one SVG picture: an institution a row, a city a column, continents side by side.

    Args:
        places: What `coverage_counts.count_places` gives.
        title: What is drawn.

    Returns:
        The SVG element, 960 pixels wide; it has a ground of its own.
    """
    rows = places.to_dicts()
    cities, kinds = ordered_cities(places), places["institution"].unique(maintain_order=True)
    columns = {row["city"]: number for number, row in enumerate(cities)}
    lines = {kind: number for number, kind in enumerate(kinds)}
    scale = scale_for(max((row["num_accepted"] for row in rows), default=0))
    cells: dict[str, list[Cell]] = {}
    for row in rows:
        where = columns[row["city"]], lines[row["institution"]]
        cells.setdefault(cell_colour(row, scale), []).append(where)
    bottom = _TOP_PX + _ROW_PX * len(lines)
    height = bottom + _BOTTOM_PX
    wide = (_WIDTH_PX - _LEFT_PX - _RIGHT_PX) / max(len(columns), 1)
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {height}" ',
            f'width="{_WIDTH_PX}" height="{height}" role="img"><title>{escape(title)}</title>',
            f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>',
            _text(18, 26, title, size=17, more='font-weight="bold"'),
            _text(18, 46, _said(rows), size=13, ink=DIM_INK),
            f'<g transform="translate({_LEFT_PX},{_TOP_PX + _ROW_PX / 2}) scale({wide:.4f},{_ROW_PX})" ',
            'fill="none" stroke-width=".84">',
            *(f'<path stroke="{c}" d="{_runs(found)}"/>' for c, found in sorted(cells.items())),
            "</g>",
            *_continents(cities, wide, bottom),
            *_row_ends(rows, lines),
            *_legend(scale, height - 16),
            "</svg>",
        )
    )


def ordered_cities(places: pl.DataFrame) -> list[dict[str, Any]]:
    """Cities by continent and region, within them in the atlas's order."""
    facts = ("city", "name", "country_name", "continent", "region")
    order = list(CONTINENTS)
    cities = places.select(facts).unique(maintain_order=True).to_dicts()
    return sorted(cities, key=lambda row: (order.index(row["continent"]), row["region"]))


def cell_colour(row: Mapping[str, Any], scale: Scale) -> str:
    """Colour of a place by its numbers of clips."""
    if row["num_accepted"]:
        return scale.colour(row["num_accepted"])
    return WAITING_CELL if row["num_planned"] else LAND


def heat_table(places: pl.DataFrame) -> str:
    """The same as an HTML table with the numbers of accepted clips: a city a row, an institution a column.

    A place that does not exist (a harbour without water) has no cell colour; one that is planned shows 0.
    """
    kinds = places["institution"].unique(maintain_order=True).to_list()
    scale = scale_for(max(places["num_accepted"].to_list(), default=0))
    found = {(row["city"], row["institution"]): row for row in places.to_dicts()}
    head = "".join(f"<th><span>{escape(kind.replace('_', ' '))}</span></th>" for kind in kinds)
    lines = [
        f"<tr><th>{escape(city['name'])}</th>"
        + "".join(_cell(found.get((city["city"], kind)), scale) for kind in kinds)
        for city in ordered_cities(places)
    ]
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(row: Mapping[str, Any] | None, scale: Scale) -> str:
    if row is None:
        return "<td>"
    if row["num_accepted"]:
        step = [colour for colour, _ in scale.labels()].index(scale.colour(row["num_accepted"]))
        return f"<td class=s{step}>{row['num_accepted']}"
    return "<td class=w>0" if row["num_planned"] else "<td class=e>"


def _said(rows: Sequence[Mapping[str, Any]]) -> str:
    covered = sum(row["num_accepted"] > 0 for row in rows)
    return f"{covered:,} of {len(rows):,} places have accepted clips; a column is a city"


def _runs(cells: Iterable[Cell]) -> str:
    """Cells that touch, from left to right, as one line each."""
    parts: list[list[int]] = []
    for row, column in sorted((row, column) for column, row in cells):
        if parts and parts[-1][0] == row and sum(parts[-1][1:]) == column:
            parts[-1][2] += 1
        else:
            parts.append([row, column, 1])
    return "".join(f"M{column} {row}h{length}" for row, column, length in parts)


def _continents(cities: Sequence[Mapping[str, Any]], wide: float, bottom: int) -> Iterable[str]:
    """Names above the columns of a continent, and a line where the next one begins."""
    for code, name in CONTINENTS.items():
        own = [number for number, row in enumerate(cities) if row["continent"] == code]
        if not own:
            continue
        left = _LEFT_PX + own[0] * wide
        yield _text(round(left + 2), _TOP_PX - 6, name, size=10, ink=DIM_INK)
        yield (
            f'<path stroke="{DIM_INK}" stroke-width=".8" d="M{left:.1f} {_TOP_PX - 16}V{bottom}"/>'
        )


def _row_ends(rows: Sequence[Mapping[str, Any]], lines: Mapping[str, int]) -> Iterable[str]:
    """Name of each institution at the left, and at the right in how many cities it has footage."""
    for kind, number in lines.items():
        y = _TOP_PX + _ROW_PX * number + 9
        own = [row for row in rows if row["institution"] == kind]
        covered = sum(row["num_accepted"] > 0 for row in own)
        yield _text(_LEFT_PX - 6, y, kind.replace("_", " "), size=10, more='text-anchor="end"')
        yield _text(_WIDTH_PX - _RIGHT_PX + 5, y, str(covered), size=10, ink=DIM_INK)


def _legend(scale: Scale, y: int) -> Iterable[str]:
    x = _LEFT_PX
    for colour, text in ((LAND, "not planned"), (WAITING_CELL, "planned, none accepted")):
        yield from _legend_entry(x, y, colour, text)
        x += 34 + round(6.4 * len(text))
    yield _text(x, y, "accepted clips:", size=12)
    x += 100
    for colour, text in scale.labels():
        yield from _legend_entry(x, y, colour, text)
        x += 34 + round(7.2 * len(text))


def _legend_entry(x: int, y: int, colour: str, text: str) -> Iterable[str]:
    yield f'<rect x="{x}" y="{y - 10}" width="12" height="11" fill="{colour}"/>'
    yield _text(x + 17, y, text, size=12)


def _text(x: int, y: int, text: str, *, size: int, ink: str = INK, more: str = "") -> str:
    return (
        f'<text x="{x}" y="{y}" {FONT} font-size="{size}" fill="{ink}" {more}>{escape(text)}</text>'
    )
