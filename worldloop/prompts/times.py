"""When a scene is: season, part of the day, clock, weekday and holiday, in many ways of saying it."""

import datetime as dt
from functools import cache

from worldloop.dayparts import daypart
from worldloop.prompts.dice import Dice
from worldloop.prompts.words import NUMBERS, an
from worldloop.scenes.scene import Scene

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
SEASON_WORDS: dict[str, tuple[str, ...]] = {
    "wet season": ("wet season", "rainy season", "wet-season", "rainy-season"),
    "dry season": ("dry season", "dry-season"),
    **{name: (name,) for name in ("spring", "summer", "autumn", "winter")},
}
_PARTS = (
    *((4, "at night"), (12, "in the morning"), (18, "in the afternoon")),
    *((21, "in the evening"), (24, "at night")),
)
PART_WORDS: dict[str, tuple[str, ...]] = {
    "dawn": ("dawn", "daybreak", "first light", "morning"),
    "morning": ("morning", "forenoon", "midday"),
    "afternoon": ("afternoon", "midday", "evening"),
    "dusk": ("dusk", "nightfall", "twilight", "evening", "afternoon", "last light"),
    "night": ("night", "dark", "evening", "before dawn", "before sunrise"),
}
"""Words of a prompt that say each part of the day; by the clock, some parts share words."""


@cache
def clock_forms(minutes: int) -> tuple[str, ...]:
    """Ways to say a time of the day, minutes after midnight.

    Example:
        >>> clock_forms(15 * 60 + 15)
        ('3:15 pm', '15:15', '3:15 in the afternoon', 'a quarter past three in the afternoon')
    """
    part = next(name for limit, name in _PARTS if minutes < limit * 60)
    digits, *words = short_clock_forms(minutes)
    if not digits.endswith("m"):  # noon and midnight
        return (digits, *words)
    whole = [
        word if "noon" in word or "midnight" in word else f"{word} {part}" for word in words[1:]
    ]
    return (digits, words[0], f"{digits[:-3]} {part}", *whole)


@cache
def short_clock_forms(minutes: int) -> tuple[str, ...]:
    """Ways to say a time where the part of the day is said beside it.

    Example:
        >>> short_clock_forms(15 * 60 + 15)
        ('3:15 pm', '15:15', 'a quarter past three')
    """
    hour, minute = divmod(minutes, 60)
    twelve = hour % 12 or 12
    if minutes in (0, 720):
        return ("12 noon", "noon", "12:00") if minutes else ("12 midnight", "midnight", "00:00")
    digits = f"{twelve}:{minute:02d}" if minute else str(twelve)
    past = {12: "noon", 0: "midnight"}.get(hour, NUMBERS[twelve])
    until = {11: "noon", 23: "midnight"}.get(hour, NUMBERS[hour % 12 + 1])
    words = {
        0: f"{NUMBERS[twelve]} o'clock",
        15: f"a quarter past {past}",
        30: f"half past {past}",
        45: f"a quarter to {until}",
    }.get(minute)
    numerals = (f"{digits} {'am' if hour < 12 else 'pm'}", f"{hour:02d}:{minute:02d}")
    return (*numerals, words) if words else numerals


def part_of_day(scene: Scene) -> str:
    """Part of the day by the sun; scenes of version 1 do not carry it."""
    return daypart(hour=scene.hour, sun_elevation_deg=scene.sun_elevation_deg)


def minutes_of(scene: Scene) -> int:
    """Minutes after midnight."""
    return round(scene.hour * 60) % (24 * 60)


def part_noun(scene: Scene) -> tuple[str, str]:
    """The part of the day by itself and after an adjective: `late afternoon`, `afternoon`."""
    hour = scene.hour
    match part_of_day(scene):
        case "night":
            if 4 <= hour < 12:
                return "early morning before sunrise", "morning before sunrise"
            return ("dark evening", "evening") if 12 <= hour < 21 else ("night", "night")
        case "dusk" if hour >= 17:
            return "evening", "evening"
    limits = (  # also of a winter's noon in the north, whose sun is low all day
        (8.0, "early morning"),
        (11.0, "morning"),
        (12.0, "late morning"),
        (14.0, "early afternoon"),
    )
    late = "late afternoon" if hour < 18 else "evening"
    found = next(
        (name for limit, name in limits if hour < limit), "afternoon" if hour < 16.5 else late
    )
    return found, found.rpartition(" ")[2]


