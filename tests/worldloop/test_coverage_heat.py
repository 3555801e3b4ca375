import itertools
import re
import xml.etree.ElementTree as ElementTree

import polars as pl

from worldloop.atlas.atlas import load_atlas
from worldloop.coverage_counts import count_places, place_table
from worldloop.coverage_heat import WAITING_CELL, coverage_heat, heat_table, ordered_cities
from worldloop.coverage_map import LAND, STEPS

ATLAS = load_atlas()
TOKYO = pl.DataFrame(
    {"city": ["tokyo"] * 3, "institution": ["zoo", "zoo", "park"], "accepted": [True, True, False]}
)
PLACES = count_places(ATLAS, TOKYO.drop("accepted"), TOKYO)
SVG = "{http://www.w3.org/2000/svg}"


def cells(svg):
    """Cells by colour, as column and row."""
    root = ElementTree.fromstring(svg)
    found = {}
    for path in root.find(f"{SVG}g"):
        runs = re.findall(r"M(\d+) (\d+)h(\d+)", path.get("d"))
        found[path.get("stroke")] = {
            (int(column) + k, int(row)) for column, row, length in runs for k in range(int(length))
        }
    return found


def test_every_place_is_one_cell_of_the_colour_of_its_clips():
    found = cells(coverage_heat(PLACES, title="All"))
    column = [row["city"] for row in ordered_cities(PLACES)].index("tokyo")
    kinds = list(ATLAS.institutions)
    assert found[STEPS[1]] == {(column, kinds.index("zoo"))}
    assert found[WAITING_CELL] == {(column, kinds.index("park"))}
    assert sum(map(len, found.values())) == PLACES.height
    assert len(found[LAND]) == PLACES.height - 2


def test_cities_of_a_continent_stand_together_and_in_it_those_of_a_region():
    cities = [(row["continent"], row["region"]) for row in ordered_cities(PLACES)]
    for values in (cities, [continent for continent, _ in cities]):
        changes = sum(a != b for a, b in itertools.pairwise(values))
        assert changes == len(set(values)) - 1


def test_a_full_picture_stays_small():
    numbers = pl.int_range(pl.len()) % 7 * 13
    table = place_table(ATLAS).with_columns(
        num_planned=numbers, num_made=numbers, num_accepted=numbers
    )
    assert len(coverage_heat(table, title="All")) < 150_000


def test_the_table_has_a_number_for_each_place_with_clips_and_none_for_what_cannot_be():
    text = heat_table(PLACES)
    (tokyo,) = [line for line in text.split("<tr>") if "<th>Tokyo</th>" in line]
    assert "<td class=s1>2" in tokyo
    assert "<td class=w>0" in tokyo
    places = re.findall(r"<td class=(\w)", text)
    assert len(places) == PLACES.height
    nowhere = len(ATLAS.cities) * len(ATLAS.institutions) - PLACES.height
    assert len(re.findall(r"<td>", text)) == nowhere > 0
