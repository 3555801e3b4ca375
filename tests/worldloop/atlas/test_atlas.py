import datetime as dt
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.records import Decorum, Sign, Species
from worldloop.atlas.tables import atlas_tables
from worldloop.errors import MalformedRecordError, UnknownKeyError

ATLAS = load_atlas()
GOLDEN_KEYS = Path(__file__).parents[2] / "golden" / "city_keys.txt"


def test_the_atlas_covers_every_inhabited_continent():
    continents = {city.continent for city in ATLAS.cities.values()}
    assert continents == {"AF", "AS", "EU", "NA", "OC", "SA"}
    assert len(ATLAS.cities) >= 240
    assert len({city.country for city in ATLAS.cities.values()}) >= 150
    assert len(ATLAS.institutions) >= 30
    assert len(ATLAS.activity_rows) >= 250


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
        ("quito", "right", "es-419", "Cfb"),
    ],
)
def test_a_city_has_the_facts_of_its_place(key, side, language, climate):
    city = ATLAS.city(key)
    assert (city.driving_side, city.languages[0], city.koeppen) == (side, language, climate)


@pytest.mark.parametrize(
    ("city", "word", "text"),
    [
        ("new_york", "metro", "Subway"),
        ("los_angeles", "metro", "Metro"),
        ("london", "metro", "Underground"),
        ("toronto", "metro", "Subway"),
        ("buenos_aires", "metro", "Subte"),
        ("bogota", "lift", "Ascensor"),
        ("oslo", "metro", "T-bane"),
        ("taipei", "metro", "捷運"),
        ("hong_kong", "metro", "地鐵"),
        ("lusaka", "lift", "Lift"),
        ("honolulu", "lift", "Elevator"),
        ("madrid", "parking", "Aparcamiento"),
        ("lima", "parking", "Estacionamiento"),
        ("oslo", "exit", "Utgang"),
    ],
)
def test_a_sign_has_the_word_that_people_there_use(city, word, text):
    assert ATLAS.sign(city, word).text == text


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


def ruled(*rows):
    """The atlas with other rows for the signs of zoos."""
    return replace(ATLAS, decorum_rows=tuple(rows))


def row(scope, key, institution="zoo"):
    return Decorum(
        scope, key, institution, "sign_style", (f"{scope} {institution}",), "osm:x", "curated"
    )


def test_the_narrowest_scope_of_decorum_wins():
    scopes = {
        "world": "",
        "region": "eastern_asia",
        "country": "JP",
        "admin1": "JP.40",
        "city": "tokyo",
    }
    rows = [row(scope, key) for scope, key in scopes.items()]
    for number, scope in enumerate(scopes, start=1):
        assert ruled(*rows[:number]).decorum("tokyo", "zoo", "sign_style").scope == scope
    assert ruled(*rows).decorum("lima", "zoo", "sign_style").scope == "world"


def test_a_named_institution_beats_all_of_them_only_within_a_scope():
    found = ruled(row("world", ""), row("world", "", "*"), row("country", "JP", "*"))
    assert found.decorum("lima", "zoo", "sign_style").institution == "zoo"
    assert found.decorum("tokyo", "zoo", "sign_style").institution == "*"


def test_an_unknown_decorum_slot_lists_those_of_the_institution():
    with pytest.raises(UnknownKeyError, match="decorum slot of 'zoo'") as caught:
        ATLAS.decorum("tokyo", "zoo", "dress:nurse")
    assert {"dress:keeper", "dress:visitor", "hours", "courtesy"} <= set(caught.value.known)


def test_a_slot_of_another_institution_is_not_found_through_all_of_them():
    everywhere = Decorum(
        "world", "", "*", "dress:nurse", ("coat/trousers/none/",), "generic", "generic"
    )
    with pytest.raises(UnknownKeyError):
        ruled(everywhere).decorum("tokyo", "zoo", "dress:nurse")


def test_aliases_are_understood_wherever_a_key_is():
    city, institution = ATLAS.parse_place("al_quds/railway_station")
    assert (city.key, institution.key) == ("jerusalem", "train_station")


def test_a_harbour_needs_water():
    assert ATLAS.has("lisbon", "harbour")
    assert not ATLAS.has("madrid", "harbour")
    with pytest.raises(MalformedRecordError, match="a city at the water"):
        ATLAS.parse_place("madrid/harbour")


@pytest.mark.parametrize(
    ("city", "date", "kind"),
    [
        ("tokyo", dt.date(2026, 1, 1), ("holiday", "New Year's Day")),
        ("tokyo", dt.date(2026, 5, 16), ("weekend", "")),
        ("cairo", dt.date(2026, 5, 15), ("weekend", "")),  # a Friday
        ("paris", dt.date(2026, 5, 15), ("workday", "")),
    ],
)
def test_days_off_are_those_of_the_country(city, date, kind):
    assert ATLAS.day_kind(city, date) == kind


