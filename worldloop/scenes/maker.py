"""Making scenes: from the codes of what was chosen to records.

Signs, details and props are chosen for all scenes of a batch together; people, and what grammars draw,
for one after the other. All random numbers depend on the place and the seed alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.records import Activity, Sign
from worldloop.atlas.seasons import SEASONS
from worldloop.scenes.dimensions import (
    CAMERAS,
    CROWDS,
    DAY_KINDS,
    DAYPARTS,
    WEATHERS,
    Space,
    activity_cells,
    shown_activities,
)
from worldloop.scenes.draws import Words, draw, purpose_key
from worldloop.scenes.people import roles_of
from worldloop.scenes.places import TEMPERATURES
from worldloop.scenes.scene import (
    SCENE_VERSION,
    Crowd,
    Detail,
    Drive,
    Role,
    Scene,
    Subject,
)
from worldloop.scenes.things import (
    Situation,
    details_of,
    drive_of,
    labelled,
    props_of,
    signs_of,
    style_of,
    subjects_of,
)

NO_ACTIVITY = Activity("", "", "", "", ("", "", ""), ())
_BLOCKS = {"people": 14, "subjects": 9, "signs": 2, "style": 4, "details": 8, "drive": 7}
_ENDS = list(accumulate(_BLOCKS.values(), initial=1))  # the first number chooses the activity
_PARTS = {name: slice(*ends) for name, ends in zip(_BLOCKS, pairwise(_ENDS), strict=True)}
_NUMBERS = np.array(  # each gives two numbers of 32 bits
    [purpose_key("casting", "extra", k) for k in range((_ENDS[-1] + 1) // 2)], np.uint64
)
_FEWEST_SIGNS, _FEWEST_STREET_SIGNS = 1, 4
_NO_STYLE: dict[str, str] = {}
Codes = NDArray[np.int64]
Name = TypeVar("Name")


@dataclass(frozen=True)
class Choices:
    """What was chosen for some scenes, by the codes of `Space`; each array has one entry a scene."""

    seeds: Sequence[int]
    city: Codes
    institution: Codes
    day: Codes
    hour: NDArray[np.float64]
    elevation_deg: NDArray[np.float64]
    azimuth_deg: NDArray[np.float64]
    season: Codes
    weather: Codes
    daypart: Codes
    crowd: Codes
    camera: Codes
    category: Codes


class Maker:
    """Puts the records of some scenes together, column by column."""

    def __init__(self, space: Space, choices: Choices, words: Words):
        """Whose scenes, and from which numbers.

        Args:
            space: What is possible.
            choices: What was chosen.
            words: uint64, what the random numbers of each scene depend on.
        """
        self._space, self._choices = space, choices
        halves = draw(words[:, None], _NUMBERS[None])
        self._numbers = np.concatenate(  # below 2**32, shape (n, as many as all parts have)
            [halves >> np.uint64(32), halves & np.uint64(0xFFFFFFFF)], axis=1
        )
        places = zip(choices.city.tolist(), choices.institution.tolist(), strict=True)
        self._facts = [space.book.facts(*place) for place in places]
        self._places = space.book.rows[choices.city, choices.institution].astype(np.int64)
        self._seasons = _named(SEASONS, choices.season)
        self._crowds: list[Crowd] = _named(CROWDS, choices.crowd)
        self._temperatures, self._dress = (
            np.where(
                space.needs_warmth[choices.institution],
                TEMPERATURES.index("hot"),
                codes[choices.city, choices.season],
            )
            for codes in (space.temperatures, space.dress)
        )
        self._drives = self._drives_of_cars()
        self._roads = {  # those without pavements, by the number of the scene
            row: self._facts[row].open_roads[drive.road]
            for row, drive in self._drives.items()
            if drive.road in self._facts[row].open_roads
        }

    def scenes(self) -> list[Scene]:
        """The scenes of all choices."""
        columns, scenes = self._columns(), []
        rows = zip(*columns.values(), strict=True)
        for fields in map(dict, map(zip, repeat(tuple(columns)), rows)):
            made = object.__new__(Scene)  # all fields at once: a frozen record sets them one by one
            object.__setattr__(made, "__dict__", fields)
            scenes.append(made)
        return scenes

    def _columns(self) -> dict[str, Iterable[Any]]:
        """Values of each field, in the order of a scene's fields."""
        space, choices, facts = self._space, self._choices, self._facts
        cities, days = choices.city.tolist(), choices.day.tolist()
        activities = self._activities()
        roles, details, signs = self._roles(activities), self._details(), self._signs()
        subjects, styles = self._props(), [_NO_STYLE] * len(facts)
        self._draw_sketched(roles, details, subjects, signs, styles)
        return {
            "city": [one.city.key for one in facts],
            "institution": [one.kind.key for one in facts],
            "seed": [int(seed) for seed in choices.seeds],
            "date": [space.dates[day] for day in days],
            "hour": choices.hour.tolist(),
            "sun_elevation_deg": choices.elevation_deg.tolist(),
            "sun_azimuth_deg": choices.azimuth_deg.tolist(),
            "season": self._seasons,
            "weather": _named(WEATHERS, choices.weather),
            "climate": [one.city.koeppen for one in facts],
            "driving_side": [one.city.driving_side for one in facts],
            "crowd": self._crowds,
            "roles": roles,
            "subjects": subjects,
            "signs": signs,
            "style": map(dict, styles),
            "camera": _named(CAMERAS, choices.camera),
            "day": _named(DAY_KINDS, space.day_kinds[choices.city, choices.day]),
            "holiday": [space.holidays[city][day] for city, day in zip(cities, days, strict=True)],
            "daypart": _named(DAYPARTS, choices.daypart),
            "category": [one.category for one in activities],
            "activity": [one.key for one in activities],
            "script": [one.beats if one.key else () for one in activities],
            "details": details,
            "drive": map(self._drives.get, range(len(facts))),
            "scene_version": repeat(SCENE_VERSION, len(facts)),
        }

    # -------------------------------------------------------------------- for all scenes together

    def _signs(self) -> list[tuple[Sign, ...]]:
        is_street = self._choices.institution == self._space.institution_codes.get("street", -1)
        fewest = np.where(is_street, _FEWEST_STREET_SIGNS, _FEWEST_SIGNS)
        numbers = self._numbers[:, _PARTS["signs"]]
        return signs_of(self._space.book, self._places, fewest, self._roads, numbers)

    def _details(self) -> list[tuple[Detail, ...]]:
        choices = self._choices
        situation = Situation(
            choices.crowd,
            self._temperatures,
            self._space.may_snow[choices.city, choices.season],
            choices.daypart == DAYPARTS.index("night"),
        )
        numbers = self._numbers[:, _PARTS["details"]]
        return details_of(self._space.book, self._places, situation, self._roads, numbers)

    def _props(self) -> list[tuple[Subject, ...]]:
        return props_of(self._space.book, self._places, self._numbers[:, _PARTS["subjects"]])

    def _activities(self) -> list[Activity]:
        """What mainly goes on."""
        choices = self._choices
        cell = choices.daypart * len(CROWDS) + choices.crowd
        codes = choices.institution, choices.category, choices.camera, cell, choices.weather
        situations = np.ravel_multi_index(codes, _situations(self._space))
        warm = self._temperatures >= TEMPERATURES.index("warm")
        known, found = self._space.known_activities, []
        keys = (situations << 1 | warm).tolist()
        for key, number in zip(keys, self._numbers[:, 0].tolist(), strict=True):
            group = known.get(key) or self._known(key)
            found.append(group[number * len(group) >> 32])
        return found

    def _known(self, key: int) -> tuple[Activity, ...]:
        """Activities of a category that can be there and then; a stand-in where the atlas has none."""
        space = self._space
        codes = np.unravel_index(key >> 1, _situations(space))
        institution, category, camera, cell, weather = map(int, codes)
        everything = space.activities[institution][category]
        shown = shown_activities(everything, CAMERAS[camera], WEATHERS[weather], warm=bool(key & 1))
        fits = tuple(one for one in shown if activity_cells(one) >> cell & 1) or (NO_ACTIVITY,)
        found = space.activity_groups.setdefault(tuple(map(id, fits)), fits)
        space.known_activities[key] = found
        return found

    # -------------------------------------------------------------------- one scene after the other

    def _roles(self, activities: Sequence[Activity]) -> list[tuple[Role, ...]]:
        """Everybody who is there; nobody walks where there are no pavements."""
        is_night = (self._choices.daypart == DAYPARTS.index("night")).tolist()
        numbers = self._numbers[:, _PARTS["people"]].tolist()
        worn = _named(TEMPERATURES, self._dress)
        wardrobes = [
            one.light_dress if warmth == "hot" else one.dress
            for one, warmth in zip(self._facts, worn, strict=True)
        ]
        people = zip(
            *(self._facts, wardrobes, self._crowds, worn, activities, numbers, is_night),
            strict=True,
        )
        roles = [
            roles_of(one.company, wardrobe, crowd, warmth, doing.roles, luck, is_night=night)
            for one, wardrobe, crowd, warmth, doing, luck, night in people
        ]
        for row in self._roads:
            roles[row] = ()
        return roles

    def _drives_of_cars(self) -> dict[int, Drive]:
        """Drives of the scenes that have one."""
        rows = np.nonzero(self._choices.camera == CAMERAS.index("drive"))[0]
        numbers = self._numbers[rows, _PARTS["drive"]].tolist()
        return {
            row: drive_of(self._facts[row], self._crowds[row], luck)
            for row, luck in zip(rows.tolist(), numbers, strict=True)
        }

    def _draw_sketched(
        self,
        roles: Sequence[tuple[Role, ...]],
        details: Sequence[tuple[Detail, ...]],
        subjects: list[tuple[Subject, ...]],
        signs: list[tuple[Sign, ...]],
        styles: list[dict[str, str]],
    ) -> None:
        """Put what the grammars draw into subjects, signs and styles of their institutions."""
        rows = np.nonzero(self._space.is_drawn[self._choices.institution])[0]
        luck = [self._numbers[rows, _PARTS[name]].tolist() for name in ("subjects", "style")]
        for row, of_things, of_style in zip(rows.tolist(), *luck, strict=True):
            facts, people = self._facts[row], roles[row]
            num_patients = people[0].count if people and people[0].action == "lying" else 0
            crowd, road = self._crowds[row], self._roads.get(row)
            subjects[row] = subjects_of(facts, crowd, num_patients, of_things, road)
            if facts.labels:
                signs[row] = labelled(facts, signs[row], subjects[row])
            styles[row] = style_of(facts, details[row], self._seasons[row], of_style)


def _situations(space: Space) -> tuple[int, ...]:
    """How many institutions, categories, cameras, cells and weathers there are."""
    num_cells = len(DAYPARTS) * len(CROWDS)
    return *space.action_cells.shape[::2], len(CAMERAS), num_cells, len(WEATHERS)


def _named(names: Sequence[Name], codes: NDArray[np.integer]) -> list[Name]:
    """Names by their codes."""
    return [names[code] for code in codes.tolist()]
