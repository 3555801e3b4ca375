"""Rows of the clip index: what search filters by and shows, made of log rows alone.

The index is a projection: this function over the logs gives all of it, so it can be thrown away.
"""

import json
from typing import Any

import polars as pl

from worldloop.cosmos.tiers import SKETCH
from worldloop.dayparts import daypart
from worldloop.records import GENERATIONS

INDEX_COLUMNS = (
    "recipe_id",
    "model_id",
    "wave",
    "index",
    "city",
    "institution",
    "weather",
    "daypart",
    "season",
    "generator",
    "status",
    "pack_key",
    "rgb_offset",
    "rgb_size_bytes",
    "poster_offset",
    "poster_size_bytes",
    "caption",
    "duration_s",
    "tier",
    "sketch_recipe_id",
    "vector",
)
_FACTS = {"weather": pl.String, "daypart": pl.String, "season": pl.String}


def index_rows(
    *,
    scenes: pl.DataFrame,
    captions: pl.DataFrame,
    clips: pl.DataFrame,
    signals: pl.DataFrame,
    decisions: pl.DataFrame,
    vectors: pl.DataFrame,
    generations: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """One row a clip and embedding model, in key order (wave, index).

    Args:
        scenes: `records.SCENES` of the clips.
        captions: `records.CAPTIONS` of the clips.
        clips: `records.CLIPS`.
        signals: `records.SIGNALS`; a clip without a row is `pending`.
        decisions: `records.DEDUP` as it stands after late arrivals.
        vectors: `records.VECTORS`; a clip without one cannot be searched and has no row.
        generations: `records.GENERATIONS`: how the clips of world models were made; the others are sketches.

    Returns:
        `INDEX_COLUMNS`; `status` is `accepted`, `rejected`, `duplicate` or `pending`.
    """
    made = generations if generations is not None else GENERATIONS.empty()
    judged = (
        clips.join(made.select("recipe_id", "tier", "sketch_recipe_id"), on="recipe_id", how="left")
        .with_columns(pl.col("tier").fill_null(SKETCH))
        .join(signals.select("recipe_id", "accepted"), on="recipe_id", how="left")
        .join(decisions.select("recipe_id", verdict="status"), on="recipe_id", how="left")
        .join(captions.select("recipe_id", "caption"), on="recipe_id", how="left")
        .join(_facts(scenes), on="scene_id", how="left")
        .join(vectors.select("recipe_id", "model_id", "vector"), on="recipe_id")
    )
    status = (
        pl.when(pl.col("accepted").is_null())
        .then(pl.lit("pending"))
        .when(~pl.col("accepted"))
        .then(pl.lit("rejected"))
        .when(pl.col("verdict").is_null())
        .then(pl.lit("pending"))
        .when(pl.col("verdict") == "duplicate")
        .then(pl.lit("duplicate"))
        .otherwise(pl.lit("accepted"))
    )
    rows = judged.with_columns(
        status.alias("status"), *_range_of("rgb"), *_range_of("poster"), vector=pl.col("vector")
    )
    return rows.select(INDEX_COLUMNS).sort("wave", "index", "recipe_id", "model_id")


def _facts(scenes: pl.DataFrame) -> pl.DataFrame:
    """Weather, part of the day and season of each scene."""
    facts = [_facts_of(json.loads(scene)) for scene in scenes["scene"]]
    return scenes.select("scene_id").hstack(pl.DataFrame(facts, schema=_FACTS))


def _facts_of(scene: dict[str, Any]) -> dict[str, str]:
    part = daypart(hour=scene["hour"], sun_elevation_deg=scene["sun_elevation_deg"])
    return {"weather": scene["weather"], "daypart": part, "season": scene["season"]}


def _range_of(member: str) -> tuple[pl.Expr, pl.Expr]:
    """Where a member lies in the pack; null in a clip that has none."""
    is_member = pl.element().struct.field("name").str.contains(f".{member}.", literal=True)
    found = pl.col("members").list.eval(pl.element().filter(is_member)).list.first()
    return (
        found.struct.field("offset").alias(f"{member}_offset"),
        found.struct.field("size_bytes").alias(f"{member}_size_bytes"),
    )
