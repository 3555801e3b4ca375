"""What is in a scene beside people: subjects, signs, style, details, and the road of a drive.

What every place has is chosen for many scenes at once, from the menus of `places.PlaceBook`; what the
grammars draw, and roads, for one after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.records import Sign
from worldloop.scenes.draws import chance, pick, sample, span, spans
from worldloop.scenes.menus import NONE, Rows
from worldloop.scenes.places import (
    ALIVE,
    DENSITY_OF,
    FIRST_SIGNS,
    GROWING,
    PROPS,
    SIGNS,
    SLOTS,
    OpenRoad,
    PlaceBook,
    PlaceFacts,
)
from worldloop.scenes.scene import Crowd, Detail, Drive, Subject

SPECIES = (
    *("elephant", "giraffe", "zebra", "lion", "tiger", "bear", "camel", "rhinoceros"),
    *("hippopotamus", "gorilla", "kangaroo", "flamingo", "penguin"),
)
GRAZERS = ("elephant", "giraffe", "zebra", "camel", "rhinoceros", "kangaroo")
EXHIBITS = ("sculpture", "bust", "vase", "display case")
RIDES = ("ferris wheel", "carousel", "roller coaster")
EQUIPMENT = ("monitor", "wheelchair", "trolley")
STYLES: Mapping[
    str, Mapping[str, tuple[str, ...]]
] = {  # what the seed decides; `facade` is decorum
    "street": {"awnings": ("few", "many")},
    "hospital": {"accent": ("teal", "blue", "yellow", "green"), "floor": ("light", "warm")},
    "zoo": {"theme": ("savanna", "forest", "stone")},
    "amusement_park": {"stalls": ("striped", "plain")},
    "museum": {
        "wall": ("red", "green", "grey", "blue", "white"),
        "floor": ("parquet", "stone"),
        "ceiling": ("skylight", "spots"),
    },
}
PLANTED = ("street", "zoo", "amusement_park")
"""Institutions whose grammars plant trees."""
ERAS: Mapping[str, tuple[str, ...]] = {  # of houses with a facade
    "brick": ("old", "old", "modern"),
    "plaster": ("old", "modern", "modern"),
    "stone": ("old", "old", "modern"),
    "concrete": ("modern", "highrise"),
    "glass": ("modern", "highrise"),
}
VOCABULARY: Mapping[str, frozenset[str]] = {  # kinds of subjects that the grammars draw
    "street": frozenset(
        {
            *("car", "taxi", "van", "bus", "lorry", "motorbike", "bicycle", "auto rickshaw"),
            *("tree", "bench"),
        }
    ),
    "hospital": frozenset({"bed", "infusion stand", "curtain", *EQUIPMENT}),
    "zoo": frozenset(SPECIES),
    "museum": frozenset({"painting", *EXHIBITS}),
    "amusement_park": frozenset({"stall", "balloon", "tree", "bench", *RIDES}),
}
MOST_VEHICLES: Mapping[Crowd, int] = {"empty": 2, "sparse": 4, "lively": 7, "crowded": 8}
SHARE_OF_SPEED: Mapping[str, tuple[int, int]] = {  # per cent of a road's range of own speeds
    "free": (50, 100),
    "light": (35, 90),
    "dense": (10, 55),
    "queueing": (0, 100),
}
QUEUE_KMH = 5, 20  # own speed in a queue, on any road
Numbers = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Situation:
    """What of decorum and of nature there is in some scenes, arrays of shape (n,).

    Attributes:
        crowds: Codes of how full it is.
        temperatures: Codes of how warm it is.
        is_snowy: Whether snow may lie.
        is_night: Whether it is night.
    """

    crowds: Rows
    temperatures: Rows
    is_snowy: NDArray[np.bool_]
    is_night: NDArray[np.bool_]


def props_of(book: PlaceBook, places: Rows, numbers: Numbers) -> list[tuple[Subject, ...]]:
    """What places without a grammar show: three to five of their props.

    Args:
        book: Where the menus are.
        places: Their rows of the menus, shape (n, columns).
        numbers: Random, below 2**32, shape (n, 9).
    """
    chosen = book.props.sample(places[:, PROPS], numbers[:, 0], spans(numbers[:, 1], 3, 5))
    kinds = np.where(chosen == NONE, 0, book.props.items[chosen])
    return book.subjects.tuples(book.subjects.pick(kinds, numbers[:, 2 : 2 + kinds.shape[1]]))


def subjects_of(
    facts: PlaceFacts,
    crowd: Crowd,
    num_patients: int,
    numbers: Sequence[int],
    road: OpenRoad | None = None,
) -> tuple[Subject, ...]:
    """What a place shows, from what its grammar draws.

    Args:
        facts: Of the place.
        crowd: How full it is.
        num_patients: How many lie in bed.
        numbers: At least 9 random numbers below 2**32.
        road: The road, if it is one without pavements: it shows vehicles and trees alone.
    """
    match facts.kind.key:
        case "street":
            found = _traffic_and_trees(facts, crowd, numbers)
            return _along(road, found) if road else found
        case "hospital":
            return _ward(max(facts.company.spans[crowd][1], num_patients, 2), numbers)
        case "zoo":
            return _animals(numbers)
        case "museum":
            kinds = sample(numbers[0], EXHIBITS, span(numbers[1], 1, 2))
            exhibits = zip(kinds, numbers[3:], strict=False)
            shown = [Subject(kind, span(number, 1, 3)) for kind, number in exhibits]
            return Subject("painting", span(numbers[2], 8, 16)), *shown
        case _:
            return _fair(numbers)


def _ward(most: int, numbers: Sequence[int]) -> tuple[Subject, ...]:
    """Beds with their curtains, stands and one kind of equipment."""
    beds = span(numbers[0], most, 8)
    stands = span(numbers[1], 2, min(6, beds))
    ward = Subject("bed", beds), Subject("infusion stand", stands), Subject("curtain", beds)
    return *ward, Subject(pick(numbers[2], EQUIPMENT), span(numbers[3], 1, 2))


def _fair(numbers: Sequence[int]) -> tuple[Subject, ...]:
    """Two or three rides, and what stands between them."""
    rides = sample(numbers[0], RIDES, span(numbers[1], 2, 3))
    counts = (("stall", 3, 6), ("balloon", 4, 12), ("tree", 6, 14), ("bench", 2, 5))
    counted = zip(counts, numbers[2:], strict=False)
    return (
        *(Subject(ride, 1) for ride in rides),
        *(Subject(kind, span(number, low, high)) for (kind, low, high), number in counted),
    )


def _traffic_and_trees(
    facts: PlaceFacts, crowd: Crowd, numbers: Sequence[int]
) -> tuple[Subject, ...]:
    """Two kinds of vehicles after the decorum of the city, trees and benches; few trees in deserts."""
    first, second = pick(numbers[0], facts.traffic)
    most = MOST_VEHICLES[crowd]
    many, few = span(numbers[1], max(1, most // 2), most), span(numbers[2], 1, 2)
    trees = (2, 4) if facts.city.koeppen.startswith("BW") else (4, 11)
    return (
        Subject(first, many),
        Subject(second, 1 if second == "bus" else few),
        Subject("tree", span(numbers[3], *trees)),
        Subject("bench", span(numbers[4], 1, 3)),
    )


def _along(road: OpenRoad, subjects: tuple[Subject, ...]) -> tuple[Subject, ...]:
    """What of a street is on and along a road without pavements; cars and vans for vehicles that it bars."""
    kept = [subject for subject in subjects if subject.kind not in (*road.barred, "bench")]
    kinds = {subject.kind for subject in kept}
    spare = [kind for kind in ("car", "van") if kind not in kinds]
    return tuple(
        Subject(spare.pop(0), subject.count) if subject.kind in road.barred else subject
        for subject in subjects
        if subject.kind != "bench"
    )


def _animals(numbers: Sequence[int]) -> tuple[Subject, ...]:
    """Two or three kinds of animals, seven animals at most."""
    kinds = sample(numbers[0], SPECIES, span(numbers[1], 2, 3))
    room, cast = 7, []
    for number, kind in enumerate(kinds):
        num_left = len(kinds) - 1 - number
        count = span(numbers[2 + 2 * number], 1, min(4, room - num_left))
        room -= count
        habits = ("resting", "standing", "walking", *(("grazing",) if kind in GRAZERS else ()))
        luck = numbers[3 + 2 * number]
        cast.append(
            Subject(kind, count, pick((luck << 1) & 0xFFFFFFFF, habits) if luck >> 31 else "")
        )
    return tuple(cast)


def signs_of(
    book: PlaceBook, places: Rows, fewest: Rows, roads: Mapping[int, OpenRoad], numbers: Numbers
) -> list[tuple[Sign, ...]]:
    """The institution's own sign and those that are always there, then some others.

    Roads without pavements have one or two of their own, and nothing else.

    Args:
        book: Where the menus are.
        places: Rows of the menus, shape (n, columns).
        fewest: How many others there are at least, shape (n,); one more is as likely.
        roads: Those without pavements, by the number of the scene.
        numbers: Random, below 2**32, shape (n, 2).
    """
    first, others, fewest = places[:, FIRST_SIGNS].copy(), places[:, SIGNS].copy(), fewest.copy()
    for row, road in roads.items():
        first[row], others[row], fewest[row] = 0, road.signs, 1
    counts = spans(numbers[:, 0], fewest, fewest + 1)
    some = book.signs.sample(others, numbers[:, 1], counts)
    return book.signs.tuples(np.concatenate([book.signs.whole(first), some], axis=1))


def labelled(
    facts: PlaceFacts, signs: tuple[Sign, ...], subjects: Sequence[Subject]
) -> tuple[Sign, ...]:
    """Signs of a place, those that name what is shown after its own."""
    words = [subject.kind.replace(" ", "_") for subject in subjects]
    named = [facts.labels[word] for word in words if word in facts.labels]
    num_own = 1 if facts.kind.own_word else 0
    return (*signs[:num_own], *named, *signs[num_own:])


def style_of(
    facts: PlaceFacts, details: Sequence[Detail], season: str, numbers: Sequence[int]
) -> dict[str, str]:
    """Free traits of the grammar, and the facade that decorum gives a street; 4 numbers."""
    choices = STYLES.get(facts.kind.key, {})
    traits = zip(choices.items(), numbers, strict=False)
    style = {key: pick(number, values) for (key, values), number in traits}
    if facts.facades:
        style["facade"] = pick(numbers[2], facts.facades)
        style["era"] = pick(numbers[3], ERAS.get(style["facade"], ("modern",)))
    if facts.kind.key in PLANTED:
        style["trees"] = facts.trees.shown(details, season, numbers[1])
    if facts.centre_lines:
        style["centre_line"] = pick((numbers[1] << 8) & 0xFFFFFFFF, facts.centre_lines)
    return style


def details_of(
    book: PlaceBook,
    places: Rows,
    situation: Situation,
    roads: Mapping[int, OpenRoad],
    numbers: Numbers,
) -> list[tuple[Detail, ...]]:
    """One value each of three or four slots of decorum, then plants and animals that live there.

    Beside a road without pavements two things of its own stand for decorum, and animals are not seen.

    Args:
        book: Where the menus are.
        places: Rows of the menus, shape (n, columns).
        situation: What of decorum and of nature there is.
        roads: Those without pavements, by the number of the scene.
        numbers: Random, below 2**32, shape (n, 8).
    """
    every, counts = np.arange(len(places)), spans(numbers[:, 1], 3, 4)
    slots = book.slots.sample(places[every, SLOTS + situation.crowds], numbers[:, 0], counts)
    kinds = np.where(slots == NONE, 0, book.slots.items[slots])
    values = book.details.pick(kinds, numbers[:, 2 : 2 + kinds.shape[1]])
    plants = book.details.pick(places[every, GROWING + situation.is_snowy], numbers[:, 6])
    alive = ALIVE + 2 * situation.temperatures + situation.is_night
    animals = book.details.pick(places[every, alive], numbers[:, 7])
    animals[(plants != NONE) & (numbers[:, 7] & 1 == 0)] = NONE
    if roads:
        rows = np.array(list(roads))
        beside = np.array([road.roadside for road in roads.values()])
        values[rows], animals[rows] = NONE, NONE
        values[rows, :2] = book.details.sample(beside, numbers[rows, 0], np.full(len(rows), 2))
    return book.details.tuples(np.column_stack([values, plants, animals]))


def drive_of(facts: PlaceFacts, crowd: Crowd, numbers: Sequence[int]) -> Drive:
    """A road that may be as full as the place, and what the own car does; 7 numbers, the second to spare."""
    density = DENSITY_OF[crowd]
    road, markings = pick(numbers[0], facts.roads[density])
    low, high = QUEUE_KMH if density == "queueing" else road.speed_kmh
    share = span(numbers[2], *SHARE_OF_SPEED[density])
    only = road.manoeuvre_densities
    manoeuvres = [one for one in road.manoeuvres if density in only.get(one, (density,))]
    return Drive(
        road.key,
        density,
        low + (high - low) * share // 100,
        pick(numbers[3], manoeuvres),
        pick(numbers[4], road.structures) if road.structures and chance(numbers[5], 35) else "",
        pick(numbers[6], markings),
    )
