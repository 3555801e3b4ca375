"""The marts location: dbt over real log files, and lineage that crosses into it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import pytest

from assets.partitions import waves
from orchestration import marts as marts_module
from orchestration.mart_inputs import run_dbt, variables
from orchestration.marts import defs, manifest_is_fresh, marts
from resources.footage import put_frame
from resources.site_catalog import log_release, project_wave, read_wave
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.coverage_counts import place_table
from worldloop.releases import compose_release

GOLDEN = Path(__file__).parents[1] / "golden" / "formats" / "v1"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# dagster-dbt 0.29.27 asks the context for what dagster 1.13.27 calls deprecated.
builds = pytest.mark.filterwarnings("ignore:AssetExecutionContext.op is:DeprecationWarning")
MARTS = (
    "atlas_coverage",
    "catalog_costs",
    "checkpoint_clips",
    "clip_outcomes",
    "cost_per_accepted_second",
    "country_coverage",
    "coverage_by_place",
    "dedup_rates",
    "guardrail_outcomes",
    "index_lag",
    "outcome_rates",
    "query_load",
    "reconciliation",
    "reject_reasons",
    "release_lineage",
    "round_participation",
    "throughput_by_wave",
    "training_lineage",
    "training_rounds",
    "twins",
    "wave_summary",
)


def build_marts():
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("marts_job").execute_in_process(
            instance=instance, run_config=QUIET
        )
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    return result, failed


def table(home, sql):
    with duckdb.connect(str(home / "marts.duckdb"), read_only=True) as db:
        return db.sql(sql).fetchall()


def fill(home):
    """Two waves: one with a reject, a duplicate and a late duplicate, one with a failure."""
    log = SiteLog(store=SiteStore(url=str(home / "sites" / "local")))
    first = rows.wave_tables(range(6), rejected=(1,), duplicates=(2,))
    second = rows.wave_tables(range(3), wave="w0002")
    second |= {
        "failures": rows.failures(range(7, 8), wave="w0002"),
        "superseded": rows.superseded(5, 0),
    }
    for wave, tables in (("w0001", first), ("w0002", second)):
        project_wave(site_log=log, **tables)
        if wave == "w0001":
            inputs = read_wave(log, wave)
            release = compose_release(
                **inputs, wave=wave, site="local", position=log.position(), atlas_hash="a"
            )
            log_release(log, release)
    _leave_an_unclaimed_batch(log)
    put_frame(log.store, layout.PLACES, place_table(load_atlas()))
    return release


def _leave_an_unclaimed_batch(log):
    """As a writer does that is killed before its claim."""
    stray = SiteLog(store=SiteStore(url=log.store.url + "-stray"))
    stray.append("lineage", rows.lineage(range(9), city="oslo"))
    ((key, _),) = (found for found in stray.store.list() if found[0].endswith(".parquet"))
    log.store.put(key.replace("/000000000001-", "/000000000003-"), stray.store.get(key))


def test_a_site_without_any_log_gives_empty_marts(tmp_path):
    dbt, folder = (
        Path(sys.executable).with_name("dbt"),
        Path(marts_module.__file__).parents[1] / "dbt",
    )
    subprocess.run(
        [dbt, "run", "--quiet", "--profiles-dir", folder, "--target-path", tmp_path / "target"],
        check=True,
        cwd=folder,
        env={**os.environ, "WORLDLOOP_HOME": str(tmp_path)},
    )

    assert {name: table(tmp_path, f"select count(*) from {name}") for name in MARTS} == {
        name: [(0,)] for name in MARTS
    }


@builds
def test_marts_count_what_the_logs_say(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path))
    release = fill(tmp_path)
    result, failed = build_marts()

    assert result.success
    assert not failed
    assert table(tmp_path, "select outcome, count(*) from clip_outcomes group by 1 order by 1") == [
        ("accepted", 6),
        ("duplicate", 2),
        ("failed", 1),
        ("rejected", 1),
    ]
    assert table(tmp_path, "select stage, reason, num_clips from reject_reasons order by 1") == [
        ("build", "nowhere to stand", 1),
        ("dedup", "duplicate: semantic", 2),
        ("signals", "too dark", 1),
    ]
    assert table(
        tmp_path,
        "select cpu_s, accepted_duration_s, cpu_s_per_accepted_s from cost_per_accepted_second",
    ) == [(18.0, 12.0, 1.5)]
    assert table(
        tmp_path,
        "select wave, num_accepted, is_released, num_released, root_hash from wave_summary order by 1",
    ) == [("w0001", 3, True, 4, release.root_hash), ("w0002", 3, False, None, None)]
    lineage = "select recipe_id, pack_key, generator from release_lineage order by clip_index"
    manifest = release.manifest.select("recipe_id", "pack_key", "generator").rows()
    assert table(tmp_path, lineage) == manifest
    assert table(tmp_path, "select num_superseded from dedup_rates where wave = 'w0001'") == [(1,)]
    place = "select num_clips, num_failed from coverage_by_place where place = 'tokyo/zoo'"
    assert table(tmp_path, place) == [(3, 1)]
    covered = table(tmp_path, "select place from coverage_by_place where num_accepted > 0")
    every = "select count(*), count(case when is_covered then 1 end) from atlas_coverage"
    assert table(tmp_path, every) == [(place_table(load_atlas()).height, len(covered))]
    peru = "select num_cities_covered, num_accepted from country_coverage where country = 'PE'"
    assert table(tmp_path, peru) == [(0, 0)]


@builds
def test_a_site_that_was_there_before_world_models_gets_their_marts_too(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path))
    log = SiteLog(store=SiteStore(url=str(tmp_path / "sites" / "local")))
    for log_name, kind in (("private", "receipts"), ("shared", "lineage")):
        batch = (GOLDEN / f"log_{kind}.parquet").read_bytes()
        digest = hashlib.sha256(batch).hexdigest()
        log.store.put(layout.batch_key(log_name, kind, 1, digest), batch)
        log.store.put(layout.claim_key(log_name, kind, 1), digest.encode())
    logs = [{"site": "local", "folder": str(tmp_path / "sites" / "local" / "logs")}]
    # no batch has the newer columns yet
    run_dbt("run", variables(home=tmp_path, logs=logs), target=tmp_path / "target")
    assert table(tmp_path, "select distinct tier from clip_outcomes") == [("sketch",)]

    where = {"wave": "w0002"}
    tables = rows.wave_tables(range(2), **where)
    ids = pl.Series([rows.generated_id(i, **where) for i in range(2)])
    twins = {name: tables[name].with_columns(recipe_id=ids) for name in ("signals", "dedup")}
    costs = rows.receipts(range(2), **where).with_columns(
        recipe_id=ids, receipt_id=ids, step=pl.lit("generate"), gpu_s=4.0, ms_per_step=20.0
    )
    tables |= {name: pl.concat([tables[name], twin]) for name, twin in twins.items()}
    tables["clips"] = pl.concat([tables["clips"], rows.generated_clips(range(2), **where)])
    tables["receipts"] = costs
    made = {
        "generations": rows.generations(range(2), **where),
        "blocked": rows.blocked(range(5, 6), **where),
    }
    project_wave(site_log=log, **tables, **made)
    result, failed = build_marts()

    assert result.success
    assert not failed
    speed = "select wave, num_clips, frames_per_gpu_s, gpu_s_per_accepted_s from throughput_by_wave"
    assert table(tmp_path, speed) == [("w0002", 2, 12.0, 2.0)]
    assert table(
        tmp_path, "select recipe_id, sketch_pack_key = pack_key from twins order by 1"
    ) == [(recipe_id, True) for recipe_id in sorted(ids)]
    assert table(tmp_path, "select reason from clip_outcomes where outcome = 'blocked'") == [
        ("blocked by blocklist: violence",)
    ]


def test_no_mart_has_the_name_of_an_asset():
    from orchestration.definitions import defs as graph

    ours = {key.to_user_string() for key in graph.resolve_asset_graph().get_all_asset_keys()}
    assert not ours & set(MARTS)


def test_lineage_runs_from_the_graphs_assets_through_staging_into_the_marts():
    graph = defs.resolve_asset_graph()
    parents = {
        node.key.to_user_string(): {key.to_user_string() for key in node.parent_keys}
        for node in graph.asset_nodes
    }

    assert parents["stg_lineage"] == {"catalog"}
    assert parents["stg_releases"] == {"release"}
    assert parents["stg_projections"] == {"local_catalog"}
    assert parents["stg_rounds"] == parents["stg_round_deltas"] == {"local_catalog"}
    assert "checkpoint_clips" in parents["training_lineage"]
    assert parents["index_lag"] == {"stg_projections"}
    assert parents["coverage_by_place"] == {"clip_outcomes"}
    assert graph.get(dg.AssetKey("clip_outcomes")).group_name == "marts"
    assert graph.get(dg.AssetKey("clip_outcomes")).description.startswith(
        "One row per planned clip"
    )


def test_the_marts_follow_a_new_catalog_even_while_another_wave_is_open():
    @dg.asset(partitions_def=waves)
    def catalog() -> None: ...

    @dg.asset(partitions_def=waves)
    def release() -> None: ...

    both = dg.Definitions(
        assets=[catalog, release, marts], resources={"dbt": dg.ResourceDefinition.none_resource()}
    )
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("wave", ["w0001", "w0002"])
        before = dg.evaluate_automation_conditions(defs=both, instance=instance)
        for key in ("catalog", "release"):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(asset_key=key, partition="w0001")
            )
        after = dg.evaluate_automation_conditions(
            defs=both, instance=instance, cursor=before.cursor
        )

    assert after.get_num_requested(dg.AssetKey("stg_lineage")) == 1
    assert after.get_num_requested(dg.AssetKey("wave_summary")) == 1


@pytest.mark.parametrize(
    ("newer", "fresh"),
    [(None, True), ("models/x.sql", False), ("macros/x.sql", False), ("dbt_project.yml", False)],
)
def test_the_manifest_is_parsed_again_only_if_a_source_is_newer(tmp_path, newer, fresh):
    assert not manifest_is_fresh(tmp_path)
    for name in ("models/x.sql", "macros/x.sql", "dbt_project.yml", "target/manifest.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.utime(path, (100, 200 if name == newer else 100))

    assert manifest_is_fresh(tmp_path) == fresh
