"""Where rows enter the logs, each at its city's home; the coordinator's own Lance table follows."""

import dagster as dg
import polars as pl

from assets.partitions import every_city_of_the_wave, waves
from resources.catalog_upkeep import Catalogs
from resources.clip_index import ClipIndex
from resources.clip_tables import read_wave_clips
from resources.federated_wave import log_of_wave, store_of_wave
from resources.site_catalog import project_wave, wave_index_rows
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import read, read_all
from worldloop import layout
from worldloop.errors import LeaseHeldError
from worldloop.records import (
    BLOCKED,
    DEDUP,
    FAILURES,
    GENERATIONS,
    PROMPTS,
    RECEIPTS,
    SIGNALS,
    SUPERSEDED,
    VECTORS,
    Table,
)

_WAIT_S, _MOST_WAITS = 5.0, 15  # longer than the lease of a committer that was killed


@dg.asset(
    group_name="catalog",
    kinds={"lancedb", "parquet"},
    partitions_def=waves,
    deps=[
        "dedup_clusters",
        *(
            every_city_of_the_wave(name)
            for name in ("prompts", "rendered_clips", "cosmos_clips", "signals", "embeddings")
        ),
    ],
    pool="catalog",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def catalog(
    context: dg.AssetExecutionContext, store: SiteStore, site_log: SiteLog, catalogs: Catalogs
) -> dg.MaterializeResult[None]:
    """One wave's rows in the logs, and the clips at home here in the Lance table of this site.

    Appending again adds nothing. The Lance table follows the log under its lease, as it does in
    `local_catalog`; it can be thrown away and rebuilt (`worldloop rebuild`). Clips of cities that are
    at home elsewhere are indexed there by their own site's catalog: their captions and vectors do
    not come together here. Formats: docs/formats.md#logs and #clip-index.
    """
    wave = context.partition_key
    site_log, store = log_of_wave(site_log, store, wave), store_of_wave(store, wave)

    def of_wave(table: Table, folder: str) -> pl.DataFrame:
        return read_all(store, table, f"{folder}/{wave}")

    counts = project_wave(
        site_log=site_log,
        prompts=of_wave(PROMPTS, "prompts"),
        clips=read_wave_clips(store, wave),
        signals=of_wave(SIGNALS, "signals"),
        vectors=of_wave(VECTORS, "vectors"),
        failures=of_wave(FAILURES, "failures"),
        receipts=of_wave(RECEIPTS, "receipts"),
        generations=of_wave(GENERATIONS, "generations"),
        blocked=of_wave(BLOCKED, "blocked"),
        dedup=read(store, DEDUP, layout.dedup_key(wave)),
        superseded=read(store, SUPERSEDED, layout.superseded_key(wave)),
    )
    try:
        applied = catalogs.index_own_clips()
    except LeaseHeldError as error:  # `local_catalog` is at it, or was killed a moment ago
        context.log.info("%s", error)
        raise dg.RetryRequested(max_retries=_MOST_WAITS, seconds_to_wait=_WAIT_S) from error
    index = ClipIndex.of_store(catalogs.own_view().store)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": index.count(f"wave = '{wave}'"),
            "num_new_log_rows": sum(counts.values()),
            "log_position": site_log.position(),
            "num_index_rows": index.count(),
            "index_rebuilt": applied.rebuilt,
            "location": dg.MetadataValue.path(f"{store.url}/{layout.LOGS}"),
        }
    )


@dg.asset_check(asset=catalog, blocking=True, partitions_def=waves)
def the_index_holds_what_the_logs_say(
    context: dg.AssetCheckExecutionContext, catalogs: Catalogs
) -> dg.AssetCheckResult:
    """The wave's clips of this site stand in its Lance table as its logs give them: no more, no less.

    Clips of cities that are at home elsewhere are looked after by `nothing_is_missing` of their site.
    """
    wave, view = context.partition_key, catalogs.own_view()
    index, key = ClipIndex.of_store(view.store), ["recipe_id", "model_id", "status"]
    rows = wave_index_rows(view.log, [wave], others=view.replicas.values())
    expected = set(rows.select(key).iter_rows())
    stored = [index.rows(one, columns=key, where=f"wave = '{wave}'") for one in index.models()]
    found = {row for part in stored for row in part.select(key).iter_rows()}
    return dg.AssetCheckResult(
        passed=found == expected,
        metadata={
            "in_index": len(found),
            "in_logs": len(expected),
            "lacking": len(expected - found),
            "beyond": len(found - expected),
        },
    )
