import hashlib
import json
import unicodedata
from collections import Counter
from datetime import date
from zoneinfo import available_timezones

import pytest

from worldloop.atlas import bake_cities
from worldloop.atlas.bake_cities import (
    CITIES_PER_COUNTRY,
    CITY_COLUMNS,
    MORE_CITIES,
    REGIONS,
    SUBWAYS,
)
from worldloop.atlas.bake_countries import LONGEST_NAME, cited_weekends, holiday_name
from worldloop.atlas.bake_languages import overrides
from worldloop.atlas.csv_tables import DATA, read_rows, write_rows
from worldloop.errors import MalformedRecordError

RELEASED = 250
RELEASED_KEYS = "d702575a4725ca9a15d61b236535fd538fe945fff3a17f5049e43d6615d632e7"
WANTED = read_rows(DATA / "inputs/cities.csv")
CITIES = read_rows(DATA / "cities.csv")
COUNTRIES = read_rows(DATA / "countries.csv")
HOLIDAYS = read_rows(DATA / "holidays.csv")
WEEKENDS = read_rows(DATA / "inputs/weekends.csv")
OVERRIDES = read_rows(DATA / "inputs/language_overrides.csv")
KOEPPEN_CLASSES = {  # all that have a city of 300,000, and Cfc
    *("Af", "Am", "As", "Aw", "BSh", "BSk", "BWh", "BWk"),
    *("Cfa", "Cfb", "Cfc", "Csa", "Csb", "Cwa", "Cwb"),
    *("Dfa", "Dfb", "Dfc", "Dsa", "Dsb", "Dwa", "Dwb", "Dwc", "ET"),
}
NO_HOLIDAYS = {"UA"}  # none in 2026 under martial law, says the package


def test_the_baked_cities_are_those_that_were_asked_for():
    asked = [(row["key"], row["geonameid"], row["endonym"]) for row in WANTED]
    assert [(row["key"], row["geonameid"], row["endonym"]) for row in CITIES] == asked
    assert tuple(CITIES[0]) == CITY_COLUMNS


def test_released_cities_keep_their_keys_and_their_order():
    keys = " ".join(row["key"] for row in WANTED[:RELEASED])
    assert hashlib.sha256(keys.encode()).hexdigest() == RELEASED_KEYS


def test_240_cities_stand_in_150_countries_and_three_in_each_at_most():
    per_country = Counter(row["country"] for row in CITIES)
    assert len(CITIES) >= 240
    assert len(per_country) >= 150
    assert len({row["key"] for row in CITIES}) == len({row["geonameid"] for row in CITIES})
    crowded = {country: n for country, n in per_country.items() if n > CITIES_PER_COUNTRY}
    assert crowded == MORE_CITIES


def test_every_climate_region_and_continent_that_people_live_in_has_a_city():
    assert {row["koeppen"] for row in CITIES} == KOEPPEN_CLASSES
    assert {row["region"] for row in CITIES} == set(REGIONS.values())
    assert {row["continent"] for row in CITIES} == {"AF", "AS", "EU", "NA", "OC", "SA"}


def test_the_numbers_of_a_city_are_possible():
    zones = available_timezones()
    for row in CITIES:
        assert abs(float(row["latitude_deg"])) < 70, row
        assert abs(float(row["longitude_deg"])) <= 180, row
        assert int(row["population"]) > 10_000, row
        assert row["time_zone"] in zones, row
        assert row["admin1"].startswith(row["country"] + "."), row
        assert row["driving_side"] in {"left", "right"}, row


@pytest.mark.parametrize(
    ("city", "column", "fact"),
    [
        ("hong_kong", "driving_side", "left"),
        ("macau", "languages", "zh-Hant-HK;pt-PT"),
        ("montreal", "languages", "fr;en-CA"),
        ("london", "languages", "en-GB"),
        ("new_york", "languages", "en-US"),
        ("los_angeles", "languages", "en"),
        ("lusaka", "languages", "en-001"),
        ("madrid", "languages", "es"),
        ("bogota", "languages", "es-419"),
        ("buenos_aires", "languages", "es-AR"),
        ("quito", "koeppen", "Cfb"),
        ("honolulu", "region", "pacific"),
        ("la_paz", "waterfront", "none"),
        ("manaus", "waterfront", "river"),
        ("sydney", "waterfront", "sea"),
        ("cairo", "metro", "yes"),
        ("tallinn", "metro", "none"),
    ],
)
def test_cities_that_trap_the_packages_come_out_right(city, column, fact):
    assert next(row for row in CITIES if row["key"] == city)[column] == fact


def test_an_endonym_is_written_in_the_script_of_the_first_language():
    scripts = {row["tag"]: row["script"] for row in read_rows(DATA / "languages.csv")}
    for row in CITIES:
        is_latin = unicodedata.name(row["endonym"][0]).startswith("LATIN")
        assert is_latin == (scripts[row["languages"].split(";")[0]] == "Latn"), row["key"]


def test_a_country_has_a_row_holidays_and_a_weekend():
    countries = {row["country"] for row in CITIES}
    assert [row["key"] for row in COUNTRIES] == sorted(countries)
    assert {row["country"] for row in HOLIDAYS} == countries - NO_HOLIDAYS
    for row in COUNTRIES:
        days = [int(day) for day in row["weekend"].split(";")]
        assert 1 <= len(days) <= 2, row
        assert set(days) <= set(range(7)), row
        assert row["speed_unit"] in {"km/h", "mph"}, row


