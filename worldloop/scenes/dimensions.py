"""Planned dimensions of a scene, and which of their values are possible together at a place.

A place is open on some days and hours; sun, calendar and crowd profile say which season, daypart and
crowd those are; climate says which weather a season has; cameras and activities follow from the
institution. `Space` holds all of it as arrays, so that nothing impossible is ever drawn.
"""

import datetime as dt
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.opening import is_closed, parse_closing_days
from worldloop.atlas.records import Activity, City, DayKind
from worldloop.atlas.seasons import (
    SEASONS,
    is_warm,
    may_snow,
    season_of,
    temperature_of,
)
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.draws import purpose_key
from worldloop.scenes.people import PUBLIC_ROLES, dressed_for
from worldloop.scenes.places import TEMPERATURES, PlaceBook
from worldloop.scenes.scene import SKETCH_CAMERAS, Camera, Crowd, Daypart, Weather
from worldloop.scenes.shared_rows import SharedRows
from worldloop.scenes.sun import sun_elevations, utc_offsets_h
from worldloop.scenes.things import VOCABULARY
from worldloop.scenes.weather import MONTHS, weather_of_months

YEAR = 2026
QUARTERS = 96  # of an hour, a day
DAY_KINDS: tuple[DayKind, ...] = get_args(DayKind)
DAYPARTS: tuple[Daypart, ...] = get_args(Daypart)
WEATHERS: tuple[Weather, ...] = get_args(Weather)
CROWDS: tuple[Crowd, ...] = get_args(Crowd)
CAMERAS: tuple[Camera, ...] = get_args(Camera)
CROWD_OF_LEVEL = (0, 1, 1, 1, 2, 2, 2, 3, 3, 3)  # index in CROWDS of each level of a crowd profile
DIMENSIONS = ("city", "institution", "season", "daypart", "weather", "crowd", "camera", "category")
FREE = DIMENSIONS[2:]
"""Dimensions that are still open when the place is known."""
ON_FOOT: tuple[Camera, ...] = ("stroll", "tour", "wander")
CAMERAS_OF: Mapping[str, tuple[Camera, ...]] = {
    "driving": ("drive",),
    "navigation": (*ON_FOOT, "drone"),
    "first_person": (*ON_FOOT, "still"),
    "hand_object": (*ON_FOOT, "still"),
    "dynamic_camera": ("tour", "wander", "drone", "birds_eye"),
}
"""Cameras that can show a content category; those that are not listed fit every camera but `drive`."""
_OTHERS: tuple[Camera, ...] = tuple(camera for camera in CAMERAS if camera != "drive")
_DAWN_DEG = 6.0  # as in worldloop/dayparts.py
_NUM_CELLS = len(DAYPARTS) * len(CROWDS)
_EVERY_CELL = (1 << _NUM_CELLS) - 1

Asked = Mapping[str, str]
Codes = NDArray[np.uint8]
Bits = NDArray[np.uint32]


