"""A wave of two cities at two sites through the real graph: each city's footage stays at home."""

from dataclasses import dataclass

import dagster as dg
import polars as pl
import pytest

from resources.clip_index import ClipIndex
from resources.federation import Federation
from resources.retractions import read_redactions, take_back
from resources.tables import read, read_record
from tests.assets.stand_ins import unplug_store
from tests.conftest import House
from worldloop import layout
from worldloop.logs import KINDS
from worldloop.records import CLIPS, DEDUP, MANIFEST
from worldloop.releases import root_of

WAVE = "w0001"
HOMES = {"aws": "tokyo", "gcp": "lima"}
SITES = """
[sites.gcp]
cities = ["lima"]
store = "sites/gcp"
[sites.local]
cities = []
store = "sites/local"
[sites.aws]
cities = ["tokyo"]
store = "sites/aws"
"""


@dataclass
class FederatedHouse(House):
    """A coordinator and two sites in folders, driven through the same definitions."""

    def __post_init__(self) -> None:
        path = self.root / "sites.toml"
        path.write_text(SITES)
        super().__post_init__()
        self.federation = Federation(sites_path=str(path), home=str(self.root))
        self.resources["store"] = self.federation.federated_store()
        self.resources["site_log"] = self.federation.federated_log()


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    with dg.DagsterInstance.ephemeral() as instance:
        house = FederatedHouse(tmp_path_factory.mktemp("federated"), instance)
        house.plan(WAVE, ["tokyo/museum", "lima/hospital"])
        house.carry(WAVE, ["tokyo", "lima"])
        yield house


def test_the_wave_is_released_with_clips_of_both_sites(wave):
    record = read_record(wave.store, layout.release_key(WAVE))
    manifest = read(wave.store, MANIFEST, layout.manifest_key(WAVE))

    assert record["num_clips"] + record["num_rejected"] == 4
    assert set(manifest["city"]) <= {"tokyo", "lima"}
    assert wave.resources["site_log"].read("releases")["root_hash"][0] == record["root_hash"]
    assert read(wave.store, DEDUP, layout.dedup_key(WAVE)).height == 4


@pytest.mark.parametrize(("site", "city"), HOMES.items())
def test_no_pack_and_no_row_of_a_city_lies_at_another_site(wave, site, city):
    store, log = wave.federation.store(site), wave.federation.log(site)
    keys = [key for key, _ in store.list()]

    assert {layout.city_of(key) for key in keys} == {city, None}
    assert {key.split("/")[0] for key in keys if layout.city_of(key) is None} == {layout.LOGS}
    for kind in KINDS.values():
        if "city" in kind.table.columns:
            assert set(log.read(kind.name)["city"]) <= {city}
    assert log.read("vectors").height == log.read("captions").height == 2


def test_the_coordinator_has_no_clip_and_no_vector(wave):
    log, store = wave.federation.log("local"), wave.federation.store("local")

    assert not [key for key, _ in store.list() if layout.city_of(key)]
    assert all(log.read(kind).is_empty() for kind in ("clips", "captions", "vectors", "scenes"))
    assert ClipIndex.of_store(store).count() == 0
    assert log.read("releases").height == 1


def objects_of(store):
    """All but leases, of which every look takes one."""
    keys = [key for key, _ in store.list() if not key.startswith("leases/")]
    return {key: store.get(key) for key in keys}


def test_closing_the_wave_again_changes_nothing(wave):
    stores = [wave.federation.store(name) for name in wave.federation.names]
    before = [objects_of(store) for store in stores]

    wave.execute("close_job", WAVE)

    assert [objects_of(store) for store in stores] == before


def test_the_same_wave_at_one_site_has_the_same_root_hash(wave, carried):
    alone, apart = (read_record(h.store, layout.release_key(WAVE)) for h in (carried, wave))

    assert apart["root_hash"] == alone["root_hash"]
    decided = [read(h.store, DEDUP, layout.dedup_key(WAVE)) for h in (carried, wave)]
    assert decided[0].drop("similarity").equals(decided[1].drop("similarity"))


def test_every_site_is_read_as_one(wave):
    clips = wave.resources["site_log"].read("clips", waves=[WAVE])
    tables = [read(wave.store, CLIPS, layout.clips_key(WAVE, city)) for city in ("tokyo", "lima")]

    assert clips.select(list(CLIPS.columns)).equals(pl.concat(tables))
    listed = wave.store.list(f"clips/{WAVE}")
    assert [key for key, _ in listed] == sorted(layout.clips_key(WAVE, c) for c in HOMES.values())


def test_a_wave_closes_while_a_site_is_away_that_none_of_its_cities_is_at_home_at(
    tmp_path, monkeypatch
):
    with dg.DagsterInstance.ephemeral() as instance:
        house = FederatedHouse(tmp_path, instance)
        house.plan(WAVE, ["tokyo/museum"])
        unplug_store(monkeypatch, house.federation.store("gcp").url)

        house.carry(WAVE, ["tokyo"])

        event = instance.get_latest_materialization_event(dg.AssetKey("gallery"))
    assert read_record(house.store, layout.release_key(WAVE))["num_clips"] == 2
    assert event.asset_materialization.metadata["sites_left_out"].value == "gcp"


def test_after_a_clip_is_taken_back_the_release_has_the_same_root_hash(wave):  # the last test
    before = read_record(wave.store, layout.release_key(WAVE))
    gone = read(wave.store, MANIFEST, layout.manifest_key(WAVE))["recipe_id"][0]

    take_back(wave.federation, [gone], reason="a person asked for it", actor="test")
    wave.definitions().resolve_job_def("close_job").execute_in_process(
        instance=wave.instance, partition_key=WAVE, asset_selection=[dg.AssetKey("release")]
    )

    manifest = read(wave.store, MANIFEST, layout.manifest_key(WAVE))
    assert read_record(wave.store, layout.release_key(WAVE)) == before
    assert manifest.filter(pl.col("recipe_id") == gone)["caption"].to_list() == [""]
    leaves = read_redactions(wave.store, WAVE)
    assert root_of(manifest, redacted=leaves) == before["root_hash"]
    assert gone not in set(wave.resources["site_log"].read("clips")["recipe_id"])
