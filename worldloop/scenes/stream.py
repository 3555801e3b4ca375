"""An endless stream of scenes: the scene of an index, in the order of a Sobol sequence.

Any first part of the stream is spread evenly over cities, institutions and the other planned
dimensions. A point of the sequence becomes a scene by the inverse of each dimension's distribution,
given those before it, over the values that are possible: nothing is drawn and thrown away.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.atlas import Atlas
from worldloop.scenes.casting import cast_scenes
from worldloop.scenes.dimensions import (
    CAMERAS,
    CROWDS,
    DAYPARTS,
    Space,
    names_of,
    space_of,
)
from worldloop.scenes.draws import below, purpose_key
from worldloop.scenes.scene import SKETCH_CAMERAS, Scene
from worldloop.seeds import derive_seed
from worldloop.worlds.grammar import GRAMMARS

ORDER = ("city", "institution", "season", "daypart", "crowd", "camera", "category", "weather")
"""Which dimension of the sequence decides what, the best spread first."""
_BITS = 32
_MAX_INDEX = (1 << _BITS) - 1
# Degree, coefficients and first direction numbers of the primitive polynomials of dimensions 2 to 8:
# S. Joe and F. Y. Kuo 2008, "Constructing Sobol sequences with better two-dimensional projections",
# SIAM J. Sci. Comput. 30, table new-joe-kuo-6 (https://web.maths.unsw.edu.au/~fkuo/sobol/).
_JOE_KUO: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
)


def scene_at(atlas: Atlas, index: int, *, sketch: bool = False) -> Scene:
    """The scene of an index; the same on any machine, for the same version of the atlas.

    Args:
        atlas: Where the places are described.
        index: From 0; any, in any order.
        sketch: Whether the stream holds only what the procedural renderer can show.

    Raises:
        ValueError: If the index is negative or above 2**32 - 1.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> scene_at(load_atlas(), 7) == scenes_at(load_atlas(), [5, 7])[1]
        True
    """
    return scenes_at(atlas, [index], sketch=sketch)[0]


def scenes_at(atlas: Atlas, indices: Sequence[int], *, sketch: bool = False) -> list[Scene]:
    """The scenes of some indices, in their order.

    Raises:
        ValueError: If an index is negative or above 2**32 - 1.
    """
    if not indices:
        return []
    if min(indices) < 0 or max(indices) > _MAX_INDEX:
        raise ValueError(f"Indices {min(indices)} to {max(indices)}; expected 0 to {_MAX_INDEX}.")
    space = space_of(atlas)
    points = sobol_points(np.array(indices, np.uint64), len(ORDER))
    codes = _decide(space, points, sketch=sketch)
    names = {name: names_of(space, name) for name in ORDER}
    chosen = [
        {name: names[name][code] for name, code in zip(ORDER, row, strict=True)}
        for row in np.stack([codes[name] for name in ORDER], axis=1).tolist()
    ]
    places = [f"{row.pop('city')}/{row.pop('institution')}" for row in chosen]
    seeds = [derive_seed("stream", index) for index in indices]
    return cast_scenes(atlas, places, seeds, chosen, sketch=sketch)


def sobol_points(indices: NDArray[np.uint64], num_dimensions: int) -> NDArray[np.uint64]:
    """Points of a Sobol sequence, moved by one fixed digital shift, as fractions of 2**64.

    Args:
        indices: Below 2**32, shape (n,).
        num_dimensions: 1 to 8.

    Returns:
        uint64, shape (n, dimensions); only the upper 32 bits are used.
    """
    directions = _directions(num_dimensions)
    shifts = [purpose_key("sobol", number) >> _BITS for number in range(num_dimensions)]
    points = np.broadcast_to(np.array(shifts, np.uint64), (len(indices), num_dimensions)).copy()
    for bit in range(_BITS):
        is_set = (indices >> np.uint64(bit)) & np.uint64(1)
        points ^= is_set[:, None] * directions[:, bit]
    return points << np.uint64(_BITS)


@cache
def _directions(num_dimensions: int) -> NDArray[np.uint64]:
    """Direction numbers, shape (dimensions, 32); the first dimension is van der Corput's."""
    rows = [[1 << (_BITS - 1 - bit) for bit in range(_BITS)]]
    for degree, coefficients, first in _JOE_KUO[: num_dimensions - 1]:
        row = [number << (_BITS - 1 - bit) for bit, number in enumerate(first)]
        for bit in range(degree, _BITS):
            number = row[bit - degree] ^ (row[bit - degree] >> degree)
            for step in range(1, degree):
                if coefficients >> (degree - 1 - step) & 1:
                    number ^= row[bit - step]
            row.append(number)
        rows.append(row)
    return np.array(rows[:num_dimensions], np.uint64)


def _decide(
    space: Space, points: NDArray[np.uint64], *, sketch: bool
) -> dict[str, NDArray[np.int64]]:
    """The code of each dimension, evenly over the values that are possible given those before it.

    Weathers alone are as likely as the climate has them in the season.
    """
    at = dict(zip(ORDER, points.T, strict=True))
    city = below(at["city"], len(space.cities))
    institution, cells, actions = _decide_institution(space, city, at["institution"], sketch=sketch)
    rows = np.arange(len(city))
    season = _inverse(at["season"], cells != 0)
    bits = np.arange(len(DAYPARTS) * len(CROWDS), dtype=np.uint32)
    open_cells = ((cells[rows, season][:, None] >> bits) & 1 == 1).reshape(
        len(city), len(DAYPARTS), len(CROWDS)
    )
    daypart = _inverse(at["daypart"], open_cells.any(axis=2))
    crowd = _inverse(at["crowd"], open_cells[rows, daypart])
    cell = (daypart * len(CROWDS) + crowd).astype(np.uint32)
    shown = (actions >> cell[:, None, None]) & 1 == 1
    camera = _inverse(at["camera"], shown.any(axis=2))
    return {
        "city": city,
        "institution": institution,
        "season": season,
        "daypart": daypart,
        "crowd": crowd,
        "camera": camera,
        "category": _inverse(at["category"], shown[rows, camera]),
        "weather": _inverse(at["weather"], space.season_weather[city, season]),
    }


def _decide_institution(
    space: Space, city: NDArray[np.int64], point: NDArray[np.uint64], *, sketch: bool
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32]]:
    """Institutions, their cells that can be shown, shape (n, seasons), and the actions there."""
    for code in np.unique(city).tolist():
        space.prepare(code)
    actions = space.action_cells
    kinds = np.ones(len(space.institutions), bool)
    if sketch:
        kinds = np.isin(space.institutions, list(GRAMMARS))
        actions = actions * np.isin(CAMERAS, SKETCH_CAMERAS).astype(np.uint32)[:, None]
    reach = np.bitwise_or.reduce(actions.reshape(len(actions), -1), axis=1)
    # (n, institutions, seasons): cells that a season has at a place, and that something can be shown in
    cells = space.season_cells[city] & reach[:, None]
    institution = _inverse(point, cells.any(axis=2) & kinds)
    return institution, cells[np.arange(len(city)), institution], actions[institution]


def _inverse(
    point: NDArray[np.uint64], weights: NDArray[np.bool_] | NDArray[np.integer]
) -> NDArray[np.int64]:
    """The value at a point of the distribution by weights, shape (n,); bool for an even one."""
    sums = weights.cumsum(axis=1)
    chosen = below(point, np.maximum(sums[:, -1], 1))
    return np.asarray((sums > chosen[:, None]).argmax(axis=1), np.int64)
