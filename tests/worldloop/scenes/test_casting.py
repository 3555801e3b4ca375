import datetime as dt
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.records import Holiday
from worldloop.atlas.seasons import may_snow, season_of
from worldloop.errors import MalformedRecordError
from worldloop.scenes.casting import CASTABLE, cast_scene, cast_scenes
from worldloop.scenes.checks import scene_problems
from worldloop.scenes.people import PUBLIC_ROLES
from worldloop.scenes.places import DENSITY_OF, is_plural
from worldloop.scenes.scene import SKETCH_CAMERAS, Scene
from worldloop.scenes.things import GRAZERS, SPECIES, STYLES, VOCABULARY
from worldloop.worlds import amusement_park, hospital, museum, street, zoo
from worldloop.worlds.animals import ACTIONS, KINDS
from worldloop.worlds.grammar import is_sketchable
from worldloop.worlds.palette import COLORS, FACADES

ATLAS = load_atlas()
GOLDEN = Path(__file__).parents[2] / "golden" / "scenes"
MOST_PEOPLE = {"street": 24, "hospital": 14, "zoo": 16, "museum": 12, "amusement_park": 26}
PLACES = [
    f"{city}/{kind}"
    for number, city in enumerate(ATLAS.cities)
    for kind in list(ATLAS.institutions)[number % 6 :: 6]
    if ATLAS.has(city, kind)
]
SCENES = cast_scenes(ATLAS, PLACES, list(range(len(PLACES))))
SKETCHES = [f"{city}/{kind}" for city in list(ATLAS.cities)[::2] for kind in CASTABLE]
SKETCHED = cast_scenes(ATLAS, SKETCHES, list(range(len(SKETCHES))), sketch=True)
IN_ANOTHER_PROCESS = """
from worldloop.atlas.atlas import load_atlas
from worldloop.scenes.casting import cast_scene
scene = cast_scene(load_atlas(), place="cairo/library", seed=3)
print(load_atlas().hash, scene.scene_id)
"""


def test_scenes_keep_every_rule():
    assert scene_problems(ATLAS, [*SCENES, *SKETCHED]) == []


def test_a_scene_does_not_depend_on_its_batch():
    for row in range(0, len(SCENES), 97):
        assert cast_scene(ATLAS, place=PLACES[row], seed=row) == SCENES[row]


def test_what_is_asked_for_does_not_depend_on_the_batch_either():
    wishes = [{"season": "winter"}, {}, {"camera": "still", "crowd": "lively"}]
    places = ["berlin/library", "tokyo/zoo", "lima/park"]
    together = cast_scenes(ATLAS, places, [1, 2, 3], wishes)
    for place, seed, wish, scene in zip(places, (1, 2, 3), wishes, together, strict=True):
        assert cast_scene(ATLAS, place=place, seed=seed, asked=wish) == scene
        assert all(getattr(scene, name) == value for name, value in wish.items())


def test_lists_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 places, 1 seeds"):
        cast_scenes(ATLAS, ["tokyo/zoo", "lima/zoo"], [1])


def test_a_scene_survives_json_with_its_id():
    for scene in SCENES[::20]:
        again = Scene.from_record(json.loads(json.dumps(scene.to_record())))
        assert again.scene_id == scene.scene_id
        assert again == scene


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_golden_scene_is_cast_as_it_was(path):
    golden = json.loads(path.read_text(encoding="utf-8"))
    place = f"{golden['city']}/{golden['institution']}"
    scene = cast_scene(ATLAS, place=place, seed=golden["seed"])
    assert {"scene_id": scene.scene_id, **json.loads(json.dumps(scene.to_record()))} == golden


@pytest.mark.parametrize("path", sorted((GOLDEN / "v1").glob("*.json")), ids=lambda path: path.stem)
def test_a_scene_of_version_1_keeps_its_id_and_its_fields(path):
    golden = json.loads(path.read_text(encoding="utf-8"))
    scene_id = golden.pop("scene_id")
    scene = Scene.from_record(golden)
    assert scene.scene_id == scene_id
    assert json.loads(json.dumps(scene.to_record())) == golden


def test_another_process_casts_the_same():
    told = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(told) == 1


def test_another_seed_or_place_is_another_scene():
    assert len({scene.scene_id for scene in SCENES}) == len(SCENES)


def test_every_institution_can_be_cast():
    assert {scene.institution for scene in SCENES} == set(ATLAS.institutions)


