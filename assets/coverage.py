"""Coverage: where in the world there is footage, what it shows, and where there is none."""

import dagster as dg
import polars as pl

from assets.partitions import waves
from resources.federated_wave import store_of_wave, those_that_answer
from resources.footage import (
    put_frame,
    read_footage,
    read_scene_values,
    read_valid_pairs,
    write_scene_values,
)
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.coverage_counts import count_places, pair_coverage, summary
from worldloop.coverage_heat import coverage_heat
from worldloop.coverage_map import coverage_map
from worldloop.coverage_page import HEAT_TITLE, MAP_TITLE, coverage_page, emptiest_as_markdown
from worldloop.plots import svg_as_markdown


@dg.asset(
    group_name="release",
    kinds={"polars", "html"},
    partitions_def=waves,
    deps=["release"],
    pool="catalog",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def coverage(
    context: dg.AssetExecutionContext, store: SiteStore, site_log: SiteLog
) -> dg.MaterializeResult[None]:
    """Footage of all waves by place, drawn anew when a wave is released: map, heat table, page, numbers.

    Every place of the atlas counts, also those without a clip. Clips of a site that does not answer
    are left out until it is written again. Formats: docs/formats.md#coverage.
    """
    wave, atlas = context.partition_key, load_atlas()
    write_scene_values(store, store_of_wave(store, wave), wave)
    heard_store, heard_log, silent = those_that_answer(store, site_log)
    footage = read_footage(heard_store, heard_log)
    places = count_places(atlas, footage.planned, footage.clips)
    shown = footage.clips.filter("accepted").select("scene_id").unique()
    values = read_scene_values(store).join(shown, on="scene_id", how="semi")
    pairs = pair_coverage(read_valid_pairs(store, atlas), values)

    picture = coverage_map(atlas, places, title=MAP_TITLE, hover=False)
    heat = coverage_heat(places, title=HEAT_TITLE)
    put_frame(store, layout.coverage_key("places.parquet"), places)
    put_frame(store, layout.coverage_key("pairs.parquet"), pairs)
    for name, text in (
        ("map.svg", coverage_map(atlas, places, title=MAP_TITLE)),
        ("heat.svg", heat),
        ("index.html", coverage_page(atlas, places, pairs)),
    ):
        store.put(layout.coverage_key(name), text.encode())
    others = pairs.filter((pl.col("first") != "city") | (pl.col("second") != "institution"))
    return dg.MaterializeResult(
        metadata={
            "map": dg.MetadataValue.md(svg_as_markdown(picture, alt=MAP_TITLE)),
            "city_by_institution": dg.MetadataValue.md(svg_as_markdown(heat, alt=HEAT_TITLE)),
            "dagster/row_count": places.height,
            **summary(places),
            "num_valid_pairs": int(others["num_valid"].sum()),
            "num_covered_pairs": int(others["num_covered"].sum()),
            "emptiest_regions": dg.MetadataValue.md(emptiest_as_markdown(places, "region")),
            "emptiest_institutions": dg.MetadataValue.md(
                emptiest_as_markdown(places, "institution")
            ),
            "sites_left_out": ", ".join(silent) or "none",
            "location": dg.MetadataValue.path(f"{store.url}/{layout.COVERAGE}/index.html"),
        }
    )
