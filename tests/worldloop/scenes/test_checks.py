"""Every kind of error is planted into sound scenes, and each is found by its rule."""

from dataclasses import replace

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.scenes.casting import cast_scene, cast_scenes
from worldloop.scenes.checks import scene_problems
from worldloop.scenes.places import DENSITY_OF
from worldloop.scenes.scene import Detail, Dress, Drive, Role, Subject

ATLAS = load_atlas()


def scene(place="tokyo/zoo", **asked):
    return cast_scene(ATLAS, place=place, seed=11, **asked)


def drive(**changes):
    made = scene("tokyo/street", asked={"camera": "drive"})
    return replace(made, drive=replace(made.drive, **changes))


def first_role(made, **changes):
    return replace(made, roles=(replace(made.roles[0], **changes), *made.roles[1:]))


def first_sign(made, **changes):
    return replace(made, signs=(replace(made.signs[0], **changes), *made.signs[1:]))


def trees(made, kind, *plants):
    """A scene with trees of a kind, and of plants these alone."""
    details = tuple(Detail("plants", name) for name in plants)
    return replace(made, style={**made.style, "trees": kind}, details=details)


def road_without_pavements(road, density):
    """A scene from a car on such a road as full as that."""
    crowd = next(crowd for crowd, name in DENSITY_OF.items() if name == density)
    places = ["tokyo/street", "mumbai/street"] * 100
    asked = [{"camera": "drive", "crowd": crowd}] * len(places)
    made = cast_scenes(ATLAS, places, range(len(places)), asked)
    return next(one for one in made if one.drive.road == road)


def doing(institution, activity):
    """A scene in which an activity goes on."""
    made = cast_scenes(ATLAS, [f"tokyo/{institution}"] * 2000, range(2000))
    return next(one for one in made if one.activity == activity)