class Space:
    """Every possible scene of an atlas in one year, as arrays by the codes of keys.

    A cell is a daypart and a crowd together: `daypart * len(CROWDS) + crowd`. Tables of a city are
    made when they are first asked for.

    Attributes:
        cities: Keys of the cities, in the atlas's order.
        institutions: Keys of the institutions.
        categories: Keys of the content categories.
        has: bool (cities, institutions), whether the place exists and some season suits it.
        weather: uint8 (cities, months, weathers), chances of the weathers that can be, per cent.
        season_weather: uint16 (cities, seasons, weathers), their sums over the months of a season.
        may_snow: bool (cities, seasons), whether snow may lie.
        temperatures: uint8 (cities, seasons), codes of how warm it is.
        dress: uint8 (cities, seasons), codes of how warmly the public dresses.
        needs_warmth: bool (institutions), whether people undress there.
        is_drawn: bool (institutions), whether a grammar draws what is shown there.
        action_cells: uint32 (institutions, cameras, categories), a bit for each cell in which some
            activity of the category can be shown, whatever the weather and season.
        dates: ISO dates of the days of the year.
        months: Of the days of the year, 0 is January.
        seasons: uint8 (cities, days) of the year; filled by `prepare`.
        day_kinds: uint8 (cities, days); filled by `prepare`.
        holidays: Names of the holidays of a prepared city, by day of the year.
        dayparts: uint8 (cities, days, quarters), equal days once; filled by `prepare`.
        offsets: (cities, days), hours ahead of UTC, NaN on days when clocks change; filled by `prepare`.
        cells: uint32 (cities, institutions, days), a bit for each cell that has an open quarter of an
            hour; 0 on days on which the place is closed; equal years once; filled by `prepare`.
        open_days: uint16 (cities, institutions, days), the days with cells, those first, equal years
            once; filled by `prepare`.
        num_open: uint16 (cities, institutions), how many these are.
        season_cells: uint32 (cities, institutions, seasons), the cells that a season has.
        levels: uint8 (profiles, day kinds, 24), crowd profiles.
        book: Facts of places, looked up once.
        place_codes: Codes of city and institution of places as people wrote them.
        place_keys: uint64 (cities, institutions), what random numbers of a place depend on; filled by
            `prepare`.
        known_activities: Activities by what decides them, as far as somebody asked.
        activity_groups: Each of their values once, by the identities of its activities.
        latitudes: Of the cities, degrees.
        longitudes: Of the cities, degrees.
        profile_of: Index of the crowd profile of each institution.
        opens: uint8 (cities, institutions), first open quarter; filled by `prepare`.
        closes: uint8 (cities, institutions), the quarter after the last open one.
    """

    def __init__(self, atlas: Atlas, year: int = YEAR):
        self.atlas, self.year = weakref.proxy(atlas), year
        self.first_day = dt.date(year, 1, 1).toordinal()
        self.days = tuple(
            dt.date.fromordinal(day)
            for day in range(self.first_day, dt.date(year + 1, 1, 1).toordinal())
        )
        self.months = np.array([day.month - 1 for day in self.days])
        self.dates = tuple(day.isoformat() for day in self.days)
        self.cities, self.institutions = tuple(atlas.cities), tuple(atlas.institutions)
        self.city_codes = {key: code for code, key in enumerate(self.cities)}
        self.institution_codes = {key: code for code, key in enumerate(self.institutions)}
        self.latitudes = np.array([city.latitude_deg for city in atlas.cities.values()])
        self.longitudes = np.array([city.longitude_deg for city in atlas.cities.values()])
        self._rule(atlas)
        self._make_room()
        self.book = PlaceBook(self.atlas, self.cities, self.institutions)
        self.place_codes: dict[str, tuple[int, int]] = {}
        self.known_activities: dict[int, tuple[Activity, ...]] = {}
        self.activity_groups: dict[tuple[int, ...], tuple[Activity, ...]] = {}

    def _rule(self, atlas: Atlas) -> None:
        """What climates, institutions and crowd profiles decide."""
        without = [k for k, kind in atlas.institutions.items() if not atlas.activities(k)]
        self.categories = (*atlas.categories, *([""] if without else []))
        self.weather = self._weather(atlas)
        self.season_weather = self._season_weather()
        self.may_snow = self._of_seasons(may_snow).astype(bool)
        self.temperatures = self._of_seasons(
            lambda city, season: TEMPERATURES.index(temperature_of(city, season))
        )
        self.dress = self._of_seasons(
            lambda city, season: TEMPERATURES.index(dressed_for(city, season))
        )
        self.is_drawn = np.isin(self.institutions, list(VOCABULARY))
        self.needs_warmth = np.array([kind.needs_warmth for kind in atlas.institutions.values()])
        self.has = self._has()
        self.activities, self.action_cells = self._actions()
        profiles = list(atlas.crowd_profiles)
        self.profile_of = np.array(
            [profiles.index(kind.crowd) for kind in atlas.institutions.values()]
        )
        self.levels = np.array(
            [
                [[int(level) for level in profile.levels[kind]] for kind in DAY_KINDS]
                for profile in atlas.crowd_profiles.values()
            ],
            np.uint8,
        )

    def _make_room(self) -> None:
        """Tables that `prepare` fills."""
        places, num_days = (len(self.cities), len(self.institutions)), len(self.days)
        self.seasons = np.zeros((places[0], num_days), np.uint8)
        self.day_kinds = np.zeros((places[0], num_days), np.uint8)
        self.holidays: dict[int, tuple[str, ...]] = {}
        self.dayparts = SharedRows((places[0], num_days), QUARTERS, np.uint8)
        self.offsets = np.zeros((places[0], num_days))
        self.cells = SharedRows(places, num_days, np.uint32)
        self.season_cells = np.zeros((*places, len(SEASONS)), np.uint32)
        self.open_days = SharedRows(places, num_days, np.uint16)
        self.num_open = np.zeros(places, np.uint16)
        self.opens, self.closes = np.zeros(places, np.uint8), np.zeros(places, np.uint8)
        self.place_keys = np.zeros(places, np.uint64)

    def prepare(self, city: int) -> None:
        """Fill the tables of a city."""
        if city in self.holidays:
            return
        place = self.atlas.city(self.cities[city])
        kinds = [self.atlas.day_kind(place.key, day) for day in self.days]
        self.day_kinds[city] = [DAY_KINDS.index(kind) for kind, _ in kinds]
        months = {day.month: SEASONS.index(season_of(place, day)) for day in self.days}
        self.seasons[city] = [months[day.month] for day in self.days]
        quarters = np.arange(QUARTERS) / 4
        ordinals = self.first_day + np.arange(len(self.days))[:, None]
        offsets = utc_offsets_h(place.time_zone, ordinals, quarters)
        elevations = sun_elevations(
            self.first_day, offsets, place.latitude_deg, place.longitude_deg
        )
        self.dayparts.put(city, daypart_codes(quarters, elevations))
        self.offsets[city] = offsets[:, 0]
        self.offsets[city, (offsets != offsets[:, :1]).any(axis=1)] = np.nan
        self._open(city)
        self.place_keys[city] = [
            purpose_key("place", place.key, kind) for kind in self.institutions
        ]
        self.holidays[city] = tuple(name for _, name in kinds)

    def _open(self, city: int) -> None:
        """Opening hours and cells of every institution of a city; those alike share the work."""
        made: dict[tuple[str, str, int], tuple[int, int, NDArray[np.uint32]]] = {}
        closed: dict[str, list[bool]] = {}
        key = self.cities[city]
        cells = np.zeros((len(self.institutions), len(self.days)), np.uint32)
        for code, kind in enumerate(self.institutions):
            rules = (
                self.atlas.decorum(key, kind, slot).values[0] for slot in ("hours", "closed_on")
            )
            hours, closed_on = rules
            like = hours, closed_on, int(self.profile_of[code])
            if like not in made:
                opens, closes = self.atlas.hours(key, kind)
                span = math.ceil(opens * 4), math.ceil(closes * 4)
                if closed_on not in closed:
                    closed[closed_on] = self._closed(city, closed_on)
                made[like] = *span, self._cells(city, span, like[2])
                made[like][2][closed[closed_on]] = 0
            self.opens[city, code], self.closes[city, code], cells[code] = made[like]
        cells[~self.has[city]] = 0
        for code, kind in enumerate(self.atlas.institutions.values()):
            if kind.needs_warmth:
                cells[code, ~self._is_warm(city)] = 0
        open_days = np.zeros(cells.shape, np.uint16)
        for code, row in enumerate(cells):
            days = np.nonzero(row)[0]
            open_days[code, : len(days)], self.num_open[city, code] = days, len(days)
        self.cells.put(city, cells)
        self.open_days.put(city, open_days)
        for season in range(len(SEASONS)):
            days = self.seasons[city] == season
            self.season_cells[city, :, season] = np.bitwise_or.reduce(cells[:, days], axis=1)

    def _cells(self, city: int, span: tuple[int, int], profile: int) -> NDArray[np.uint32]:
        """Cells of every day between two quarters of an hour."""
        crowds = np.array(CROWD_OF_LEVEL, np.uint8)[self.levels[profile]]
        hours = np.arange(*span) // 4
        cells = self.dayparts[city][:, span[0] : span[1]] * np.uint8(len(CROWDS))
        bits = np.uint32(1) << (cells + crowds[self.day_kinds[city]][:, hours])
        return np.asarray(np.bitwise_or.reduce(bits, axis=1), np.uint32)

    def _closed(self, city: int, closed_on: str) -> list[bool]:
        """On which days of the year places with these closing days are closed."""
        days, weekend = parse_closing_days(closed_on), self.atlas.country(self.cities[city]).weekend
        holiday = DAY_KINDS.index("holiday")
        kinds = self.day_kinds[city].tolist()
        return [
            is_closed(days, day, weekend=weekend, is_holiday=kind == holiday)
            for day, kind in zip(self.days, kinds, strict=True)
        ]

    def _has(self) -> NDArray[np.bool_]:
        """Which places there are."""
        return np.array([[self.atlas.has(c, i) for i in self.institutions] for c in self.cities])

    def _is_warm(self, city: int) -> NDArray[np.bool_]:
        """Days of a season in which people wear little outdoors."""
        place = self.atlas.city(self.cities[city])
        warm = np.array([is_warm(place, season) for season in SEASONS])
        return np.asarray(warm[self.seasons[city]], bool)

    def _weather(self, atlas: Atlas) -> Codes:
        """Weathers of each month; cities of equal climates, north or south, share the work."""
        return np.array(
            [weather_of_months(atlas, city) for city in atlas.cities.values()], np.uint8
        )

    def _season_weather(self) -> NDArray[np.uint16]:
        """Weathers of each season: those of its months together."""
        chances = np.zeros((len(self.cities), len(SEASONS), len(WEATHERS)), np.uint16)
        for code, place in enumerate(self.atlas.cities.values()):
            for month, row in zip(MONTHS, self.weather[code], strict=True):
                season = season_of(place, dt.date(self.year, month, 1))
                chances[code, SEASONS.index(season)] += row
        return chances

    def _of_seasons(self, rule: Callable[[City, str], int]) -> Codes:
        """What a rule says of each city in each season, shape (cities, seasons)."""
        cities = self.atlas.cities.values()
        return np.array([[rule(city, season) for season in SEASONS] for city in cities], np.uint8)

    def _actions(self) -> tuple[list[list[list[Activity]]], Bits]:
        """Activities by institution and category, and the cells in which each camera shows some in any weather."""
        shape = len(self.institutions), len(CAMERAS), len(self.categories)
        cells = np.zeros(shape, np.uint32)
        by_category: list[list[list[Activity]]] = []
        for code, kind in enumerate(self.atlas.institutions.values()):
            known = self.atlas.activities(kind.key)
            groups = [[one for one in known if one.category == c] for c in self.categories]
            by_category.append(groups)
            warmths = (True,) if kind.needs_warmth else (True, False)
            for number, category in enumerate(self.categories):
                for camera in CAMERAS_OF.get(category, CAMERAS if not known else _OTHERS):
                    if camera not in kind.cameras:
                        continue
                    bits = _EVERY_CELL if known or not category else 0
                    for weather, warm in itertools.product(WEATHERS if known else (), warmths):
                        shown = shown_activities(groups[number], camera, weather, warm=warm)
                        bits &= functools.reduce(int.__or__, map(activity_cells, shown), 0)
                    cells[code, CAMERAS.index(camera), number] = bits
        return by_category, cells


