"""Throughput: how fast and how dear world models were, wave by wave."""

import dagster as dg
import polars as pl

from assets.partitions import waves
from resources.clip_tables import read_throughput
from resources.federated_wave import store_of_wave
from resources.site_store import SiteStore
from resources.world_models import WorldModels
from worldloop.plots import line_chart, readable, svg_as_markdown

_MAX_WAVES = 60  # the newest that a picture shows
_PICTURES = (
    ("ms_per_step", "ms per denoising step"),
    ("tflops", "TFLOP/s"),
    ("frames_per_gpu_s", "frames per GPU second"),
    ("usd_per_accepted_s", "USD per accepted second of footage"),
)


@dg.asset(
    group_name="release",
    kinds={"polars"},
    partitions_def=waves,
    deps=["release"],
    pool="catalog",
    code_version="1",
)
def throughput(
    context: dg.AssetExecutionContext, store: SiteStore, world_models: WorldModels
) -> dg.MaterializeResult[None]:
    """Speed and cost of the wave's generated clips, and pictures of all waves so far.

    Nothing is written: the numbers are metadata here, and rows of the mart `throughput_by_wave`. A wave without
    a world model has none.
    """
    wave = context.partition_key
    if not store_of_wave(store, wave).list(f"generations/{wave}"):
        return dg.MaterializeResult(
            metadata={"dagster/row_count": 0, "note": "The wave plans no world model."}
        )
    table = read_throughput(store).with_columns(
        usd_per_accepted_s=pl.col("gpu_s_per_accepted_s") * world_models.usd_per_gpu_hour / 3600
    )
    shown = table.tail(_MAX_WAVES)
    own = table.filter(pl.col("wave") == wave)
    facts = own.drop("wave").row(0, named=True) if own.height else {}
    pictures = [
        svg_as_markdown(
            line_chart(title, shown["wave"].to_list(), shown[name].to_list()), alt=title
        )
        for name, title in _PICTURES
    ]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": int(facts.get("num_clips") or 0),
            **{
                name: readable(v) if isinstance(v, float) else v
                for name, v in facts.items()
                if v is not None
            },
            "over_waves": dg.MetadataValue.md("\n\n".join(pictures)),
        }
    )