ZOO, WARD, LIBRARY = scene(), scene("lima/hospital"), scene("oslo/library")
STREET = scene("mumbai/street", date="2026-05-12", hour=12.0)
WINTER = scene("berlin/park", date="2026-01-14", hour=12.0)
SUMMER = scene("berlin/park", date="2026-07-08", hour=15.0)
WARM_ZOO = scene("berlin/zoo", date="2026-07-08", hour=12.0)
COLD_ZOO = scene("berlin/zoo", date="2026-01-14", hour=12.0)
ROAD = road_without_pavements("expressway", "queueing")
QUIET = scene("oslo/library", asked={"crowd": "sparse"})
LIBRARY_QUEUE = ATLAS.decorum("oslo", "library", "queueing").values[0]
OPENING = drive()
SWEEPING = doing("street", "sweeping")
ABOVE = doing("park", "over_lawns")
BATH = scene("lima/water_park")
NIGHT = scene("tokyo/park", asked={"daypart": "night"})
HOT = scene("manila/library", asked={"crowd": "sparse"})
STUDENT = Role("student", 1, Dress("jacket"))  # there may be students in shirts, too
PLANTED = {
    "elevation of the sun": replace(ZOO, sun_elevation_deg=ZOO.sun_elevation_deg + 0.5),
    "azimuth of the sun": replace(LIBRARY, sun_azimuth_deg=(LIBRARY.sun_azimuth_deg + 20) % 360),
    "daypart by the sun": replace(ZOO, daypart="night"),
    "season of the hemisphere": replace(SUMMER, season="winter"),
    "weather of the month": replace(SUMMER, weather="snow"),
    "snow only in cold winters": replace(STREET, weather="snow"),
    "climate of the city": replace(ZOO, climate="Af"),
    "driving side": replace(STREET, driving_side="right"),
    "language of signs": first_sign(ZOO, text="zoo", language="en"),
    "script of signs": first_sign(ZOO, text="зоопарк"),
    "own sign first": replace(ZOO, signs=ZOO.signs[1:]),
    "sign words of the institution": first_sign(ZOO, word="bank"),
    "each sign once": replace(ZOO, signs=(*ZOO.signs, ZOO.signs[0])),
    "opening hours": replace(ZOO, hour=3.0),
    "closing days": replace(scene("berlin/museum"), date="2026-06-15"),  # a Monday
    "kind of day": replace(ZOO, day="holiday", holiday="Sea Day"),
    "holiday of the country": replace(ZOO, holiday="Christmas Day"),
    "crowd of the hour": replace(STREET, crowd="empty", roles=()),
    "public in a crowd": replace(ZOO, roles=ZOO.roles[-1:]),  # the keeper
    "roles of the institution": replace(ZOO, roles=(*ZOO.roles, Role("judge", 1, Dress()))),
    "people of a role": first_role(ZOO, count=0),
    "each role once": replace(ZOO, roles=(*ZOO.roles, ZOO.roles[0])),
    "people in a scene": first_role(ZOO, count=99),
    "public dress by temperature": first_role(STREET, dress=Dress("coat")),
    "light dress where it is hot": replace(
        HOT, roles=(*(one for one in HOT.roles if one.name != "student"), STUDENT)
    ),
    "dress of decorum": first_role(WARD, dress=Dress("hi-vis vest", color="lime")),
    "subjects of the institution": replace(ZOO, subjects=(Subject("unicorn", 1),)),
    "number of a subject": replace(LIBRARY, subjects=(Subject("desk lamps", 0),)),
    "a bed for every patient": replace(
        WARD, subjects=(Subject("bed", 1), *WARD.subjects[1:]), roles=WARD.roles
    ),
    "vehicle mix of the city": replace(
        STREET, subjects=(Subject("bus", 1), Subject("lorry", 1), *STREET.subjects[2:])
    ),
    "facade of the city": replace(STREET, style={**STREET.style, "facade": "marble"}),
    "trees where they are planted": trees(LIBRARY, "broadleaf"),
    "trees of climate and season": trees(ZOO, "palm"),
    "no flowers in a snowy winter": replace(WINTER, details=(Detail("plants", "pansies"),)),
    "species of the climate": replace(SUMMER, details=(Detail("plants", "coconut palms"),)),
    "decorum of the place": replace(LIBRARY, details=(Detail("furniture", "a throne"),)),
    "activities of the institution": replace(ZOO, activity="surgery"),
    "category of the activity": replace(ZOO, category="driving"),
    "script of the activity": replace(ZOO, script=("one", "two", "three")),
    "cameras of the institution": replace(LIBRARY, camera="birds_eye"),
    "camera of the category": replace(STREET, camera="drive"),
    "a road for a drive": replace(ZOO, drive=Drive("avenue", "free", 40, "turning left", "", "")),
    "roads": drive(road="runway"),
    "density of the road": drive(density="jammed"),
    "speed of the road": drive(speed_kmh=240),
    "manoeuvres of the road": drive(manoeuvre="flying"),
    "structures of the road": drive(structure="drawbridge"),
    "markings of the road": drive(markings="pink dots"),
    "lines that a road has not": replace(
        ROAD, drive=replace(ROAD.drive, markings="a zebra crossing of broad white bars")
    ),
    "density of the crowd": replace(ROAD, drive=replace(ROAD.drive, density="free")),
    "manoeuvre of the density": replace(
        ROAD, drive=replace(ROAD.drive, manoeuvre="overtaking a lorry")
    ),
    "nobody beside a road without pavements": replace(ROAD, roles=STREET.roles),
    "no furniture beside a road without pavements": replace(
        ROAD, subjects=(*ROAD.subjects, Subject("bench", 1))
    ),
    "vehicles that a road bars": replace(
        ROAD, subjects=(replace(ROAD.subjects[0], kind="bicycle"), *ROAD.subjects[1:])
    ),
    "details that need people": replace(
        QUIET, details=(Detail("queueing", LIBRARY_QUEUE), *QUIET.details)
    ),
    "animals of season and hour": replace(
        WINTER, details=(Detail("animals", "dragonflies over the water"),)
    ),
    "crowd of the activity": replace(
        OPENING, activity="stop_and_go", crowd="empty", category="driving"
    ),
    "weather of the activity": replace(SWEEPING, weather="rain"),
    "camera of the activity": replace(ABOVE, camera="stroll"),
    "season of the activity": replace(WINTER, activity="watering"),
    "people who work by day": replace(
        NIGHT, roles=(*NIGHT.roles, replace(SUMMER.roles[-1], name="gardener"))
    ),
    "places of warm cities": replace(BATH, city="reykjavik"),
    "place of the atlas": replace(ZOO, city="atlantis"),
}


def waterless():
    dry = next(city for city in ATLAS.cities.values() if city.waterfront == "none")
    there = next(city for city in ATLAS.cities.values() if city.waterfront == "sea")
    return dry.key, there.key


def test_sound_scenes_have_no_problems():
    sound = [
        HOT,
        ZOO,
        WARD,
        LIBRARY,
        STREET,
        SUMMER,
        drive(),
        ROAD,
        QUIET,
        SWEEPING,
        ABOVE,
        BATH,
        NIGHT,
    ]
    assert scene_problems(ATLAS, sound) == []
    assert scene_problems(ATLAS, []) == []


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_error_is_found_by_its_rule(rule):
    problems = scene_problems(ATLAS, [LIBRARY, PLANTED[rule]])
    assert any(f": {rule}: found" in problem for problem in problems), problems
    assert all(problem.startswith("Scene 1, ") for problem in problems)


