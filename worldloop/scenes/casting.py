"""Casting: from places of the atlas and seeds to scenes, with nothing that the places rule out.

Choices are drawn for all scenes together, from what `dimensions.Space` says is possible; plain
Python only puts the records together. Each choice has random numbers of its own that depend on the
place and the seed alone: a scene is the same alone and among a million others.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.seasons import SEASONS
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.dimensions import (
    CAMERAS,
    CROWD_OF_LEVEL,
    CROWDS,
    DAYPARTS,
    FREE,
    QUARTERS,
    WEATHERS,
    YEAR,
    Asked,
    Space,
    daypart_codes,
    impossible,
    names_of,
    space_of,
)
from worldloop.scenes.draws import Words, below, draw, pick_true, pick_weighted, purpose_key
from worldloop.scenes.maker import Choices, Maker
from worldloop.scenes.scene import SKETCH_CAMERAS, Scene
from worldloop.scenes.sun import sun_position, utc_offsets_h
from worldloop.worlds.grammar import GRAMMARS, not_sketchable

CASTABLE: tuple[str, ...] = tuple(GRAMMARS)
"""Institutions that have a world grammar, so that their scenes can be sketched."""
SEED_BITS = 63
_BATCH = 2048  # scenes whose tables fit into the processor's caches
_ANY = -1
_CAMERA_WEIGHTS = np.array([2 if camera == "stroll" else 1 for camera in CAMERAS], np.uint8)
_CROWDS = np.array(CROWD_OF_LEVEL, np.uint8)


def cast_scene(
    atlas: Atlas,
    *,
    place: str,
    seed: int,
    date: str = "",
    hour: float = -1.0,
    weather: str = "",
    asked: Asked | None = None,
    sketch: bool = False,
) -> Scene:
    """A scene of a place; the same arguments and atlas give the same scene anywhere.

    Args:
        atlas: Where the facts of the place come from.
        place: `<city>/<institution>`.
        seed: 63-bit seed of everything that the place leaves open.
        date: ISO date at the place; drawn when empty.
        hour: Local clock time inside the opening hours; drawn when negative.
        weather: Drawn from what climate and season allow when empty.
        asked: Further dimensions that are decided, e.g. `{"camera": "drone"}`.
        sketch: Whether the procedural renderer must be able to show it.

    Raises:
        UnknownKeyError: If city, institution, a dimension or its value is unknown.
        MalformedRecordError: If what is asked for cannot be, there and then, a sketch is asked for and
            no grammar builds the institution, or the atlas does not know
            the holidays of the date's year.
        ValueError: If the seed has more than 63 bits or is negative.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> scene = cast_scene(load_atlas(), place="tokyo/zoo", seed=7)
        >>> scene.driving_side, scene.signs[0].text
        ('left', '動物園')
    """
    pinned = {**(asked or {}), **({"weather": weather} if weather else {})}
    when = When(_parse_date(atlas, date), hour) if date or not hour < 0 else None
    return _cast(atlas, [place], [seed], [pinned], [when], sketch=sketch)[0]


def cast_scenes(
    atlas: Atlas,
    places: Sequence[str],
    seeds: Sequence[int],
    asked: Sequence[Asked] = (),
    *,
    sketch: bool = False,
) -> list[Scene]:
    """Many scenes at once, each the same as `cast_scene` gives alone.

    Args:
        atlas: Where the facts of the places come from.
        places: `<city>/<institution>` of each scene.
        seeds: 63-bit seed of each scene.
        asked: Decided dimensions of each scene; empty for none.
        sketch: Whether the procedural renderer must be able to show them.

    Raises:
        ValueError: If the sequences differ in length, or a seed has more than 63 bits or is negative.
        UnknownKeyError: As `cast_scene`.
        MalformedRecordError: As `cast_scene`.
    """
    if len(places) != len(seeds) or (asked and len(asked) != len(places)):
        raise ValueError(
            f"{len(places)} places, {len(seeds)} seeds and {len(asked)} wishes; expected as many of each."
        )
    return _cast(atlas, places, seeds, asked or [{}] * len(places), (), sketch=sketch)


@dataclass(frozen=True)
class When:
    """A date, an hour or both that are asked for; None and negative for those that are not."""

    date: dt.date | None
    hour: float


@dataclass
class _Columns:
    """Choices of some scenes, by the codes of `Space`; each array has one entry a scene."""

    city: NDArray[np.int64]
    institution: NDArray[np.int64]
    seeds: Words
    pins: dict[str, NDArray[np.int64]]
    when: Sequence[When | None]
    sketch: bool
    day: NDArray[np.int64] = field(init=False)
    hour: NDArray[np.float64] = field(init=False)
    daypart: NDArray[np.int64] = field(init=False)
    crowd: NDArray[np.int64] = field(init=False)

    def take(self, rows: NDArray[np.int64]) -> "_Columns":
        """Some of the scenes, without what was chosen."""
        pins = {name: codes[rows] for name, codes in self.pins.items()}
        when = [self.when[row] for row in rows.tolist()] if self.when else ()
        return _Columns(
            self.city[rows], self.institution[rows], self.seeds[rows], pins, when, self.sketch
        )


def _cast(
    atlas: Atlas,
    places: Sequence[str],
    seeds: Sequence[int],
    asked: Sequence[Asked],
    when: Sequence[When | None],
    *,
    sketch: bool,
) -> list[Scene]:
    """Scenes of one year: that of the first date, which only `cast_scene` may ask for."""
    date = when[0].date if when and when[0] else None
    space = space_of(atlas, date.year if date else YEAR)
    pairs = _parse_places(atlas, space, places, sketch=sketch)
    if seeds and not (min(seeds) >= 0 and max(seeds) < 1 << SEED_BITS):
        raise ValueError(f"Seeds {min(seeds)} to {max(seeds)}; expected 0 to 2**{SEED_BITS} - 1.")
    for city in np.unique(pairs[:, 0]).tolist():
        space.prepare(city)
    bases = draw(np.array(seeds, np.uint64), space.place_keys[pairs[:, 0], pairs[:, 1]])
    pins = _pins(space, asked)
    columns = _Columns(pairs[:, 0], pairs[:, 1], bases, pins, when, sketch)
    scenes: list[Scene] = []
    for first in range(0, len(places), _BATCH):
        rows = np.arange(first, min(first + _BATCH, len(places)))
        part = slice(first, first + _BATCH)
        scenes += _assemble(space, columns.take(rows), seeds[part], asked[part])
    return scenes


def _keys(space: Space, pair: Sequence[int]) -> tuple[str, str]:
    return space.cities[pair[0]], space.institutions[pair[1]]


def _parse_places(
    atlas: Atlas, space: Space, places: Sequence[str], *, sketch: bool
) -> NDArray[np.int64]:
    """Codes of city and institution of each place, shape (n, 2)."""
    codes = space.place_codes
    for place in dict.fromkeys(places):
        if place not in codes:
            city, kind = atlas.parse_place(place)
            codes[place] = space.city_codes[city.key], space.institution_codes[kind.key]
        if sketch and space.institutions[codes[place][1]] not in GRAMMARS:
            raise not_sketchable(place)
    return np.array([codes[place] for place in places], np.int64).reshape(-1, 2)


def _pins(space: Space, asked: Sequence[Asked]) -> dict[str, NDArray[np.int64]]:
    """The code of each dimension that is asked for, `_ANY` where it is not."""
    names = {name for wishes in asked for name in wishes}
    for name in names - set(FREE):
        raise UnknownKeyError("dimension of a scene", name, FREE)
    pins = {}
    for name in FREE:
        if name in names:
            values = names_of(space, name)
            codes = {value: code for code, value in enumerate(values)}
            try:
                found = [codes[wishes[name]] if name in wishes else _ANY for wishes in asked]
            except KeyError as error:
                raise UnknownKeyError(name, error.args[0], values) from error
            pins[name] = np.array(found)
    return pins


def _parse_date(atlas: Atlas, text: str) -> dt.date | None:
    """A date of a year whose holidays are known; what is open depends on them."""
    try:
        date = dt.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise MalformedRecordError(
            "date of a scene", text, "an ISO date", "Write it like '2026-05-14'."
        ) from error
    years = atlas.holiday_years | {YEAR}
    if date and date.year not in years:
        raise MalformedRecordError(
            "date of a scene",
            text,
            f"a date of {', '.join(map(str, sorted(years)))}, whose holidays the atlas knows",
            "Choose another year.",
        )
    return date


# ----------------------------------------------------------------------------- choices, vectorised


def _masks(space: Space, columns: _Columns, name: str) -> NDArray[np.bool_]:
    """Which values of a dimension each scene may have, shape (n, values)."""
    num = len(names_of(space, name))
    if name not in columns.pins:
        return np.ones((len(columns.city), num), bool)
    pinned = columns.pins[name][:, None]
    return np.asarray((pinned == _ANY) | (pinned == np.arange(num)))


def _actions(space: Space, columns: _Columns) -> NDArray[np.uint32]:
    """Cells in which each camera and category can be, 0 where they may not, shape (n, cameras, categories)."""
    cells = space.action_cells[columns.institution]
    if columns.sketch:
        cells = cells * np.isin(CAMERAS, SKETCH_CAMERAS).astype(np.uint32)[:, None]
    if "camera" in columns.pins or "category" in columns.pins:
        allowed = (
            _masks(space, columns, "camera")[:, :, None]
            & _masks(space, columns, "category")[:, None]
        )
        cells = cells * allowed
    return cells


def _choose_time(
    space: Space, columns: _Columns, actions: NDArray[np.uint32], asked: Sequence[Asked]
) -> None:
    """Day, hour, daypart and crowd of each scene."""
    wanted = np.bitwise_or.reduce(actions.reshape(len(actions), -1), axis=1)
    if "daypart" in columns.pins or "crowd" in columns.pins:
        pairs = (
            _masks(space, columns, "daypart")[:, :, None] & _masks(space, columns, "crowd")[:, None]
        )
        bits = np.uint32(1) << np.arange(len(DAYPARTS) * len(CROWDS), dtype=np.uint32)
        wanted &= (pairs.reshape(len(pairs), -1) * bits).sum(axis=1, dtype=np.uint32)
    exact = _choose_days(space, columns, wanted, asked)
    quarters, codes = _open_quarters(space, columns, wanted)
    chosen = pick_weighted(draw(columns.seeds, purpose_key("casting", "hour")), quarters)
    columns.hour, cell = chosen / 4, codes[np.arange(len(chosen)), chosen].astype(np.int64)
    for row, found in exact.items():
        columns.hour[row], cell[row] = columns.when[row].hour, found[columns.day[row]]  # type: ignore[union-attr]
    columns.daypart, columns.crowd = np.divmod(cell, len(CROWDS))


def _choose_days(
    space: Space, columns: _Columns, wanted: NDArray[np.uint32], asked: Sequence[Asked]
) -> dict[int, NDArray[np.int64]]:
    """A day of each scene, evenly among those that fit; the cells of all days at hours that were asked for."""
    numbers = draw(columns.seeds, purpose_key("casting", "day"))
    place = columns.city, columns.institution
    num_open = space.num_open[place]
    chosen = below(numbers, np.maximum(num_open, 1))
    columns.day = space.open_days.rows[space.open_days.numbers[place], chosen].astype(np.int64)
    whole_year = np.bitwise_or.reduce(space.season_cells[place], axis=1)
    is_picky = ((whole_year & ~wanted) != 0) | (num_open == 0)
    for name in ("season", "weather"):
        if name in columns.pins:
            is_picky |= columns.pins[name] != _ANY
    if columns.when:
        is_picky[:] = True
    rows = np.nonzero(is_picky)[0]
    if not len(rows):
        return {}
    some = columns.take(rows)
    cells = space.cells[some.city, some.institution]
    exact = _asked_hours(space, some, cells)
    days = (cells & wanted[rows][:, None]) != 0
    _keep_seasons(space, some, days)
    for row, wish in enumerate(some.when):
        if wish and wish.date:
            days[row] &= np.arange(days.shape[1]) == wish.date.toordinal() - space.first_day
    fits = days.any(axis=1)
    if not fits.all():
        row = int(rows[np.argmin(fits)])
        raise _no_time(space, columns, row, asked[row])
    columns.day[rows] = pick_weighted(numbers[rows], days * _likely_days(space, some))
    return {int(rows[row]): found for row, found in exact.items()}


def _keep_seasons(space: Space, columns: _Columns, days: NDArray[np.bool_]) -> None:
    """Leave only days whose season, and the weather that it may have, was asked for."""
    if "season" not in columns.pins and "weather" not in columns.pins:
        return
    allowed = _masks(space, columns, "season")
    days &= np.take_along_axis(allowed, space.seasons[columns.city].astype(np.int64), axis=1)
    days &= _likely_days(space, columns) > 0


def _likely_days(space: Space, columns: _Columns) -> NDArray[np.uint8]:
    """How likely the weather that was asked for is on each day, per cent; 1 where none was."""
    if "weather" not in columns.pins:
        return np.ones((1, 1), np.uint8)
    pinned = columns.pins["weather"]
    months = np.take_along_axis(
        space.weather[columns.city], np.maximum(pinned, 0)[:, None, None], axis=2
    )[:, :, 0]
    months[pinned == _ANY] = 1
    return months[:, space.months]


def _open_quarters(
    space: Space, columns: _Columns, wanted: NDArray[np.uint32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Weights of the quarters of the chosen days, and their cells, shape (n, 96); full hours weigh more."""
    city, kind = columns.city, columns.institution
    levels = space.levels[space.profile_of[kind], space.day_kinds[city, columns.day]]
    crowds = np.repeat(_CROWDS[levels], 4, axis=1)
    cells = space.dayparts[city, columns.day] * np.uint8(len(CROWDS)) + crowds
    quarters = np.arange(QUARTERS, dtype=np.uint8)
    is_open = (quarters >= space.opens[city, kind][:, None]) & (
        quarters < space.closes[city, kind][:, None]
    )
    fits = (wanted[:, None] >> cells) & 1
    return (np.repeat(levels, 4, axis=1) + np.uint8(1)) * (fits * is_open).astype(np.uint8), cells


