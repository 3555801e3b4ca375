"""The clips of a shard, whoever made them: sketches and clips of world models stand in two folders."""

import numpy as np
import polars as pl

from resources.site_store import SiteStore
from resources.tables import read, read_all
from worldloop import layout
from worldloop.cosmos.promotion import DRAFT_SCHEMA
from worldloop.cosmos.tiers import SKETCH
from worldloop.curation.dedup import with_superseded
from worldloop.records import (
    CLIPS,
    DEDUP,
    GENERATIONS,
    GPU_COLUMNS,
    RECEIPTS,
    SIGNALS,
    SUPERSEDED,
    VECTORS,
)

_SKETCHES = "clips"
_FOLDERS = (_SKETCHES, layout.COSMOS_CLIPS)


def read_clips(store: SiteStore, wave: str, city: str) -> pl.DataFrame:
    """The clips of one city in one wave: sketches first, then those of a world model, if it planned one.

    Raises:
        StoreError: If the sketches' table is not there.
    """
    sketches = read(store, CLIPS, layout.clips_key(wave, city))
    key = layout.cosmos_clips_key(wave, city)
    if not store.exists(key):
        return sketches
    return pl.concat([sketches, read(store, CLIPS, key)])


def short_packs(store: SiteStore, clips: pl.DataFrame) -> list[str]:
    """Packs of clips that the store lacks, or has with less than the clips need."""
    last = pl.element().struct.field("offset") + pl.element().struct.field("size_bytes")
    ends = clips.group_by("pack_key").agg(
        pl.col("members").list.eval(last).list.max().max().alias("end")
    )
    return [key for key, end in ends.iter_rows() if not store.exists(key) or store.size(key) < end]


def read_wave_clips(store: SiteStore, wave: str) -> pl.DataFrame:
    """The clips of all cities of a wave."""
    return pl.concat([read_all(store, CLIPS, f"{folder}/{wave}") for folder in _FOLDERS])


def read_every_clip(store: SiteStore) -> pl.DataFrame:
    """The clips of all waves, with the column `tier`."""
    clips = pl.concat([read_all(store, CLIPS, folder) for folder in _FOLDERS])
    made = read_all(store, GENERATIONS, GENERATIONS.name).select("wave", "recipe_id", "tier")
    tiered = clips.join(made, on=["wave", "recipe_id"], how="left", maintain_order="left")
    return tiered.with_columns(pl.col("tier").fill_null(SKETCH))


def generated_packs(store: SiteStore) -> set[str]:
    """Keys of the packs that a world model's clips lie in; they cannot be made again bit for bit."""
    return set(read_all(store, CLIPS, layout.COSMOS_CLIPS)["pack_key"])


def read_drafts(store: SiteStore, wave: str) -> pl.DataFrame:
    """What is known of a wave's generated clips, to choose those that are rendered again.

    Returns:
        `worldloop.cosmos.promotion.DRAFT_SCHEMA`; what was not measured or compared yet is null.
    """
    decisions = with_superseded(
        read_all(store, DEDUP, "dedup"), read_all(store, SUPERSEDED, "superseded")
    )
    return (
        read_all(store, GENERATIONS, f"generations/{wave}")
        .select("wave", "index", "recipe_id", "sketch_recipe_id")
        .join(read_all(store, SIGNALS, f"signals/{wave}"), on=["wave", "recipe_id"], how="left")
        .join(decisions.select("wave", "recipe_id", "status"), on=["wave", "recipe_id"], how="left")
        .join(_sketch_cosines(store, wave), on="recipe_id", how="left")
        .select(pl.col(name).cast(dtype) for name, dtype in DRAFT_SCHEMA.items())
    )


def _sketch_cosines(store: SiteStore, wave: str) -> pl.DataFrame:
    """Cosine between each generated clip's vector and its sketch's, where both have one of one model."""
    vectors = read_all(store, VECTORS, f"vectors/{wave}").select("recipe_id", "model_id", "vector")
    pairs = (
        read_all(store, GENERATIONS, f"generations/{wave}")
        .select("recipe_id", "sketch_recipe_id")
        .join(vectors, on="recipe_id")
        .join(
            vectors.rename({"recipe_id": "sketch_recipe_id", "vector": "of_sketch"}),
            on=["sketch_recipe_id", "model_id"],
        )
        .unique("recipe_id", keep="first", maintain_order=True)
    )
    cosines = [
        float(np.dot(ours, theirs) / (np.linalg.norm(ours) * np.linalg.norm(theirs)))
        for ours, theirs in pairs.select("vector", "of_sketch").iter_rows()
    ]
    schema = {"recipe_id": pl.String, "sketch_cosine": pl.Float64}
    return pl.DataFrame({"recipe_id": pairs["recipe_id"], "sketch_cosine": cosines}, schema=schema)


def read_throughput(store: SiteStore) -> pl.DataFrame:
    """Speed and cost of generated clips, one row a wave that has any, oldest first.

    Returns:
        wave, num_clips, num_frames, duration_s, accepted_s (accepted by their signals), gpu_s, ms_per_step,
        tflops, busy_share, frames_per_gpu_s and gpu_s_per_accepted_s; null where nothing was measured.
    """
    clips = read_all(store, CLIPS, layout.COSMOS_CLIPS)
    keys = [key for key, _ in store.list("receipts") if key.endswith(".generate.parquet")]
    receipts = pl.concat([RECEIPTS.empty(), *(read(store, RECEIPTS, key) for key in keys)])
    signals = pl.concat(
        [
            SIGNALS.empty(),
            *(
                read(store, SIGNALS, key)
                for wave, city in clips.select("wave", "city").unique().iter_rows()
                if store.exists(key := layout.signals_key(wave, city))
            ),
        ]
    )
    costs = receipts.select("wave", "recipe_id", "gpu_s", *GPU_COLUMNS)
    verdicts = signals.select("wave", "recipe_id", "accepted")
    on = ["wave", "recipe_id"]
    summed = (
        clips.join(costs, on=on, how="left")
        .join(verdicts, on=on, how="left")
        .group_by("wave")
        .agg(
            pl.len().alias("num_clips"),
            pl.col("num_frames").sum(),
            pl.col("duration_s").sum(),
            pl.col("duration_s").filter(pl.col("accepted")).sum().alias("accepted_s"),
            pl.col("gpu_s").sum(),
            pl.col("ms_per_step", "tflops", "busy_share").mean(),
        )
    )
    return summed.with_columns(
        frames_per_gpu_s=_ratio("num_frames", "gpu_s"),
        gpu_s_per_accepted_s=_ratio("gpu_s", "accepted_s"),
    ).sort(pl.col("wave").str.len_chars(), "wave")


def _ratio(above: str, below: str) -> pl.Expr:
    return pl.when(pl.col(below) > 0).then(pl.col(above) / pl.col(below))
