import json
import re
import xml.etree.ElementTree as ElementTree

import polars as pl
import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.coverage_counts import count_places, place_table
from worldloop.coverage_map import OUTLINES, STEPS, coverage_map, project, scale_for

ATLAS = load_atlas()
SVG = "{http://www.w3.org/2000/svg}"


def places(accepted=(), planned=()):
    schema = {"city": pl.String, "institution": pl.String}
    clips = pl.DataFrame([(city, "zoo") for city in accepted], schema=schema, orient="row")
    wanted = pl.DataFrame([(city, "zoo") for city in planned], schema=schema, orient="row")
    return count_places(ATLAS, pl.concat([clips, wanted]), clips.with_columns(accepted=True))


def draw(table, **options):
    return ElementTree.fromstring(coverage_map(ATLAS, table, title="Clips & more", **options))


def test_each_city_is_a_dot_that_tells_its_numbers_when_pointed_at():
    root = draw(places(accepted=["tokyo", "tokyo"], planned=["lima"]))
    said = [title.text for title in root.iterfind(f"{SVG}circle/{SVG}title")]
    assert len(said) == len(ATLAS.cities)
    assert "Tokyo, Japan: 2 accepted of 2 made, 2 planned" in said
    assert "Lima, Peru: 0 accepted of 0 made, 1 planned" in said


def test_dots_lie_where_their_cities_are():
    root = draw(places())
    at = {
        dot.find(f"{SVG}title").text.split(",")[0]: (float(dot.get("cx")), float(dot.get("cy")))
        for dot in root.iterfind(f"{SVG}circle")
        if dot.find(f"{SVG}title") is not None
    }
    width, height = (float(root.get(name)) for name in ("width", "height"))
    assert all(0 < x < width and 0 < y < height for x, y in at.values())
    assert at["Lima"][0] < at["London"][0] < at["Tokyo"][0]
    assert at["Oslo"][1] < at["Nairobi"][1] < at["Wellington"][1]


def test_the_title_is_escaped_and_the_numbers_stand_beneath_it():
    texts = [text.text for text in draw(places(accepted=["lima", "oslo"])).iter(f"{SVG}text")]
    assert texts[:2] == [
        "Clips & more",
        f"2 accepted clips in 2 of {len(ATLAS.cities)} cities, 2 of {len(ATLAS.countries)} countries",
    ]
    assert f"not planned yet: {len(ATLAS.cities) - 2} cities" in texts


def test_a_country_with_footage_is_painted_in_another_colour():
    none, some = (
        len(draw(places(accepted=cities)).findall(f"{SVG}path")) for cities in ((), ("lima",))
    )
    assert (none, some) == (1, 2)


def test_a_full_map_stays_small_and_is_smaller_still_without_titles():
    table = place_table(ATLAS).with_columns(
        num_planned=pl.lit(999),
        num_made=pl.lit(999),
        num_accepted=10 ** (pl.col("city").rank("dense") % 5) * (pl.col("institution") == "zoo"),
    )
    with_titles = coverage_map(ATLAS, table, title="all")
    without = coverage_map(ATLAS, table, title="all", hover=False)
    assert len(with_titles) < 120_000
    assert len(without) < 60_000
    assert "<circle" in with_titles
    assert set(re.findall(r'stroke="(#\w+)"', without)) >= set(STEPS)


def test_the_outlines_stay_within_the_globe_and_never_jump_across_it():
    baked = json.loads(OUTLINES.read_text(encoding="utf-8"))
    degrees = 180 * baked["units_per_degree"]
    for shape in baked["shapes"]:
        for ring in shape["rings"]:
            east = [sum(ring[: k + 1 : 2]) for k in range(0, len(ring), 2)]
            assert min(east) >= -degrees
            assert max(east) <= degrees
            assert max(map(abs, ring[2::2])) < degrees / 2, shape["country"]


def test_the_projection_is_symmetric_and_pulls_in_towards_the_poles():
    assert project(90, 45) == pytest.approx([-v for v in project(-90, -45)])
    assert project(180, 80)[0] < project(180, 0)[0]
    # Natural Earth's edge at the equator: 0.8707 pi; Šavrič et al., table of the projection
    assert project(180, 0) == pytest.approx((2.73538, 0), abs=1e-4)


@pytest.mark.parametrize("most", [0, 1, 4, 5, 7, 30, 444, 10_000, 3_000_000])
def test_classes_of_numbers_rise_and_fit_what_there_is(most):
    floors = scale_for(most).floors
    assert floors[0] == 1
    assert list(floors) == sorted(set(floors))
    assert len(floors) <= len(STEPS)
    assert floors[-1] <= max(most, 1)
    assert scale_for(most).colour(max(most, 1)) == STEPS[len(floors) - 1]


def test_classes_are_labelled_by_their_ranges():
    assert [label for _, label in scale_for(3).labels()] == ["1", "2", "3+"]
    assert [label for _, label in scale_for(400).labels()] == [
        "1-4",
        "5-9",
        "10-49",
        "50-99",
        "100+",
    ]