def _asked_hours(
    space: Space, columns: _Columns, cells: NDArray[np.uint32]
) -> dict[int, NDArray[np.int64]]:
    """The cell of every day at the hours that were asked for; `cells` keeps no others."""
    found = {}
    for row, wish in enumerate(columns.when):
        if wish is None or wish.hour < 0:
            continue
        city, kind = int(columns.city[row]), int(columns.institution[row])
        place = space.atlas.city(space.cities[city])
        opens, closes = space.atlas.hours(place.key, space.institutions[kind])
        if not opens <= wish.hour < closes:
            raise MalformedRecordError(
                f"hour at a {space.atlas.institution(space.institutions[kind]).name}",
                wish.hour,
                f"at least {opens} and below {closes}",
                "Choose an hour at which it is open.",
            )
        days = space.first_day + np.arange(len(space.days))
        offsets = utc_offsets_h(place.time_zone, days, wish.hour)
        elevations, _ = sun_position(
            days, wish.hour - offsets, place.latitude_deg, place.longitude_deg
        )
        levels = space.levels[space.profile_of[kind], space.day_kinds[city], int(wish.hour)]
        codes = daypart_codes(np.full(len(days), wish.hour), elevations).astype(np.int64)
        found[row] = codes * len(CROWDS) + _CROWDS[levels]
        cells[row] = np.where(cells[row] != 0, np.uint32(1) << found[row].astype(np.uint32), 0)
    return found