@pytest.mark.parametrize(
    ("country", "weekend"),
    [
        *(("BD", "4;5"), ("BN", "4;6"), ("DJ", "4;5"), ("SA", "4;5"), ("JP", "5;6")),
        *(("NP", "5"), ("PS", "4;5"), ("SO", "4"), ("KP", "6"), ("UG", "5;6"), ("LY", "4;5")),
        *(("AE", "5;6"), ("MY", "5;6"), ("MR", "5;6"), ("IR", "4"), ("YE", "4;5")),
    ],
)
def test_people_have_their_own_days_off(country, weekend):
    assert next(row for row in COUNTRIES if row["key"] == country)["weekend"] == weekend


def test_a_weekend_that_a_page_names_is_baked_with_that_page():
    cited = {row["country"]: (row["weekend"], row["source"]) for row in WEEKENDS}
    baked = {row["key"]: (row["weekend"], row["weekend_source"]) for row in COUNTRIES}
    assert {key: baked[key] for key in cited} == cited
    assert {source for key, (_, source) in baked.items() if key not in cited} == {"weekends"}


def test_a_weekend_without_a_page_is_refused(tmp_path):
    (tmp_path / "inputs").mkdir()
    write_rows(tmp_path / "pages.csv", ("id",), [{"id": "w-somewhere"}])
    row = {"country": "FR", "weekend": "0", "source": "page:w-somewhere"}
    write_rows(tmp_path / "inputs/weekends.csv", tuple(row), [row])
    assert cited_weekends(tmp_path) == {"FR": row}
    write_rows(tmp_path / "inputs/weekends.csv", tuple(row), [{**row, "source": "hearsay"}])
    with pytest.raises(MalformedRecordError, match=r"weekends\.csv, row 2"):
        cited_weekends(tmp_path)


def test_a_holiday_is_one_day_of_2026_with_a_short_english_name():
    days = [(row["country"], row["date"]) for row in HOLIDAYS]
    assert len(set(days)) == len(days)
    for row in HOLIDAYS:
        assert date.fromisoformat(row["date"]).year == 2026, row
        assert 0 < len(row["name"]) <= LONGEST_NAME, row
        assert "(" not in row["name"], row


def test_a_long_name_of_a_holiday_is_not_said_and_an_estimate_is_marked():
    assert holiday_name("Day of the " + "Very " * 9 + "Long Name") == ("Public holiday", "holidays")
    assert holiday_name("Mawlid (estimated); May Day") == ("Mawlid", "holidays-estimated")


def test_every_choice_of_languages_has_a_source_that_exists():
    pages = {row["id"] for row in read_rows(DATA / "pages.csv")}
    scopes = {f"override:{row['scope']}:{row['scope_key']}" for row in OVERRIDES}
    assert {row["languages_source"] for row in CITIES} == scopes | {"cldr-territories"}
    cited = [row["source"] for row in OVERRIDES] + [row["waterfront_source"] for row in CITIES]
    cited += [row["metro_source"] for row in CITIES]
    assert {source.removeprefix("page:") for source in cited if source.startswith("page:")} <= pages


@pytest.mark.parametrize("source", ["name-suggestion-index:Q2", "Q1"])
def test_a_metro_whose_network_the_package_lacks_is_refused(tmp_path, monkeypatch, source):
    networks = {kind: {"items": [{"tags": {"network:wikidata": "Q1"}}]} for kind in SUBWAYS}
    index = tmp_path / "node_modules/name-suggestion-index/dist/json/nsi.json"
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps({"nsi": networks}), encoding="utf-8")
    good = [("lima", "page:m-lima"), ("rome", "name-suggestion-index:Q1")]

    def baked(*rows):
        named = [{"city": city, "source": cited} for city, cited in rows]
        monkeypatch.setattr(bake_cities, "read_rows", lambda path: named)
        return bake_cities.metro_sources(tmp_path)

    assert baked(*good) == dict(good)
    with pytest.raises(MalformedRecordError, match=r"metros\.csv, oslo"):
        baked(*good, ("oslo", source))


def test_an_override_that_cites_no_page_is_refused(tmp_path):
    row = {"scope": "country", "scope_key": "FR", "languages": "br", "source": "page:nowhere"}
    (tmp_path / "inputs").mkdir()
    write_rows(tmp_path / "inputs/language_overrides.csv", tuple(row), [row])
    write_rows(tmp_path / "pages.csv", ("id",), [])
    with pytest.raises(MalformedRecordError, match=r"language_overrides\.csv, row 2"):
        overrides(tmp_path)


def test_aliases_lead_to_cities_and_hide_none():
    keys = {row["key"] for row in CITIES}
    aliases = {
        row["alias"]: row["key"] for row in read_rows(DATA / "aliases.csv") if row["kind"] == "city"
    }
    assert set(aliases.values()) <= keys
    assert not set(aliases) & keys
    assert aliases["bombay"] == "mumbai"


def test_a_row_with_a_missing_cell_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1\n", encoding="utf-8")
    with pytest.raises(MalformedRecordError, match=r"t\.csv, row 2"):
        read_rows(tmp_path / "t.csv")


def test_tables_keep_commas_quotes_and_line_ends(tmp_path):
    rows = [{"a": 'x, "y"', "b": "ü"}]
    write_rows(tmp_path / "t.csv", ("a", "b"), rows)
    assert read_rows(tmp_path / "t.csv") == rows
    assert b"\r" not in (tmp_path / "t.csv").read_bytes()