def shown_activities(
    activities: Iterable[Activity], camera: str, weather: str, *, warm: bool
) -> list[Activity]:
    """Those that go on in a weather and a warm or cool season, and that a camera path shows."""
    return [
        one
        for one in activities
        if camera in (one.cameras or CAMERAS)
        and weather in (one.weathers or WEATHERS)
        and (warm or not one.needs_warmth)
    ]


@functools.cache
def activity_cells(activity: Activity) -> int:
    """A bit for each cell in which an activity can be: the public is not there when it is empty."""
    fewest = 1 if PUBLIC_ROLES & set(activity.roles) else 0
    return sum(
        1 << (DAYPARTS.index(part) * len(CROWDS) + crowd)
        for part in activity.dayparts or DAYPARTS
        for crowd in range(fewest, len(CROWDS))
        if CROWDS[crowd] in (activity.crowds or CROWDS)
    )


def daypart_codes(hours: NDArray[np.float64], elevations_deg: NDArray[np.float64]) -> Codes:
    """Dayparts as indices of `DAYPARTS`, by the rule of worldloop/dayparts.py."""
    before_noon = hours < 12
    codes = np.where(
        elevations_deg < -_DAWN_DEG,
        DAYPARTS.index("night"),
        np.where(
            elevations_deg < _DAWN_DEG,
            np.where(before_noon, DAYPARTS.index("dawn"), DAYPARTS.index("dusk")),
            np.where(before_noon, DAYPARTS.index("morning"), DAYPARTS.index("afternoon")),
        ),
    )
    return codes.astype(np.uint8)