def _no_time(space: Space, columns: _Columns, row: int, asked: Asked) -> MalformedRecordError:
    """Why a scene has no day on which it can be."""
    city, kind = int(columns.city[row]), int(columns.institution[row])
    wish = columns.when[row] if columns.when else None
    if wish is None:
        return impossible(space, city, kind, asked, sketch=columns.sketch)
    if wish.date and not space.cells[city, kind][wish.date.toordinal() - space.first_day]:
        return MalformedRecordError(
            f"date at {'/'.join(_keys(space, (city, kind)))}",
            wish.date.isoformat(),
            "a day on which it is open",
            "Choose another date.",
        )
    if wish.date and "weather" in asked:
        season = int(space.seasons[city, wish.date.toordinal() - space.first_day])
        weights = zip(WEATHERS, space.weather[city, wish.date.month - 1].tolist(), strict=True)
        allowed = [name for name, weight in weights if weight]
        if asked["weather"] not in allowed:
            return MalformedRecordError(
                f"weather of {space.cities[city]} in {SEASONS[season]}",
                asked["weather"],
                f"one of {', '.join(allowed)}",
                "Choose one of them, or another date.",
            )
    return impossible(space, city, kind, asked, sketch=columns.sketch)


# ----------------------------------------------------------------------------- records


