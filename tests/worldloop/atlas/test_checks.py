from dataclasses import replace

import pytest

from worldloop.atlas.atlas import Decorum, load_atlas
from worldloop.atlas.checks import atlas_problems, off_script

ATLAS = load_atlas()


def broken_sign(**changes):
    return replace(ATLAS, signs=(replace(ATLAS.signs[0], **changes), *ATLAS.signs[1:]))


def with_decorum(**changes):
    row = Decorum(
        "world", "", "zoo", "dress:keeper", ("coat/trousers/none/",), "curated", "low", ""
    )
    return replace(ATLAS, decorum_rows=(*ATLAS.decorum_rows, replace(row, **changes)))


def with_city(**changes):
    tokyo = replace(ATLAS.cities["tokyo"], **changes)
    return replace(ATLAS, cities={**ATLAS.cities, "tokyo": tokyo})


BROKEN = {
    "sources.toml does not list": broken_sign(source="hearsay"),
    "is not of script": broken_sign(text="Flughafen"),
    "no bitmap": broken_sign(text="አየር"),
    "no word of inputs": broken_sign(word="airpot"),
    "times in signs.csv": replace(ATLAS, signs=(*ATLAS.signs, ATLAS.signs[0])),
    "no English text": replace(ATLAS, words={**ATLAS.words, "embassy": "embassy"}),
    "unknown scope": with_decorum(scope="galaxy", scope_key="milky_way"),
    "names no city": with_decorum(scope="country", scope_key="XX"),
    "stands 2 times": with_decorum(),
    "a slot that its institution": with_decorum(slot="dress:nurse"),
    "that needs a source": with_decorum(scope="country", scope_key="JP", source="generic"),
    "has confidence": with_decorum(scope="country", scope_key="JP", confidence="sure"),
    "top/bottom/head/color": with_decorum(scope="country", scope_key="JP", values=("a kilt",)),
    "no world row": replace(ATLAS, decorum_rows=ATLAS.decorum_rows[:12]),
    "languages.csv lacks": with_city(languages=("tlh",)),
    "off the globe": with_city(latitude_deg=123.0),
    "lacks an endonym": with_city(endonym=""),
    "is in 2 cities": with_city(geonameid=ATLAS.cities["lima"].geonameid),
    "every inhabited continent": replace(ATLAS, cities={"tokyo": ATLAS.cities["tokyo"]}),
    "Weather rules have seasons": replace(ATLAS, weather_rules=ATLAS.weather_rules[:3]),
}


def test_the_atlas_has_no_problems():
    assert atlas_problems(ATLAS) == []


@pytest.mark.parametrize("problem", BROKEN)
def test_a_broken_atlas_is_told_what_is_wrong(problem):
    assert any(problem in found for found in atlas_problems(BROKEN[problem]))


def test_marks_and_shared_signs_belong_to_every_script():
    assert off_script("रेस्तराँ", "Deva") == ""
    assert off_script("O\u2018zbek-yo\u2019l 3", "Latn") == ""
    assert off_script("Zoo", "Cyrl") == "Zoo"
