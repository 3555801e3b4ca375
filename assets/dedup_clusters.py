"""Dedup clusters: which clips of a wave repeat an earlier one, exactly or in meaning."""

from dataclasses import dataclass

import dagster as dg
import polars as pl

from assets.partitions import every_city_of_the_wave, waves
from resources.clip_tables import read_every_clip
from resources.federated_store import residences
from resources.federated_wave import store_of_wave
from resources.site_store import SiteStore
from resources.tables import publish, read, read_all
from worldloop import layout
from worldloop.curation.dedup import (
    CLIP_SCHEMA,
    EPSILON,
    Verdicts,
    decide,
    in_order,
    with_superseded,
)
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
    Only vectors of one model are compared, and only within a site, one site after the other: vectors
    do not leave theirs. A scene belongs to one city, so no site can repeat another's, and only the
    homes of the planned cities are asked. Format: docs/formats.md#dedup.
    """
    wave = context.partition_key
    store = store_of_wave(store, wave)
    found = [_decide(home, store, wave) for home in residences(store)]
    decisions = in_order(pl.concat(here.verdicts.decisions for here in found))
    superseded = pl.concat(here.verdicts.superseded for here in found)
    publish(store, DEDUP, layout.dedup_key(wave), decisions)
    publish(store, SUPERSEDED, layout.superseded_key(wave), superseded)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": decisions.height,
            "num_duplicates": decisions.filter(pl.col("status") == "duplicate").height,
            "num_superseded": superseded.height,
            "num_compared": sum(here.num_compared for here in found),
            "epsilon": EPSILON,
            "model_id": ", ".join(sorted({here.model_id for here in found if here.model_id})),
            "location": dg.MetadataValue.path(f"{store.url}/{layout.dedup_key(wave)}"),
        }
    )


@dg.asset_check(asset=dedup_clusters, blocking=True, partitions_def=waves)
def every_vector_is_decided(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Each clip of the wave that has a vector has exactly one decision."""
    wave = context.partition_key
    store = store_of_wave(store, wave)
    decided = set(read(store, DEDUP, layout.dedup_key(wave))["recipe_id"])
    asked = set(read_all(store, VECTORS, f"vectors/{wave}")["recipe_id"])
    return dg.AssetCheckResult(
        passed=decided == asked, metadata={"undecided": sorted(asked - decided)[:20]}
    )


@dataclass(frozen=True)
class _Decided:
    """What was decided on the clips of one site."""

    verdicts: Verdicts
    model_id: str
    num_compared: int


def _decide(home: SiteStore, store: SiteStore, wave: str) -> _Decided:
    """Decide about the clips that a site holds of a wave.

    Args:
        home: Where the site's clips and vectors are.
        store: Where the decisions on earlier waves are.
        wave: The wave.
    """
    clips = _clips_with_vectors(home)
    model_id = _model_of(clips, wave)
    comparable = clips.filter(pl.col("model_id") == model_id)
    batch = comparable.filter(pl.col("wave") == wave).select(CLIP_SCHEMA.keys())
    verdicts = decide(batch, _known(store, comparable, wave), model_id=model_id)
    return _Decided(verdicts, model_id, comparable.height)


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