def _assemble(
    space: Space, columns: _Columns, seeds: Sequence[int], asked: Sequence[Asked]
) -> list[Scene]:
    """Scenes from their choices; Python touches each only there."""
    actions = _actions(space, columns)
    _choose_time(space, columns, actions, asked)
    cell = columns.daypart * len(CROWDS) + columns.crowd
    camera, category = _choose_action(columns, actions, cell.astype(np.uint32))
    season = space.seasons[columns.city, columns.day].astype(np.int64)
    chances = space.weather[columns.city, space.months[columns.day]]
    weights = chances * _masks(space, columns, "weather")
    weather = pick_weighted(draw(columns.seeds, purpose_key("casting", "weather")), weights)
    elevation, azimuth = _sun(space, columns)
    choices = Choices(
        seeds=seeds,
        city=columns.city,
        institution=columns.institution,
        day=columns.day,
        hour=columns.hour,
        elevation_deg=elevation,
        azimuth_deg=azimuth,
        season=season,
        weather=weather,
        daypart=columns.daypart,
        crowd=columns.crowd,
        camera=camera,
        category=category,
    )
    return Maker(space, choices, columns.seeds).scenes()


def _choose_action(
    columns: _Columns, actions: NDArray[np.uint32], cell: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Camera and category of each scene, among those that can be in its cell."""
    shown = (actions >> cell[:, None, None]) & 1 == 1
    cameras = shown.any(axis=2) * _CAMERA_WEIGHTS
    camera = pick_weighted(draw(columns.seeds, purpose_key("casting", "camera")), cameras)
    categories = shown[np.arange(len(shown)), camera]
    category = pick_true(draw(columns.seeds, purpose_key("casting", "category")), categories)
    return camera, category


def _sun(space: Space, columns: _Columns) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Elevation and azimuth of each scene."""
    days = space.first_day + columns.day
    offsets = space.offsets[columns.city, columns.day]
    for row in np.nonzero(np.isnan(offsets))[0].tolist():
        zone = space.atlas.city(space.cities[columns.city[row]]).time_zone
        offsets[row] = utc_offsets_h(zone, days[row : row + 1], columns.hour[row])[0]
    return sun_position(
        days, columns.hour - offsets, space.latitudes[columns.city], space.longitudes[columns.city]
    )