def test_sketches_are_what_the_renderer_plays():
    assert all(is_sketchable(scene) for scene in SKETCHED)
    assert {scene.camera for scene in SKETCHED} == set(SKETCH_CAMERAS)


@pytest.mark.parametrize(
    ("city", "date", "season", "snow"),
    [
        ("toronto", "2026-01-10", "winter", True),
        ("toronto", "2026-07-10", "summer", False),
        ("auckland", "2026-07-10", "winter", False),
        ("buenos_aires", "2026-01-10", "summer", False),
        ("bangkok", "2026-07-10", "wet season", False),
        ("jakarta", "2026-07-10", "wet season", False),
        ("addis_ababa", "2026-12-10", "dry season", False),
        ("lima", "2026-07-10", "winter", False),
        ("athens", "2026-01-10", "winter", False),
    ],
)
def test_seasons_follow_hemisphere_and_climate(city, date, season, snow):
    place = ATLAS.city(city)
    assert season_of(place, dt.date.fromisoformat(date)) == season
    assert may_snow(place, season) is snow


def test_an_empty_place_has_nobody_of_the_public():
    for place in ("tokyo/street", "nairobi/park", "oslo/university"):
        scene = cast_scene(ATLAS, place=place, seed=2, asked={"crowd": "empty"})
        assert not {role.name for role in scene.roles} & PUBLIC_ROLES


def test_sketches_hold_no_more_people_than_fit():
    for scene in SKETCHED:
        assert sum(role.count for role in scene.roles) <= MOST_PEOPLE[scene.institution]


def test_zoos_show_two_or_three_kinds_and_seven_animals_at_most():
    shown = [scene.subjects for scene in SKETCHED if scene.institution == "zoo"]
    assert {len(animals) for animals in shown} == {2, 3}
    assert max(sum(animal.count for animal in animals) for animals in shown) <= 7
    assert all(animal.trait != "grazing" or animal.kind in GRAZERS for a in shown for animal in a)


def test_the_vocabulary_is_that_of_the_grammars():
    known = {"street": street, "hospital": hospital, "amusement_park": amusement_park}
    for kind, module in known.items():
        assert set(VOCABULARY[kind]) <= set(module.SUBJECTS)
    assert set(SPECIES) <= set(KINDS)
    assert set(VOCABULARY["museum"]) == {*museum.HANGING, *museum.STANDING}
    assert {s.trait for scene in SKETCHED for s in scene.subjects} <= {"", *ACTIONS}
    assert STYLES["museum"]["wall"] == tuple(museum.WALLS)
    assert STYLES["museum"]["floor"] == museum.FLOORS
    assert STYLES["hospital"]["accent"] == tuple(hospital.ACCENTS)
    assert STYLES["zoo"]["theme"] == zoo.THEMES
    assert {role.dress.color for scene in SKETCHED for role in scene.roles} <= {"", *COLORS}
    facades = {value for row in ATLAS.decorum_rows if row.slot == "facade" for value in row.values}
    assert facades <= set(FACADES)


def test_signs_of_zoos_and_parks_name_only_what_is_shown():
    for scene in SKETCHED:
        if scene.institution in ("zoo", "amusement_park"):
            kinds = {subject.kind.replace(" ", "_") for subject in scene.subjects}
            words = {sign.word for sign in scene.signs}
            assert words & {kind.replace(" ", "_") for kind in SPECIES} <= kinds


def test_only_plurals_are_counted():
    assert [is_plural(prop) for prop in ("glassware", "boots in pairs", "a pair of gloves")] == [
        *(False, True, False),
    ]
    for scene in SCENES:
        for subject in scene.subjects:
            assert subject.count == 1 or not re.match("an? ", subject.kind)


def test_drives_have_roads_of_their_city_and_nothing_else_has():
    wishes = [{"camera": "drive"}] * 60
    drives = cast_scenes(ATLAS, ["tokyo/street"] * 60, list(range(60)), wishes)
    assert {scene.category for scene in drives} == {"driving"}
    assert len({scene.drive.road for scene in drives}) >= 5
    assert any(scene.drive.structure for scene in drives)
    assert all(scene.drive is None for scene in SKETCHED)


def test_details_come_from_several_slots_and_species():
    slots = {detail.slot for scene in SCENES for detail in scene.details}
    assert {"furniture", "queueing", "courtesy", "architecture", "fixtures"} <= slots
    for scene in SCENES:
        slots = [detail.slot for detail in scene.details if detail.slot != "roadside"]
        assert len(set(slots)) == len(slots)
        assert len(scene.details) >= 3 or scene.crowd in ("empty", "sparse")