def season_noun(scene: Scene, dice: Dice) -> str:
    """The season after `in`: `spring`, `the rainy season`."""
    word = dice.pick(SEASON_WORDS[scene.season][:2]).replace("-", " ")
    return f"the {word}" if " " in word else word


def season_adjective(scene: Scene, dice: Dice) -> str:
    """The season before a noun: `spring`, `rainy-season`."""
    return dice.pick(SEASON_WORDS[scene.season][:2]).replace(" ", "-")


_MOMENTS = {  # while the sun is below the horizon
    "dawn": ("at daybreak", "at dawn", "at first light"),
    "dusk": ("at dusk", "in the twilight", "at nightfall"),
}


@cache
def _date_words(text: str) -> tuple[int, str, str, str]:
    """Day of the month, weekday, month, and the third of the month: `late May`."""
    date = dt.date.fromisoformat(text)
    month = MONTHS[date.month - 1]
    third = "early " if date.day <= 10 else "mid-" if date.day <= 20 else "late "
    return date.day, WEEKDAYS[date.weekday()], month, f"{third}{month}"


_IN_TWILIGHT = (
    "{moment} on {a_season} {weekday}",
    "{moment}, {clock}, in {noun}",
    "{moment} one {month} {weekday} in {noun}",
    "{moment} in {noun}, around {clock}",
)
_AT_ANY_HOUR = (
    "at {clock} on {a_season} {weekday}",
    "on {a_season} {base} at {short}",
    "one {adjective} {base} around {short}",
    "on a {weekday} {base} in {noun}",
    "at {clock} in {noun}",
    "one {weekday} in {noun} at {clock}",
    "on {day} {month}, {a_season} {weekday}, at {clock}",
    "in {noun}, {clock} on a {weekday}",
    "during {a_season} {base} in {when}",
    "in {when}, at {clock} on {a_season} day",
    "as {a_season} {base} {passes}",
    "this {adjective} {weekday} at {clock}",
    "one {part} in {noun}, a {weekday} in {month}",
    "on the {base} of {day} {month}, in {noun}",
    "at {clock} on {day} {month}, in {noun}",
)


def time_phrase(scene: Scene, dice: Dice) -> str:
    """Season and hour as an adverbial, such as `at 3:15 pm on a spring Tuesday`."""
    words = _words_of(scene, dice)
    moments = _MOMENTS.get(part_of_day(scene)) if scene.sun_elevation_deg < 0 else None
    if moments and dice.chance(45):
        moment = dice.pick(moments)
        return dice.pick(_IN_TWILIGHT).format_map({**words, "moment": moment})
    phrase = dice.pick(_AT_ANY_HOUR)
    if "{passes}" in phrase:
        words["passes"] = dice.pick(("passes", "goes by", "runs its course"))
    return phrase.format_map(words)


def _words_of(scene: Scene, dice: Dice) -> dict[str, str | int]:
    """What a phrase may say of day, hour and season."""
    day, weekday, month, when = _date_words(scene.date)
    minutes = minutes_of(scene)
    clock, short = dice.pick(clock_forms(minutes)), dice.pick(short_clock_forms(minutes)[1:])
    adjective, noun = season_adjective(scene, dice), season_noun(scene, dice)
    part, base = part_noun(scene)
    return {
        "day": day,
        "weekday": weekday,
        "month": month,
        "when": when,
        "clock": clock,
        "short": short,
        "part": part,
        "base": base,
        "adjective": adjective,
        "a_season": an(adjective),
        "noun": noun,
    }


_NAMELESS_DAYS = (
    "the day is a public holiday",
    "it is a public holiday",
    "the calendar marks a public holiday",
    "people have the day off for a public holiday",
)


def is_nameless(holiday: str) -> bool:
    """Whether a calendar says of a day only that it is a public holiday."""
    return holiday.lower() == "public holiday"


def holiday_clause(scene: Scene, dice: Dice) -> str:
    """What day it is, as a finite clause, for public holidays."""
    if is_nameless(scene.holiday):
        return dice.pick(_NAMELESS_DAYS)
    name = (
        scene.holiday.replace("The ", "the ", 1)
        if scene.holiday.startswith("The ")
        else scene.holiday
    )
    return dice.pick(
        (
            f"the day is a public holiday, {name}",
            f"it is a public holiday, {name}",
            f"people keep {name}, a public holiday",
            f"the calendar marks {name}, a public holiday",
            f"people have the day off for {name}",
            f"today's public holiday is {name}",
            f"the country keeps {name} as a public holiday",
        )
    )
