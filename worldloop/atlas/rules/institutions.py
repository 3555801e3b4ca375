"""Rules of institutions, activities, opening classes, crowds, roads and categories."""

import re
from collections.abc import Iterator
from typing import get_args

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.opening import parse_closing_days, parse_hours
from worldloop.atlas.records import Activity, DayKind, Institution, Setting
from worldloop.atlas.rules.registry import doubled, listed, rule
from worldloop.errors import MalformedRecordError

FEWEST_PROPS = 12
FEWEST_ACTIVITIES = 8
CAMERAS = ("stroll", "tour", "wander", "still", "drive", "drone", "birds_eye")
OUTDOOR_CAMERAS = ("drive", "drone", "birds_eye")
DAYPARTS = ("night", "dawn", "morning", "afternoon", "dusk")
WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
DENSITIES = ("free", "light", "dense", "queueing")
CROWDS = ("empty", "sparse", "lively", "crowded")
LEVELS = re.compile(r"\d{24}")


def _institutions(atlas: Atlas) -> Iterator[tuple[str, Institution]]:
    """Institutions with the words that name their table."""
    for key, kind in atlas.institutions.items():
        yield f"institutions.toml, [{key}]", kind


def _activities(atlas: Atlas) -> Iterator[tuple[str, Activity]]:
    """Activities with the words that name their table."""
    for one in atlas.activity_rows:
        yield f"activities.toml, [{one.institution}.{one.key}]", one


@rule
def institution_classes_are_known(atlas: Atlas) -> Iterator[str]:
    """Setting, opening class and crowd profile exist."""
    for where, kind in _institutions(atlas):
        if kind.setting not in get_args(Setting):
            yield f"{where} has setting {kind.setting!r}; expected {listed(get_args(Setting))}."
        if kind.hours not in atlas.opening_classes:
            yield f"{where} has hours {kind.hours!r}, which hours.toml lacks."
        if kind.crowd not in atlas.crowd_profiles:
            yield f"{where} has crowd {kind.crowd!r}, which crowds.toml lacks."


@rule
def institution_roles_stand_once(atlas: Atlas) -> Iterator[str]:
    """There is somebody, and nobody twice."""
    for where, kind in _institutions(atlas):
        if not kind.roles or doubled(kind.roles):
            yield f"{where} has roles {listed(kind.roles)}; expected some, each once."


@rule
def day_roles_sleep_at_night(atlas: Atlas) -> Iterator[str]:
    """Who works by day is a role, and nothing that they do goes on at night."""
    for where, kind in _institutions(atlas):
        for role in set(kind.day_roles) - set(kind.roles):
            yield f"{where} has the day role {role!r}, which is none of its roles."
    for where, one in _activities(atlas):
        known = atlas.institutions.get(one.institution)
        if (
            known
            and set(one.roles) & set(known.day_roles)
            and "night" in (one.dayparts or DAYPARTS)
        ):
            yield f"{where} needs people who work by day; expected dayparts without 'night'."


@rule
def institution_has_props(atlas: Atlas) -> Iterator[str]:
    """Enough things for scenes to differ, each once."""
    for where, kind in _institutions(atlas):
        if len(set(kind.props)) < FEWEST_PROPS or doubled(kind.props):
            yield (
                f"{where} has {len(kind.props)} props; expected at least {FEWEST_PROPS}, each once."
            )


@rule
def institution_sign_words_exist(atlas: Atlas) -> Iterator[str]:
    """Words of signs are in `inputs/sign_words.csv`."""
    for where, kind in _institutions(atlas):
        for word in (*kind.sign_words, *filter(None, [kind.own_word])):
            if word not in atlas.words:
                yield f"{where} wants sign word {word!r}, which inputs/sign_words.csv lacks."


