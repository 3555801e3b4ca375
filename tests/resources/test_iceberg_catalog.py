import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from resources.iceberg_catalog import connected, file_properties, warehouse_of
from resources.iceberg_files import SiteFileIO
from tests.lake_sites import ICEBERG, LakeSite, lake_site
from worldloop.catalog_tables import TABLES
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError
from worldloop.sites import Iceberg


def told(options, secrets):
    return file_properties(options, secrets, now=lambda: datetime(2026, 5, 14, tzinfo=UTC))


def cloud_site(emulator, tmp_path, **how):
    from resources.site_store import SiteStore

    at = emulator.fresh_site()
    store = SiteStore(url=at.url, options=at.options, secrets=at.secrets)
    return LakeSite("here", store, tmp_path / "scratch", (), Iceberg(**how))


def test_s3_and_glue_are_told_the_same_as_the_store():
    found = told({"aws_region": "eu-west-1"}, {"aws_access_key_id": "key"})
    for service in ("s3", "glue"):
        assert found[f"{service}.region"] == "eu-west-1"
        assert found[f"{service}.access-key-id"] == "key"
    assert "s3.secret-access-key" not in found


def test_azure_is_told_its_account_and_another_address():
    found = told(
        {"azure_storage_account_name": "me", "azure_endpoint": "http://here:10/me"},
        {"azure_storage_account_key": "key"},
    )
    assert (found["adls.account-name"], found["adls.account-key"]) == ("me", "key")
    assert found["adls.blob-storage-authority"] == found["adls.dfs-storage-authority"] == "here:10"
    assert found["adls.blob-storage-scheme"] == "http"


def test_gcs_without_authorisation_gets_a_token_that_does_not_end():
    account = {"gcs_base_url": "http://here:10", "disable_oauth": True}
    found = told({}, {"google_service_account_key": json.dumps(account)})
    assert found["gcs.service.host"] == "http://here:10"
    assert int(found["gcs.oauth2.token-expires-at"]) > datetime.now(UTC).timestamp() * 1000


def test_a_path_with_the_account_in_it_is_read_by_its_container():
    found = SiteFileIO.parse_location("abfss://box@me.dfs.core.windows.net/site/iceberg/x.avro")
    assert found == ("abfss", "box", "box/site/iceberg/x.avro")


@pytest.mark.parametrize(
    ("asked", "words"), [(Iceberg(kind="hive"), "sql, glue or rest"), (Iceberg(kind="rest"), "uri")]
)
def test_a_catalog_that_cannot_be_is_told_of(tmp_path, asked, words):
    site = lake_site(tmp_path)
    site.iceberg = asked
    with pytest.raises(MalformedRecordError, match=words), connected(site.view):
        pass


def test_the_files_may_lie_elsewhere(tmp_path):
    site = lake_site(tmp_path)
    site.iceberg = Iceberg(warehouse=str(tmp_path / "elsewhere"), namespace="films")
    site.film()
    ICEBERG.catch_up(site.view)

    assert warehouse_of(site.view).store.list("films/clips/data")
    assert site.store.list("iceberg") == []
    assert ICEBERG.read(site.view).height == 4


def test_a_database_of_another_kind_is_reached_by_its_address(tmp_path):
    site = lake_site(tmp_path)
    site.iceberg = Iceberg(uri=f"sqlite:///{tmp_path / 'shared.db'}")
    site.film()
    ICEBERG.catch_up(site.view)
    assert not (site.scratch / "iceberg.sqlite").exists()
    assert ICEBERG.read(site.view).height == 4


def test_a_database_that_cannot_be_opened_is_told_of(tmp_path):
    site = lake_site(tmp_path)
    site.iceberg = Iceberg(uri=f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}")
    with pytest.raises(StoreError, match="iceberg"):
        ICEBERG.catch_up(site.view)


def test_a_whole_life_on_each_cloud(emulator, tmp_path):
    site = cloud_site(emulator, tmp_path)
    recipes = site.film(rejected=(1,))
    site.release(num=1)
    ICEBERG.catch_up(site.view)
    site.film("w0002")
    site.log.retract("lineage", recipes[:1], reason="asked for")
    ICEBERG.catch_up(site.view)
    before = ICEBERG.content_hash(site.view)
    counts = replace(ICEBERG, many_files=2).maintain(site.view)
    for found in site.store.list("iceberg/worldloop/clips/metadata"):
        site.store.delete(found[0])

    assert counts["compacted"] == 2 * 4
    assert ICEBERG.catch_up(site.view).rebuilt
    assert ICEBERG.disagreements(site.view) == {}
    assert ICEBERG.content_hash(site.view) == before


def test_glue_lists_the_tables_and_a_lost_entry_comes_back(aws_emulator, tmp_path):
    site = cloud_site(aws_emulator, tmp_path, kind="glue", namespace="films")
    site.film()
    ICEBERG.catch_up(site.view)
    with connected(site.view) as catalog:
        listed = {name for _, name in catalog.list_tables("films")}
        catalog.drop_table(("films", "lineage"))
    site.film("w0002")
    ICEBERG.catch_up(site.view)

    assert listed == set(TABLES)
    assert ICEBERG.read(site.view, "lineage").height == 8
    assert ICEBERG.disagreements(site.view) == {}


def test_a_table_of_glue_that_is_no_iceberg_table_is_left_alone(aws_emulator, tmp_path):
    site = cloud_site(aws_emulator, tmp_path, kind="glue", namespace="taken")
    with connected(site.view) as catalog:
        catalog.create_namespace("taken")
        catalog.glue.create_table(DatabaseName="taken", TableInput={"Name": "lineage"})
    with pytest.raises(MalformedRecordError, match="It is left as it is"):
        ICEBERG.catch_up(site.view)


def test_glue_that_is_away_is_unreachable_and_catches_up_on_return(aws_emulator, tmp_path):
    site = cloud_site(aws_emulator, tmp_path, kind="glue", namespace="away")
    site.film()
    site.iceberg = replace(site.iceberg, options={"glue.endpoint": "http://127.0.0.1:9"})
    with pytest.raises(UnreachableError, match="goes on by itself"):
        ICEBERG.catch_up(site.view)
    site.iceberg = replace(site.iceberg, options={})
    assert ICEBERG.catch_up(site.view).num_batches == 5


@pytest.mark.cloud
def test_azure_with_a_wrong_key_refuses_us(azure_emulator, tmp_path, monkeypatch):
    site = cloud_site(azure_emulator, tmp_path)
    ICEBERG.catch_up(site.view)
    monkeypatch.setenv("WRONG_KEY", "AAAA")
    secrets = {**site.store.secrets, "azure_storage_account_key": "env:WRONG_KEY"}
    site.store = site.store.model_copy(update={"secrets": secrets})
    with pytest.raises(AccessError, match="secrets") as refused:
        ICEBERG.tables(site.view)
    assert "AAAA" not in str(refused.value)