# Spaces by the identity of their atlas; an atlas is too large to be compared by value.
_SPACES: dict[tuple[int, int], tuple[weakref.ref[Atlas], Space]] = {}


def space_of(atlas: Atlas, year: int = YEAR) -> Space:
    """The space of an atlas; made once."""
    found = _SPACES.get((id(atlas), year))
    if found is None or found[0]() is not atlas:
        for key in [key for key, (alive, _) in _SPACES.items() if alive() is None]:
            del _SPACES[key]
        found = weakref.ref(atlas), Space(atlas, year)
        _SPACES[id(atlas), year] = found
    return found[1]


class Possible:
    """The joint values of the free dimensions that are possible at a place, as bool arrays.

    Attributes:
        time: (seasons, dayparts, crowds)
        weather: (seasons, weathers)
        action: (cameras, categories, dayparts, crowds)
    """

    def __init__(
        self, space: Space, city: int, institution: int, asked: Asked, *, sketch: bool = False
    ):
        space.prepare(city)
        chosen = asked_masks(space, asked, sketch=sketch)
        shape = len(DAYPARTS), len(CROWDS)
        cells = space.season_cells[city, institution]
        time = _unpacked(cells).reshape(len(SEASONS), *shape)
        self.time = (
            time & chosen["season"][:, None, None] & chosen["daypart"][:, None] & chosen["crowd"]
        )
        self.weather = (space.season_weather[city] > 0) & chosen["weather"]
        action = _unpacked(space.action_cells[institution]).reshape(
            len(CAMERAS), len(space.categories), *shape
        )
        allowed = chosen["camera"][:, None] & chosen["category"]
        self.action = action & allowed[:, :, None, None]

    def joint(self) -> NDArray[np.bool_]:
        """All together, shape (seasons, dayparts, crowds, weathers, cameras, categories)."""
        action = self.action.transpose(2, 3, 0, 1)  # dayparts, crowds, cameras, categories
        return np.asarray(
            self.time[:, :, :, None, None, None]
            & self.weather[:, None, None, :, None, None]
            & action[None, :, :, None]
        )

    def values(self, space: Space) -> dict[str, tuple[str, ...]]:
        """Every value of each free dimension that some possible scene has."""
        joint, found = self.joint(), {}
        for name, axis in zip(
            ("season", "daypart", "crowd", "weather", "camera", "category"), range(6), strict=True
        ):
            others = tuple(a for a in range(6) if a != axis)
            some = np.asarray(joint.any(axis=others))
            found[name] = tuple(
                value for value, ok in zip(names_of(space, name), some, strict=True) if ok
            )
        return {name: found[name] for name in FREE}


