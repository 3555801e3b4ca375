import gc
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from resources.registration import FabricCatalog, GlueCatalog, registration_of
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from tests.recorded_service import Asked, Reply, Service, serving
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError
from worldloop.registrations import LakeTable
from worldloop.sites import Registration, Site

OLD, NEW = "gs://b/clips/metadata/1.metadata.json", "gs://b/clips/metadata/2.metadata.json"
CLIPS = LakeTable("clips", "gs://b/clips", NEW, {"recipe_id": "string"}, 3)


def view_of(site: Site, folder: Path) -> SiteView:
    store = SiteStore(url=str(folder / "site"))
    return SiteView(site, store, SiteLog(store=store), {}, folder / "scratch")


def site_with(kind: str, **settings: str) -> Site:
    return Site("gcp", ("*",), "sites/gcp", registration=Registration(kind=kind, **settings))


# --- BigQuery, as recorded


def bigquery(pointer: str, kind: str = "ICEBERG", *, has_dataset: bool = True):
    """Answers of BigQuery's REST API (v2): datasets.get, tables.get, jobs.insert, getQueryResults."""
    done = {"status": {"state": "DONE"}, "jobReference": {"projectId": "my-project", "jobId": "j"}}

    def reply(asked: Asked) -> Reply:
        if asked.path.startswith("/token"):
            return 200, {}, {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
        if asked.verb == "GET" and "/tables/" in asked.path:
            if not pointer:
                return 404, {}, {"error": {"code": 404, "message": "Not found: Table"}}
            external = {"sourceFormat": kind, "sourceUris": [pointer], "autodetect": True}
            names = {"projectId": "my-project", "datasetId": "worldloop", "tableId": "clips"}
            return 200, {}, {"tableReference": names, "externalDataConfiguration": external}
        if asked.verb == "GET" and asked.path.split("?")[0].endswith("/datasets/worldloop"):
            if not has_dataset:
                return 404, {}, {"error": {"code": 404, "message": "Not found: Dataset"}}
            names = {"projectId": "my-project", "datasetId": "worldloop"}
            return 200, {}, {"datasetReference": names}
        if asked.verb == "POST" and asked.path.split("?")[0].endswith("/jobs"):
            return 200, {}, {**done, "configuration": asked.body["configuration"]}
        return 200, {}, {**done, "jobComplete": True, "totalRows": "0", "schema": {"fields": []}}

    return reply


def service_account(url: str) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    record = {"type": "service_account", "client_email": "a@b.c", "token_uri": f"{url}/token"}
    return json.dumps({**record, "project_id": "my-project", "private_key": key.decode()})


@pytest.fixture
def gcp() -> Iterator[Site]:
    site = site_with("bigquery", project="my-project", location="EU", connection="eu.lake")
    yield replace(site, secrets={"google_service_account_key": "env:WL_TEST_KEY"})
    with (
        warnings.catch_warnings()
    ):  # the client leaves the connection of an answer 404 to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def at_bigquery(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", service.url)
    monkeypatch.setenv("WL_TEST_KEY", service_account(service.url))


def statements(service: Service) -> list[str]:
    jobs = [a for a in service.asked if a.verb == "POST" and a.path.split("?")[0].endswith("/jobs")]
    return [job.body["configuration"]["query"]["query"] for job in jobs]


@pytest.mark.parametrize(("known", "num"), [("", 1), (OLD, 1), (NEW, 0)])
def test_bigquery_is_pointed_at_the_newest_metadata_once(known, num, gcp, tmp_path, monkeypatch):
    with serving(bigquery(known)) as service:
        at_bigquery(service, monkeypatch)
        applied = registration_of(gcp, lambda _: {"clips": CLIPS}).catch_up(view_of(gcp, tmp_path))
    said = statements(service)
    assert applied.num_batches == num
    assert [NEW in statement for statement in said] == [True] * num  # no data set is asked for


def test_a_data_set_that_is_not_there_is_made_before_its_table(gcp, tmp_path, monkeypatch):
    with serving(bigquery("", has_dataset=False)) as service:
        at_bigquery(service, monkeypatch)
        registration_of(gcp, lambda _: {"clips": CLIPS}).catch_up(view_of(gcp, tmp_path))
    first, second = statements(service)
    assert first.startswith("CREATE SCHEMA IF NOT EXISTS")
    assert NEW in second


def test_a_table_in_bigquery_that_is_not_ours_is_left_alone(gcp, tmp_path, monkeypatch):
    projection = registration_of(gcp, lambda _: {"clips": CLIPS})
    with serving(bigquery(OLD, kind="CSV")) as service:
        at_bigquery(service, monkeypatch)
        with pytest.raises(StoreError, match="no Iceberg table"):
            projection.catch_up(view_of(gcp, tmp_path))
    assert statements(service) == []


# --- OneLake, as recorded


AZURE = "abfss://lake@acct.dfs.core.windows.net/wl/iceberg/clips"
LAKE = replace(CLIPS, location=AZURE)


def onelake(kept: dict[str, dict], fail: list[Reply]):
    def reply(asked: Asked) -> Reply:
        if fail:
            return fail.pop(0)
        if asked.verb == "GET":
            name = asked.path.rsplit("/", 1)[1]
            return (200, {}, kept[name]) if name in kept else (404, {}, {"errorCode": "NotFound"})
        kept[asked.body["name"]] = asked.body
        return 201, {}, asked.body

    return reply


def fabric(url: str) -> Site:
    return site_with("fabric", project="w-1", dataset="l-1", connection="c-1", endpoint=url)


def test_onelake_gets_one_shortcut_and_keeps_it(tmp_path):
    with serving(onelake({}, [])) as service:
        site = fabric(service.url)
        projection = registration_of(site, lambda _: {"clips": LAKE})
        projection = replace(projection, native=FabricCatalog(site, token=lambda: "secret-token"))
        counts = [projection.catch_up(view_of(site, tmp_path)).num_batches for _ in range(2)]
    posts = service.paths("POST")
    assert counts == [1, 0]
    assert posts == ["/workspaces/w-1/items/l-1/shortcuts?shortcutConflictPolicy=CreateOrOverwrite"]
    assert service.asked[0].headers["Authorization"] == "Bearer secret-token"


def test_a_busy_service_is_asked_again():
    busy = [(429, {"Retry-After": "0"}, {}), (503, {"Retry-After": "0"}, {})]
    with serving(onelake({}, busy)) as service:
        native = FabricCatalog(fabric(service.url), token=lambda: "t")
        native.point(LAKE)
    assert len(service.asked) == 3


@pytest.mark.parametrize(
    ("status", "error"), [(403, AccessError), (400, StoreError), (503, UnreachableError)]
)
def test_a_refusal_is_one_clear_error_without_the_token(status, error):
    with serving(lambda _: (status, {"Retry-After": "0"}, {})) as service:
        native = FabricCatalog(fabric(service.url), token=lambda: "secret-token")
        with pytest.raises(error, match="expected") as caught:
            native.point(LAKE)
    assert "secret-token" not in str(caught.value)


# --- Glue, on its emulator


def test_glue_follows_the_newest_metadata_and_pyiceberg_finds_it(glue_site, tmp_path):
    native = GlueCatalog(glue_site)
    older = replace(CLIPS, metadata_location=OLD)
    for table in (older, CLIPS):
        native.point(table)
    assert native.pointers(["clips", "absent"]) == {"clips": NEW}
    entry = native._table("clips")
    assert entry["Parameters"]["previous_metadata_location"] == OLD


def test_a_glue_database_that_stands_needs_no_right_to_make_one(glue_site):
    native = GlueCatalog(glue_site)
    native.point(CLIPS)
    asked = []
    with native._glue() as client:
        client.meta.events.register(
            "before-call", lambda model, **_: asked.append(model.name), unique_id="test"
        )
        native._make_database(client)
    assert asked == ["GetDatabase"]


def test_a_glue_table_that_is_not_ours_is_left_alone(glue_site):
    native = GlueCatalog(glue_site)
    with native._glue() as client:
        native._make_database(client)
        client.create_table(DatabaseName="worldloop", TableInput={"Name": "clips"})
    with pytest.raises(StoreError, match="no Iceberg table"):
        native.point(CLIPS)


@pytest.fixture
def glue_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield replace(site_with("glue"), options={"aws_region": "eu-west-1"})


def test_a_kind_that_nobody_knows_is_refused():
    with pytest.raises(MalformedRecordError, match="glue, bigquery, fabric"):
        registration_of(site_with("hive"), lambda _: {})


def test_a_site_without_registration_has_none():
    assert registration_of(site_with(""), lambda _: {}) is None
