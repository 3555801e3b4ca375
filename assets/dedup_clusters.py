"""Dedup clusters: which clips of a wave repeat an earlier one, exactly or in meaning."""

import dagster as dg
import polars as pl

from assets.partitions import every_city_of_the_wave, waves
from resources.clip_tables import read_every_clip
from resources.site_store import SiteStore
from resources.tables import publish, read, read_all
from worldloop import layout
from worldloop.curation.dedup import CLIP_SCHEMA, EPSILON, decide, with_superseded
from worldloop.records import DEDUP, SUPERSEDED, VECTORS


@dg.asset(
    group_name="curation",
    kinds={"polars", "parquet"},
    partitions_def=waves,
    deps=[every_city_of_the_wave("embeddings")],
    pool="dedup",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def dedup_clusters(
    context: dg.AssetExecutionContext, store: SiteStore
) -> dg.MaterializeResult[None]:
    """The decision on every clip of one wave: unique, or a duplicate of which.

    A clip is a duplicate if a clip of its tier before it (by wave and index) has the same bytes, the
    same scene, or a vector within epsilon; batches, restarts and the order of waves change nothing.
    Only vectors of one model are compared. Format: docs/formats.md#dedup.
    """
    wave = context.partition_key
    clips = _clips_with_vectors(store)
    model_id = _model_of(clips, wave)
    comparable = clips.filter(pl.col("model_id") == model_id)
    batch = comparable.filter(pl.col("wave") == wave).select(CLIP_SCHEMA.keys())
    verdicts = decide(batch, _known(store, comparable, wave), model_id=model_id)
    publish(store, DEDUP, layout.dedup_key(wave), verdicts.decisions)
    publish(store, SUPERSEDED, layout.superseded_key(wave), verdicts.superseded)
    duplicates = verdicts.decisions.filter(pl.col("status") == "duplicate")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": verdicts.decisions.height,
            "num_duplicates": duplicates.height,
            "num_superseded": verdicts.superseded.height,
            "num_compared": comparable.height,
            "epsilon": EPSILON,
            "model_id": model_id,
            "location": dg.MetadataValue.path(f"{store.url}/{layout.dedup_key(wave)}"),
        }
    )


@dg.asset_check(asset=dedup_clusters, blocking=True, partitions_def=waves)
def every_vector_is_decided(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Each clip of the wave that has a vector has exactly one decision."""
    wave = context.partition_key
    decided = set(read(store, DEDUP, layout.dedup_key(wave))["recipe_id"])
    asked = set(read_all(store, VECTORS, f"vectors/{wave}")["recipe_id"])
    return dg.AssetCheckResult(
        passed=decided == asked, metadata={"undecided": sorted(asked - decided)[:20]}
    )


def _clips_with_vectors(store: SiteStore) -> pl.DataFrame:
    clips = read_every_clip(store)
    vectors = read_all(store, VECTORS, "vectors").select("wave", "recipe_id", "model_id", "vector")
    return clips.join(vectors, on=["wave", "recipe_id"])


def _model_of(clips: pl.DataFrame, wave: str) -> str:
    """The model that most of the wave's vectors come from; the smallest id on a tie."""
    counts = clips.filter(pl.col("wave") == wave).group_by("model_id").len()
    ranked = counts.sort("len", "model_id", descending=[True, False])
    return str(ranked["model_id"][0]) if ranked.height else ""


def _known(store: SiteStore, clips: pl.DataFrame, wave: str) -> pl.DataFrame:
    decisions = read_all(store, DEDUP, "dedup")
    standing = with_superseded(decisions, read_all(store, SUPERSEDED, "superseded"))
    earlier = standing.filter(pl.col("wave") != wave)
    return clips.join(
        earlier.select("wave", "recipe_id", "duplicate_of"), on=["wave", "recipe_id"]
    ).select(*CLIP_SCHEMA, "duplicate_of")
