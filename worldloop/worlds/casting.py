"""Casting: from a place of the atlas and a seed to a scene, with nothing that the place rules out.

Time, weather, dress and traffic follow from the atlas; only what a grammar can build is cast.
Each choice has a random stream of its own, so a new one does not move the others.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args
from zoneinfo import ZoneInfo

import astral
import astral.sun
import numpy as np

from worldloop.atlas.atlas import Atlas, City, Institution
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.seeds import stream
from worldloop.worlds.grammar import GRAMMARS
from worldloop.worlds.scene import Crowd, Dress, Role, Scene, Sign, Subject, Weather

Choice = TypeVar("Choice")
Temperature = Literal["cold", "cool", "warm", "hot"]

CASTABLE: tuple[str, ...] = tuple(GRAMMARS)
YEAR = 2026
SPECIES = (
    *("elephant", "giraffe", "zebra", "lion", "tiger", "bear", "camel", "rhinoceros"),
    *("hippopotamus", "gorilla", "kangaroo", "flamingo", "penguin"),
)
RIDES = ("ferris wheel", "carousel", "roller coaster")
STYLES: dict[str, dict[str, tuple[str, ...]]] = {  # what the seed decides; `facade` is decorum
    "museum": {
        "wall": ("red", "green", "grey", "blue", "white"),
        "floor": ("parquet", "stone"),
        "ceiling": ("skylight", "spots"),
    },
}
# How many of the public (in a hospital: patients) a crowd is, fewest and most.
PUBLIC: dict[str, dict[Crowd, tuple[int, int]]] = {
    "street": {"empty": (0, 0), "sparse": (3, 6), "lively": (8, 14), "crowded": (16, 21)},
    "hospital": {"sparse": (2, 3), "lively": (4, 5), "crowded": (6, 8)},
    "zoo": {"sparse": (2, 4), "lively": (5, 8), "crowded": (10, 13)},
    "museum": {"sparse": (1, 3), "lively": (4, 6), "crowded": (7, 9)},
    "amusement_park": {"sparse": (4, 7), "lively": (10, 15), "crowded": (17, 22)},
}
SNOW_LATITUDE_DEG = {"north": 35.0, "south": 40.0}  # nearer the equator a C city has no snow cover
TWO_SEASONS_LATITUDE_DEG = 15.0  # within it the year is wet and dry, except in deserts


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
    city, institution = atlas.parse_place(place)
    if institution.key not in CASTABLE:
        raise UnknownKeyError("institution with a world grammar", institution.key, CASTABLE)
    day = _date(seed, date)
    clock = _hour(institution, seed, hour)
    elevation, azimuth = sun_at(city, day, clock)
    season = season_of(city, day)
    sky = _weather(atlas, city, season, seed, weather)
    crowd = _crowd(institution, seed, clock)
    subjects = _subjects(atlas, city, institution, seed, crowd)
    return Scene(
        city=city.key,
        institution=institution.key,
        seed=seed,
        date=day.isoformat(),
        hour=clock,
        sun_elevation_deg=elevation,
        sun_azimuth_deg=azimuth,
        season=season,
        weather=sky,
        climate=city.koeppen,
        driving_side=city.driving_side,
        crowd=crowd,
        roles=_roles(atlas, city, institution, seed, crowd, temperature_of(city, season)),
        subjects=subjects,
        signs=_signs(atlas, city, institution, seed, subjects),
        style=_style(atlas, city, institution, seed),
        camera=_pick(seed, "camera", ("stroll", "stroll", "tour", "wander")),
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


def _date(seed: int, asked: str) -> dt.date:
    """The date asked for, or one of `YEAR`."""
    if not asked:
        days = int(stream(seed, "casting", "date").integers(365))
        return dt.date(YEAR, 1, 1) + dt.timedelta(days=days)
    try:
        return dt.date.fromisoformat(asked)
    except ValueError as error:
        raise MalformedRecordError(
            "date of a scene", asked, "an ISO date", "Write it like '2026-05-14'."
        ) from error


def _hour(institution: Institution, seed: int, asked: float) -> float:
    """The hour asked for, or a quarter of an hour while the place is open, mostly awake hours."""
    opens, closes = institution.opens, institution.closes
    if asked >= 0:
        if not opens <= asked < closes:
            raise MalformedRecordError(
                f"hour at a {institution.name}",
                asked,
                f"at least {opens} and below {closes}",
                "Choose an hour at which it is open.",
            )
        return asked
    rng = stream(seed, "casting", "hour")
    if (opens, closes) == (0.0, 24.0) and rng.random() < 0.7:
        opens, closes = 7.0, 21.0
    quarters = int((closes - opens) * 4) - (1 if closes < 24 else 0)
    return opens + int(rng.integers(quarters)) / 4


def _weather(atlas: Atlas, city: City, season: str, seed: int, asked: str) -> Weather:
    """The weather asked for if it can be, or one that climate and season allow."""
    names: tuple[Weather, ...] = get_args(Weather)
    drawn = dict(zip(names, atlas.weather_weights(city.koeppen, season), strict=True))
    allowed = {
        name: weight
        for name, weight in drawn.items()
        if weight and (name != "snow" or may_snow(city, season))
    }
    for name in names:
        if name == asked and name in allowed:
            return name
    if asked:
        raise MalformedRecordError(
            f"weather of {city.key} in {season}",
            asked,
            f"one of {', '.join(allowed)}",
            "Choose one of them, or another date.",
        )
    weights = np.array(list(allowed.values()), float)
    index = stream(seed, "casting", "weather").choice(len(allowed), p=weights / weights.sum())
    return list(allowed)[int(index)]


# ----------------------------------------------------------------------------- people


def _crowd(institution: Institution, seed: int, hour: float) -> Crowd:
    """How full it is: late streets are empty or sparse."""
    levels: list[Crowd] = ["sparse", "lively", "lively", "crowded"]
    if institution.key == "street" and not 6 <= hour < 23:
        levels = ["empty", "sparse", "sparse"]
    return _pick(seed, "crowd", levels)


def _roles(
    atlas: Atlas,
    city: City,
    institution: Institution,
    seed: int,
    crowd: Crowd,
    temperature: Temperature,
) -> tuple[Role, ...]:
    """Everybody who is there, the public first but for a hospital's staff."""
    rng = stream(seed, "casting", "people")
    low, high = PUBLIC[institution.key][crowd]
    public = int(rng.integers(low, high + 1))
    busy = crowd in ("lively", "crowded")
    cast: dict[str, list[tuple[str, int, str]]] = {
        "street": [
            ("pedestrian", public, "walking"),
            ("police officer", int(busy and rng.random() < 0.4), "standing"),
        ],
        "hospital": [
            ("nurse", int(rng.integers(1, 4)), "walking"),
            ("doctor", int(rng.random() < 0.6), "standing"),
            ("patient", public, "lying"),
        ],
        "zoo": [("visitor", public, "walking"), ("keeper", 1, "walking")],
        "museum": [("visitor", public, "walking"), ("guard", 1, "standing")],
        "amusement_park": [
            ("visitor", public, "walking"),
            ("ride attendant", 1 + int(crowd == "crowded"), "standing"),
        ],
    }
    outdoors = institution.setting == "outdoor"
    return tuple(
        Role(
            name, count, _dress(atlas, city, institution, name, seed, outdoors, temperature), action
        )
        for name, count, action in cast[institution.key]
        if count
    )


