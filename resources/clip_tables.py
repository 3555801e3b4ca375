"""The clips of a shard, whoever made them: sketches and clips of world models stand in two folders."""

import polars as pl

from resources.site_store import SiteStore
from resources.tables import read, read_all
from worldloop import layout
from worldloop.cosmos.tiers import SKETCH
from worldloop.records import CLIPS, GENERATIONS

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
