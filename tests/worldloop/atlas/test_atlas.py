from pathlib import Path

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.tables import atlas_tables
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.scene import Sign

ATLAS = load_atlas()
GOLDEN_KEYS = Path(__file__).parents[2] / "golden" / "city_keys.txt"


def test_the_atlas_covers_every_inhabited_continent():
    continents = {city.continent for city in ATLAS.cities.values()}
    assert continents == {"AF", "AS", "EU", "NA", "OC", "SA"}
    assert len(ATLAS.cities) >= 44
    assert len(ATLAS.institutions) >= 10


def test_city_keys_are_append_only():
    released = GOLDEN_KEYS.read_text(encoding="utf-8").split()
    assert list(ATLAS.cities)[: len(released)] == released


@pytest.mark.parametrize(
    ("key", "side", "language", "climate"),
    [
        ("tokyo", "left", "ja", "Cfa"),
        ("mumbai", "left", "mr", "Am"),
        ("montreal", "right", "fr", "Dfb"),
        ("hong_kong", "left", "zh-Hant-HK", "Cwa"),
        ("cairo", "right", "ar", "BWh"),
        ("quito", "right", "es", "Cfb"),
    ],
)
def test_a_city_has_the_facts_of_its_place(key, side, language, climate):
    city = ATLAS.city(key)
    assert (city.driving_side, city.languages[0], city.koeppen) == (side, language, climate)


def test_a_misspelt_city_is_answered_with_a_suggestion():
    with pytest.raises(UnknownKeyError, match="Did you mean 'tokyo'"):
        ATLAS.city("tokio")


@pytest.mark.parametrize("place", ["tokyo", "tokyo/zoo/lions", ""])
def test_a_place_is_a_city_and_an_institution(place):
    with pytest.raises(MalformedRecordError, match="<city>/<institution>"):
        ATLAS.parse_place(place)


def test_an_unknown_institution_of_a_place_is_named():
    with pytest.raises(UnknownKeyError, match=r"No institution .* Did you mean 'zoo'"):
        ATLAS.parse_place("tokyo/zooo")


def test_the_narrowest_scope_of_decorum_wins():
    assert ATLAS.decorum("tokyo", "street", "facade").scope == "country"
    assert ATLAS.decorum("seoul", "street", "facade").scope == "region"
    assert ATLAS.decorum("lima", "street", "facade").scope == "world"


def test_an_unknown_decorum_slot_lists_those_of_the_institution():
    with pytest.raises(UnknownKeyError, match="decorum slot of 'zoo'") as caught:
        ATLAS.decorum("tokyo", "zoo", "dress:nurse")
    assert caught.value.known == ["dress:keeper", "dress:visitor"]


def test_a_sign_is_in_the_street_language_of_the_city():
    assert ATLAS.sign("tokyo", "elephant") == Sign("elephant", "ゾウ", "ja")


def test_a_missing_sign_falls_back_to_the_second_language_and_says_so():
    assert ATLAS.sign("almaty", "roller_coaster") == Sign(
        "roller_coaster", "Американские горки", "ru"
    )


def test_a_sign_that_no_local_language_has_is_english_and_says_so():
    assert ATLAS.sign("tehran", "carousel") == Sign("carousel", "Carousel", "en")


def test_an_unknown_sign_word_is_refused():
    with pytest.raises(UnknownKeyError, match="Did you mean 'pharmacy'"):
        ATLAS.sign("tokyo", "pharmacie")


def test_the_hash_covers_every_table():
    record = ATLAS.to_record()
    assert len(ATLAS.hash) == 32
    assert all(record[name] for name in ("cities", "institutions", "signs", "decorum", "weather"))


def test_every_table_becomes_a_frame_with_one_row_per_record():
    tables = atlas_tables(ATLAS)
    assert tables["cities"].height == len(ATLAS.cities)
    assert tables["signs"].height == len(ATLAS.signs)
    assert tables["decorum"]["values"].list.len().min() >= 1


def test_weather_without_a_rule_is_an_error():
    with pytest.raises(MalformedRecordError, match=r"climates\.toml"):
        ATLAS.weather_weights("Cfa", "monsoon")