def _dress(
    atlas: Atlas,
    city: City,
    institution: Institution,
    role: str,
    seed: int,
    outdoors: bool,  # noqa: FBT001
    temperature: Temperature,
) -> Dress:
    """Dress of the job from decorum; the public outdoors dresses for the temperature."""
    values = atlas.decorum(city.key, institution.key, f"dress:{role}").values
    top, bottom, head, color = _pick(seed, f"dress {role}", values).split("/")
    if outdoors and role in ("pedestrian", "visitor"):
        return _pick(seed, f"clothes {role}", CLOTHES[temperature])
    return Dress(top, bottom, head, color)


CLOTHES: dict[Temperature, tuple[Dress, ...]] = {
    "cold": (Dress("coat"), Dress("coat"), Dress("coat", head="cap")),
    "cool": (Dress("jacket"), Dress("jacket"), Dress("coat")),
    "warm": (Dress("shirt"), Dress("shirt"), Dress("jacket")),
    "hot": (
        *(Dress("shirt"), Dress("shirt"), Dress("shirt", "shorts")),
        *(Dress("shirt", "skirt"), Dress("shirt", head="cap"), Dress("shirt", head="straw hat")),
    ),
}


# ----------------------------------------------------------------------------- things and signs


def _subjects(
    atlas: Atlas, city: City, institution: Institution, seed: int, crowd: Crowd
) -> tuple[Subject, ...]:
    """What the place shows."""
    rng = stream(seed, "casting", "subjects")
    if institution.key == "street":
        return _street_subjects(atlas, city, seed, crowd, rng)
    if institution.key == "hospital":
        low, high = PUBLIC["hospital"][crowd]
        beds = int(rng.integers(high, 9))
        stands = int(rng.integers(max(1, low // 2), min(6, beds) + 1))
        return Subject("bed", beds), Subject("infusion stand", stands), Subject("curtain", beds)
    if institution.key == "zoo":
        return _species(rng)
    if institution.key == "museum":
        exhibits = _sample(rng, ("sculpture", "bust", "vase", "display case"), 1 + rng.integers(2))
        counts = [Subject(kind, int(rng.integers(1, 4))) for kind in exhibits]
        return Subject("painting", int(rng.integers(8, 17))), *counts
    rides = _sample(rng, RIDES, 2 + int(rng.random() < 0.5))
    return (*(Subject(ride, 1) for ride in rides), Subject("stall", int(rng.integers(3, 7))))


def _street_subjects(
    atlas: Atlas, city: City, seed: int, crowd: Crowd, rng: np.random.Generator
) -> tuple[Subject, ...]:
    """Traffic after the decorum of the city, and trees; a quiet street has little of both kinds."""
    kinds = _pick(seed, "traffic", atlas.decorum(city.key, "street", "traffic").values).split("+")
    most = {"empty": 2, "sparse": 4, "lively": 7, "crowded": 8}[crowd]
    counts = (int(rng.integers(max(1, most // 2), most + 1)), int(rng.integers(1, 3)))
    traffic = [
        Subject(kind, 1 if kind == "bus" else count)
        for kind, count in zip(kinds, counts, strict=True)
    ]
    trees = rng.integers(2, 5) if city.koeppen.startswith("BW") else rng.integers(4, 12)
    return *traffic, Subject("tree", int(trees))


def _species(rng: np.random.Generator) -> tuple[Subject, ...]:
    """Two or three kinds of animals, seven animals at most."""
    kinds = _sample(rng, SPECIES, 2 + int(rng.random() < 0.5))
    room = 7
    cast = []
    for left, kind in zip(range(len(kinds) - 1, -1, -1), kinds, strict=True):
        count = int(rng.integers(1, min(4, room - left) + 1))
        room -= count
        cast.append(Subject(kind, count))
    return tuple(cast)


def _signs(
    atlas: Atlas,
    city: City,
    institution: Institution,
    seed: int,
    subjects: Sequence[Subject],
) -> tuple[Sign, ...]:
    """The institution's own sign, those that name what is shown, then two to five others."""
    rng = stream(seed, "casting", "signs")
    kinds = [subject.kind.replace(" ", "_") for subject in subjects]
    named = [kind for kind in kinds if kind in institution.sign_words]
    named += ["ward"] if institution.key == "hospital" else []
    others = [
        word
        for word in institution.sign_words
        if word not in named and word not in OPTIONAL_NAMES and word != "no_entry"
    ]
    num_others = rng.integers(4, 6) if institution.key == "street" else rng.integers(1, 3)
    own = [institution.own_word] if institution.own_word else []
    words = [*own, *named, *_sample(rng, others, int(num_others))]
    return tuple(atlas.sign(city.key, word) for word in words)


OPTIONAL_NAMES = {
    *(name.replace(" ", "_") for name in (*SPECIES, *RIDES)),
    "monkey",
}  # these words stand on a sign only where the thing itself is in the scene


def _style(atlas: Atlas, city: City, institution: Institution, seed: int) -> dict[str, str]:
    """Free traits of the grammar, and the facade that decorum gives a street."""
    choices = STYLES.get(institution.key, {})
    style = {key: _pick(seed, f"style {key}", values) for key, values in choices.items()}
    if "facade" in institution.slots:
        values = atlas.decorum(city.key, institution.key, "facade").values
        style["facade"] = _pick(seed, "facade", values)
    return style


def _pick(seed: int, purpose: str, choices: Sequence[Choice]) -> Choice:
    """One choice, evenly, from a stream of its own."""
    return choices[int(stream(seed, "casting", purpose).integers(len(choices)))]


def _sample(rng: np.random.Generator, choices: Sequence[Choice], count: int) -> list[Choice]:
    """Some choices without repetition."""
    return [choices[int(index)] for index in rng.permutation(len(choices))[: int(count)]]
