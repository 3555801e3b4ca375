"""How full a place is, and who is there doing what: people of a scene in clauses."""

from collections.abc import Sequence

from worldloop.prompts.dice import Dice
from worldloop.prompts.words import NUMBERS, an, clothes, number, plural
from worldloop.scenes.scene import Role, Scene

FULLNESS: dict[str, tuple[str, ...]] = {  # adjectives, before a noun and after a verb
    "empty": ("deserted", "empty", "nearly empty", "all but empty"),
    "sparse": ("quiet", "calm", "half-empty", "uncrowded", "sparsely filled"),
    "lively": ("lively", "busy", "bustling", "animated", "well-filled"),
    "crowded": ("crowded", "packed", "thronged", "teeming", "jam-packed", "very full"),
}
_ALL_BUT_EMPTY = FULLNESS["empty"][2:]
_ROADSIDE: dict[str, tuple[str, ...]] = {
    "empty": ("deserted", "empty", "nearly empty"),
    "sparse": ("quiet", "calm", "uncrowded"),
    "lively": ("lively", "busy", "bustling", "animated"),
    "crowded": ("crowded", "packed"),
}
_PLACED: dict[str, tuple[str, ...]] = {
    "sparse": (
        "only a few people are about",
        "there is plenty of room to spare",
        "few people have come",
    ),
    "lively": (
        "people come and go",
        "there is a good deal of coming and going",
        "a fair number of people are about",
    ),
    "crowded": (
        "hardly any room is left",
        "people stand close together",
        "a dense crowd fills {place}",
    ),
}
CROWD_WORDS: dict[str, tuple[str, ...]] = {
    "empty": (*FULLNESS["empty"], "hardly a soul", "nobody", "no crowd"),
    "sparse": (*FULLNESS["sparse"], "few people", "only a few", "room to spare", "sparse"),
    "lively": (
        *FULLNESS["lively"],
        "come and go",
        "coming and going",
        "number of people",
        "active",
    ),
    "crowded": (*FULLNESS["crowded"], "any room is left", "close together", "crowd", "is full"),
}
"""Parts of a prompt that say each crowd."""

_WALKING = (
    "walk",
    "stroll",
    "amble",
    "move",
    "wander",
    "step",
    "make their way",
    "drift",
    "proceed",
)
_WALKING_ONE = ("walks", "strolls", "ambles", "moves", "wanders", "steps", "drifts", "proceeds")
_STANDING = ("stand", "wait", "linger", "pause", "remain standing", "stop")
_STANDING_ONE = ("stands", "waits", "lingers", "remains", "has paused", "has stopped")
_SITTING = ("sit", "are seated", "have sat down", "rest on their seats")
_SITTING_ONE = ("sits", "is seated", "has sat down", "rests on a seat")
_QUEUEING = ("queue", "wait in line", "stand in line", "form a line")
_QUEUEING_ONE = ("queues", "waits in line", "stands in line", "waits for a turn")
_VERBS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "walking": (_WALKING_ONE, _WALKING),
    "standing": (_STANDING_ONE, _STANDING),
    "sitting": (_SITTING_ONE, _SITTING),
    "lying": (
        ("lies in bed", "rests in bed", "lies still in bed"),
        ("lie in bed", "rest in bed", "lie still in their beds"),
    ),
    "queueing": (_QUEUEING_ONE, _QUEUEING),
}
_NEAR = ("near", "close to", "beside", "not far from", "within sight of", "a few steps from")
_PAST = ("past", "by", "toward", "alongside", "in the direction of")
_MANNERS = (
    *(
        "at an easy pace",
        "without haste",
        "in small groups",
        "singly and in pairs",
        "at their own speed",
    ),
    *(
        "with short steps",
        "in both directions",
        "one after another",
        "in twos and threes",
        "as if time were plentiful",
    ),
)
_MANNERS_ONE = (
    *("at an easy pace", "without haste", "with even steps", "with a calm stride", "in no hurry"),
    *("with measured steps", "at a steady pace", "alone"),
)
_STILL = (
    "in silence",
    "for a while",
    "without a word",
    "at ease",
    "facing different ways",
    "in quiet talk",
    "in loose groups",
)
_STILL_ONE = (
    "in silence",
    "for a moment",
    "without a word",
    "at ease",
    "looking on",
    "a little apart",
    "close to the entrance",
)
GROUP = 4  # people, of whom more fall into groups
_MANNERS_FEW = (
    "side by side",
    "without haste",
    "at an easy pace",
    "one after another",
    "with even steps",
    "together",
)
_STILL_FEW = ("in silence", "for a while", "at ease", "side by side", "in quiet talk", "together")
_WEARING = ("in", "wearing", "dressed in", "in")


