"""Who is in a scene: the public as the crowd has it, those who work there, and what they wear."""

from collections.abc import Mapping, Sequence

from worldloop.scenes.places import PlaceFacts, chance, pick, span
from worldloop.scenes.scene import Crowd, Dress, Role
from worldloop.scenes.seasons import Temperature

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
CLOTHES: Mapping[Temperature, tuple[Dress, ...]] = {  # everyone of a role wears the same kind
    "cold": (Dress("coat"),),
    "cool": (Dress("jacket"), Dress("jacket"), Dress("coat")),
    "warm": (Dress("shirt"), Dress("shirt"), Dress("jacket")),
    "hot": (Dress("shirt"), Dress("shirt"), Dress("shirt", "shorts")),
}
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


def public_role(roles: Sequence[str]) -> str:
    """Those for whom a place is there: patients of a hospital, else the first of its roles."""
    return "patient" if "patient" in roles else roles[0]


def public_span(institution: str, setting: str, crowd: Crowd) -> Span:
    """Fewest and most of the public that a crowd is."""
    return PUBLIC.get(institution, ELSEWHERE[setting]).get(crowd, NOBODY)


def roles_of(
    facts: PlaceFacts,
    crowd: Crowd,
    temperature: Temperature,
    needed: Sequence[str],
    numbers: Sequence[int],
) -> tuple[Role, ...]:
    """Everybody who is there.

    Args:
        facts: Of the place.
        crowd: How full it is.
        temperature: How warmly the public dresses outdoors.
        needed: Roles that the activity needs.
        numbers: At least 14 random numbers below 2**32.
    """
    kind = facts.kind
    cast = _public(facts, crowd, needed, numbers)
    cast += _staff(facts, crowd, needed, numbers[5:])
    outdoors = kind.setting == "outdoor"
    roles, visitors = [], public_role(kind.roles)
    for (name, count, action), number in zip(cast, numbers[7:], strict=False):
        if outdoors and name in PUBLIC_ROLES:
            dress = pick(number, CLOTHES[temperature])
        else:
            dress = pick(number, facts.dress.get(name) or facts.dress[visitors])
        key = name, count, action, id(dress)
        role = _ROLES.get(key)
        if role is None or role.dress is not dress:
            role = _ROLES[key] = Role(name, count, dress, action)
        roles.append(role)
    return tuple(roles)


def _public(
    facts: PlaceFacts, crowd: Crowd, needed: Sequence[str], numbers: Sequence[int]
) -> list[tuple[str, int, str]]:
    """Those for whom the place is there, of which up to a third are companions of one kind."""
    kind = facts.kind
    low, high = public_span(kind.key, kind.setting, crowd)
    count = span(numbers[0], low, high)
    if not count:
        return []
    name = public_role(kind.roles)
    action = pick(numbers[1], ACTIONS.get(kind.key, ("walking",)))
    others = [role for role in needed if role in PUBLIC_ROLES and role != name]
    if kind.key == "hospital":  # every patient has a bed
        return [(name, count, action), *((role, 1, "walking") for role in others)]
    if others:
        few = min(len(others), count - 1)
        return [(name, count - few, action), *((role, 1, "walking") for role in others)]
    known = COMPANIONS.get(kind.key) or [
        role for role in kind.roles if role in PUBLIC_ROLES and role != name
    ]
    most = count // 3
    if not most or not known or chance(numbers[2], 40):
        return [(name, count, action)]
    few = span(numbers[3], 1, most)
    return [(name, count - few, action), (pick(numbers[4], known), few, "walking")]


def _staff(
    facts: PlaceFacts, crowd: Crowd, needed: Sequence[str], numbers: Sequence[int]
) -> list[tuple[str, int, str]]:
    """Those who work there."""
    kind = facts.kind
    wanted = [role for role in needed if role not in PUBLIC_ROLES]
    match kind.key:
        case "street":
            on_duty = crowd in ("lively", "crowded") and chance(numbers[0], 40)
            cast = [("police officer", 1, "standing")] if on_duty else []
        case "hospital":
            cast = [("nurse", span(numbers[0], 1, 3), "walking")]
            cast += [("doctor", 1, "standing")] if chance(numbers[1], 60) else []
        case "zoo" | "museum" | "amusement_park":
            name, action = _SKETCHED_STAFF[kind.key]
            cast = [(name, 1 + (name == "ride attendant" and crowd == "crowded"), action)]
        case _:
            cast = []
            spare = [r for r in kind.roles if r not in PUBLIC_ROLES and r not in wanted]
            if spare and (not wanted or chance(numbers[0], 35)):
                cast = [(pick(numbers[1], spare), 1, "standing")]
    known = {name for name, _, _ in cast}
    return cast + [(role, 1, "standing") for role in wanted if role not in known]
