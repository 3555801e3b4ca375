"""What casting needs to know about a place, looked up in the atlas once: dress, signs, decorum, species."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import City, Decorum, Institution, RoadType, Sign, Species
from worldloop.atlas.seasons import Temperature, temperature_of
from worldloop.scenes.menus import Menu
from worldloop.scenes.people import Company, company_of, lighter
from worldloop.scenes.scene import Crowd, Detail, Dress, Subject
from worldloop.scenes.trees import Trees, trees_of

DETAIL_SLOTS = ("architecture", "furniture", "fixtures", "queueing", "courtesy", "sign_style")
_PARTITIVES = (" of ", " in ", " on ", " for ", " to ", " from ", " with ", " under ")
PLANTS, ANIMALS, ROADSIDE = "plants", "animals", "roadside"
UNSAID_IN: Mapping[Crowd, tuple[str, ...]] = {
    "empty": ("queueing", "courtesy"),
    "sparse": ("queueing",),
    "lively": (),
    "crowded": (),
}
"""Slots that need more people than a crowd has."""
DENSITY_OF: Mapping[Crowd, str] = {
    "empty": "free",
    "sparse": "light",
    "lively": "dense",
    "crowded": "queueing",
}
"""How full the roads are when the pavements are."""
PLANT_KINDS = ("tree", "shrub", "flower", "grass")
LABELLED = ("zoo", "amusement_park")
"""Institutions whose signs name what is shown, and nothing else but services."""
SERVICES = frozenset(
    {
        *("entrance", "exit", "ticket", "restroom", "information", "gift_shop", "cafe"),
        *("restaurant", "first_aid", "ice_cream", "lift", "stairs"),
    }
)
"""Sign words that name nothing which must then be in view."""
ALWAYS: Mapping[str, tuple[str, ...]] = {"hospital": ("ward", "exit"), "museum": ("exit",)}
"""Signs that their grammars hang in any case."""
_METRO = "metro"  # a sign of cities that have one
_LOCAL = frozenset({"ward"})
"""Words on the largest board of a room: where no language of the city has them, there is none in English."""
TEMPERATURES: tuple[Temperature, ...] = get_args(Temperature)
SLOTS = 0
"""Columns of `PlaceBook.rows` from here on: a row of `slots` for each crowd, in the order of `UNSAID_IN`."""
GROWING = SLOTS + len(UNSAID_IN)
"""Two: rows of `details` with plants, and with those that may be seen while snow may lie."""
ALIVE = GROWING + 2
"""For each of `TEMPERATURES` two: rows of `details` with animals by day and by night."""
FIRST_SIGNS = ALIVE + 2 * len(TEMPERATURES)
"""A row of `signs` with the institution's own and those that are always there."""
SIGNS = FIRST_SIGNS + 1
"""A row of `signs` of which some are there."""
PROPS = SIGNS + 1
"""A row of `props`."""
_NUM_COLUMNS = PROPS + 1
UNSAID_SLOTS = ("facade", "traffic", "road_markings")  # they are style, subjects and drive
_Wardrobe = Mapping[str, tuple[Dress, ...]]
_NO_ROADS: Mapping[str, Any] = {}
_NO_LABELS: Mapping[str, Sign] = {}


@dataclass(frozen=True)
class OpenRoad:
    """A road without pavements as casting reads it.

    Attributes:
        barred: Vehicle kinds that may not use it.
        signs: Row of the menu of signs.
        roadside: Row of the menu of details with what is beside it.
    """

    barred: tuple[str, ...]
    signs: int
    roadside: int


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """A place as casting reads it, beside its rows of the menus.

    Attributes:
        city: Its city.
        kind: Its institution.
        company: Who may be there.
        dress: Alternatives of each role.
        light_dress: Those where it is hot.
        labels: Signs by word, where they name what is shown.
        traffic: Pairs of vehicle kinds, of a street.
        facades: Facades of a street.
        roads: For each density the roads on which one may drive there, each with its markings.
        open_roads: Those without pavements.
        trees: Trees that a sketch shows.
        centre_lines: How the middle of a street may be painted, e.g. `double yellow`.
    """

    city: City
    kind: Institution
    company: Company
    dress: Mapping[str, tuple[Dress, ...]]
    light_dress: Mapping[str, tuple[Dress, ...]]
    labels: Mapping[str, Sign]
    traffic: tuple[tuple[str, str], ...]
    facades: tuple[str, ...]
    roads: Mapping[str, tuple[tuple[RoadType, tuple[str, ...]], ...]]
    open_roads: Mapping[str, OpenRoad]
    trees: Trees
    centre_lines: tuple[str, ...]


