"""Where the marts' rows come from: logs of several sites, or the Iceberg tables of one."""

import shutil
from pathlib import Path

import duckdb
import polars as pl
import pytest

from orchestration import mart_inputs
from orchestration.mart_inputs import (
    KINDS,
    export_tables,
    fetch_remote_logs,
    log_folders,
    mart_hashes,
    run_dbt,
    table_variables,
    variables,
)
from resources.federation import Federation
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from tests.dbt.small_site import fill, projections
from tests.emulators.clouds import sites_file
from worldloop.catalog_tables import KIND_TABLES
from worldloop.errors import JobFailedError, UnreachableError
from worldloop.sites import parse_sites

SITES = {
    "sites": {
        "local": {"cities": ["*"], "store": "sites/local"},
        "azure": {"cities": ["oslo"], "store": "sites/azure"},
        "aws": {"cities": ["lima"], "store": "s3://bucket/worldloop"},
    }
}


def log_at(folder):
    return SiteLog(store=SiteStore(url=str(folder)))


def table(home, sql):
    with duckdb.connect(str(home / "marts.duckdb"), read_only=True) as marts:
        return marts.execute(sql).fetchall()


def federation(home, sites_toml):
    (home / "sites.toml").write_text(sites_toml)
    return Federation(sites_path=str(home / "sites.toml"), home=str(home))


def test_a_folder_is_read_in_place_and_a_remote_log_from_its_mirror(tmp_path):
    (tmp_path / "catalogs" / "aws" / "mirror" / "logs").mkdir(parents=True)

    assert log_folders(parse_sites(SITES), tmp_path) == [
        {"site": "local", "folder": str(tmp_path / "sites/local/logs")},
        {"site": "azure", "folder": str(tmp_path / "sites/azure/logs")},
        {"site": "aws", "folder": str(tmp_path / "catalogs/aws/mirror/logs")},
    ]


def test_without_a_mirror_the_coordinators_copy_of_the_shared_log_counts(tmp_path):
    folders = {f["site"]: f["folder"] for f in log_folders(parse_sites(SITES), tmp_path)}

    assert folders["aws"] == str(tmp_path / "sites/local/replicas/aws/logs")


def test_a_coordinator_in_a_bucket_has_no_copies_here(tmp_path):
    sites = parse_sites({"sites": {"local": {"cities": ["*"], "store": "gs://bucket"}}})

    assert log_folders(sites, tmp_path) == [
        {"site": "local", "folder": str(tmp_path / "catalogs/local/mirror/logs")}
    ]


def test_a_store_may_be_a_file_url(tmp_path):
    sites = parse_sites({"sites": {"local": {"cities": ["*"], "store": f"file://{tmp_path}/a b"}}})

    assert log_folders(sites, Path("elsewhere"))[0]["folder"] == f"{tmp_path}/a b/logs"


def test_a_site_that_does_not_answer_holds_nobody_up(tmp_path, monkeypatch):
    everything = federation(
        tmp_path,
        '[sites.local]\ncities = ["*"]\nstore = "sites/local"\n[sites.aws]\ncities = []\nstore = "s3://b/x"',
    )
    synced = []

    def sync(log, kinds=None):
        synced.append(set(kinds))
        if log.store.url.startswith("s3:"):
            raise UnreachableError("no answer")
        return 0

    monkeypatch.setattr(SiteLog, "sync", sync)
    assert fetch_remote_logs(everything) == {"aws": "no answer"}
    assert synced == [{*KINDS, "private/retractions", "shared/retractions"}] * 2


def test_the_sources_are_the_kinds_that_are_fetched():
    import yaml

    from orchestration.mart_inputs import DBT_FOLDER

    sources = yaml.safe_load((DBT_FOLDER / "models/staging/sources.yml").read_text())
    assert [t["name"] for t in sources["sources"][0]["tables"]] == list(KINDS)


@pytest.fixture(scope="module")
def three_sites(tmp_path_factory):
    """Logs of a coordinator, of a folder site, and the mirror of a remote site, with marts over them."""
    home = tmp_path_factory.mktemp("three sites")
    local, azure = log_at(home / "sites" / "local"), log_at(home / "sites" / "azure")
    mirror = log_at(home / "catalogs" / "aws" / "mirror")
    azure.append("lineage", rows.lineage(range(3), city="oslo"))
    mirror.append("lineage", rows.lineage(range(2), city="lima"))
    mirror.append("failures", rows.failures(range(5, 6), city="lima"))
    local.append("lineage", rows.lineage(range(2), city="lima"))  # stands at two sites
    local.append("duplicates", rows.dedup(range(3), city="oslo"))
    local.append("scores", rows.signals(range(3), city="oslo").select(rows_of("scores")))
    for log, site in ((azure, "azure"), (mirror, "aws")):
        log.append("projections", projections(site))
    azure.retract("lineage", [rows.ids(1, city="oslo")["recipe_id"]], reason="asked for")
    azure.retract("lineage", [rows.ids(0, city="lima")["recipe_id"]], reason="not its own")
    claim = mirror.store.local_path("logs/shared/lineage/claims/000000000002")
    claim.write_bytes(b"")  # listed, and its batch not fetched yet
    (home / "catalogs/aws/mirror/logs/private/audits/claims").mkdir(parents=True)
    (home / "catalogs/aws/mirror/logs/private/audits/claims/000000000001").write_bytes(b"")
    folders = log_folders(parse_sites(SITES), home)
    run_dbt("run", variables(home=home, logs=folders), target=home / "target")
    return home