def check_asked(atlas: Atlas, place: str, asked: Asked, *, sketch: bool = False) -> None:
    """Refuse what cannot be at a place.

    Args:
        atlas: Where the place is described.
        place: `<city>/<institution>`.
        asked: Values by dimension.
        sketch: Whether the procedural renderer must be able to show it.

    Raises:
        UnknownKeyError: If the place, a dimension or a value is unknown.
        MalformedRecordError: If no scene of the place has all these values.
    """
    if not asked:
        return
    city, kind = atlas.parse_place(place)
    space = space_of(atlas)
    codes = space.city_codes[city.key], space.institution_codes[kind.key]
    if not Possible(space, *codes, asked, sketch=sketch).joint().any():
        raise impossible(space, *codes, asked, sketch=sketch)


def names_of(space: Space, dimension: str) -> tuple[str, ...]:
    """All values of a dimension, in the order of their codes.

    Raises:
        UnknownKeyError: If there is no such dimension.
    """
    names: dict[str, tuple[str, ...]] = {
        "city": space.cities,
        "institution": space.institutions,
        "season": SEASONS,
        "daypart": DAYPARTS,
        "weather": WEATHERS,
        "crowd": CROWDS,
        "camera": CAMERAS,
        "category": space.categories,
    }
    if dimension not in names:
        raise UnknownKeyError("dimension of a scene", dimension, DIMENSIONS)
    return names[dimension]


