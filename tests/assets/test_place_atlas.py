from dataclasses import replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets import place_atlas as module
from assets.place_atlas import every_fact_of_the_atlas_holds, place_atlas
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.tables import atlas_tables
from worldloop.errors import MalformedRecordError

ATLAS = load_atlas()


def build(root: Path) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [place_atlas, every_fact_of_the_atlas_holds], resources={"store": SiteStore(url=str(root))}
    )


def test_the_atlas_is_written_under_its_hash_and_twice_the_same(tmp_path):
    assert build(tmp_path).success
    folder = tmp_path / "atlas" / ATLAS.hash
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {f"{name}.parquet" for name in atlas_tables(ATLAS)} == first.keys()
    assert pl.read_parquet(folder / "cities.parquet").height == len(ATLAS.cities)
    places = pl.read_parquet(tmp_path / layout.PLACES)
    assert ("tokyo", "zoo") in places.select("city", "institution").rows()
    build(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_a_broken_table_fails_the_build_with_row_and_rule_and_is_not_written(tmp_path, monkeypatch):
    tokyo = replace(ATLAS.cities["tokyo"], koeppen="Xyz")
    broken = replace(ATLAS, cities={**ATLAS.cities, "tokyo": tokyo})
    monkeypatch.setattr(module, "load_atlas", lambda: broken)
    with pytest.raises(MalformedRecordError, match=r"row 'tokyo' .*city_climate_is_a_koeppen"):
        build(tmp_path)
    assert not (tmp_path / "atlas").exists()


def test_the_check_says_how_many_rules_it_ran(tmp_path):
    (check,) = build(tmp_path).get_asset_check_evaluations()
    assert check.passed
    assert check.metadata["num_rules"].value >= 60