@pytest.mark.parametrize(
    ("at", "kind", "plants", "is_sound"),
    [
        (WARM_ZOO, "broadleaf", (), True),
        (WARM_ZOO, "palm", (), False),
        (WARM_ZOO, "bare", (), False),
        (WARM_ZOO, "conifer", ("Scots pines",), True),
        (WARM_ZOO, "broadleaf", ("Scots pines",), False),
        (WARM_ZOO, "conifer", ("lindens",), False),
        (COLD_ZOO, "bare", (), True),
        (COLD_ZOO, "broadleaf", (), False),
        (COLD_ZOO, "broadleaf", ("yews",), False),
        (COLD_ZOO, "bare", ("larches",), True),
        (COLD_ZOO, "bare", ("spruces",), False),
        (STREET, "palm", (), True),
        (STREET, "conifer", (), False),
        (STREET, "hedge", (), False),
    ],
)
def test_trees_are_those_of_the_season_and_of_the_plants_that_are_named(at, kind, plants, is_sound):
    problems = scene_problems(ATLAS, [trees(at, kind, *plants)])
    assert any("trees of climate" in problem for problem in problems) != is_sound


def test_a_zoo_that_does_not_say_its_trees_is_found():
    bare = replace(ZOO, style={key: ZOO.style[key] for key in ZOO.style if key != "trees"})
    assert any("trees where" in problem for problem in scene_problems(ATLAS, [bare]))


def test_a_harbour_away_from_the_water_is_found():
    dry, wet = waterless()
    made = replace(scene(f"{wet}/harbour"), city=dry)
    assert any("places at the water" in problem for problem in scene_problems(ATLAS, [made]))


def test_a_metro_station_is_found_where_there_is_no_metro():
    made = replace(scene("paris/metro_station"), city="tallinn")
    assert any("places with a metro" in problem for problem in scene_problems(ATLAS, [made]))


def test_a_sign_to_a_metro_is_found_where_there_is_none():
    made = scene("tallinn/street")
    pointing = replace(made, signs=(*made.signs, ATLAS.sign("tallinn", "metro")))
    problems = scene_problems(ATLAS, [pointing])
    assert any("sign words of the institution" in problem for problem in problems)


def test_a_road_at_the_water_is_found_where_there_is_none():
    dry, _ = waterless()
    made = scene(f"{dry}/street", asked={"camera": "drive"})
    made = replace(made, drive=replace(made.drive, road="waterfront_road"))
    assert any("roads at the water" in problem for problem in scene_problems(ATLAS, [made]))


def test_bathers_in_a_cold_season_are_found():
    made = replace(scene("berlin/water_park"), date="2026-01-14", season="winter")
    assert any("warm season" in problem for problem in scene_problems(ATLAS, [made]))


def test_an_activity_at_another_daypart_or_without_its_people_is_found():
    places = [f"{city}/{kind}" for city in ("tokyo", "lima") for kind in ATLAS.institutions]
    places = [place for place in places if ATLAS.has(*place.split("/"))]
    made = cast_scenes(ATLAS, places * 8, list(range(len(places) * 8)))
    known = {(one.institution, one.key): one for one in ATLAS.activity_rows}
    busy = next(s for s in made if known[s.institution, s.activity].roles)
    alone = replace(busy, roles=())
    assert any("roles of the activity" in problem for problem in scene_problems(ATLAS, [alone]))
    timed = [s for s in made if known[s.institution, s.activity].dayparts]
    for one in timed[:1]:
        parts = known[one.institution, one.activity].dayparts
        other = next(part for part in ("night", "morning", "afternoon") if part not in parts)
        problems = scene_problems(ATLAS, [replace(one, daypart=other)])
        assert any("daypart of the activity" in problem for problem in problems)


def test_a_rule_that_changed_in_the_atlas_is_noticed():
    row = next(r for r in ATLAS.decorum_rows if (r.institution, r.slot) == ("library", "furniture"))
    rows = tuple(
        replace(r, values=("a bare floor",)) if r.slot == "furniture" else r
        for r in ATLAS.decorum_rows
    )
    changed = replace(ATLAS, decorum_rows=rows)
    told = replace(LIBRARY, details=(Detail("furniture", row.values[0]),))
    assert any("decorum of the place" in problem for problem in scene_problems(changed, [told]))
