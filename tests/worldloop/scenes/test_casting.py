import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.casting import (
    CASTABLE,
    GRAZERS,
    SPECIES,
    STYLES,
    cast_scene,
    may_snow,
    season_of,
    sun_at,
)
from worldloop.scenes.scene import Scene
from worldloop.worlds import hospital, museum, zoo
from worldloop.worlds.animals import ACTIONS, KINDS
from worldloop.worlds.palette import COLORS, FACADES

ATLAS = load_atlas()
GOLDEN = Path(__file__).parents[2] / "golden" / "scenes"
MOST_PEOPLE = {"street": 22, "hospital": 13, "zoo": 14, "museum": 10, "amusement_park": 24}
SCENES = [
    cast_scene(ATLAS, place=f"{city}/{institution}", seed=seed)
    for city in ATLAS.cities
    for seed, institution in enumerate(CASTABLE)
]
IN_ANOTHER_PROCESS = """
from worldloop.atlas.atlas import load_atlas
from worldloop.prompts.prose import write_prose
from worldloop.scenes.casting import cast_scene
scene = cast_scene(load_atlas(), place="cairo/zoo", seed=3)
print(load_atlas().hash, scene.scene_id, write_prose(scene, load_atlas()))
"""


def test_a_scene_survives_json_with_its_id():
    for scene in SCENES[::20]:
        assert (
            Scene.from_record(json.loads(json.dumps(scene.to_record()))).scene_id == scene.scene_id
        )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_golden_scene_is_cast_as_it_was(path):
    golden = json.loads(path.read_text(encoding="utf-8"))
    scene = cast_scene(
        ATLAS, place=f"{golden['city']}/{golden['institution']}", seed=golden["seed"]
    )
    assert {"scene_id": scene.scene_id, **json.loads(json.dumps(scene.to_record()))} == golden


def test_another_process_casts_and_writes_the_same():
    told = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(told) == 1


def test_another_seed_or_place_is_another_scene():
    ids = {scene.scene_id for scene in SCENES}
    assert len(ids) == len(SCENES)


def test_the_sun_stands_where_astronomy_has_it():
    tokyo = ATLAS.city("tokyo")
    noon, _ = sun_at(tokyo, _day("2026-06-21"), 11.7)
    midnight, _ = sun_at(tokyo, _day("2026-06-21"), 0.0)
    assert 77 < noon < 78.5  # 90 - 35.7 + 23.4
    assert midnight < -30


def test_the_sun_of_the_south_passes_through_the_north():
    _, azimuth = sun_at(ATLAS.city("sydney"), _day("2026-06-21"), 12.0)
    assert azimuth < 20 or azimuth > 340


def test_it_is_dark_when_the_sun_is_down_and_light_at_noon():
    for scene in SCENES:
        late, noon = not 4 <= scene.hour < 22, 11 <= scene.hour <= 13
        polar = abs(ATLAS.city(scene.city).latitude_deg) > 55
        assert scene.is_night or not late or polar
        assert not noon or scene.sun_elevation_deg > -2


def test_places_are_open_when_they_are_shown():
    for scene in SCENES:
        kind = ATLAS.institution(scene.institution)
        assert kind.opens <= scene.hour < kind.closes


def test_traffic_keeps_to_the_side_of_the_country():
    for scene in SCENES:
        assert scene.driving_side == ATLAS.city(scene.city).driving_side


def test_snow_falls_only_in_cold_winters():
    snowy = [
        cast_scene(ATLAS, place=f"{city}/street", seed=seed, date=date)
        for city in ("helsinki", "berlin", "montreal")
        for date in ("2026-01-15", "2026-07-15")
        for seed in range(40)
    ]
    assert any(scene.weather == "snow" for scene in snowy)
    for scene in (*snowy, *SCENES):
        assert scene.weather != "snow" or (scene.season == "winter" and scene.climate[0] in "CDE")


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
    assert season_of(place, _day(date)) == season
    assert may_snow(place, season) is snow


def test_crowds_stay_within_what_a_place_holds():
    for scene in SCENES:
        assert sum(role.count for role in scene.roles) <= MOST_PEOPLE[scene.institution]
        assert all(role.count > 0 for role in scene.roles)
        assert len({role.name for role in scene.roles}) == len(scene.roles)


def test_every_patient_has_a_bed():
    for scene in SCENES:
        counts = {role.name: role.count for role in scene.roles}
        beds = sum(s.count for s in scene.subjects if s.kind == "bed")
        assert beds >= counts.get("patient", 0)


def test_zoos_show_two_or_three_kinds_and_seven_animals_at_most():
    shown = [scene.subjects for scene in SCENES if scene.institution == "zoo"]
    assert {len(animals) for animals in shown} == {2, 3}
    assert max(sum(animal.count for animal in animals) for animals in shown) <= 7
    assert all(animal.trait != "grazing" or animal.kind in GRAZERS for a in shown for animal in a)


def test_the_vocabulary_is_that_of_the_grammars():
    assert set(SPECIES) <= set(KINDS)
    assert {s.trait for scene in SCENES for s in scene.subjects} <= {"", *ACTIONS}
    assert STYLES["museum"]["wall"] == tuple(museum.WALLS)
    assert STYLES["museum"]["floor"] == museum.FLOORS
    assert STYLES["hospital"]["accent"] == tuple(hospital.ACCENTS)
    assert STYLES["zoo"]["theme"] == zoo.THEMES
    assert {role.dress.color for scene in SCENES for role in scene.roles} <= {"", *COLORS}
    facades = {value for row in ATLAS.decorum_rows if row.slot == "facade" for value in row.values}
    assert facades <= set(FACADES)


def test_the_institutions_own_sign_comes_first_and_names_only_what_is_shown():
    for scene in SCENES:
        own = ATLAS.institution(scene.institution).own_word
        assert not own or scene.signs[0].word == own
        words = {sign.word for sign in scene.signs}
        kinds = {subject.kind for subject in scene.subjects}
        assert words & set(SPECIES) <= kinds
        assert len(words) == len(scene.signs)


def test_date_hour_and_weather_can_be_asked_for():
    scene = cast_scene(
        ATLAS, place="tokyo/street", seed=1, date="2026-11-03", hour=22.5, weather="rain"
    )
    assert (scene.date, scene.hour, scene.weather) == ("2026-11-03", 22.5, "rain")
    assert scene.is_night


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"hour": 3.0}, "hour at a zoo: found 3.0, expected at least 9.0"),
        ({"date": "May 14"}, "an ISO date"),
        ({"weather": "snow", "date": "2026-07-01"}, "weather of tokyo in summer: found 'snow'"),
    ],
)
def test_what_cannot_be_is_refused(asked, message):
    with pytest.raises(MalformedRecordError, match=message):
        cast_scene(ATLAS, place="tokyo/zoo", seed=1, **asked)


def test_an_institution_without_a_grammar_is_refused_with_those_that_have_one():
    with pytest.raises(UnknownKeyError, match="world grammar") as caught:
        cast_scene(ATLAS, place="tokyo/library", seed=1)
    assert caught.value.known == sorted(CASTABLE)


def _day(text):

    return dt.date.fromisoformat(text)
