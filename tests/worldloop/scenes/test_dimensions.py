import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.dayparts import daypart
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.casting import cast_scene
from worldloop.scenes.dimensions import (
    DAYPARTS,
    FREE,
    QUARTERS,
    Possible,
    check_asked,
    daypart_codes,
    space_of,
)

ATLAS = load_atlas()


def valid_values(place, asked=None, **chosen):
    """Values that each free dimension can have at a place, given some that are decided."""
    space, (city, kind) = space_of(ATLAS), place.split("/")
    codes = space.city_codes[city], space.institution_codes[kind]
    return Possible(space, *codes, asked or {}, **chosen).values(space)


def test_seasons_follow_the_climate():
    assert valid_values("singapore/park")["season"] == ("wet season",)
    assert set(valid_values("berlin/park")["season"]) == {*("spring", "summer", "autumn", "winter")}


def test_dayparts_are_those_of_the_opening_hours():
    assert "night" not in valid_values("nairobi/zoo")["daypart"]
    assert set(valid_values("nairobi/street")["daypart"]) == set(DAYPARTS)


def test_a_summer_evening_in_the_north_is_not_dark():
    winter = valid_values("helsinki/zoo", {"season": "winter"})["daypart"]
    summer = valid_values("helsinki/zoo", {"season": "summer"})["daypart"]
    assert "dusk" in winter
    assert "dusk" not in summer


def test_weather_narrows_the_season():
    assert valid_values("berlin/street", {"weather": "snow"})["season"] == ("winter",)
    assert "snow" not in valid_values("cairo/street")["weather"]


def test_a_drive_shows_driving_and_a_sketch_no_drone():
    values = valid_values("tokyo/street", {"camera": "drive"})
    assert values["category"] == ("driving",)
    assert valid_values("tokyo/street", sketch=True)["camera"] == (*("stroll", "tour", "wander"),)


def test_every_valid_value_can_be_cast():
    for place in ("tokyo/zoo", "oslo/library", "lima/street", "cairo/place_of_worship"):
        for name, values in valid_values(place).items():
            for value in values:
                scene = cast_scene(ATLAS, place=place, seed=5, asked={name: value})
                assert getattr(scene, name) == value


@pytest.mark.parametrize(
    ("place", "asked", "message"),
    [
        ("cairo/street", {"weather": "snow"}, "weather of a scene at cairo/street"),
        ("tokyo/library", {"camera": "drone"}, "expected one of stroll, tour, wander, still"),
        ("nairobi/zoo", {"daypart": "night"}, "daypart of a scene at nairobi/zoo"),
        ("berlin/park", {"season": "summer", "weather": "snow"}, "with weather 'snow'"),
    ],
)
def test_what_is_impossible_is_refused_with_what_would_be(place, asked, message):
    with pytest.raises(MalformedRecordError, match=message):
        check_asked(ATLAS, place, asked)
    with pytest.raises(MalformedRecordError, match=message):
        cast_scene(ATLAS, place=place, seed=1, asked=asked)


@pytest.mark.parametrize("asked", [{"weather": "hail"}, {"mood": "calm"}])
def test_unknown_dimensions_and_values_are_named(asked):
    with pytest.raises(UnknownKeyError):
        valid_values("tokyo/zoo", asked)


def test_the_codes_of_dayparts_follow_the_one_rule():
    space = space_of(ATLAS)
    space.prepare(0)
    for quarter in range(QUARTERS):
        for elevation in (-20.0, -6.1, -6.0, 5.9, 6.0, 40.0):
            code = int(daypart_codes(quarter / 4, elevation))
            assert DAYPARTS[code] == daypart(hour=quarter / 4, sun_elevation_deg=elevation)


def test_free_dimensions_are_all_reported():
    assert tuple(valid_values("tokyo/zoo")) == FREE
