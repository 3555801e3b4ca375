import json

import polars as pl
import pytest

from tests.factories import make_scene
from worldloop.atlas.atlas import load_atlas
from worldloop.coverage_counts import (
    accept_counts,
    by_city,
    count_places,
    emptiest,
    pair_coverage,
    place_table,
    scene_values,
    summary,
)
from worldloop.scenes.coverage import PAIRS
from worldloop.scenes.dimensions import DIMENSIONS

ATLAS = load_atlas()
CLIPS = pl.DataFrame(
    [("lima", "zoo", True), ("lima", "zoo", False), ("lima", "park", True), ("oslo", "zoo", False)],
    schema=["city", "institution", "accepted"],
    orient="row",
)
PLANNED = pl.concat([CLIPS, CLIPS.head(1)]).drop("accepted")


def places(clips=CLIPS, planned=PLANNED):
    return count_places(ATLAS, planned, clips)


def test_every_place_of_the_atlas_has_a_row_with_or_without_clips():
    table = places()
    assert table.height == place_table(ATLAS).height
    assert table.select("city", "institution").is_unique().all()
    counts = table.filter(pl.col("num_planned") > 0)
    assert set(counts.select("city", "institution", pl.col("^num_.*$")).iter_rows()) == {
        ("lima", "zoo", 3, 2, 1),
        ("lima", "park", 1, 1, 1),
        ("oslo", "zoo", 1, 1, 0),
    }


def test_a_city_without_water_has_no_harbour_to_cover():
    harbours = place_table(ATLAS).filter(pl.col("institution") == "harbour")["city"]
    assert set(harbours) == {key for key in ATLAS.cities if ATLAS.has(key, "harbour")}


def test_a_clip_of_a_place_that_the_atlas_lacks_is_left_out():
    strange = pl.DataFrame({"city": ["atlantis"], "institution": ["zoo"], "accepted": [True]})
    assert places(pl.concat([CLIPS, strange])).equals(places())


def test_places_that_lost_clips_are_counted_and_no_others():
    strange = pl.DataFrame({"city": ["atlantis"], "institution": ["zoo"], "accepted": [False]})
    assert accept_counts(ATLAS, pl.concat([CLIPS, strange])) == {
        "lima/zoo": (1, 2),
        "oslo/zoo": (0, 1),
    }
    assert accept_counts(ATLAS, CLIPS.filter("accepted")) == {}


def test_the_summary_counts_what_has_accepted_footage():
    found = summary(places())
    assert (found["num_cities_covered"], found["num_cities"]) == (1, len(ATLAS.cities))
    assert (found["num_countries_covered"], found["num_countries"]) == (1, len(ATLAS.countries))
    assert (found["num_institutions_covered"], found["num_places_covered"]) == (2, 2)
    assert (found["num_planned"], found["num_made"], found["num_accepted"]) == (5, 4, 2)


def test_without_any_clip_nothing_is_covered():
    found = summary(places(CLIPS.clear(), PLANNED.clear()))
    assert found["num_cities_covered"] == found["num_made"] == 0
    assert found["num_places"] > 7000


def test_the_emptiest_groups_come_first_the_largest_of_them_before_all():
    found = emptiest(places(), "continent", most=9)
    assert found["num_covered"].to_list() == [0] * (found.height - 1) + [2]
    assert found["continent"][-1] == "SA"
    assert found["num_places"][0] == found["num_places"].head(found.height - 1).max()


def test_sums_of_a_city_are_those_of_its_places():
    table = by_city(places())
    assert table["city"].to_list() == list(ATLAS.cities)
    assert table.filter(city="lima").select(pl.col("^num_.*$")).row(0) == (4, 3, 2)


def test_a_scene_says_its_values_and_one_of_version_1_says_what_it_knows():
    record = make_scene("zoo").to_record()
    older = {key: value for key, value in record.items() if key not in ("crowd", "category")}
    table = pl.DataFrame({"scene_id": ["a", "b"], "scene": [json.dumps(record), json.dumps(older)]})
    first, second = scene_values(table).to_dicts()
    assert first == {"scene_id": "a", **{name: record[name] for name in DIMENSIONS}}
    assert second == first | {"scene_id": "b", "crowd": None, "category": None}


VALID = pl.DataFrame(
    [("season", "winter", "weather", "snow"), ("season", "winter", "weather", "rain")],
    schema=["first", "first_value", "second", "second_value"],
    orient="row",
)


def values(**some):
    return pl.DataFrame(
        {name: [some.get(name)] for name in DIMENSIONS},
        schema_overrides=dict.fromkeys(DIMENSIONS, pl.String),
    )


@pytest.mark.parametrize(
    ("shown", "covered"),
    [
        (values(season="winter", weather="snow"), 1),
        (values(season="summer", weather="snow"), 0),  # not valid, so it covers nothing
        (values(season="winter"), 0),
    ],
)
def test_a_pair_is_covered_by_a_scene_that_has_both_values(shown, covered):
    twice = pl.concat([shown, shown])
    (row,) = pair_coverage(VALID, twice).iter_rows()
    assert row == ("season", "weather", 2, covered, covered / 2)
    assert ("season", "weather") in PAIRS
