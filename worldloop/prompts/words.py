"""Words for facts: articles, plurals, counts, clothes, hours and weather of a scene in English."""

import re
from collections.abc import Sequence
from functools import cache

from worldloop.scenes.scene import Role, Scene, Subject
from worldloop.scenes.things import VOCABULARY

NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty", "twenty-one", "twenty-two", "twenty-three", "twenty-four"),
)
PLURALS = {
    "child": "children",
    "rhinoceros": "rhinoceroses",
    "hippopotamus": "hippopotamuses",
    "scrubs": "scrubs",
}
NAMES = {"ferris wheel": "Ferris wheel"}
VOWEL_SOUNDS = ("hour", "honest", "heir", "8", "11", "18", "x-ray")
CONSONANT_SOUNDS = ("uni", "use", "eu", "one")
CROWDS = {"empty": "deserted", "sparse": "quiet", "lively": "lively", "crowded": "crowded"}
COMPASS = (
    *("north", "northeast", "east", "southeast"),
    *("south", "southwest", "west", "northwest"),
)
KINDS = frozenset({"lamp"}).union(*VOCABULARY.values())
"""Kinds of subjects that are bare nouns; all others are phrases that carry their article."""
_HEAD_ENDS = frozenset(
    {
        *("of", "in", "on", "for", "to", "from", "with", "under", "along", "by", "at", "between"),
        *("beside", "above", "below", "behind", "over", "around", "across", "through", "against"),
        *("after", "before", "without", "near", "beneath", "inside", "outside", "into", "onto"),
        *("like", "that", "which", "who", "where", "as"),
    }
)
"""Words after which a noun phrase only describes what it names."""


@cache
def an(words: str) -> str:
    """Words with their indefinite article.

    Example:
        >>> an("elephant"), an("uniform"), an("hour"), an("zoo")
        ('an elephant', 'a uniform', 'an hour', 'a zoo')
    """
    lower = words.lower()
    vowel = lower[0] in "aeiou" and not lower.startswith(CONSONANT_SOUNDS)
    return f"{'an' if vowel or lower.startswith(VOWEL_SOUNDS) else 'a'} {words}"


@cache
def plural(noun: str) -> str:
    """More than one of a noun; only its last word changes.

    Example:
        >>> plural("bus"), plural("lorry"), plural("display case"), plural("giraffe")
        ('buses', 'lorries', 'display cases', 'giraffes')
    """
    before, space, last = noun.rpartition(" ")
    if last in PLURALS:
        return f"{before}{space}{PLURALS[last]}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


@cache
def counted(noun: str, count: int) -> str:
    """A noun with its number in words.

    Example:
        >>> counted("elephant", 1), counted("bus", 3)
        ('an elephant', 'three buses')
    """
    name = NAMES.get(noun, noun)
    return an(name) if count == 1 else f"{number(count)} {plural(name)}"