@rule
def institution_cameras_fit_its_setting(atlas: Atlas) -> Iterator[str]:
    """Cameras are known; nobody drives or flies indoors, and cars have the street."""
    for where, kind in _institutions(atlas):
        barred = [] if kind.setting == "outdoor" else list(OUTDOOR_CAMERAS)
        barred += ["drive"] if kind.key != "street" else []
        for camera in kind.cameras:
            if camera not in CAMERAS or camera in barred:
                yield f"{where} has camera {camera!r}, which is unknown or does not fit there."


@rule
def opening_class_parses(atlas: Atlas) -> Iterator[str]:
    """Hours and closing days of `hours.toml` parse."""
    for key, opening in atlas.opening_classes.items():
        try:
            parse_hours(opening.hours)
            parse_closing_days(opening.closed_on)
        except MalformedRecordError as error:
            yield f"hours.toml, [{key}]: {error}"


@rule
def crowd_profile_has_every_hour(atlas: Atlas) -> Iterator[str]:
    """24 digits for each kind of day."""
    for key, profile in atlas.crowd_profiles.items():
        for day in get_args(DayKind):
            if not LEVELS.fullmatch(profile.levels.get(day, "")):
                yield f"crowds.toml, [{key}] needs 24 digits for {day!r}."


@rule
def road_is_sound(atlas: Atlas) -> Iterator[str]:
    """Roads have lanes, speeds in order, manoeuvres, known densities and markings."""
    for key, road in atlas.roads.items():
        where = f"roads.toml, [{key}]"
        slow, fast = road.speed_kmh
        if road.lanes < 1 or not 0 < slow < fast <= 130 or not road.manoeuvres:
            yield f"{where} needs lanes, manoeuvres and two speeds in order, at most 130 km/h."
        if not road.densities or not set(road.densities) <= set(DENSITIES):
            yield f"{where} has densities {listed(road.densities)}; expected of {listed(DENSITIES)}."
        if road.markings not in atlas.institutions["street"].slots:
            yield f"{where} has markings {road.markings!r}, which is no slot of the street."


@rule
def road_conditions_are_known(atlas: Atlas) -> Iterator[str]:
    """Conditions of manoeuvres are the road's, each density keeps one; roads without pavements are furnished."""
    for key, road in atlas.roads.items():
        where = f"roads.toml, [{key}]"
        for one, densities in road.manoeuvre_densities.items():
            if one not in road.manoeuvres or not set(densities) <= set(road.densities):
                yield f"{where} has a condition of {one!r} that names no manoeuvre or density of it."
        for word in set(road.sign_words) - set(atlas.words):
            yield f"{where} wants sign word {word!r}, which inputs/sign_words.csv lacks."
        own = road.roadside, road.sign_words
        if (road.pavements and (any(own) or road.barred)) or not (road.pavements or all(own)):
            yield f"{where} needs `roadside` and `sign_words` exactly if it has no pavements."
        for density in road.densities:
            if all(
                density not in road.manoeuvre_densities.get(m, density) for m in road.manoeuvres
            ):
                yield f"{where} has no manoeuvre in {density!r} traffic."


@rule
def every_road_is_painted(atlas: Atlas) -> Iterator[str]:
    """Of the lines that decorum gives a city, each road may have some."""
    for key, road in atlas.roads.items():
        for row in atlas.decorum_rows:
            is_of_roads = (row.institution, row.slot) == ("street", road.markings)
            bare = all(any(word in line for word in road.unpainted) for line in row.values)
            if is_of_roads and bare:
                where = f"{row.scope} {row.scope_key}".strip()
                yield f"roads.toml, [{key}] bars every line of decorum.csv for {where!r}."


@rule
def every_density_has_a_road(atlas: Atlas) -> Iterator[str]:
    """However full a city is, some road away from the water is as full."""
    inland = [road for key, road in atlas.roads.items() if not key.startswith("waterfront")]
    for density in DENSITIES:
        if not any(density in road.densities for road in inland):
            yield f"roads.toml has no road away from the water with density {density!r}."