def test_hours_and_closing_days_of_a_narrower_scope_win():
    hours = Decorum("country", "JP", "zoo", "hours", ("09:30-17:00",), "osm:x", "curated")
    closed = replace(hours, slot="closed_on", values=("monday",))
    atlas = ruled(hours, closed)
    assert atlas.hours("tokyo", "zoo") == (9.5, 17.0)
    assert atlas.hours("lima", "zoo") == (9.0, 17.5)
    closing = [atlas.decorum(city, "zoo", "closed_on").values for city in ("tokyo", "lima")]
    assert closing == [("monday",), ("never",)]


def test_it_is_fuller_at_noon_than_at_night():
    for kind in ATLAS.institutions.values():
        levels = [int(level) for level in ATLAS.crowd_profiles[kind.crowd].levels["workday"]]
        assert 0 <= min(levels) < max(levels) <= 9
        assert levels[12] >= levels[3]


def test_species_are_those_of_climate_continent_and_kind():
    oaks = Species("oaks", "tree", "[CD]f.", ("EU",), (), "osm:x", "curated")
    lions = replace(oaks, name="lions", institutions=("zoo",), classes=".*", continents=())
    atlas = replace(ATLAS, species_rows=(oaks, lions))
    assert atlas.species("paris", "park") == (oaks,)
    assert atlas.species("paris", "library") == ()
    assert atlas.species("tokyo", "zoo") == (lions,)


def names_at(place):
    return {one.name for one in ATLAS.species(*place.split("/"))}


@pytest.mark.parametrize(
    ("place", "absent"),
    [
        ("nairobi/park", {"beeches", "larches", "spruces", "heathers"}),
        ("quito/park", {"birches", "horse chestnuts", "London planes"}),
        ("reykjavik/harbour", {"kingfishers", "egrets", "oaks", "mulberry trees"}),
        ("reykjavik/park", {"crows", "herons", "house sparrows"}),
        ("perth/park", {"noisy miners", "sulphur-crested cockatoos"}),
        ("honolulu/park", {"turkey vultures"}),
        ("london/park", {"angel's trumpets"}),
    ],
)
def test_nothing_grows_or_lives_where_everybody_knows_it_does_not(place, absent):
    assert names_at(place) & absent == set()


def test_highlands_near_the_equator_have_plants_of_a_climate_without_winter():
    assert {"jacarandas", "agapanthus clumps"} <= names_at("nairobi/park")
    assert {"beeches", "birches"} <= names_at("paris/park")


def test_every_activity_of_a_place_is_of_its_institution():
    for kind in ATLAS.institutions:
        assert len(ATLAS.activities(kind)) >= 8
        assert {one.institution for one in ATLAS.activities(kind)} == {kind}


def test_nothing_under_a_roof_is_seen_from_the_air():
    for row in ATLAS.activity_rows:
        is_aerial = {"drone", "birds_eye"} & set(
            row.cameras or ATLAS.institution(row.institution).cameras
        )
        if is_aerial and row.category in ("nature", "navigation"):
            told = " ".join((row.says, *row.beats))
            assert not re.search(r"\bglasshouse|\bindoor|through the hall", told), row.key


def test_only_the_street_is_driven_on():
    driven = {one.institution for one in ATLAS.activity_rows if one.category == "driving"}
    assert driven == {"street"}
    assert len(ATLAS.roads) >= 8
    structures = {name for road in ATLAS.roads.values() for name in road.structures}
    assert {"tunnel", "bridge", "tollbooth", "roundabout", "level crossing"} <= structures


def test_loading_reads_no_large_table():
    code = (
        "from worldloop.atlas.atlas import load_atlas; a = load_atlas(); "
        "print(any('_rows' in vars(x) for x in (a.signs, a.holidays, a.activity_rows)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_sign_is_in_the_street_language_of_the_city():
    assert ATLAS.sign("tokyo", "elephant") == Sign("elephant", "ゾウ", "ja")


def test_a_missing_sign_falls_back_to_the_next_language_and_says_so():
    city = replace(ATLAS.cities["tokyo"], languages=("tlh", "fr"))
    atlas = replace(ATLAS, cities={"tokyo": city})
    assert atlas.sign("tokyo", "zoo").language == "fr"
    atlas = replace(ATLAS, cities={"tokyo": replace(city, languages=("tlh",))})
    assert atlas.sign("tokyo", "zoo") == Sign("zoo", "Zoo", "en")


def test_an_unknown_sign_word_is_refused():
    with pytest.raises(UnknownKeyError, match="Did you mean 'pharmacy'"):
        ATLAS.sign("tokyo", "pharmacie")


def test_the_hash_covers_every_table():
    record = ATLAS.to_record()
    assert len(ATLAS.hash) == 32
    assert all(table for name, table in record.items())


def test_every_table_becomes_a_frame_with_one_row_per_record():
    tables = atlas_tables(ATLAS)
    assert tables["cities"].height == len(ATLAS.cities)
    assert tables["signs"].height == len(ATLAS.signs)
    assert tables["decorum"]["values"].list.len().min() >= 1


def test_weather_without_a_rule_is_an_error():
    with pytest.raises(MalformedRecordError, match=r"climates\.toml"):
        ATLAS.weather_weights("Cfa", "monsoon")
