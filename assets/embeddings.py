"""Embeddings: one vector a clip, by the model that the site has chosen."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from assets.partitions import city_by_wave, split_key
from gpu_jobs.embed_clips.spec import EmbedClipsSpec
from resources.clip_tables import read_clips
from resources.embedder import Embedder
from resources.job_launcher import JobLauncher
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.tables import publish, read
from worldloop import layout
from worldloop.records import FAILURES, GPU_COLUMNS, RECEIPTS, SIGNALS, VECTORS

_SHARD = ["wave", "index", "city", "institution", "recipe_id"]


@dg.asset(
    group_name="curation",
    kinds={"torch", "parquet"},
    partitions_def=city_by_wave,
    deps=["rendered_clips", "cosmos_clips", "signals"],
    pool="cpu",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def embeddings(
    context: dg.AssetExecutionContext,
    store: SiteStore,
    staging: Staging,
    launcher: JobLauncher,
    embedder: Embedder,
) -> dg.MaterializeResult[None]:
    """Vectors of the decodable clips of one city in one wave, from eight frames each.

    The model's id stands in every row's key; captions take no part. Format: docs/formats.md#vectors.
    """
    city, wave = split_key(context.partition_key)
    clips = _decodable(store, wave, city)
    with staging.lock(wave, city, "embeddings"):
        vectors_path = staging.folder(wave, city) / "vectors.parquet"
        spec = EmbedClipsSpec(
            clips=tuple(_source(store, clip) for clip in clips.iter_rows(named=True)),
            vectors_path=str(vectors_path),
            model=embedder.name,
            revision=embedder.revision,
            batch_size=embedder.batch_size,
            device=embedder.device,
        )
        report = launcher.run(
            "embed_clips", spec, context=context, timeout_s=300.0 + 20.0 * clips.height
        )
        vectors = pl.read_parquet(vectors_path) if clips.height else VECTORS.empty()
        _publish(store, clips, vectors, report, wave=wave, city=city, run_id=context.run.run_id)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": vectors.height,
            "model_id": report["model_id"],
            "vector_width": report["width"],
            "num_failures": len(report["failures"]),
            "cpu_s": report["cpu_s"],
            "location": dg.MetadataValue.path(f"{store.url}/{layout.vectors_key(wave, city)}"),
        }
    )


@dg.asset_check(asset=embeddings, blocking=True, partitions_def=city_by_wave)
def vectors_are_unit_and_finite(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Every vector is finite and of length one, or cosines would lie."""
    city, wave = split_key(context.partition_key)
    table = read(store, VECTORS, layout.vectors_key(wave, city))
    lengths = np.array([np.linalg.norm(vector) for vector in table["vector"].to_list()])
    passed = bool(np.all(np.abs(lengths - 1) < 1e-3))
    return dg.AssetCheckResult(passed=passed, metadata={"num_vectors": table.height})


def _decodable(store: SiteStore, wave: str, city: str) -> pl.DataFrame:
    clips = read_clips(store, wave, city)
    signals = read(store, SIGNALS, layout.signals_key(wave, city))
    seen = signals.filter(pl.col("num_decoded_frames") > 0).select("recipe_id")
    return clips.join(seen, on="recipe_id", how="semi")


def _source(store: SiteStore, clip: dict[str, Any]) -> dict[str, Any]:
    video = next(m for m in clip["members"] if m["name"].endswith(".rgb.mp4"))
    return {
        "recipe_id": clip["recipe_id"],
        "path": str(store.local_path(clip["pack_key"])),
        "offset": video["offset"],
        "size_bytes": video["size_bytes"],
    }


def _publish(
    store: SiteStore,
    clips: pl.DataFrame,
    vectors: pl.DataFrame,
    report: Mapping[str, Any],
    *,
    wave: str,
    city: str,
    run_id: str,
) -> None:
    shard = clips.select(*_SHARD, "content_sha256")
    rows = shard.join(vectors.select("recipe_id", "vector"), on="recipe_id")
    rows = rows.with_columns(pl.lit(report["model_id"]).alias("model_id"))
    receipts = rows.select(_SHARD).with_columns(
        (pl.col("recipe_id") + f":embed:{run_id}").alias("receipt_id"),
        pl.lit("embed").alias("step"),
        pl.lit(run_id).alias("run_id"),
        pl.lit(platform.node()).alias("host"),
        pl.lit(datetime.now(UTC)).alias("finished_at"),
        pl.lit(report["cpu_s"] / max(1, rows.height)).alias("cpu_s"),
        pl.lit(0.0).alias("gpu_s"),
        pl.lit(None, pl.Float64).alias("peak_rss_mb"),
        pl.lit(value=False).alias("resumed"),
        pl.lit("none").alias("guardrail"),
        *(pl.lit(None, pl.Float64).alias(name) for name in GPU_COLUMNS),
    )
    failed = pl.DataFrame(list(report["failures"])) if report["failures"] else None
    failures = FAILURES.empty() if failed is None else clips.join(failed, on="recipe_id")
    failures = failures.select(list(FAILURES.columns))
    publish(store, FAILURES, layout.failures_key(wave, city, "embed"), failures)
    publish(store, RECEIPTS, layout.receipts_key(wave, city, "embed"), receipts)
    publish(store, VECTORS, layout.vectors_key(wave, city), rows)