def asked_masks(
    space: Space, asked: Asked, *, sketch: bool = False
) -> dict[str, NDArray[np.bool_]]:
    """For each free dimension the values that are left when some are pinned.

    Raises:
        UnknownKeyError: If a dimension or a value is unknown.
    """
    masks = {}
    for name in FREE:
        values = names_of(space, name)
        masks[name] = np.ones(len(values), bool)
        if name == "camera" and sketch:
            masks[name] = np.isin(values, SKETCH_CAMERAS)
        if name in asked:
            if asked[name] not in values:
                raise UnknownKeyError(name, asked[name], values)
            masks[name] &= np.array(values) == asked[name]
    for name in asked:
        if name not in FREE:
            raise UnknownKeyError("dimension of a scene", name, FREE)
    return masks


def impossible(
    space: Space, city: int, institution: int, asked: Asked, *, sketch: bool = False
) -> MalformedRecordError:
    """The error that says why nothing of what was asked for can be at a place."""
    place = f"{space.cities[city]}/{space.institutions[institution]}"
    known = {name: value for name, value in asked.items() if name in FREE}
    for name, value in known.items():
        others = {key: kept for key, kept in known.items() if key != name}
        for given in (others, {}):
            values = Possible(space, city, institution, given, sketch=sketch).values(space)[name]
            if values and value not in values:
                means = ", ".join(f"{key} {kept!r}" for key, kept in given.items())
                return MalformedRecordError(
                    f"{name} of a scene at {place}" + (f" with {means}" if means else ""),
                    value,
                    f"one of {', '.join(values)}",
                    "Choose one of them, or leave it out.",
                )
    return MalformedRecordError(
        f"a scene at {place}",
        dict(asked),
        "values that are possible together there",
        "Leave some of them out.",
    )


def _unpacked(cells: Bits) -> NDArray[np.bool_]:
    """Bits of cells as bool, on a new last axis."""
    bits = (cells[..., None] >> np.arange(_NUM_CELLS, dtype=np.uint32)) & np.uint32(1)
    return np.asarray(bits, bool)