def place_adjective(scene: Scene, dice: Dice) -> str:
    """How full the place is, before its name."""
    return dice.pick(_adjectives(scene))


def _adjectives(scene: Scene) -> tuple[str, ...]:
    """How full a place or road is; where staff is at work, it is never quite empty."""
    if scene.crowd == "empty" and scene.roles:
        return _ALL_BUT_EMPTY
    return FULLNESS[scene.crowd]


def crowd_clause(scene: Scene, short: str, dice: Dice) -> str:
    """How full the place is, a finite clause."""
    if scene.crowd == "empty" or dice.chance(60):
        verb = dice.pick(("is", "feels", "looks", "stays"))
        return f"the {short} {verb} {dice.pick(_adjectives(scene))}"
    return dice.pick(_PLACED[scene.crowd]).replace("{place}", f"the {short}")


def roadside_clause(scene: Scene, dice: Dice) -> str:
    """How full the sides of a road are, a finite clause."""
    is_staffed = scene.crowd == "empty" and scene.roles
    adjective = "nearly empty" if is_staffed else dice.pick(_ROADSIDE[scene.crowd])
    return dice.pick(
        (
            f"along the road it is {adjective}",
            f"the roadside is {adjective}",
            f"the roadsides look {adjective}",
            f"beside the road it is {adjective}",
        )
    )


def people(role: Role, dice: Dice, *, dressed: bool) -> str:
    """The people of a role: `nine shoppers wearing jackets`."""
    count = role.count
    noun = an(role.name) if count == 1 else f"{number(count)} {plural(role.name)}"
    return f"{noun} {dice.pick(_WEARING)} {clothes(role)}" if dressed else noun


def people_clause(role: Role, dice: Dice, near: str, *, dressed: bool) -> str:
    """What the people of a role do, a finite clause.

    Args:
        role: The people.
        dice: Of the text.
        near: A thing with article that they pass or stand near, or empty.
        dressed: Whether to say what they wear.
    """
    one = role.count == 1
    verb = dice.pick(_VERBS.get(role.action, _VERBS["standing"])[0 if one else 1])
    text = f"{people(role, dice, dressed=dressed)} {verb}"
    if role.action == "lying":
        return f"{text} {dice.pick(_NEAR)} {near}" if near else text
    if near:
        return f"{text} {dice.pick(_PAST if role.action == 'walking' else _NEAR)} {near}"
    if role.action == "walking":
        return f"{text} {dice.pick(_MANNERS_ONE if one else _MANNERS if role.count > GROUP else _MANNERS_FEW)}"
    return (
        f"{text} {dice.pick(_STILL_ONE if one else _STILL if role.count > GROUP else _STILL_FEW)}"
    )


def acted(
    says: str, roles: Sequence[Role], dice: Dice, *, dressed: bool
) -> tuple[str, Role | None]:
    """The main activity with the number and clothes of whom it speaks, and that role.

    Example:
        >>> from worldloop.scenes.scene import Dress
        >>> keepers = Role("keeper", 3, Dress("uniform", color="khaki"))
        >>> acted("a keeper tips feed into a trough", [keepers], Dice(1), dressed=False)[0]
        'one of three keepers tips feed into a trough'
    """
    for role in roles:
        single, many = f"{an(role.name)} ", f"{plural(role.name)} "
        if says.startswith(single):
            rest = says[len(single) :]
            told = people(role, dice, dressed=dressed)
            return (f"{told} {rest}" if role.count == 1 else f"one of {told} {rest}"), role
        if says.startswith(many) and 1 < role.count < len(NUMBERS):
            return f"{people(role, dice, dressed=dressed)} {says[len(many) :]}", role
    return says, None
