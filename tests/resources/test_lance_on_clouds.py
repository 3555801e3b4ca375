"""The Lance projection on the emulators of the three clouds."""

import pytest

from resources.clip_index import ClipIndex
from resources.federated_search import search_everywhere
from resources.federation import Federation
from resources.lance_projection import LanceProjection
from resources.lance_store import lance_options
from resources.site_store import SiteStore
from tests import rows
from tests.lance_sites import lance_site
from worldloop.errors import UnreachableError

LANCE = LanceProjection()


@pytest.fixture
def site(emulator, tmp_path):
    found = emulator.fresh_site()
    store = SiteStore(url=found.url, options=found.options, secrets=found.secrets)
    return lance_site(store, tmp_path)


def test_a_site_in_a_cloud_is_projected_searched_and_maintained(site):
    site.log_wave("w0001", rejected=(1,))
    LANCE.catch_up(site.view)
    site.log_wave("w0002", num=3)
    site.view.log.retract("clips", [rows.ids(0)["recipe_id"]], reason="a person is in it")
    assert LANCE.catch_up(site.view).num_rows == 3
    LANCE.maintain(site.view)

    assert site.stored() == site.expected()
    assert LANCE.catch_up(site.view).num_batches == 0
    where = "status = 'accepted'"
    found = site.index.search([0.1] * 8, limit=9, model_id="starter", where=where)
    assert found.height == 5


def test_a_table_that_was_deleted_in_a_cloud_is_made_again(site):
    site.log_wave()
    LANCE.catch_up(site.view)
    for key, _ in site.view.store.list(site.index.folder("starter")):
        site.view.store.delete(key)
    assert LANCE.catch_up(site.view).rebuilt
    assert site.stored() == site.expected()


def test_a_store_that_is_gone_is_said_to_be_unreachable(tmp_path):
    options = {
        "aws_endpoint": "http://127.0.0.1:9",
        "aws_region": "us-east-1",
        "allow_http": "true",
        "aws_skip_signature": "true",
        "client_max_retries": "0",
    }
    index = ClipIndex(uri="s3://nowhere/lance", options=options)
    with pytest.raises(UnreachableError, match="does not answer"):
        index.search([0.1] * 8, limit=1, model_id="starter")


def test_a_search_over_a_folder_and_a_dead_cloud_answers_with_the_folder(tmp_path):
    (tmp_path / "sites.toml").write_text(
        """
        [sites.local]
        cities = ["*"]
        store = "sites/local"
        [sites.far]
        cities = ["lima"]
        store = "s3://nowhere/site"
        [sites.far.options]
        aws_endpoint = "http://127.0.0.1:9"
        aws_region = "us-east-1"
        allow_http = "true"
        aws_skip_signature = "true"
        client_max_retries = "0"
        """
    )
    federation = Federation(sites_path=str(tmp_path / "sites.toml"), home=str(tmp_path))
    site = lance_site(federation.store("local"), tmp_path)
    site.log_wave()
    LANCE.catch_up(site.view)
    found = search_everywhere(federation, [0.1] * 8, limit=9, model_id="starter")

    assert found.rows.height == 4
    assert list(found.missing) == ["far"]
    assert "does not answer" in found.missing["far"]


def test_a_token_free_gcs_address_becomes_the_key_that_lance_understands():
    options = {"google_base_url": "http://127.0.0.1:1", "google_skip_signature": "true"}
    found = lance_options("gs://bucket/site", options, {})
    assert '"disable_oauth": true' in found["google_service_account_key"]
    assert "google_skip_signature" not in found


def test_secrets_are_fetched_when_lance_needs_them(monkeypatch):
    monkeypatch.setenv("WORLDLOOP_TEST_KEY", "hush")
    found = lance_options(
        "s3://b/site", {"aws_region": "x"}, {"aws_secret_access_key": "env:WORLDLOOP_TEST_KEY"}
    )
    assert found["aws_secret_access_key"] == "hush"
    index = ClipIndex(uri="s3://b", secrets={"aws_secret_access_key": "env:WORLDLOOP_TEST_KEY"})
    assert "hush" not in repr(index)
