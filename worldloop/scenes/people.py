"""Who is in a scene: the public as the crowd has it, those who work there, and what they wear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from worldloop.atlas.records import City, Institution
from worldloop.atlas.seasons import Temperature, temperature_of
from worldloop.scenes.draws import chance, pick, span
from worldloop.scenes.scene import Crowd, Dress, Role

Span = tuple[int, int]
PUBLIC_ROLES = frozenset(
    {
        *("child", "commuter", "customer", "guest", "jogger", "passenger", "patient", "pedestrian"),
        *(
            "pupil",
            "resident",
            "shopper",
            "spectator",
            "student",
            "tourist",
            "visitor",
            "worshipper",
        ),
    }
)
"""Roles of people for whom places are there; nobody of them is in an empty scene."""
# How many of the public (in a hospital: patients) a crowd is, fewest and most, where a grammar draws it.
PUBLIC: Mapping[str, Mapping[Crowd, Span]] = {
    "street": {"sparse": (3, 6), "lively": (8, 14), "crowded": (16, 21)},
    "hospital": {"sparse": (2, 3), "lively": (4, 5), "crowded": (6, 8)},
    "zoo": {"sparse": (2, 4), "lively": (5, 8), "crowded": (10, 13)},
    "museum": {"sparse": (1, 3), "lively": (4, 6), "crowded": (7, 9)},
    "amusement_park": {"sparse": (4, 7), "lively": (10, 15), "crowded": (17, 22)},
}
ELSEWHERE: Mapping[str, Mapping[Crowd, Span]] = {
    "outdoor": {"sparse": (2, 5), "lively": (6, 13), "crowded": (15, 24)},
    "indoor": {"sparse": (1, 3), "lively": (4, 9), "crowded": (11, 20)},
}
NOBODY: Span = (0, 0)
_NOT_NEEDED: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
CLOTHES: Mapping[Temperature, tuple[Dress, ...]] = {  # everyone of a role wears the same kind
    "cold": (Dress("coat"),),
    "cool": (Dress("jacket"), Dress("jacket"), Dress("coat")),
    "warm": (Dress("shirt"), Dress("shirt"), Dress("jacket")),
    "hot": (Dress("shirt"), Dress("shirt"), Dress("shirt", "shorts")),
}
OUTERWEAR = frozenset({"coat", "jacket"})
"""Tops that the public leaves at home where it is hot, indoors too."""
_HOT_ALL_YEAR_DEG, _MILD_WINTER_DEG = 20.0, 22.0  # of latitude, in hot dry climates
COMPANIONS: Mapping[str, tuple[str, ...]] = {  # who else is among the public, beside its roles
    "street": ("commuter", "shopper", "student", "tourist"),
    "zoo": ("child",),
    "museum": ("student", "tourist"),
    "amusement_park": ("child", "student"),
}
ACTIONS: Mapping[str, tuple[str, ...]] = {  # of the public, where it does not mostly walk
    "hospital": ("lying",),
    "library": ("sitting", "sitting", "standing"),
    "train_station": ("standing", "walking", "walking"),
    "school": ("sitting",),
    "airport": ("sitting", "walking", "queueing"),
    "aquarium": ("standing", "walking"),
    "cafe": ("sitting",),
    "bakery": ("queueing", "standing"),
    "clinic": ("sitting", "standing"),
    "gallery": ("standing", "walking"),
    "planetarium": ("sitting",),
    "university": ("sitting", "walking"),
    "metro_station": ("standing", "walking"),
    "bus_station": ("standing", "queueing", "walking"),
    "stadium": ("sitting", "standing"),
    "theatre": ("sitting",),
    "place_of_worship": ("sitting", "standing"),
    "harbour": ("standing", "walking"),
    "town_hall": ("queueing", "sitting"),
    "court": ("sitting", "standing"),
    "post_office": ("queueing", "standing"),
}
_SKETCHED_STAFF: Mapping[str, tuple[str, str]] = {  # one who is always there, and what they do
    "zoo": ("keeper", "walking"),
    "museum": ("guard", "standing"),
    "amusement_park": ("ride attendant", "standing"),
}

_ROLES: dict[tuple[str, int, str, int], Role] = {}  # equal people are one record


@dataclass(frozen=True)
class Company:
    """Who may be at an institution.

    Attributes:
        kind: Key of the institution.
        outdoors: Whether the public dresses for the weather.
        public: The role for which the place is there.
        spans: How many of the public each crowd is, fewest and most.
        actions: What the public does.
        companions: Who else comes along.
        staff: Roles of those who work there.
        night_staff: Those of them who work at night, too.
    """

    kind: str
    outdoors: bool
    public: str
    spans: Mapping[Crowd, Span]
    actions: tuple[str, ...]
    companions: tuple[str, ...]
    staff: tuple[str, ...]
    night_staff: tuple[str, ...]


def dressed_for(city: City, season: str) -> Temperature:
    """How warmly the public dresses: after the temperature, and more lightly in hot dry tropics.

    Steppes and deserts of class `h` have no winter in which one wears a jacket near the equator. Those of
    South America do, as they lie along a cold current.
    """
    warmth, latitude_deg = temperature_of(city, season), abs(city.latitude_deg)
    if city.koeppen not in ("BSh", "BWh") or city.continent == "SA":
        return warmth
    if latitude_deg < _HOT_ALL_YEAR_DEG:
        return "hot"
    if latitude_deg < _MILD_WINTER_DEG:
        return "warm" if season == "winter" else "hot"
    return warmth


def lighter(wardrobe: Mapping[str, tuple[Dress, ...]]) -> dict[str, tuple[Dress, ...]]:
    """A wardrobe without the public's coats and jackets, where something else is left.

    Example:
        >>> lighter({"visitor": (Dress("jacket"), Dress("shirt")), "guard": (Dress("jacket"),)})["visitor"]
        (Dress(top='shirt', bottom='trousers', head='none', color=''),)
    """
    return {
        role: tuple(one for one in dresses if role not in PUBLIC_ROLES or one.top not in OUTERWEAR)
        or dresses
        for role, dresses in wardrobe.items()
    }


def company_of(kind: Institution) -> Company:
    """Who may be at an institution: patients are the public of a hospital, else its first role is."""
    public = "patient" if "patient" in kind.roles else kind.roles[0]
    others = [role for role in kind.roles if role in PUBLIC_ROLES and role != public]
    staff = tuple(role for role in kind.roles if role not in PUBLIC_ROLES)
    return Company(
        kind.key,
        kind.setting == "outdoor",
        public,
        {"empty": NOBODY, **PUBLIC.get(kind.key, ELSEWHERE[kind.setting])},
        ACTIONS.get(kind.key, ("walking",)),
        COMPANIONS.get(kind.key, tuple(others)),
        staff,
        tuple(role for role in staff if role not in kind.day_roles),
    )


def roles_of(
    company: Company,
    wardrobe: Mapping[str, Sequence[Dress]],
    crowd: Crowd,
    temperature: Temperature,
    needed: tuple[str, ...],
    numbers: Sequence[int],
    *,
    is_night: bool = False,
) -> tuple[Role, ...]:
    """Everybody who is there.

    Args:
        company: Who may be there.
        wardrobe: What each role may wear there, `lighter` where it is hot.
        crowd: How full it is.
        temperature: How warmly the public dresses outdoors, by `dressed_for`.
        needed: Roles that the activity needs.
        numbers: At least 14 random numbers below 2**32.
        is_night: Whether those who work by day have gone home.
    """
    guests, workers = _split(needed) if needed else _NOT_NEEDED
    cast = _public(company, crowd, guests, numbers)
    cast += _staff(company, crowd, workers, numbers, is_night=is_night)
    clothes = CLOTHES[temperature] if company.outdoors else None
    roles = []
    for number, (name, count, action) in zip(numbers[7:], cast, strict=False):
        if clothes and name in PUBLIC_ROLES:
            choices: Sequence[Dress] = clothes
        else:
            choices = wardrobe.get(name) or wardrobe[company.public]
        dress = choices[number * len(choices) >> 32]  # as `pick`, without a call for each role
        key = name, count, action, id(dress)
        role = _ROLES.get(key)
        if role is None or role.dress is not dress:
            role = _ROLES[key] = Role(name, count, dress, action)
        roles.append(role)
    return tuple(roles)


@cache
def _split(needed: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Roles of the public, and of those who work."""
    guests = tuple(role for role in needed if role in PUBLIC_ROLES)
    return guests, tuple(role for role in needed if role not in PUBLIC_ROLES)


