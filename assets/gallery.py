"""The gallery: one static page over the newest released clips, to look at without a server."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from assets.partitions import waves
from resources.federated_wave import those_that_answer
from resources.site_catalog import wave_index_rows
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import read_all
from resources.wave_plans import planned_waves
from worldloop import layout
from worldloop.contact_sheets import as_markdown, contact_sheet
from worldloop.gallery import Media, write_gallery
from worldloop.records import MANIFEST

_MAX_CLIPS = 240  # what one page shows comfortably; older clips stay in search
_MAX_PICTURED = 8


@dg.asset(
    group_name="release",
    kinds={"html"},
    partitions_def=waves,
    deps=["release"],
    pool="catalog",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def gallery(
    context: dg.AssetExecutionContext, store: SiteStore, site_log: SiteLog
) -> dg.MaterializeResult[None]:
    """The page of the site, written again when a wave is released.

    It holds the newest released clips of all waves, opens from its folder and asks no network. A browser
    follows no link from here to a file, so the newest clips are pictured and `open_with` is a command
    for the machine that has the file. Clips of a site that does not answer are left out until it is
    written again.
    """
    store, site_log, silent = those_that_answer(store, site_log)
    released = read_all(store, MANIFEST, layout.RELEASES).select("recipe_id")
    rows = wave_index_rows(site_log, planned_waves(store)).join(
        released, on="recipe_id", how="semi"
    )
    shown = rows.filter(pl.col("status") == "accepted").unique("recipe_id", maintain_order=True)
    shown = shown.tail(_MAX_CLIPS)

    def read_media(row: Mapping[str, Any], media: Media) -> bytes:
        return store.get_range(row["pack_key"], row[f"{media}_offset"], row[f"{media}_size_bytes"])

    page = write_gallery(shown, store.local_path(layout.GALLERY), read_media)
    newest = shown.filter(pl.col("poster_offset").is_not_null()).tail(_MAX_PICTURED).reverse()
    posters = [read_media(row, "poster") for row in newest.iter_rows(named=True)]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": shown.height,
            "duration_s": round(float(shown["duration_s"].sum()), 2),
            "sites_left_out": ", ".join(silent) or "none",
            "preview": dg.MetadataValue.md(
                as_markdown(contact_sheet(posters), alt="Newest clips of the gallery")
            ),
            "open_with": f"python3 -m webbrowser {page.as_uri()}",
            "location": dg.MetadataValue.path(str(page)),
        }
    )
