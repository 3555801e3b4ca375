"""Signals: what one decode pass measures on every clip, and whether the clip is accepted."""

from dataclasses import asdict
from typing import Any

import dagster as dg
import polars as pl

from assets.partitions import city_by_wave, split_key
from resources.clip_tables import read_clips
from resources.site_store import SiteStore
from resources.tables import publish, read
from worldloop import layout
from worldloop.curation.signals import SignalPolicy, judge, measure_clip
from worldloop.errors import MalformedRecordError
from worldloop.records import SIGNALS


@dg.asset(
    group_name="curation",
    kinds={"polars", "parquet"},
    partitions_def=city_by_wave,
    deps=["rendered_clips", "cosmos_clips"],
    pool="cpu",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=2),
)
def signals(context: dg.AssetExecutionContext, store: SiteStore) -> dg.MaterializeResult[None]:
    """Motion, sharpness, exposure, hashes and cuts of every clip of one city in one wave.

    Sketches and clips of world models alike, one decode pass each. A clip that misses the policy stays in the store with its reason and
    is left out of releases; one that cannot be decoded is such a clip. Format: docs/formats.md#signals.
    """
    city, wave = split_key(context.partition_key)
    clips = read_clips(store, wave, city)
    table = pl.DataFrame(
        [_measure(store, clip) for clip in clips.iter_rows(named=True)],
        schema=dict(SIGNALS.columns),
    )
    key = layout.signals_key(wave, city)
    publish(store, SIGNALS, key, table)
    rejected = table.filter(~pl.col("accepted"))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": table.height,
            "num_rejected": rejected.height,
            "reasons": dg.MetadataValue.md(
                "\n".join(f"- {r}" for r in rejected["reason"]) or "none"
            ),
            "motion_mean_px": round(float(table["motion_mean_px"].mean() or 0.0), 2),  # type: ignore[arg-type]
            "policy_version": SignalPolicy().version,
            "location": dg.MetadataValue.path(f"{store.url}/{key}"),
        }
    )


@dg.asset_check(asset=signals, blocking=True, partitions_def=city_by_wave)
def every_clip_is_measured(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Each clip has one row, measured on the bytes that the clip's row names."""
    city, wave = split_key(context.partition_key)
    clips = read_clips(store, wave, city)
    measured = read(store, SIGNALS, layout.signals_key(wave, city))
    identity = ["recipe_id", "content_sha256"]
    missing = clips.join(measured, on=identity, how="anti")["recipe_id"].to_list()
    return dg.AssetCheckResult(
        passed=not missing and measured.height == clips.height, metadata={"missing": missing}
    )


@dg.asset_check(asset=signals, partitions_def=city_by_wave)
def most_clips_are_accepted(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """At least two thirds of the shard's clips pass the policy; a warning, not a stop."""
    city, wave = split_key(context.partition_key)
    measured = read(store, SIGNALS, layout.signals_key(wave, city))
    share = float(measured["accepted"].mean() or 0.0) if measured.height else 1.0  # type: ignore[arg-type]
    return dg.AssetCheckResult(
        passed=share >= 2 / 3,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"accepted_share": share},
    )


def _measure(store: SiteStore, clip: dict[str, Any]) -> dict[str, Any]:
    video = next(m for m in clip["members"] if m["name"].endswith(".rgb.mp4"))
    content = store.get_range(clip["pack_key"], video["offset"], video["size_bytes"])
    shard = {name: clip[name] for name in SIGNALS.columns if name in clip}
    try:
        found = measure_clip(content)
    except MalformedRecordError as error:
        return {**shard, "accepted": False, "reason": str(error)}
    accepted, reason = judge(found, num_frames=clip["num_frames"])
    return {**shard, **asdict(found), "accepted": accepted, "reason": reason}