def number(count: int) -> str:
    """A number in words as far as prose writes them so, else in digits."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def joined(parts: Sequence[str]) -> str:
    """A list in words.

    Example:
        >>> joined(["a", "b", "c"]), joined(["a", "b"]), joined(["a"])
        ('a, b, and c', 'a and b', 'a')
    """
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def present(verb: str, count: int) -> str:
    """A verb in the present tense, third person.

    Example:
        >>> present("pass", 1), present("lie", 1), present("walk", 3)
        ('passes', 'lies', 'walk')
    """
    return plural(verb) if count == 1 else verb


@cache
def is_many(phrase: str) -> bool:
    """Whether a noun phrase takes a plural verb.

    Example:
        >>> [is_many(p) for p in ("a row of seats", "seats bolted down", "glass", "a cup and a jug")]
        [False, True, False, True]
    """
    words = phrase.split()
    head = words[: next((k for k, word in enumerate(words) if word in _HEAD_ENDS), len(words))]
    if re.search(r" and (a|an) ", f"{' '.join(head)} "):
        return True
    if head[0] in ("a", "an", "one"):
        return False
    return any(
        word.endswith("s") and not word.endswith(("ss", "us")) and "'" not in word for word in head
    )


def capital(text: str) -> str:
    """The text with its first letter raised, the rest as it is."""
    return text[:1].upper() + text[1:]


def thing(subject: Subject) -> str:
    """A subject with its number and trait: `two resting lions`."""
    return _thing(subject.kind, subject.count, subject.trait)


@cache
def _thing(kind: str, count: int, trait: str) -> str:
    if kind in KINDS:
        return counted(f"{trait} {NAMES.get(kind, kind)}".strip(), count)
    return kind if count == 1 else f"{number(count)} {kind}"


def things(subjects: Sequence[Subject]) -> str:
    """All subjects with their numbers: `two elephants and a giraffe`."""
    return joined([thing(subject) for subject in subjects])


def clothes(role: Role) -> str:
    """What the people of a role wear, so that it fits one or many: `khaki uniforms and caps`.

    Example:
        >>> from worldloop.scenes.scene import Dress, Role
        >>> clothes(Role("keeper", 1, Dress("uniform", head="cap", color="khaki")))
        'a khaki uniform and a cap'
    """
    dress = role.dress
    return _clothes(dress.top, dress.bottom, dress.head, dress.color, role.count == 1)


@cache
def _clothes(top: str, bottom: str, head: str, color: str, one: bool) -> str:
    garments = [f"{color.replace('gray', 'grey')} {top}".strip()]
    garments += [bottom] if bottom in ("shorts", "skirt") else []
    garments += [head] if head != "none" else []
    pairs = ("shorts", "scrubs")
    return joined(
        [word if word.endswith(pairs) else an(word) if one else plural(word) for word in garments]
    )


def person(role: Role) -> str:
    """The people of a role with what they wear: `three nurses in teal scrubs`."""
    return f"{counted(role.name, role.count)} in {clothes(role)}"


def daypart(scene: Scene) -> str:
    """The time of day as one would say it: by the clock, but night is when the sun is down."""
    if scene.is_night:
        if scene.hour < 4 or scene.hour >= 21:
            return "night"
        return "early morning before sunrise" if scene.hour < 12 else "evening after dark"
    limits = ((8.0, "early morning"), (11.0, "morning"), (13.5, "midday"), (17.0, "afternoon"))
    return next((name for limit, name in limits if scene.hour < limit), "evening")


def when(scene: Scene) -> str:
    """The time of day after a noun: `at night`, `in the morning`."""
    part = daypart(scene)
    return f"at {part}" if part in ("night", "midday") else f"in the {part}"


def clock(scene: Scene) -> str:
    """The hour on a twelve-hour clock, `3:30 pm`."""
    minutes = round(scene.hour * 60) % (24 * 60)
    if minutes in (0, 12 * 60):
        return "noon" if minutes else "midnight"
    hour, minute = divmod(minutes, 60)
    return f"{hour % 12 or 12}:{minute:02d} {'am' if hour < 12 else 'pm'}"


def crowd_word(crowd: str, *, is_staffed: bool) -> str:
    """How full a place is; without visitors it is deserted, unless somebody works there.

    Example:
        >>> crowd_word("empty", is_staffed=False), crowd_word("empty", is_staffed=True)
        ('deserted', 'nearly empty')
    """
    return "nearly empty" if crowd == "empty" and is_staffed else CROWDS[crowd]


def weather_word(scene: Scene) -> str:
    """The weather as an adjective; clear weather is sunny while the sun is up."""
    clear = "sunny" if scene.sun_elevation_deg >= 0 else "clear"
    words = {"clear": clear, "cloudy": "overcast", "rain": "rainy", "fog": "foggy", "snow": "snowy"}
    return words[scene.weather]


def compass(azimuth_deg: float) -> str:
    """The nearest of eight directions.

    Example:
        >>> compass(250.0)
        'west'
    """
    return COMPASS[round(azimuth_deg / 45) % 8]


def num_words(text: str) -> int:
    """Words between spaces."""
    return len(text.split())