@dataclass(frozen=True)
class _Boards:
    """Signs of an institution where some languages are spoken: rows of the menu, and what names things."""

    first: int
    others: int
    labels: Mapping[str, Sign]


@dataclass(frozen=True)
class _Nature:
    """What lives at an institution in a climate of a continent: rows of the menu of details, and trees."""

    growing: tuple[int, int]
    alive: tuple[int, ...]
    trees: Trees


class PlaceBook:
    """The facts of every place that was asked for; equal parts are shared between places.

    Attributes:
        rows: int32 (cities, institutions, columns), rows of the menus of each place that was asked for.
        details: Alternatives of slots, plants, animals and roadsides.
        slots: Rows of `details`, those of all slots of a place.
        subjects: Each prop in the numbers in which it may be there.
        props: Rows of `subjects`, those of all props of an institution.
        signs: Signs of an institution where some languages are spoken.
    """

    def __init__(self, atlas: Atlas, cities: Sequence[str], institutions: Sequence[str]) -> None:
        """A book without places.

        Args:
            atlas: Where the facts are.
            cities: Keys by code.
            institutions: Keys by code.
        """
        self._atlas, self._cities, self._institutions = atlas, cities, institutions
        self._places: dict[tuple[int, int], PlaceFacts] = {}
        self.rows = np.zeros((len(cities), len(institutions), _NUM_COLUMNS), np.int32)
        self.details, self.slots = Menu(), Menu(np.int64)
        self.subjects, self.props = Menu(), Menu(np.int64)
        self.signs = Menu()
        self._dress: dict[tuple[str, ...], tuple[Dress, ...]] = {}
        self._wardrobes: dict[tuple[object, ...], tuple[_Wardrobe, _Wardrobe]] = {}
        self._details: dict[tuple[str, tuple[str, ...]], int] = {}
        self._said: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._companies: dict[str, Company] = {}
        self._props: dict[str, int] = {}
        self._boards: dict[tuple[tuple[str, ...], str, str], _Boards] = {}
        self._natures: dict[tuple[str, str, bool, str], _Nature] = {}
        self._signs: dict[tuple[tuple[str, ...], str], Sign] = {}

    def facts(self, city: int, institution: int) -> PlaceFacts:
        """The facts of a place by its codes."""
        found = self._places.get((city, institution))
        if found is None:
            place = self._atlas.city(self._cities[city])
            kind = self._atlas.institution(self._institutions[institution])
            found = self._places[city, institution] = self._look_up(place, kind)
            self.rows[city, institution] = self._rows_of(place, kind)
        return found

    def _look_up(self, city: City, kind: Institution) -> PlaceFacts:
        def values(slot: str) -> tuple[str, ...]:
            return self._atlas.decorum(city.key, kind.key, slot).values

        def alternatives(slot: str) -> tuple[str, ...]:
            return values(slot) if slot in kind.slots else ()

        if kind.key not in self._companies:
            self._companies[kind.key] = company_of(kind)
        dress, light = self._wardrobe({role: values(f"dress:{role}") for role in kind.roles})
        pairs = (pair.split("+") for pair in alternatives("traffic"))
        return PlaceFacts(
            city=city,
            kind=kind,
            company=self._companies[kind.key],
            dress=dress,
            light_dress=light,
            labels=self._boards_of(city, kind).labels,
            traffic=tuple((pair[0], pair[-1]) for pair in pairs),
            facades=alternatives("facade"),
            roads=_roads(self._atlas, city, kind),
            open_roads=self._open_roads(city, kind),
            trees=self._nature_of(city, kind).trees,
            centre_lines=_centre_lines(alternatives("road_markings")),
        )

    def _rows_of(self, city: City, kind: Institution) -> tuple[int, ...]:
        """Rows of the menus, in the order of the columns."""
        said = (*DETAIL_SLOTS, *(slot for slot in kind.slots if slot not in UNSAID_SLOTS))
        values = {slot: self._atlas.decorum(city.key, kind.key, slot).values for slot in said}
        boards, nature = self._boards_of(city, kind), self._nature_of(city, kind)
        if kind.key not in self._props:
            counted = [self.subjects.row(_counted(prop)) for prop in kind.props]
            self._props[kind.key] = self.props.row(counted)
        own = self._said_in(values), nature.growing, nature.alive, (boards.first, boards.others)
        return *(row for rows in own for row in rows), self._props[kind.key]

    def _boards_of(self, city: City, kind: Institution) -> _Boards:
        """Signs of a place; its languages decide them."""
        key = city.languages, city.metro, kind.key
        if key not in self._boards:
            unsaid = {kind.own_word, *(() if city.metro == "yes" else (_METRO,))}
            words = [word for word in kind.sign_words if word not in unsaid]
            own = [kind.own_word] if kind.own_word else []
            every = {word: self._sign(city, word) for word in words}
            signs = {
                word: sign
                for word, sign in every.items()
                if word not in _LOCAL or sign.language in city.languages
            }
            always = [word for word in ALWAYS.get(kind.key, ()) if word in signs]
            fits = SERVICES.__contains__ if kind.key in LABELLED else "no_entry".__ne__
            first = *(self._sign(city, word) for word in own), *(signs[word] for word in always)
            others = [sign for word, sign in signs.items() if word not in always and fits(word)]
            labels = signs if kind.key in LABELLED else _NO_LABELS
            self._boards[key] = _Boards(self.signs.row(first), self.signs.row(others), labels)
        return self._boards[key]

    def _nature_of(self, city: City, kind: Institution) -> _Nature:
        """Plants and animals of a place; climate, continent and the cold of winters decide them."""
        is_cold = temperature_of(city, "winter") == "cold"
        key = city.koeppen, city.continent, is_cold, kind.key
        if key not in self._natures:
            species = self._atlas.species(city.key, kind.key)
            plants = tuple(one.name for one in species if one.kind in PLANT_KINDS)
            flowers = {one.name for one in species if one.kind == "flower"}
            tender = flowers if kind.setting == "outdoor" else set()
            hardy = tuple(name for name in plants if name not in tender)
            animals = [one for one in species if one.kind not in PLANT_KINDS]
            self._natures[key] = _Nature(
                (self._alternatives(PLANTS, plants), self._alternatives(PLANTS, hardy)),
                tuple(
                    self._alternatives(
                        ANIMALS, tuple(one.name for one in animals if shows(one, warmth, is_night))
                    )
                    for warmth in TEMPERATURES
                    for is_night in (False, True)
                ),
                trees_of(city, species),
            )
        return self._natures[key]

    def _wardrobe(self, dresses: Mapping[str, tuple[str, ...]]) -> tuple[_Wardrobe, _Wardrobe]:
        """Alternatives of each role, and those where it is hot."""
        key = tuple(dresses.items())
        if key not in self._wardrobes:
            full = {role: self._dresses(values) for role, values in key}
            light = lighter(full)
            self._wardrobes[key] = full, full if light == full else light
        return self._wardrobes[key]

    def _said_in(self, slots: Mapping[str, tuple[str, ...]]) -> tuple[int, ...]:
        """For each crowd the row of the slots that a prompt may state."""
        key = tuple(slots.items())
        if key not in self._said:
            self._said[key] = tuple(
                self.slots.row([self._alternatives(*slot) for slot in key if slot[0] not in unsaid])
                for unsaid in UNSAID_IN.values()
            )
        return self._said[key]

    def _open_roads(self, city: City, kind: Institution) -> Mapping[str, OpenRoad]:
        """Roads without pavements of a place that has drives."""
        if "drive" not in kind.cameras:
            return _NO_ROADS
        return {
            road.key: OpenRoad(
                road.barred,
                self.signs.row([self._sign(city, word) for word in road.sign_words]),
                self._alternatives(ROADSIDE, road.roadside),
            )
            for road in self._atlas.roads.values()
            if not road.pavements
        }

    def _dresses(self, values: tuple[str, ...]) -> tuple[Dress, ...]:
        if values not in self._dress:
            self._dress[values] = tuple(Dress(*value.split("/")) for value in values)
        return self._dress[values]

    def _alternatives(self, slot: str, values: tuple[str, ...]) -> int:
        """The row of the values of a slot."""
        if (slot, values) not in self._details:
            self._details[slot, values] = self.details.row([Detail(slot, one) for one in values])
        return self._details[slot, values]

    def _sign(self, city: City, word: str) -> Sign:
        key = city.languages, word
        if key not in self._signs:
            self._signs[key] = self._atlas.sign(city.key, word)
        return self._signs[key]


