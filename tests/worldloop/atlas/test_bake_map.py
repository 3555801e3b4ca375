import json

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.bake_map import country_rings
from worldloop.atlas.csv_tables import DATA

MAP = json.loads((DATA / "world_map.json").read_text(encoding="utf-8"))
TRANSFORM = {"scale": [1.0, 1.0], "translate": [0.0, 0.0]}


def topology(arcs, geometries):
    return {
        "transform": TRANSFORM,
        "arcs": arcs,
        "objects": {"countries": {"geometries": geometries}},
    }


def country(name, arcs, **more):
    return {"type": "Polygon", "arcs": [arcs], "properties": {"name": name}, **more}


def rings(arcs, *geometries):
    return dict(country_rings(topology(arcs, geometries), {"392": "JP", "604": "PE"}))


def points(ring):
    east = [sum(ring[: k + 1 : 2]) / 10 for k in range(0, len(ring), 2)]
    north = [sum(ring[1 : k + 2 : 2]) / 10 for k in range(0, len(ring), 2)]
    return list(zip(east, north, strict=True))


def test_neighbours_share_a_piece_of_outline_which_one_of_them_walks_backwards():
    shared, left, right = (
        [[10, 0], [0, 10]],
        [[10, 10], [-10, 0], [0, -10], [10, 0]],
        [
            [10, 0],
            [10, 0],
            [0, 10],
            [-10, 0],
        ],
    )
    found = rings(
        [shared, left, right],
        country("Japan", [0, 1], id="392"),
        country("Peru", [~0, ~2], id="604"),
    )
    assert set(points(found["JP"][0])) == {(10, 0), (10, 10), (0, 10), (0, 0)}
    assert set(points(found["PE"][0])) == {(10, 0), (10, 10), (20, 10), (20, 0)}


def test_an_outline_across_the_antimeridian_is_cut_there():
    ring = [[170, 0], [-340, 0], [0, 10], [340, 0], [0, -10]]  # east of it at -170
    east, west = sorted(rings([ring], country("Fiji", [0], id="392"))["JP"])
    assert {x for x, _ in points(east)} == {-180, -170}
    assert {x for x, _ in points(west)} == {170, 180}


def test_antarctica_is_left_out_and_a_country_without_a_number_has_no_code():
    ring = [[0, 0], [10, 0], [0, 10], [-10, -10]]
    assert rings([ring], country("Antarctica", [0], id="010")) == {}
    assert list(rings([ring], country("N. Cyprus", [0]))) == [""]


@pytest.mark.parametrize("key", ["JP", "PE", "FJ", "RU", "XK"])
def test_the_committed_map_has_countries_large_and_small(key):
    assert any(shape["country"] == key for shape in MAP["shapes"])


def test_only_small_islands_and_cities_of_the_atlas_have_no_outline():
    drawn = {shape["country"] for shape in MAP["shapes"]}
    assert len(set(load_atlas().countries) - drawn) <= 10
    assert (DATA / "world_map.json").stat().st_size <= 120_000
