"""Releases: the accepted clips of a wave, frozen under one root hash."""

import dagster as dg
import polars as pl

from assets.partitions import waves
from resources.clip_tables import read_wave_clips
from resources.federated_store import homes
from resources.federated_wave import log_of_wave, store_of_wave
from resources.ledger import Ledger
from resources.retractions import read_redactions
from resources.site_catalog import log_release, read_wave
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import publish, publish_record, read, read_all, read_record
from resources.wave_plans import read_plan
from resources.world_models import WorldModels
from worldloop import layout
from worldloop.records import MANIFEST, RECEIPTS
from worldloop.releases import compose_release, read_release, redact

_SITE = "local"


@dg.asset(
    group_name="release",
    kinds={"parquet", "json"},
    partitions_def=waves,
    deps=["catalog"],
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def release(
    context: dg.AssetExecutionContext,
    store: SiteStore,
    site_log: SiteLog,
    ledger: Ledger,
    world_models: WorldModels,
) -> dg.MaterializeResult[None]:
    """The frozen training set of one wave: accepted clips that repeat no other, at one log position.

    Clips that no guard looked at stay out unless the plan names them. The root hash depends on content only, so a run that was killed and resumed gives the same one.
    Running it again reads the log at the same position and changes nothing. It also settles the
    wave's budget. Format: docs/formats.md#release.
    """
    wave = context.partition_key
    site_log, store = log_of_wave(site_log, store, wave), store_of_wave(store, wave)
    plan, key = read_plan(store, wave), layout.release_key(wave)
    position = (
        read_release(read_record(store, key))["log_position"]
        if store.exists(key)
        else site_log.position()
    )
    frozen = compose_release(
        **read_wave(site_log, wave, at=position),
        wave=wave,
        site=_SITE,
        position=position,
        atlas_hash=plan.atlas_hash,
        allow_unguarded=plan.world_model is not None and plan.world_model.allow_unguarded,
    )
    publish_record(store, key, frozen.record)
    where = pl.Series("site", homes(store, frozen.manifest["pack_key"], alone=_SITE), pl.String)
    manifest = redact(frozen.manifest.with_columns(where), read_redactions(store, wave))
    publish(store, MANIFEST, layout.manifest_key(wave), manifest)
    log_release(site_log, frozen)
    receipts = read_all(store, RECEIPTS, f"receipts/{wave}")
    cpu_s, gpu_s = float(receipts["cpu_s"].sum()), float(receipts["gpu_s"].sum())
    cost_usd = world_models.cost_usd(gpu_s)
    size_bytes = float(read_wave_clips(store, wave)["size_bytes"].sum())
    ledger.settle(wave, {"cpu_s": cpu_s, "gpu_s": gpu_s, "usd": cost_usd, "bytes": size_bytes})
    made = set(frozen.manifest["city"])
    return dg.MaterializeResult(
        data_version=dg.DataVersion(frozen.root_hash),
        metadata={
            "dagster/row_count": frozen.manifest.height,
            "root_hash": frozen.root_hash,
            "duration_s": round(float(frozen.record["duration_s"]), 2),
            "num_rejected": frozen.record["num_rejected"],
            "cities_without_clips": ", ".join(c for c in plan.cities if c not in made) or "none",
            "cpu_s": round(cpu_s, 2),
            "gpu_s": round(gpu_s, 2),
            "cost_usd": round(cost_usd, 4),
            "location": dg.MetadataValue.path(f"{store.url}/{layout.RELEASES}/{wave}"),
        },
    )


@dg.asset_check(asset=release, blocking=True, partitions_def=waves)
def every_released_clip_has_its_bytes(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Each row of the manifest lies within a pack that is in the store."""
    manifest = read(store, MANIFEST, layout.manifest_key(context.partition_key))
    lost = [
        recipe_id
        for recipe_id, pack, offset, size in manifest.select(
            "recipe_id", "pack_key", "offset", "size_bytes"
        ).iter_rows()
        if not store.exists(pack) or store.size(pack) < offset + size
    ]
    return dg.AssetCheckResult(passed=not lost, metadata={"lost": lost[:20]})