def shows(species: Species, warmth: Temperature, is_night: bool) -> bool:
    """Whether an animal shows itself in a season and at an hour."""
    barred = {"dark" if not is_night else "light"}
    barred |= {"warm"} if warmth in ("cool", "cold") else set()
    barred |= {"mild"} if warmth == "cold" else set()
    return barred.isdisjoint(species.needs)


def markings_of(road: RoadType, painted: Decorum) -> tuple[str, ...]:
    """Lines of a city's streets that a road has, too."""
    return tuple(
        line for line in painted.values if not any(word in line for word in road.unpainted)
    )


def _roads(
    atlas: Atlas, city: City, kind: Institution
) -> Mapping[str, tuple[tuple[RoadType, tuple[str, ...]], ...]]:
    """Roads of a place that has drives, by density; those at the water only where there is some."""
    if "drive" not in kind.cameras:
        return _NO_ROADS
    return {
        density: tuple(
            (road, markings_of(road, atlas.decorum(city.key, "street", road.markings)))
            for road in atlas.roads.values()
            if density in road.densities
            and (city.waterfront != "none" or not road.key.startswith("waterfront"))
        )
        for density in DENSITY_OF.values()
    }


def _centre_lines(markings: tuple[str, ...]) -> tuple[str, ...]:
    """Centre lines among the markings of a street, as the grammar understands them.

    Example:
        >>> _centre_lines(("a double yellow centre line", "a broken white centre line", "lane arrows"))
        ('double yellow', 'dashed white')
    """
    lines = []
    for words in (set(value.split()) for value in markings if value.endswith(" centre line")):
        forms = [name for name in ("double", "dashed", "broken") if name in words]
        color = "yellow" if "yellow" in words else "white"
        lines.append(f"{forms[0] if forms else 'solid'} {color}".replace("broken", "dashed"))
    return tuple(lines)


def _counted(prop: str) -> tuple[Subject, ...]:
    """A prop as a subject: 2 to 6 of a plural, else one."""
    return tuple(Subject(prop, count) for count in (range(2, 7) if is_plural(prop) else (1,)))


def is_plural(phrase: str) -> bool:
    """Whether a prop is more than one thing, so that it can be counted.

    Example:
        >>> [is_plural(p) for p in ("a fountain", "rows of seats", "wood panelling", "benches")]
        [False, True, False, True]
    """
    if phrase.startswith(("a ", "an ")):
        return False
    head = min((phrase.partition(word)[0] for word in _PARTITIVES), key=len)
    return head.endswith("s") and not head.endswith(("ss", "us"))
