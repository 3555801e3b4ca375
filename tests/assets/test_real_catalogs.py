"""The catalogs of four folders with the real Lance and Iceberg projections, from a carried wave."""

import shutil
import traceback

import dagster as dg
import polars as pl
import pyarrow.parquet as pq
import pytest

from assets.site_catalogs import CHECKS, asset_name
from resources.catalog_repair import heal
from resources.clip_index import ClipIndex
from resources.file_seals import forget_files
from resources.iceberg_catalog import connected, warehouse_of
from resources.site_store import SiteStore
from tests.assets.stand_ins import SITES
from tests.conftest import House
from tests.emulators.faults import Faults, faulty
from tests.lake_sites import ICEBERG, LakeSite
from worldloop.errors import AccessError

FAKE = {
    "WORLDLOOP_TEST_KEY_ID": "AKIAFAKEFAKEFAKE0001",
    "WORLDLOOP_TEST_SECRET": "s3cr3t-f4k3-v4lu3",
}


@pytest.fixture(scope="module")
def followed(carried, tmp_path_factory):
    """A copy of the carried site, whose catalogs were brought up to date once."""
    root = tmp_path_factory.mktemp("followed")
    shutil.copytree(carried.root, root, dirs_exist_ok=True)
    (root / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(root / "instance")) as instance:
        house = House(root, instance)
        yield house, house.execute("catalogs_job", raises=False)


def test_a_carried_wave_stands_in_the_catalog_of_every_site_and_all_agree(followed):
    house, result = followed
    errors = [e.step_failure_data.error.to_string() for e in result.get_step_failure_events()]
    assert not errors, errors[0][-2000:]
    checks = {
        (one.asset_key.to_user_string(), one.check_name): (one.passed, one.metadata)
        for one in result.get_asset_check_evaluations()
    }
    assert len(checks) == len(SITES) * len(CHECKS)
    assert {key: facts for key, (passed, facts) in checks.items() if not passed} == {}
    for site in SITES:
        event = house.instance.get_latest_materialization_event(dg.AssetKey(asset_name(site)))
        assert event.asset_materialization.metadata["dagster/row_count"].value == 4


def test_only_the_home_of_the_clips_has_their_vectors(followed):
    house, _ = followed

    rows = {
        one.site: {p.name: p.num_rows for p in one.projections}
        for one in house.resources["catalogs"].statuses()
    }

    assert rows["local"] == {"lance": 4, "iceberg": 4}
    assert rows["aws"] == {"lance": 0, "iceberg": 4}


def test_the_night_looks_after_every_site_and_says_so(followed):
    house, _ = followed

    result = house.execute("catalog_upkeep", raises=False)

    errors = [e.step_failure_data.error.to_string() for e in result.get_step_failure_events()]
    assert not errors, errors[0][-2000:]
    event = house.instance.get_latest_materialization_event(dg.AssetKey("gcp_catalog"))
    facts = event.asset_materialization.metadata
    assert "iceberg.compacted" in facts["upkeep"].value
    assert "no backup is configured" in facts["backup"].value


def test_a_value_that_was_changed_in_place_is_found_and_the_table_is_made_anew(followed):
    """The size of the file, its name and all ids are as before: only the values tell."""
    house, _ = followed
    catalogs, store = house.resources["catalogs"], house.resources["catalogs"].federation
    table = store.store("azure").local_path("iceberg/worldloop/clips")
    (file,) = table.rglob("*.parquet")
    rows = pl.read_parquet(file)
    changed = rows.with_columns(pl.col("duration_s") + 1)
    pq.write_table(changed.to_arrow().cast(pq.read_schema(file)), file)
    forget_files(store.store("azure"), "iceberg")  # as if nobody had ever seen the file before
    assert catalogs.differences(store.view("azure")) != {}

    healed = heal(catalogs, "azure", deep=1.0)

    assert healed.num_missing > 0
    assert healed.still_missing == ()
    assert catalogs.differences(store.view("azure")) == {}


def test_no_secret_reaches_the_instance(followed, monkeypatch, capfd):
    house, _ = followed
    for name, value in FAKE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("assets.site_catalogs.RETRIES", dg.RetryPolicy(max_retries=0))
    path = house.root / "sites.toml"
    before = path.read_text()
    secrets = 'secrets = { aws_access_key_id = "env:WORLDLOOP_TEST_KEY_ID", aws_secret_access_key = "env:WORLDLOOP_TEST_SECRET" }'
    options = 'options = { aws_endpoint = "http://127.0.0.1:9", allow_http = "true", aws_region = "x", client_max_retries = "0" }'
    cloudy = f'store = "s3://bucket/site"\n{options}\n{secrets}'
    path.write_text(before.replace('store = "aws"', cloudy))
    try:
        result = house.execute("catalogs_job", raises=False)
    finally:
        path.write_text(before)

    assert {e.step_key for e in result.get_step_failure_events()} == {"aws_catalog"}
    written = b"".join(p.read_bytes() for p in house.root.rglob("*") if p.is_file())
    said = "".join(capfd.readouterr()).encode()
    for value in FAKE.values():
        assert value.encode() not in written + said


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "ExpiredToken", "InvalidAccessKeyId"])
def test_credentials_that_are_refused_are_one_error_without_them(
    tmp_path, aws_emulator, capfd, monkeypatch, code
):
    """Through the store, Lance's own client and pyiceberg's, each at a store that refuses."""
    key, secret = FAKE.values()
    body = f"<Error><Code>{code}</Code><Message>refused</Message></Error>"
    with faulty(aws_emulator.fresh_site(), Faults(refusal=(403, body))) as proxy:
        for variable, value in zip(proxy.site.environ, (key, secret), strict=True):
            monkeypatch.setenv(variable, value)
        site = cloud_site(proxy.site, tmp_path)
        index = ClipIndex.of_store(site.store)
        asks = (
            lambda: site.store.put("plans/a.json", b"1"),
            lambda: index.rows("starter", columns=["recipe_id"]),
            index.models,
            lambda: ICEBERG.rebuild(site.view),
            lambda: open_a_file(site.view),
        )
        said = [refusal_of(ask) for ask in asks]

    everything = "".join([*said, *capfd.readouterr()])
    everything += "".join(p.read_text("latin1") for p in tmp_path.rglob("*") if p.is_file())
    assert key not in everything
    assert secret not in everything


def refusal_of(ask):
    """The error with its whole chain, as a log would have it."""
    with pytest.raises(AccessError) as refused:
        ask()
    return "".join(traceback.format_exception(refused.value))


def cloud_site(at, folder):
    secrets = dict(
        zip(("aws_access_key_id", "aws_secret_access_key"), at.secrets.values(), strict=True)
    )
    store = SiteStore(
        url=at.url, options={**at.options, "client_max_retries": "0"}, secrets=secrets
    )
    return LakeSite("here", store, folder / "scratch")


def open_a_file(view):
    """What pyiceberg does first with a file."""
    with connected(view) as catalog:
        io = catalog._load_file_io({}, "")
        io.new_input(f"{warehouse_of(view).url}/clips/metadata/v1.json").open()