def rows_of(kind):
    from worldloop.logs import log_kind

    return list(log_kind(kind).table.columns)


def test_rows_of_all_sites_are_there_once_and_say_whose_they_are(three_sites):
    found = "select site, city, count(*) from clip_outcomes group by all order by all"

    # of a clip that stands in two logs the site whose name comes first tells
    assert table(three_sites, found) == [("aws", "lima", 3), ("azure", "oslo", 2)]


def test_a_site_takes_back_its_own_rows_only(three_sites):
    left = {name for (name,) in table(three_sites, "select recipe_id from clip_outcomes")}

    assert rows.ids(1, city="oslo")["recipe_id"] not in left
    assert rows.ids(0, city="lima")["recipe_id"] in left


def test_what_one_site_decides_counts_for_the_clips_of_another(three_sites):
    decided = "select outcome, count(*) from clip_outcomes where city = 'oslo' group by all"

    assert table(three_sites, decided) == [("accepted", 2)]


def test_the_lag_of_every_site_has_its_rows(three_sites):
    lag = "select distinct site from index_lag order by 1"

    assert table(three_sites, lag) == [("aws",), ("azure",)]


def test_a_projection_that_was_deleted_rebuilds_with_byte_equal_marts(tmp_path, site):
    from resources.iceberg_projection import IcebergProjection

    fill(tmp_path / "sites" / "local")
    view = federation(tmp_path, '[sites.local]\ncities = ["*"]\nstore = "sites/local"').view(
        "local"
    )
    IcebergProjection().catch_up(view)
    shutil.rmtree(tmp_path / "sites" / "local" / "iceberg")
    shutil.rmtree(view.scratch, ignore_errors=True)

    IcebergProjection().rebuild(view)

    rebuilt = _marts_of_tables(view, tmp_path / "rebuilt")
    native = mart_hashes(site[0] / "marts.duckdb")  # of logs with the same rows
    assert {name for name in native if native[name] != rebuilt[name]} == {"query_load"}


@pytest.mark.cloud
@pytest.mark.slow
def test_so_does_one_that_was_deleted_from_a_bucket(tmp_path, site, emulator, monkeypatch):
    from resources.iceberg_projection import IcebergProjection

    bucket, source = emulator.fresh_site(), fill(tmp_path / "source").store
    for name, value in bucket.environ.items():
        monkeypatch.setenv(name, value)
    view = federation(tmp_path, sites_file(bucket, site="local")).view("local")
    for key, _ in source.list("logs"):
        view.store.put(key, source.get(key))
    IcebergProjection().catch_up(view)
    view.store.delete_many([key for key, _ in view.store.list("iceberg")])
    shutil.rmtree(view.scratch)

    IcebergProjection().rebuild(view)

    rebuilt = _marts_of_tables(view, tmp_path / "rebuilt")
    native = mart_hashes(site[0] / "marts.duckdb")
    assert {name for name in native if native[name] != rebuilt[name]} == {"query_load"}


def _marts_of_tables(view, home):
    """Marts over the rows of the Iceberg tables alone, in no order."""
    from resources.iceberg_projection import IcebergProjection

    frames = {t.name: IcebergProjection().read(view, t.name) for t in KIND_TABLES}
    shuffled = {n: f.sample(fraction=1.0, shuffle=True, seed=7) for n, f in frames.items()}
    export_tables(shuffled, home / "tables")
    run_dbt("run", table_variables(home=home, tables=home / "tables"), target=home / "target")
    return mart_hashes(home / "marts.duckdb")


def test_hashes_tell_marts_apart_by_value_type_and_name_but_not_by_order(tmp_path):
    def hash_of(select):
        path = tmp_path / "marts.duckdb"
        path.unlink(missing_ok=True)
        with duckdb.connect(str(path)) as marts:
            marts.execute(f"create table m as {select}")
        return mart_hashes(path)["m"]

    same = hash_of("from (values (1, 0.5::double), (2, null)) as t(a, b)")
    assert same == hash_of("from (values (2, null), (1, 0.5::double)) as t(a, b)")
    others = (
        "from (values (1, 0.5000000000000001::double), (2, null)) as t(a, b)",
        "from (values (1, 0.5::double), (2, null)) as t(a, c)",
        "from (values (1::bigint, 0.5::double), (2, null)) as t(a, b)",
        "from (values (1, 0.5::double)) as t(a, b)",
    )
    assert same not in {hash_of(other) for other in others}


def test_exported_tables_replace_those_of_before(tmp_path):
    export_tables({"old": pl.DataFrame({"a": [1]})}, tmp_path)

    export_tables({"new": pl.DataFrame({"a": [2]})}, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]


def test_what_dbt_could_not_do_is_told_in_its_words(tmp_path, monkeypatch):
    dbt = tmp_path / "dbt"
    dbt.write_text("#!/bin/sh\necho 'Compilation Error in model x'\nexit 2\n")
    dbt.chmod(0o755)
    monkeypatch.setattr(mart_inputs, "DBT", dbt)

    with pytest.raises(
        JobFailedError, match=r"dbt run ended with 2, expected 0: Compilation Error"
    ):
        run_dbt("run", {}, target=tmp_path)