@rule
def driving_needs_no_walkers(atlas: Atlas) -> Iterator[str]:
    """What one sees from a car happens on roads without pavements, too."""
    for where, one in _activities(atlas):
        if one.category == "driving" and one.roles:
            yield f"{where} needs {listed(one.roles)}; expected nobody in the category 'driving'."


@rule
def activity_institution_is_known(atlas: Atlas) -> Iterator[str]:
    """Activities belong to an institution."""
    for where, one in _activities(atlas):
        if one.institution not in atlas.institutions:
            yield f"{where} belongs to {one.institution!r}, which institutions.toml lacks."


@rule
def activity_category_is_known(atlas: Atlas) -> Iterator[str]:
    """Categories are those of `categories.toml`; only the street has driving."""
    for where, one in _activities(atlas):
        off_road = one.category == "driving" and one.institution != "street"
        if one.category not in atlas.categories or off_road:
            yield (
                f"{where} has category {one.category!r}; expected one of {listed(atlas.categories)}, "
                "and driving on the street alone."
            )


@rule
def activity_roles_exist(atlas: Atlas) -> Iterator[str]:
    """Who does it is a role of the institution."""
    for where, one in _activities(atlas):
        kind = atlas.institutions.get(one.institution)
        for role in set(one.roles) - set(kind.roles if kind else one.roles):
            yield f"{where} needs a {role!r}, which is no role of {one.institution!r}."


@rule
def activity_stands_once(atlas: Atlas) -> Iterator[str]:
    """Keys are unique within an institution, and no two say the same."""
    for key in doubled((one.institution, one.key) for one in atlas.activity_rows):
        yield f"activities.toml has {key} more than once."
    for says in doubled((one.institution, one.says) for one in atlas.activity_rows):
        yield f"activities.toml has two activities that say {says}."


@rule
def activity_is_three_beats(atlas: Atlas) -> Iterator[str]:
    """A clause and three beats, without capitals or full stops, so that prose can join them."""
    for where, one in _activities(atlas):
        clauses: tuple[str, ...] = (one.says, *one.beats)
        odd = [text for text in clauses if not text[:1].islower() or text != text.rstrip(" .,;")]
        if len(clauses) != 4 or len(set(clauses)) != 4 or odd:
            yield f"{where} needs a clause and three other beats in lower case without a full stop."


@rule
def activity_conditions_are_known(atlas: Atlas) -> Iterator[str]:
    """Dayparts, weathers, crowds and cameras exist; cameras are among those of the institution."""
    for where, one in _activities(atlas):
        kind = atlas.institutions.get(one.institution)
        known = (*DAYPARTS, *WEATHERS, *CROWDS, *(kind.cameras if kind else one.cameras))
        for name in {*one.dayparts, *one.weathers, *one.cameras, *one.crowds} - set(known):
            yield f"{where} has the condition {name!r}, which cannot be there."


@rule
def institution_has_activities(atlas: Atlas) -> Iterator[str]:
    """Something goes on everywhere."""
    for where, kind in _institutions(atlas):
        count = len(atlas.activities(kind.key))
        if count < FEWEST_ACTIVITIES:
            yield f"{where} has {count} activities; expected at least {FEWEST_ACTIVITIES}."


@rule
def activities_leave_no_weather_bare(atlas: Atlas) -> Iterator[str]:
    """Where a category has an activity at some time of day, it has one in every weather."""
    barred: dict[tuple[str, str, str], set[str]] = {}
    for one in atlas.activity_rows:
        for part in one.dayparts or DAYPARTS:
            missing = set(WEATHERS) - set(one.weathers or WEATHERS)
            barred.setdefault((one.institution, one.category, part), missing).intersection_update(
                missing
            )
    for (institution, category, part), weathers in barred.items():
        if weathers:
            yield (
                f"activities.toml, [{institution}] has nothing of {category!r} at {part!r} in "
                f"{listed(sorted(weathers))}; add an activity that goes on in any weather."
            )