def test_date_hour_and_weather_can_be_asked_for():
    scene = cast_scene(
        ATLAS, place="tokyo/street", seed=1, date="2026-11-03", hour=22.6, weather="rain"
    )
    assert (scene.date, scene.hour, scene.weather) == ("2026-11-03", 22.6, "rain")
    assert scene.is_night
    assert scene.day == "holiday"
    assert scene_problems(ATLAS, [scene]) == []


def test_a_date_of_another_year_has_its_own_sun():
    atlas = replace(ATLAS, holidays=(Holiday("PE", "2031-01-01", "New Year's Day", "holidays"),))
    scene = cast_scene(atlas, place="lima/park", seed=4, date="2031-02-11", hour=12.0)
    assert (scene.date, scene.hour) == ("2031-02-11", 12.0)
    assert scene.sun_elevation_deg > 80


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"hour": 3.0}, "hour at a zoo: found 3.0, expected at least"),
        ({"hour": float("nan")}, "hour at a zoo: found nan"),
        ({"date": "May 14"}, "an ISO date"),
        ({"date": "2031-01-01"}, "a date of 2026, whose holidays the atlas knows"),
        ({"weather": "snow", "date": "2026-07-01"}, "weather of tokyo in summer: found 'snow'"),
    ],
)
def test_what_cannot_be_is_refused(asked, message):
    with pytest.raises(MalformedRecordError, match=message):
        cast_scene(ATLAS, place="tokyo/zoo", seed=1, **asked)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_of_more_than_63_bits_is_refused(seed):
    with pytest.raises(ValueError, match=r"expected 0 to 2\*\*63 - 1"):
        cast_scene(ATLAS, place="tokyo/zoo", seed=seed)


def test_a_day_on_which_a_place_is_closed_is_refused():
    with pytest.raises(MalformedRecordError, match="a day on which it is open"):
        cast_scene(ATLAS, place="berlin/court", seed=1, date="2026-12-25")


def test_a_sketch_without_a_grammar_is_refused_with_those_that_have_one():
    with pytest.raises(MalformedRecordError, match="found 'tokyo/library'") as caught:
        cast_scene(ATLAS, place="tokyo/library", seed=1, sketch=True)
    assert "draws: " + ", ".join(sorted(CASTABLE)) in caught.value.expected
    assert "--world-model" in caught.value.remedy


def test_nobody_walks_where_there_are_no_pavements():
    cities = [city for city in ATLAS.cities if ATLAS.has(city, "street")]
    places = [f"{city}/street" for city in cities] * 2
    made = cast_scenes(ATLAS, places, range(len(places)), [{"camera": "drive"}] * len(places))
    open_roads = [one for one in made if not ATLAS.roads[one.drive.road].pavements]
    assert {one.drive.road for one in open_roads} == {"ring_road", "expressway", "country_road"}
    for one in open_roads:
        assert one.roles == ()
        assert {detail.slot for detail in one.details} <= {"roadside", "plants"}
        assert all(sign.word in ATLAS.roads[one.drive.road].sign_words for sign in one.signs)
    assert any(one.roles for one in made)


def test_traffic_is_as_full_as_the_streets_and_a_queue_is_slow():
    for crowd, density in DENSITY_OF.items():
        asked = [{"camera": "drive", "crowd": crowd}] * 40
        for one in cast_scenes(ATLAS, ["lima/street"] * 40, range(40), asked):
            assert one.drive.density == density
            assert one.drive.speed_kmh <= 20 or density != "queueing"


def test_a_city_without_warmth_has_no_water_park():
    assert not ATLAS.has("reykjavik", "water_park")
    with pytest.raises(MalformedRecordError, match="warm season"):
        cast_scene(ATLAS, place="reykjavik/water_park", seed=1)
    made = cast_scenes(ATLAS, ["berlin/water_park"] * 60, range(60))
    assert {one.season for one in made} == {"summer"}
    assert {one.weather for one in made}.isdisjoint({"snow"})
    assert {role.dress.top for one in made for role in one.roles if role.name == "visitor"} == {
        "shirt"
    }


def test_a_sign_points_to_a_metro_only_where_there_is_one():
    words = {
        city: {
            sign.word
            for scene in cast_scenes(ATLAS, [f"{city}/street"] * 80, range(80))
            for sign in scene.signs
        }
        for city in ("tallinn", "paris")
    }
    assert "metro" in words["paris"]
    assert "metro" not in words["tallinn"]
