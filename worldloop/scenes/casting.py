"""Casting: from a place of the atlas and a seed to a scene, with nothing that the place rules out.

Time, weather, dress and traffic follow from the atlas; only what a grammar can build is cast.
Each choice has a random stream of its own, so a new one does not move the others.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args
from zoneinfo import ZoneInfo

import astral
import astral.sun
import numpy as np

from worldloop.atlas.atlas import Atlas, City, Institution
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.scene import Crowd, Dress, Role, Scene, Sign, Subject, Weather
from worldloop.seeds import stream
from worldloop.worlds.grammar import GRAMMARS

Choice = TypeVar("Choice")
Temperature = Literal["cold", "cool", "warm", "hot"]

CASTABLE: tuple[str, ...] = tuple(GRAMMARS)
YEAR = 2026
SPECIES = (
    *("elephant", "giraffe", "zebra", "lion", "tiger", "bear", "camel", "rhinoceros"),
    *("hippopotamus", "gorilla", "kangaroo", "flamingo", "penguin"),
)
GRAZERS = ("elephant", "giraffe", "zebra", "camel", "rhinoceros", "kangaroo")
EXHIBITS = ("sculpture", "bust", "vase", "display case")
RIDES = ("ferris wheel", "carousel", "roller coaster")
STYLES: dict[str, dict[str, tuple[str, ...]]] = {  # what the seed decides; `facade` is decorum
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
ERAS: dict[str, tuple[str, ...]] = {  # of houses with a facade
    "brick": ("old", "old", "modern"),
    "plaster": ("old", "modern", "modern"),
    "stone": ("old", "old", "modern"),
    "concrete": ("modern", "highrise"),
    "glass": ("modern", "highrise"),
}
# How many of the public (in a hospital: patients) a crowd is, fewest and most.
PUBLIC: dict[str, dict[Crowd, tuple[int, int]]] = {
    "street": {"empty": (0, 0), "sparse": (3, 6), "lively": (8, 14), "crowded": (16, 21)},
    "hospital": {"sparse": (2, 3), "lively": (4, 5), "crowded": (6, 8)},
    "zoo": {"sparse": (2, 4), "lively": (5, 8), "crowded": (10, 13)},
    "museum": {"sparse": (1, 3), "lively": (4, 6), "crowded": (7, 9)},
    "amusement_park": {"sparse": (4, 7), "lively": (10, 15), "crowded": (17, 22)},
}
CLOTHES: dict[Temperature, tuple[Dress, ...]] = {  # everyone of a role wears the same kind
    "cold": (Dress("coat"),),
    "cool": (Dress("jacket"), Dress("jacket"), Dress("coat")),
    "warm": (Dress("shirt"), Dress("shirt"), Dress("jacket")),
    "hot": (Dress("shirt"), Dress("shirt"), Dress("shirt", "shorts")),
}
COMPANIONS: dict[str, tuple[str, ...]] = {  # who else is among the public
    "street": ("commuter", "shopper", "student", "tourist"),
    "zoo": ("child",),
    "museum": ("student", "tourist"),
    "amusement_park": ("child", "student"),
}
NAMES_OF_THINGS = {name.replace(" ", "_") for name in (*SPECIES, *RIDES, "monkey")}
SNOW_LATITUDE_DEG = {"north": 35.0, "south": 40.0}  # nearer the equator a C city has no snow cover
TWO_SEASONS_LATITUDE_DEG = 15.0  # within it the year is wet and dry, except in deserts


@dataclass(frozen=True)
class Brief:
    """What a scene is cast for: a place, and the seed that decides what the place leaves open."""

    atlas: Atlas
    city: City
    institution: Institution
    seed: int

    def random(self, purpose: str) -> np.random.Generator:
        """The stream of one purpose."""
        return stream(self.seed, "casting", self.city.key, self.institution.key, purpose)

    def pick(self, purpose: str, choices: Sequence[Choice]) -> Choice:
        """One choice, evenly, from a stream of its own."""
        return choices[int(self.random(purpose).integers(len(choices)))]

    def decorum(self, slot: str) -> str:
        """One of the values that decorum has for a slot."""
        row = self.atlas.decorum(self.city.key, self.institution.key, slot)
        return self.pick(slot, row.values)


def cast_scene(
    atlas: Atlas,
    *,
    place: str,
    seed: int,
    date: str = "",
    hour: float = -1.0,
    weather: str = "",
) -> Scene:
    """A scene of a place; the same arguments and atlas give the same scene anywhere.

    Args:
        atlas: Where the facts of the place come from.
        place: `<city>/<institution>`; the institution must be one of `CASTABLE`.
        seed: 63-bit seed of everything that the place leaves open.
        date: ISO date at the place; drawn when empty.
        hour: Local clock time inside the opening hours; drawn when negative.
        weather: Drawn from what climate and season allow when empty.

    Raises:
        UnknownKeyError: If city or institution is unknown, or no grammar builds the institution.
        MalformedRecordError: If date, hour or weather cannot be, there and then.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> scene = cast_scene(load_atlas(), place="tokyo/zoo", seed=7)
        >>> scene.driving_side, scene.signs[0].text
        ('left', '動物園')
    """
    brief = Brief(atlas, *atlas.parse_place(place), seed)
    city, institution = brief.city, brief.institution
    if institution.key not in CASTABLE:
        raise UnknownKeyError("institution with a world grammar", institution.key, CASTABLE)
    day = _date(brief, date)
    clock = _hour(brief, hour)
    elevation, azimuth = sun_at(city, day, clock)
    season = season_of(city, day)
    crowd = _crowd(brief, clock)
    subjects = _subjects(brief, crowd)
    return Scene(
        city=city.key,
        institution=institution.key,
        seed=seed,
        date=day.isoformat(),
        hour=clock,
        sun_elevation_deg=elevation,
        sun_azimuth_deg=azimuth,
        season=season,
        weather=_weather(brief, season, weather),
        climate=city.koeppen,
        driving_side=city.driving_side,
        crowd=crowd,
        roles=_roles(brief, crowd, temperature_of(city, season)),
        subjects=subjects,
        signs=_signs(brief, subjects),
        style=_style(brief),
        camera=brief.pick("camera", ("stroll", "stroll", "tour", "wander")),
    )


# ----------------------------------------------------------------------------- time, sun, weather


def sun_at(city: City, day: dt.date, hour: float) -> tuple[float, float]:
    """Elevation and azimuth of the sun in degrees, to a tenth, at local clock time."""
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(city.time_zone))
    moment = midnight + dt.timedelta(hours=hour)  # wall clock arithmetic, as people read clocks
    observer = astral.Observer(city.latitude_deg, city.longitude_deg)
    elevation = astral.sun.elevation(observer, moment)
    azimuth = astral.sun.azimuth(observer, moment)
    return round(float(elevation), 1), round(float(azimuth), 1) % 360


def season_of(city: City, day: dt.date) -> str:
    """The season at a place: four of them, or wet and dry where the tropics have two.

    Two seasons follow the sun: wet in the half year in which it stands overhead, or in the other
    half in class As. Af has no dry season. Cities with two rains a year are simplified by this.
    """
    northern = city.latitude_deg >= 0
    tropical = abs(city.latitude_deg) < TWO_SEASONS_LATITUDE_DEG
    if city.koeppen == "Af":
        return "wet season"
    if city.koeppen[0] == "A" or (tropical and not city.koeppen.startswith("BW")):
        high_sun = (5 <= day.month <= 10) == northern
        return "wet season" if high_sun != (city.koeppen == "As") else "dry season"
    quarter = (day.month % 12) // 3  # 0 for December to February
    return ("winter", "spring", "summer", "autumn")[quarter if northern else (quarter + 2) % 4]


def may_snow(city: City, season: str) -> bool:
    """Whether snow may fall: winter in D and E, and in C outside the subtropics, never in Cs."""
    if season != "winter" or city.koeppen[0] not in "CDE" or city.koeppen.startswith("Cs"):
        return False
    needed = SNOW_LATITUDE_DEG["north" if city.latitude_deg > 0 else "south"]
    return city.koeppen[0] != "C" or abs(city.latitude_deg) >= needed


def temperature_of(city: City, season: str) -> Temperature:
    """How warmly people dress outdoors, from climate group, season and latitude."""
    group, third = city.koeppen[0], city.koeppen[2:3]
    if group == "A" or (season == "summer" and third in ("a", "h")):
        return "hot"
    if season == "winter":
        return (
            "cold"
            if group in "DE" or abs(city.latitude_deg) > SNOW_LATITUDE_DEG["north"]
            else "cool"
        )
    if season in ("spring", "autumn"):
        return "warm" if third in ("a", "h") and group != "D" else "cool"
    return "warm"


def _date(brief: Brief, asked: str) -> dt.date:
    """The date asked for, or one of `YEAR`."""
    if not asked:
        days = int(brief.random("date").integers(365))
        return dt.date(YEAR, 1, 1) + dt.timedelta(days=days)
    try:
        return dt.date.fromisoformat(asked)
    except ValueError as error:
        raise MalformedRecordError(
            "date of a scene", asked, "an ISO date", "Write it like '2026-05-14'."
        ) from error


def _hour(brief: Brief, asked: float) -> float:
    """The hour asked for, or a quarter of an hour while the place is open, mostly awake hours."""
    opens, closes = brief.institution.opens, brief.institution.closes
    if asked >= 0:
        if not opens <= asked < closes:
            raise MalformedRecordError(
                f"hour at a {brief.institution.name}",
                asked,
                f"at least {opens} and below {closes}",
                "Choose an hour at which it is open.",
            )
        return asked
    rng = brief.random("hour")
    if (opens, closes) == (0.0, 24.0) and rng.random() < 0.7:
        opens, closes = 7.0, 21.0
    return opens + int(rng.integers(int((closes - opens) * 4))) / 4


def _weather(brief: Brief, season: str, asked: str) -> Weather:
    """The weather asked for if it can be, or one that climate and season allow."""
    names: tuple[Weather, ...] = get_args(Weather)
    weights = brief.atlas.weather_weights(brief.city.koeppen, season)
    allowed = {
        name: weight
        for name, weight in zip(names, weights, strict=True)
        if weight and (name != "snow" or may_snow(brief.city, season))
    }
    for name in allowed:
        if name == asked:
            return name
    if asked:
        raise MalformedRecordError(
            f"weather of {brief.city.key} in {season}",
            asked,
            f"one of {', '.join(allowed)}",
            "Choose one of them, or another date.",
        )
    shares = np.array(list(allowed.values()), float)
    return list(allowed)[int(brief.random("weather").choice(len(allowed), p=shares / shares.sum()))]


# ----------------------------------------------------------------------------- people


def _crowd(brief: Brief, hour: float) -> Crowd:
    """How full it is: late streets are empty or sparse."""
    levels: list[Crowd] = ["sparse", "lively", "lively", "crowded"]
    if brief.institution.key == "street" and not 6 <= hour < 23:
        levels = ["empty", "sparse", "sparse"]
    return brief.pick("crowd", levels)


def _roles(brief: Brief, crowd: Crowd, temperature: Temperature) -> tuple[Role, ...]:
    """Everybody who is there."""
    low, high = PUBLIC[brief.institution.key][crowd]
    num_public = int(brief.random("public").integers(low, high + 1))
    return tuple(
        Role(name, count, _dress(brief, name, temperature), action)
        for name, count, action in (*_public(brief, num_public), *_staff(brief, crowd))
        if count
    )


def _public(brief: Brief, count: int) -> list[tuple[str, int, str]]:
    """Those for whom the place is there, of which up to a third are companions of one kind."""
    if brief.institution.key == "hospital":
        return [("patient", count, "lying")]
    name = "pedestrian" if brief.institution.key == "street" else "visitor"
    rng, most = brief.random("companions"), count // 3
    if not most or rng.random() < 0.4:
        return [(name, count, "walking")]
    few = int(rng.integers(1, most + 1))
    companion = brief.pick("companion", COMPANIONS[brief.institution.key])
    return [(name, count - few, "walking"), (companion, few, "walking")]


def _staff(brief: Brief, crowd: Crowd) -> list[tuple[str, int, str]]:
    """Those who work there."""
    rng = brief.random("staff")
    match brief.institution.key:
        case "street":
            on_duty = crowd in ("lively", "crowded") and rng.random() < 0.4
            return [("police officer", int(on_duty), "standing")]
        case "hospital":
            nurses, doctors = int(rng.integers(1, 4)), int(rng.random() < 0.6)
            return [("nurse", nurses, "walking"), ("doctor", doctors, "standing")]
        case "zoo":
            return [("keeper", 1, "walking")]
        case "museum":
            return [("guard", 1, "standing")]
        case _:
            return [("ride attendant", 1 + int(crowd == "crowded"), "standing")]


def _dress(brief: Brief, role: str, temperature: Temperature) -> Dress:
    """Dress of the job from decorum; the public outdoors dresses for the temperature."""
    public = role in COMPANIONS.get(brief.institution.key, ()) or role in ("pedestrian", "visitor")
    if public and brief.institution.setting == "outdoor":
        return brief.pick(f"clothes:{role}", CLOTHES[temperature])
    return Dress(*brief.decorum(f"dress:{'visitor' if public else role}").split("/"))


# ----------------------------------------------------------------------------- things and signs


def _subjects(brief: Brief, crowd: Crowd) -> tuple[Subject, ...]:
    """What the place shows."""
    rng = brief.random("subjects")
    match brief.institution.key:
        case "street":
            return _traffic_and_trees(brief, crowd, rng)
        case "hospital":
            beds = int(rng.integers(PUBLIC["hospital"][crowd][1], 9))
            stands = int(rng.integers(2, min(6, beds) + 1))
            extra = _sample(rng, ("monitor", "wheelchair", "trolley"), 1)[0]
            ward = Subject("bed", beds), Subject("infusion stand", stands), Subject("curtain", beds)
            return *ward, Subject(extra, int(rng.integers(1, 3)))
        case "zoo":
            return _species(rng)
        case "museum":
            kinds = _sample(rng, EXHIBITS, int(rng.integers(1, 3)))
            exhibits = [Subject(kind, int(rng.integers(1, 4))) for kind in kinds]
            return Subject("painting", int(rng.integers(8, 17))), *exhibits
        case _:
            rides = _sample(rng, RIDES, int(rng.integers(2, 4)))
            counts = {"stall": (3, 7), "balloon": (4, 13), "tree": (6, 15), "bench": (2, 6)}
            return (
                *(Subject(ride, 1) for ride in rides),
                *(Subject(kind, int(rng.integers(*span))) for kind, span in counts.items()),
            )


def _traffic_and_trees(brief: Brief, crowd: Crowd, rng: np.random.Generator) -> tuple[Subject, ...]:
    """Two kinds of vehicles after the decorum of the city, trees and benches; few trees in deserts."""
    first, second = brief.decorum("traffic").split("+")
    most = {"empty": 2, "sparse": 4, "lively": 7, "crowded": 8}[crowd]
    many, few = int(rng.integers(max(1, most // 2), most + 1)), int(rng.integers(1, 3))
    trees = rng.integers(2, 5) if brief.city.koeppen.startswith("BW") else rng.integers(4, 12)
    return (
        Subject(first, many),
        Subject(second, 1 if second == "bus" else few),
        Subject("tree", int(trees)),
        Subject("bench", int(rng.integers(1, 4))),
    )


def _species(rng: np.random.Generator) -> tuple[Subject, ...]:
    """Two or three kinds of animals, seven animals at most."""
    kinds = _sample(rng, SPECIES, int(rng.integers(2, 4)))
    room = 7
    cast = []
    for num_left, kind in zip(range(len(kinds) - 1, -1, -1), kinds, strict=True):
        count = int(rng.integers(1, min(4, room - num_left) + 1))
        room -= count
        habits = ("resting", "standing", "walking", *(("grazing",) if kind in GRAZERS else ()))
        trait = habits[int(rng.integers(len(habits)))] if rng.random() < 0.5 else ""
        cast.append(Subject(kind, count, trait))
    return tuple(cast)


def _signs(brief: Brief, subjects: Sequence[Subject]) -> tuple[Sign, ...]:
    """The institution's own sign, those that name what is shown, then some others."""
    institution, rng = brief.institution, brief.random("signs")
    kinds = [subject.kind.replace(" ", "_") for subject in subjects]
    named = [kind for kind in kinds if kind in institution.sign_words]
    named += {"hospital": ["ward", "exit"], "museum": ["exit"]}.get(institution.key, [])
    others = [
        word
        for word in institution.sign_words
        if word not in (*named, *NAMES_OF_THINGS, "no_entry")
    ]
    num_others = int(rng.integers(4, 6) if institution.key == "street" else rng.integers(1, 3))
    own = [institution.own_word] if institution.own_word else []
    words = [*own, *named, *_sample(rng, others, num_others)]
    return tuple(brief.atlas.sign(brief.city.key, word) for word in words)


def _style(brief: Brief) -> dict[str, str]:
    """Free traits of the grammar, and the facade that decorum gives a street."""
    choices = STYLES.get(brief.institution.key, {})
    style = {key: brief.pick(f"style:{key}", values) for key, values in choices.items()}
    if "facade" in brief.institution.slots:
        style["facade"] = brief.decorum("facade")
        style["era"] = brief.pick("style:era", ERAS[style["facade"]])
    return style


def _sample(rng: np.random.Generator, choices: Sequence[Choice], count: int) -> list[Choice]:
    """Some choices without repetition."""
    return [choices[int(index)] for index in rng.permutation(len(choices))[:count]]
