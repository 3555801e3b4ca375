"""Whether a prompt keeps the facts of its scene: what any rendering or rewriting of it must still say.

Names and sign texts count letter for letter; numbers as words or digits; what happens and how it
looks by most of the words that carry the meaning, so that another wording passes and an omission
does not.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache

from worldloop.atlas.atlas import Atlas
from worldloop.prompts.boards import quoted_signs
from worldloop.prompts.cameras import CAMERA_WORDS
from worldloop.prompts.crowds import CROWD_WORDS
from worldloop.prompts.places import words_of
from worldloop.prompts.prose import (
    DETAILS_TOLD,
    activity_of,
    told_details,
    told_roles,
    told_subjects,
)
from worldloop.prompts.roads import DENSITY_WORDS, open_road, speed_text
from worldloop.prompts.skies import WEATHER_WORDS
from worldloop.prompts.times import PART_WORDS, SEASON_WORDS, clock_forms, minutes_of, part_of_day
from worldloop.prompts.words import KINDS, number, plural
from worldloop.scenes.scene import Scene

MOST = 0.6  # of the words that carry a meaning
_BESIDE_THE_POINT = re.compile(
    r"\b(?:sundays?|sun (?:loungers?|sails?)|rain (?:barrels?|trees?)|misting|clear letters"
    r"|a fair(?= number)|quiet talk|quiet(?:ly|er)|calm stride|calmly|a few steps|full (?:of|sun))\b"
)
"""What shares a word with a weather or a crowd and says nothing of either."""
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "for",
        "from",
        "has",
        "have",
        "in",
        "into",
        "is",
        "it",
        "its",
        "of",
        "off",
        "on",
        "one",
        "onto",
        "or",
        "out",
        "over",
        "so",
        "some",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "two",
        "under",
        "up",
        "with",
    ]
)


def missing_facts(text: str, scene: Scene, atlas: Atlas, *, seen: bool = False) -> list[str]:
    """Facts of a scene that a prompt does not say.

    Args:
        text: A prompt in English prose.
        scene: What it is about.
        atlas: For names.
        seen: Whether the prompt is of what the procedural renderer shows: no script, details or drive.

    Returns:
        The kind of each missing fact with what was expected, such as `weather: rain`; empty if all
        are there.
    """
    told = text.lower()
    stems = _stems(told)
    missing = [
        *_missing_place(told, scene, atlas),
        *_missing_time(told, scene, seen=seen, walked=open_road(scene, atlas) is None),
        *_missing_cast(told, scene),
    ]
    missing += [
        f"sign: {sign.text}"
        for sign in quoted_signs(scene)
        if not re.search(f'[\u201c"]{re.escape(sign.text)}[,.;]?[\u201d"]', text)
    ]
    if seen:
        return missing
    activity = activity_of(scene, atlas)
    if activity and not _says(stems, activity.says):
        missing.append(f"activity: {activity.says}")
    details = told_details(scene)
    found = sum(_says(stems, detail.says) for detail in details)
    if found < min(DETAILS_TOLD, len(details)):
        missing.append(f"details: {found} of {min(DETAILS_TOLD, len(details))}")
    return missing + _missing_drive(told, stems, scene, atlas)


def _missing_place(told: str, scene: Scene, atlas: Atlas) -> list[str]:
    """City, country, institution, and the side of the road."""
    missing = []
    for what, name in (
        ("city", atlas.city(scene.city).name),
        ("country", atlas.country(scene.city).name),
    ):
        if name.removeprefix("the ").lower() not in told:
            missing.append(f"{what}: {name}")
    kind = atlas.institution(scene.institution)
    words = words_of(kind)
    roads = (atlas.roads[scene.drive.road].name, "road") if scene.drive else ()
    if not any(name in told for name in (kind.name, *words.names, *roads)):
        missing.append(f"institution: {kind.name}")
    if scene.institution == "street" and not re.search(
        rf"\bon the {scene.driving_side}\b|\b(to|keep\w*) (the )?{scene.driving_side}\b", told
    ):
        missing.append(f"side: {scene.driving_side}")
    return missing


def _missing_time(told: str, scene: Scene, *, seen: bool, walked: bool) -> list[str]:
    """Season, hour or part of the day, weather, crowd where people walk, camera and holiday."""
    hours = (*clock_forms(minutes_of(scene)), *PART_WORDS[part_of_day(scene)])
    kinds: Iterable[tuple[str, str, Sequence[str]]] = (
        ("season", scene.season, SEASON_WORDS[scene.season]),
        ("time", part_of_day(scene), [form.lower() for form in hours]),
        ("weather", scene.weather, WEATHER_WORDS[scene.weather]),
        ("crowd", scene.crowd if walked else "", CROWD_WORDS[scene.crowd]),
        ("camera", scene.camera, CAMERA_WORDS[scene.camera]),
        ("holiday", "" if seen else scene.holiday, (scene.holiday.lower(),)),
    )
    bare = _BESIDE_THE_POINT.sub("", told)
    return [
        f"{kind}: {name}"
        for kind, name, words in kinds
        if name and not _any_of(tuple(words)).search(bare if kind in ("weather", "crowd") else told)
    ]


@cache
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """What finds any of some words, also with endings: `rain` in `rainy` but not in `train`."""
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})")


def _missing_cast(told: str, scene: Scene) -> list[str]:
    """Roles and subjects with their numbers."""
    counts = [(role.name, role.count, True) for role in told_roles(scene)]
    counts += [
        (subject.kind, subject.count, subject.kind in KINDS) for subject in told_subjects(scene)
    ]
    return [
        f"count: {count} {name}"
        for name, count, is_noun in counts
        if not _counts(name, count, is_noun).search(told)
    ]


@cache
def _counts(name: str, count: int, is_noun: bool) -> re.Pattern[str]:
    """What says how many of something there are, with up to three words between.

    A noun is counted; any other name is a phrase with its article, or one that takes none.
    """
    lower = name.lower()
    between = r"(\w[\w-]* ){0,3}?"
    if count > 1:
        noun = plural(lower) if is_noun else lower
        return re.compile(rf"\b({number(count)}|{count}) {between}{re.escape(noun)}\b")
    if is_noun:
        return re.compile(rf"\b(an?|one|the|single) {between}{re.escape(lower)}\b")
    if lower.startswith(("a ", "an ")):
        return re.compile(rf"\b(an?|one|the) {between}{re.escape(lower.partition(' ')[2])}\b")
    return re.compile(rf"\b{re.escape(lower)}\b")


def _missing_drive(told: str, stems: frozenset[str], scene: Scene, atlas: Atlas) -> list[str]:
    """Road, density, speed, manoeuvre, structure and markings of a scene from a car."""
    drive = scene.drive
    if drive is None:
        return []
    speed = speed_text(atlas, scene, drive)
    said = {
        f"road: {drive.road}": atlas.roads[drive.road].name in told,
        f"density: {drive.density}": any(word in told for word in DENSITY_WORDS[drive.density]),
        f"speed: {speed}": speed in told,
        f"manoeuvre: {drive.manoeuvre}": _says(stems, drive.manoeuvre),
        f"structure: {drive.structure}": not drive.structure or drive.structure in told,
        f"markings: {drive.markings}": _says(stems, drive.markings),
    }
    return [fact for fact, is_said in said.items() if not is_said]


def _says(stems: frozenset[str], fact: str) -> bool:
    """Whether most words of a fact are in a text."""
    needed = _stems(fact.lower())
    return len(needed & stems) >= MOST * len(needed)


def _stems(text: str) -> frozenset[str]:
    """Words that carry meaning, without endings."""
    words = re.findall(r"[^\W\d_]+", text)
    return frozenset([_stem(word) for word in words if word not in _STOP_WORDS])


@cache
def _stem(word: str) -> str:
    for ending in ("ing", "ies", "es", "ed", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) > 2:
            return word[: -len(ending)]
    return word
