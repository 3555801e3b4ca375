import json
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from orchestration.cli import main
from worldloop.atlas import atlas as atlas_module
from worldloop.atlas.atlas import load_atlas


def ask(*words: str) -> Result:
    return CliRunner().invoke(main, ["atlas", *words])


def test_a_place_is_shown_with_the_source_of_every_fact():
    answer = ask("show", "tokyo/zoo")
    assert answer.exit_code == 0
    for words in (
        "city.driving_side",
        "country-coder",
        "動物園",
        "dress:keeper",
        "generic",
        "osm:",
    ):
        assert words in answer.output


def test_facts_of_some_slots_come_as_json():
    facts = json.loads(ask("show", "cairo/museum", "--slot", "sign:", "--json").output)
    assert {fact["slot"].partition(":")[0] for fact in facts} == {"sign"}
    assert {"value", "scope", "source", "evidence"} < facts[0].keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "tokio/zoo"), "Did you mean 'tokyo'"),
        (("show", "tokyo/zooo"), "Did you mean 'zoo'"),
        (("show", "tokyo"), "<city>/<institution>"),
        (("show", "TOKYO/ZOO"), "Did you mean 'tokyo/zoo'"),
        (("show", "tokyo/zoo", "--slot", "smell"), "begins with 'smell'; they begin with city, "),
        (("show", "tokyo/zoo", "--slot", "smell", "--json"), "begins with 'smell'"),
        (("list", "towns"), "'cities', 'institutions'"),
    ],
)
def test_an_unknown_place_or_slot_is_answered_with_what_would_be_right(words, said):
    answer = ask(*words)
    assert answer.exit_code != 0
    assert said in answer.output


def test_a_slot_is_found_in_capitals_too():
    facts = json.loads(ask("show", "cairo/museum", "--slot", "Dress", "--json").output)
    assert {fact["slot"].partition(":")[0] for fact in facts} == {"dress"}


def test_every_city_is_listed_with_its_aliases():
    lines = ask("list", "cities").output.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(load_atlas().cities)
    assert next(line for line in lines if line.startswith("jerusalem ")).split()[-1] == "al_quds"


def test_every_institution_is_listed_with_what_is_sketched():
    atlas, lines = load_atlas(), ask("list", "institutions").output.splitlines()[1:]
    rows = {line.split()[0]: line.split() for line in lines}
    assert list(rows) == list(atlas.institutions)
    assert rows["zoo"][2:4] == [str(len(atlas.cities)), "yes"]
    assert rows["harbour"][3:] == ["-", "harbor,", "port"]


def test_a_sound_atlas_is_counted():
    answer = ask("check")
    assert answer.exit_code == 0, answer.output
    assert "rules hold" in answer.output


def test_a_broken_row_is_named_with_its_rule(monkeypatch):
    atlas = load_atlas()
    tokyo = replace(atlas.cities["tokyo"], driving_side="middle")
    broken = replace(atlas, cities={**atlas.cities, "tokyo": tokyo})
    monkeypatch.setattr(atlas_module, "load_atlas", lambda: broken)
    answer = ask("check")
    assert answer.exit_code == 1
    assert "row 'tokyo' has driving side 'middle'" in answer.output
    assert "[city_driving_side_is_left_or_right]" in answer.output
