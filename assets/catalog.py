"""Where rows enter the logs, each at its city's home; with one site, the Lance table made from them too."""

import dagster as dg
import polars as pl

from assets.partitions import every_city_of_the_wave, waves
from resources.clip_index import ClipIndex
from resources.clip_tables import read_wave_clips
from resources.federated_log import FederatedLog
from resources.site_catalog import project_wave, wave_index_rows
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import read, read_all
from worldloop import layout
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
    context: dg.AssetExecutionContext, store: SiteStore, site_log: SiteLog, clip_index: ClipIndex
) -> dg.MaterializeResult[None]:
    """One wave's rows in the logs, and its clips in the Lance table of this site.

    Appending again adds nothing; the Lance table can be thrown away and rebuilt from the logs
    (`worldloop rebuild`). When cities are at home at several sites, their captions and vectors must
    not come together here: then each site's own catalog asset indexes its clips. Formats:
    docs/formats.md#logs and #clip-index.
    """
    wave = context.partition_key

    def of_wave(table: Table, folder: str) -> pl.DataFrame:
        return read_all(store, table, f"{folder}/{wave}")

    counts = project_wave(
        site_log=site_log,
        index=None if isinstance(site_log, FederatedLog) else clip_index,
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
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": counts["indexed"],
            "new_log_rows": sum(n for kind, n in counts.items() if kind != "indexed"),
            "log_position": site_log.position(),
            "index_rows": clip_index.count(),
            "location": dg.MetadataValue.path(f"{store.url}/{layout.LOGS}"),
        }
    )


@dg.asset_check(asset=catalog, blocking=True, partitions_def=waves)
def the_index_holds_what_the_logs_say(
    context: dg.AssetCheckExecutionContext, site_log: SiteLog, clip_index: ClipIndex
) -> dg.AssetCheckResult:
    """The wave has as many rows in the Lance table as the logs give.

    With cities at several sites there is nothing to compare here: `nothing_is_missing` of each site does.
    """
    if isinstance(site_log, FederatedLog):
        return dg.AssetCheckResult(passed=True, metadata={"indexed_by": "the catalog of each site"})
    wave = context.partition_key
    expected = wave_index_rows(site_log, [wave]).height
    found = clip_index.count(f"wave = '{wave}'")
    return dg.AssetCheckResult(
        passed=found == expected, metadata={"in_index": found, "in_logs": expected}
    )