def _public(
    company: Company, crowd: Crowd, guests: tuple[str, ...], numbers: Sequence[int]
) -> list[tuple[str, int, str]]:
    """Those for whom the place is there, of which up to a third are companions of one kind."""
    count = span(numbers[0], *company.spans[crowd])
    if not count:
        return []
    name, action = company.public, pick(numbers[1], company.actions)
    others = [role for role in guests if role != name]
    if others:  # every patient has a bed, so nobody of them is left out
        few = 0 if company.kind == "hospital" else min(len(others), count - 1)
        return [(name, count - few, action), *[(role, 1, "walking") for role in others]]
    most = count // 3
    if not most or not company.companions or company.kind == "hospital" or chance(numbers[2], 40):
        return [(name, count, action)]
    few = span(numbers[3], 1, most)
    return [(name, count - few, action), (pick(numbers[4], company.companions), few, "walking")]


def _staff(
    company: Company,
    crowd: Crowd,
    workers: tuple[str, ...],
    numbers: Sequence[int],
    *,
    is_night: bool,
) -> list[tuple[str, int, str]]:
    """Those who work there."""
    staff = company.night_staff if is_night else company.staff
    cast: list[tuple[str, int, str]] = []
    if company.kind == "street":
        if crowd in ("lively", "crowded") and chance(numbers[5], 40):
            cast = [("police officer", 1, "standing")]
    elif company.kind == "hospital":
        cast = [("nurse", span(numbers[5], 1, 3), "walking")]
        if chance(numbers[6], 60):
            cast.append(("doctor", 1, "standing"))
    elif company.kind in _SKETCHED_STAFF:
        name, action = _SKETCHED_STAFF[company.kind]
        cast = [(name, 1 + (name == "ride attendant" and crowd == "crowded"), action)]
    elif staff and (not workers or chance(numbers[5], 35)):
        role = pick(numbers[6], staff)
        cast = [] if role in workers else [(role, 1, "standing")]
    if not workers:
        return cast
    known = {name for name, _, _ in cast}
    return cast + [(role, 1, "standing") for role in workers if role not in known]
