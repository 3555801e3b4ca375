"""Catalogs of three sites, of which one is really stopped: what the others do, how it catches up.

S3 with Glue as the Iceberg catalog and Azure Blob Storage, at emulators, through the assets and sensors.
"""

import json

import dagster as dg
import polars as pl
import pytest

from assets.site_catalogs import asset_name
from resources.alerts import Alerts
from tests import rows
from tests.conftest import House
from tests.emulators.clouds import running, sites_file
from tests.emulators.fixtures import skip_without_azurite
from tests.resources.federated_sites import footage

HERE = '[sites.local]\ncities = []\nstore = "site"\n'
GLUE = '\niceberg = { kind = "glue", namespace = "stopped_site" }\n'
TOLD: list[str] = []


class Told(Alerts):
    """Keeps what it is told."""

    def send(self, title, **facts):
        TOLD.append(title)
        return True


@pytest.fixture
def azure(tmp_path):
    """One that the test may stop."""
    skip_without_azurite()
    with running("azure", tmp_path / "azurite") as emulator:
        yield emulator


@pytest.fixture
def house(tmp_path, aws_emulator, azure, monkeypatch):
    """The coordinator in a folder, `aws` with lima and Glue, `azure` with dakar."""
    monkeypatch.setattr("assets.site_catalogs.RETRIES", dg.RetryPolicy(max_retries=0))
    monkeypatch.setattr("sensors.uneven_catalogs.retry_at", lambda ended_at, _: ended_at)
    aws, TOLD[:] = at_home(aws_emulator.fresh_site(), "aws", "lima"), []
    parts = [HERE, aws, GLUE, at_home(azure, "azure", "dakar")]
    (tmp_path / "sites.toml").write_text("".join(parts))
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path, instance)
        everything = house.resources["catalogs"].federation
        house.resources["store"] = everything.federated_store()
        house.resources["site_log"] = everything.federated_log()
        yield house


def at_home(emulator, site, city):
    """A site of one city, whose client gives up soon."""
    text = sites_file(emulator, site=site).replace('["*"]', f'["{city}"]')
    return text.replace('client_max_retries = "4"', 'client_max_retries = "1"')


def film(house, wave, city):
    """A wave of one city enters the logs of its home, as the assets `catalog` and `release` do it."""
    store, log = house.resources["store"], house.resources["site_log"]
    clips, pack = footage(wave, city, 3)
    store.put(clips["pack_key"][0], pack)
    log.append("clips", clips)
    lineage = rows.lineage(range(3), wave=wave, city=city)
    log.append("lineage", lineage.with_columns(pack_key=pl.lit(clips["pack_key"][0])))
    for asset in ("catalog", "release"):
        house.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=wave))


def catalogs_run(house, names=("aws", "azure")):
    """A run of sites' catalogs, and what its failures say by step."""
    wanted = [dg.AssetKey(asset_name(name)) for name in names]
    job = house.definitions().resolve_job_def("catalogs_job")
    result = job.execute_in_process(
        instance=house.instance, raise_on_error=False, asset_selection=wanted
    )
    return result, {
        event.step_key: event.step_failure_data.error.to_string()
        for event in result.get_step_failure_events()
    }


def facts_of(house, site):
    event = house.instance.get_latest_materialization_event(dg.AssetKey(asset_name(site)))
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def tick(house, name, cursor=None):
    resources = {"catalogs": house.resources["catalogs"]}
    if name == "late_catalogs":
        resources["alerts"] = Told()
    sensor = house.definitions().resolve_sensor_def(name)
    with dg.build_sensor_context(
        instance=house.instance, resources=resources, cursor=cursor, sensor_name=name
    ) as context:
        return sensor(context)


@pytest.mark.cloud
def test_a_stopped_site_holds_up_no_other_and_catches_up_by_what_the_sensors_ask(house, azure):
    film(house, "w0001", "dakar")
    assert catalogs_run(house)[1] == {}

    azure.stop()
    film(house, "w0002", "lima")
    _, failed = catalogs_run(house)
    told = tick(house, "late_catalogs")
    silent = {one.site: one.problem for one in house.resources["catalogs"].statuses()}

    assert list(failed) == ["azure_catalog"]
    assert "Failure: azure: 'az://worldloop/site" in failed["azure_catalog"]
    assert "did not answer" in silent["azure"]
    assert silent["aws"] == ""
    assert [facts_of(house, site)["dagster/row_count"] for site in ("aws", "azure")] == [6, 3]
    assert facts_of(house, "aws")["unheard"] == "azure"

    azure.start()
    asked = tick(house, "uneven_catalogs").run_requests
    names = [request.run_key.split(":")[1] for request in asked]
    names.remove("local")  # which nobody has used so far
    result, failed = catalogs_run(house, names)
    recovered = tick(house, "late_catalogs", told.cursor)

    assert failed == {}
    assert names == ["aws", "azure"]
    assert facts_of(house, "azure")["dagster/row_count"] == 6
    assert all(one.passed for one in result.get_asset_check_evaluations())
    assert TOLD == [
        "worldloop catalogs of azure: unreachable",
        "worldloop catalogs of azure: recovered",
    ]
    assert json.loads(recovered.cursor)["open"] == {}
