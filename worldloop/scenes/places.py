"""What casting needs to know about a place, looked up in the atlas once: dress, signs, decorum, species."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import City, Decorum, Institution, RoadType, Sign, Species
from worldloop.atlas.seasons import SEASONS, Temperature, temperature_of
from worldloop.scenes.people import Company, company_of
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
UNSAID_SLOTS = ("facade", "traffic", "road_markings")  # they are style, subjects and drive
_NO_ROADS: Mapping[str, Any] = {}


@dataclass(frozen=True)
class OpenRoad:
    """A road without pavements as casting reads it: vehicle kinds that it bars, its signs, what is beside it."""

    barred: tuple[str, ...]
    signs: tuple[Sign, ...]
    roadside: tuple[Detail, ...]


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """A place as casting reads it.

    Attributes:
        city: Its city.
        kind: Its institution.
        company: Who may be there.
        dress: Alternatives of each role.
        temperatures: How warm each season is there.
        props: Each prop as a subject, 2 to 6 times or once.
        own_sign: Sign of the institution itself, or none.
        signs: The others by word, where they name what is shown.
        signs_always: Those that are always there.
        signs_sometimes: Those of which some are there.
        details: For each crowd the alternatives of each slot that a prompt may state: nobody queues unless
            it is lively, and nobody is courteous in an empty place.
        plants: Plants that may be seen there.
        hardy_plants: Those that may be seen while snow may lie: outdoors nothing flowers then.
        animals: Animals at large that may be seen there, by how warm it is and whether it is night.
        traffic: Pairs of vehicle kinds, of a street.
        facades: Facades of a street.
        roads: For each density the roads on which one may drive there, each with its markings.
        open_roads: Those without pavements, each with its signs and what is beside it.
        trees: Trees that a sketch shows.
        centre_lines: How the middle of a street may be painted, e.g. `double yellow`.
    """

    city: City
    kind: Institution
    company: Company
    dress: Mapping[str, tuple[Dress, ...]]
    temperatures: Mapping[str, Temperature]
    props: tuple[tuple[Subject, ...], ...]
    own_sign: tuple[Sign, ...]
    signs: dict[str, Sign]
    signs_always: tuple[Sign, ...]
    signs_sometimes: tuple[Sign, ...]
    details: Mapping[Crowd, tuple[tuple[Detail, ...], ...]]
    plants: tuple[Detail, ...]
    hardy_plants: tuple[Detail, ...]
    animals: Mapping[tuple[Temperature, bool], tuple[Detail, ...]]
    traffic: tuple[tuple[str, str], ...]
    facades: tuple[str, ...]
    roads: Mapping[str, tuple[tuple[RoadType, tuple[str, ...]], ...]]
    open_roads: Mapping[str, OpenRoad]
    trees: Trees
    centre_lines: tuple[str, ...]


@dataclass(frozen=True)
class _Boards:
    """Signs of an institution where some languages are spoken, as `PlaceFacts` has them."""

    own_sign: tuple[Sign, ...]
    signs: dict[str, Sign]
    signs_always: tuple[Sign, ...]
    signs_sometimes: tuple[Sign, ...]


@dataclass(frozen=True)
class _Nature:
    """What lives at an institution in a climate of a continent, as `PlaceFacts` has it."""

    plants: tuple[Detail, ...]
    hardy_plants: tuple[Detail, ...]
    animals: Mapping[tuple[Temperature, bool], tuple[Detail, ...]]
    trees: Trees


class PlaceBook:
    """The facts of every place that was asked for; equal parts are shared between places."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], PlaceFacts] = {}
        self._dress: dict[tuple[str, ...], tuple[Dress, ...]] = {}
        self._wardrobes: dict[tuple[object, ...], dict[str, tuple[Dress, ...]]] = {}
        self._details: dict[tuple[str, tuple[str, ...]], tuple[Detail, ...]] = {}
        self._said: dict[tuple[object, ...], dict[Crowd, tuple[tuple[Detail, ...], ...]]] = {}
        self._companies: dict[str, Company] = {}
        self._props: dict[str, tuple[tuple[Subject, ...], ...]] = {}
        self._temperatures: dict[tuple[str, bool], dict[str, Temperature]] = {}
        self._boards: dict[tuple[tuple[str, ...], str, str], _Boards] = {}
        self._natures: dict[tuple[str, str, bool, str], _Nature] = {}
        self._signs: dict[tuple[tuple[str, ...], str], Sign] = {}

    def facts(self, atlas: Atlas, city: str, institution: str) -> PlaceFacts:
        """The facts of a place."""
        found = self._places.get((city, institution))
        if found is None:
            found = self._look_up(atlas, atlas.city(city), atlas.institution(institution))
            self._places[city, institution] = found
        return found

    def _look_up(self, atlas: Atlas, city: City, kind: Institution) -> PlaceFacts:
        if kind.key not in self._companies:
            self._companies[kind.key] = company_of(kind)
            self._props[kind.key] = tuple(_counted(prop) for prop in kind.props)

        def values(slot: str) -> tuple[str, ...]:
            return atlas.decorum(city.key, kind.key, slot).values

        def alternatives(slot: str) -> tuple[str, ...]:
            return values(slot) if slot in kind.slots else ()

        said = (*DETAIL_SLOTS, *(slot for slot in kind.slots if slot not in UNSAID_SLOTS))
        boards, nature = self._boards_of(atlas, city, kind), self._nature_of(atlas, city, kind)
        return PlaceFacts(
            city=city,
            kind=kind,
            company=self._companies[kind.key],
            dress=self._wardrobe({role: values(f"dress:{role}") for role in kind.roles}),
            temperatures=self._warmth(city, kind),
            props=self._props[kind.key],
            own_sign=boards.own_sign,
            signs=boards.signs,
            signs_always=boards.signs_always,
            signs_sometimes=boards.signs_sometimes,
            details=self._said_in({slot: values(slot) for slot in said}),
            plants=nature.plants,
            hardy_plants=nature.hardy_plants,
            animals=nature.animals,
            traffic=tuple(
                (pair.split("+")[0], pair.split("+")[-1]) for pair in alternatives("traffic")
            ),
            facades=alternatives("facade"),
            roads=_roads(atlas, city, kind),
            open_roads=self._open_roads(atlas, city, kind),
            trees=nature.trees,
            centre_lines=_centre_lines(alternatives("road_markings")),
        )

    def _warmth(self, city: City, kind: Institution) -> dict[str, Temperature]:
        """How warm each season is; where people undress they do so in any."""
        key = city.key, kind.needs_warmth
        if key not in self._temperatures:
            self._temperatures[key] = {
                season: "hot" if kind.needs_warmth else temperature_of(city, season)
                for season in SEASONS
            }
        return self._temperatures[key]

    def _boards_of(self, atlas: Atlas, city: City, kind: Institution) -> _Boards:
        """Signs of a place; its languages decide them."""
        key = city.languages, city.metro, kind.key
        if key not in self._boards:
            unsaid = {kind.own_word, *(() if city.metro == "yes" else (_METRO,))}
            words = [word for word in kind.sign_words if word not in unsaid]
            own = [kind.own_word] if kind.own_word else []
            every = {word: self._sign(atlas, city, word) for word in words}
            signs = {
                word: sign
                for word, sign in every.items()
                if word not in _LOCAL or sign.language in city.languages
            }
            always = [word for word in ALWAYS.get(kind.key, ()) if word in signs]
            fits = SERVICES.__contains__ if kind.key in LABELLED else "no_entry".__ne__
            self._boards[key] = _Boards(
                tuple(self._sign(atlas, city, word) for word in own),
                signs if kind.key in LABELLED else {},
                tuple(signs[word] for word in always),
                tuple(sign for word, sign in signs.items() if word not in always and fits(word)),
            )
        return self._boards[key]

    def _nature_of(self, atlas: Atlas, city: City, kind: Institution) -> _Nature:
        """Plants and animals of a place; climate, continent and the cold of winters decide them."""
        is_cold = temperature_of(city, "winter") == "cold"
        key = city.koeppen, city.continent, is_cold, kind.key
        if key not in self._natures:
            species = atlas.species(city.key, kind.key)
            plants = tuple(one.name for one in species if one.kind in PLANT_KINDS)
            flowers = {one.name for one in species if one.kind == "flower"}
            tender = flowers if kind.setting == "outdoor" else set()
            hardy = tuple(name for name in plants if name not in tender)
            animals = [one for one in species if one.kind not in PLANT_KINDS]
            self._natures[key] = _Nature(
                self._alternatives(PLANTS, plants),
                self._alternatives(PLANTS, hardy),
                {
                    (warmth, is_night): self._alternatives(
                        ANIMALS, tuple(one.name for one in animals if shows(one, warmth, is_night))
                    )
                    for warmth in get_args(Temperature)
                    for is_night in (False, True)
                },
                trees_of(city, species),
            )
        return self._natures[key]

    def _wardrobe(self, dresses: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[Dress, ...]]:
        """Alternatives of each role."""
        key = tuple(dresses.items())
        if key not in self._wardrobes:
            self._wardrobes[key] = {role: self._dresses(values) for role, values in key}
        return self._wardrobes[key]

    def _said_in(
        self, slots: Mapping[str, tuple[str, ...]]
    ) -> Mapping[Crowd, tuple[tuple[Detail, ...], ...]]:
        """For each crowd the alternatives of the slots that a prompt may state."""
        key = tuple(slots.items())
        if key not in self._said:
            self._said[key] = {
                crowd: tuple(
                    self._alternatives(slot, values) for slot, values in key if slot not in unsaid
                )
                for crowd, unsaid in UNSAID_IN.items()
            }
        return self._said[key]

    def _open_roads(self, atlas: Atlas, city: City, kind: Institution) -> Mapping[str, OpenRoad]:
        """Roads without pavements of a place that has drives."""
        if "drive" not in kind.cameras:
            return _NO_ROADS
        return {
            road.key: OpenRoad(
                road.barred,
                tuple(self._sign(atlas, city, word) for word in road.sign_words),
                self._alternatives(ROADSIDE, road.roadside),
            )
            for road in atlas.roads.values()
            if not road.pavements
        }

    def _dresses(self, values: tuple[str, ...]) -> tuple[Dress, ...]:
        if values not in self._dress:
            self._dress[values] = tuple(Dress(*value.split("/")) for value in values)
        return self._dress[values]

    def _alternatives(self, slot: str, values: tuple[str, ...]) -> tuple[Detail, ...]:
        if (slot, values) not in self._details:
            self._details[slot, values] = tuple(Detail(slot, value) for value in values)
        return self._details[slot, values]

    def _sign(self, atlas: Atlas, city: City, word: str) -> Sign:
        key = city.languages, word
        if key not in self._signs:
            self._signs[key] = atlas.sign(city.key, word)
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
