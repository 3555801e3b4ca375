"""Which resource serves where; emulators are started by the fixtures, never by the deployment."""

import dagster as dg
import pytest

from orchestration.deployments import cloud_clients, federation, resources
from resources.federated_store import FederatedStore
from worldloop.errors import UnknownKeyError
from worldloop.sites import parse_sites


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder and no other variable."""
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path))
    for variable in ("WORLDLOOP_SITES", "WORLDLOOP_DEPLOYMENT", "WORLDLOOP_READ_ONLY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_three_sites_are_folders_by_default_and_every_city_is_at_home_at_the_coordinator(home):
    found = federation()

    assert found.names == ["local", "aws", "gcp", "azure"]
    assert found.members == ["local"]
    assert all("://" not in found.store(name).url for name in found.names)


def test_cities_at_several_sites_make_the_store_and_the_log_those_of_all(home):
    (home / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "a"\n[sites.aws]\ncities = ["lima"]\nstore = "b"\n'
    )

    kit = resources()
    kit["store"].put("clips/w0001/lima.parquet", b"1")

    assert isinstance(kit["store"], FederatedStore)
    assert (home / "b" / "clips" / "w0001" / "lima.parquet").exists()


def test_emulated_sites_are_reached_at_the_addresses_that_are_given(
    home, monkeypatch, aws_emulator
):
    site = aws_emulator.fresh_site()
    monkeypatch.setenv("WORLDLOOP_DEPLOYMENT", "emulated")
    monkeypatch.setenv("WORLDLOOP_EMULATED_S3", site.endpoint)
    monkeypatch.setenv("WORLDLOOP_EMULATED_BUCKET", site.bucket)

    found = federation()
    found.store("aws").probe()

    assert found.store("aws").url == f"s3://{site.bucket}/aws"
    assert "://" not in found.store("gcp").url


def test_clips_are_drawn_on_a_cpu_unless_a_variable_names_another_device(home, monkeypatch):
    monkeypatch.delenv("WORLDLOOP_RENDER_DEVICE", raising=False)
    assert resources()["renderer"].device == "cpu"

    monkeypatch.setenv("WORLDLOOP_RENDER_DEVICE", "cuda:0")
    assert resources()["renderer"].device == "cuda:0"


def test_an_unknown_deployment_is_one_clear_error(home, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_DEPLOYMENT", "clowd")

    with pytest.raises(UnknownKeyError, match="Did you mean 'cloud'"):
        resources()


def test_each_cloud_that_a_site_lies_in_brings_the_resources_of_dagster():
    text = {
        "sites": {
            "local": {"cities": ["*"], "store": "a"},
            "aws": {"cities": [], "store": "s3://b/site", "options": {"aws_region": "eu-west-1"}},
            "gcp": {"cities": [], "store": "gs://b/site"},
            "azure": {
                "cities": [],
                "store": "az://b/site",
                "options": {"azure_storage_account_name": "acct"},
            },
        }
    }

    clients = cloud_clients(parse_sites(text))

    assert set(clients) == {"s3", "secretsmanager", "gcs", "bigquery", "azure_blob"}
    assert clients["s3"].region_name == "eu-west-1"
    assert cloud_clients(parse_sites({"sites": {"local": text["sites"]["local"]}})) == {}


def test_with_cities_at_several_sites_nobody_elses_vectors_come_into_the_index_here(home):
    """Rows enter each home's log; the coordinator's Lance table gets none of another site's."""
    from assets.catalog import catalog
    from resources.wave_plans import publish_plan
    from tests import rows
    from worldloop.atlas.atlas import load_atlas
    from worldloop.recipes import Shape
    from worldloop.records import DEDUP, SUPERSEDED, VECTORS, table_bytes
    from worldloop.waves import plan_wave

    (home / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "a"\n[sites.aws]\ncities = ["lima"]\nstore = "b"\n'
    )
    kit = resources()
    plan = plan_wave(
        load_atlas(),
        wave="w0001",
        places=["lima/zoo"],
        clips_per_place=2,
        seed=1,
        shape=Shape(13, 96, 54, 24, 1),
    )
    publish_plan(kit["store"], plan)
    vectors = rows.vectors(range(2), city="lima")
    kit["store"].put("vectors/w0001/lima.parquet", table_bytes(VECTORS, vectors))
    kit["store"].put("dedup/w0001.parquet", table_bytes(DEDUP, DEDUP.empty()))
    kit["store"].put("superseded/w0001.parquet", table_bytes(SUPERSEDED, SUPERSEDED.empty()))
    names = ("store", "site_log", "catalogs")

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("wave", ["w0001"])
        done = dg.materialize(
            [catalog],
            instance=instance,
            partition_key="w0001",
            resources={name: kit[name] for name in names},
        )

    assert done.success
    assert federation().log("aws").read("vectors").height == 2
    assert federation().log("local").read("vectors").is_empty()
    assert kit["clip_index"].count() == 0


def test_a_search_here_that_can_only_find_clips_elsewhere_says_how_to_ask_there(home):
    from orchestration.search import find_clips

    (home / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "a"\n[sites.aws]\ncities = ["lima"]\nstore = "b"\n'
    )

    with pytest.raises(UnknownKeyError, match="--site all"):
        find_clips("a zoo", limit=1)


def test_the_packs_of_a_wave_are_said_to_lie_at_the_homes_of_its_cities(home):
    from orchestration.cli import _pack_locations
    from resources.wave_plans import publish_plan
    from worldloop.atlas.atlas import load_atlas
    from worldloop.recipes import Shape
    from worldloop.waves import plan_wave

    (home / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "a"\n[sites.aws]\ncities = ["lima"]\nstore = "b"\n'
    )
    shape = Shape(13, 96, 54, 24, 1)
    plan = plan_wave(
        load_atlas(), wave="w0001", places=["lima/zoo"], clips_per_place=1, seed=1, shape=shape
    )
    publish_plan(resources()["store"], plan)

    assert _pack_locations("w0001") == [f"{home / 'b'}/packs/w0001"]
    assert _pack_locations("w0002") == []
