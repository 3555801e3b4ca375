from collections import Counter

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.seasons import may_snow, season_of
from worldloop.scenes.casting import cast_scene, cast_scenes
from worldloop.scenes.coverage import CoveragePlanner
from worldloop.scenes.dimensions import WEATHERS, space_of
from worldloop.scenes.stream import scenes_at
from worldloop.scenes.weather import weather_of_months

ATLAS = load_atlas()
SPACE = space_of(ATLAS)
RAIN = WEATHERS.index("rain")


def rains(city):
    """Per cent of rain from January to December."""
    return [month[RAIN] for month in weather_of_months(ATLAS, ATLAS.city(city))]


def shares(scenes):
    counts = Counter(scene.weather for scene in scenes)
    return {name: count / len(scenes) for name, count in counts.items()}


def test_every_month_has_what_its_season_has_and_nothing_else():
    for city in ATLAS.cities.values():
        for day in SPACE.days[::28]:
            season = season_of(city, day)
            ruled = [weight > 0 for weight in ATLAS.weather_weights(city.koeppen, season)]
            ruled[-1] &= may_snow(city, season)
            assert [x > 0 for x in weather_of_months(ATLAS, city)[day.month - 1]] == ruled


@pytest.mark.parametrize(
    ("city", "dry", "wet"),
    [
        ("mumbai", 1, 7),
        ("manila", 2, 8),
        ("lusaka", 7, 1),
        ("delhi", 1, 8),
        ("niamey", 1, 8),
        ("lisbon", 7, 1),
    ],
)
def test_rain_is_rare_in_a_dry_month_and_common_in_a_wet_one(city, dry, wet):
    by_month = rains(city)
    assert by_month[dry - 1] <= 3
    assert by_month[wet - 1] >= 18
    assert max(by_month) == by_month[wet - 1]


def test_a_city_without_dry_months_has_rain_in_all():
    assert min(rains("london")) >= 20
    assert min(rains("singapore")) >= 40


def test_cast_scenes_follow_the_month():
    made = cast_scenes(ATLAS, ["mumbai/park"] * 4000, range(4000))
    by_month = {m: shares([s for s in made if s.date[5:7] == m]) for m in ("01", "07")}
    assert by_month["01"].get("rain", 0) < 0.06
    assert by_month["07"]["rain"] > 0.45


def test_rain_that_is_asked_for_falls_mostly_in_wet_months():
    asked = [{"weather": "rain"}] * 1000
    made = cast_scenes(ATLAS, ["mumbai/park"] * 1000, range(1000), asked)
    months = Counter(scene.date[5:7] for scene in made)
    assert {scene.weather for scene in made} == {"rain"}
    assert months["07"] > 10 * max(months["01"], 1)


def test_rain_in_a_dry_month_can_be_asked_for():
    made = cast_scene(ATLAS, place="mumbai/park", seed=3, date="2026-01-14", weather="rain")
    assert (made.weather, made.season) == ("rain", "dry season")


def test_the_stream_and_plans_have_little_rain_in_dry_seasons():
    dry = [scene for scene in scenes_at(ATLAS, range(4000)) if scene.season == "dry season"]
    assert shares(dry)["rain"] < 0.08
    assert shares(dry)["clear"] > 0.5
    planner = CoveragePlanner(ATLAS)
    plan = [planner.plan_at("mumbai", "park").asked for _ in range(150)]
    weathers = Counter(asked["weather"] for asked in plan if asked["season"] == "dry season")
    assert weathers["clear"] > 4 * weathers["rain"] > 0
