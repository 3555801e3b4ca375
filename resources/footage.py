"""What was planned, made and accepted of every place, as plans and logs stand, and what the scenes show."""

import io
import json
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import read, read_all
from resources.wave_plans import planned_waves, read_plan
from worldloop import layout
from worldloop.atlas.atlas import Atlas
from worldloop.coverage_counts import scene_values, valid_pair_table
from worldloop.logs import log_kind, payload
from worldloop.records import MANIFEST, PROMPTS
from worldloop.scenes.dimensions import DIMENSIONS
from worldloop.seeds import canonical_json

_PLACE_SCHEMA = {"city": pl.String, "institution": pl.String}


class Footage(NamedTuple):
    """Clips of all waves.

    Attributes:
        planned: `city` and `institution` of each planned clip.
        clips: city, institution, scene_id and `accepted` of each clip that was made; a clip that a
            world model made of a sketch is another clip.
    """

    planned: pl.DataFrame
    clips: pl.DataFrame


def read_footage(store: SiteStore, site_log: SiteLog) -> Footage:
    """Every clip, accepted if it was found good and repeats no other: as the mart `clip_outcomes` says."""
    planned = [
        (clip.city, clip.institution)
        for wave in planned_waves(store)
        for clip in read_plan(store, wave).clips
    ]
    return Footage(
        pl.DataFrame(planned, schema=_PLACE_SCHEMA, orient="row"), read_made_clips(site_log)
    )


def read_made_clips(site_log: SiteLog, *, waves: Iterable[str] | None = None) -> pl.DataFrame:
    """city, institution, scene_id and `accepted` of each clip that was made, as in `Footage`.

    Args:
        site_log: Of the sites that count.
        waves: Only clips of these waves.
    """
    good = _rows(site_log, "scores").filter("accepted").select("recipe_id")
    alone = _rows(site_log, "duplicates").filter(pl.col("status") != "duplicate")
    accepted = (
        good.join(alone, on="recipe_id", how="semi")
        .join(_rows(site_log, "superseded"), on="recipe_id", how="anti")
        .with_columns(accepted=True)
    )
    lineage = payload(log_kind("lineage"), site_log.read("lineage", waves=waves))
    return lineage.join(accepted, on="recipe_id", how="left").select(
        "city", "institution", "scene_id", accepted=pl.col("accepted").fill_null(False)
    )


def write_scene_values(store: SiteStore, prompts_at: SiteStore, wave: str) -> None:
    """Write which values the scenes of a wave's released clips have; the same wave gives the same bytes.

    Args:
        store: The coordinator's.
        prompts_at: Where the prompts of the wave's cities are.
        wave: A released wave.
    """
    released = read(store, MANIFEST, layout.manifest_key(wave)).select("scene_id")
    prompts = read_all(prompts_at, PROMPTS, f"prompts/{wave}")
    found = prompts.join(released, on="scene_id", how="semi").unique("scene_id").sort("scene_id")
    scenes = [canonical_json(json.loads(recipe)["scene"]).decode() for recipe in found["recipe"]]
    values = scene_values(found.select("scene_id", pl.Series("scene", scenes, pl.String)))
    put_frame(store, layout.scene_values_key(wave), values)


def read_scene_values(store: SiteStore) -> pl.DataFrame:
    """scene_id and values of the released scenes of all waves."""
    schema = dict.fromkeys(("scene_id", *DIMENSIONS), pl.String)
    files = store.get_many(key for key, _ in store.list(layout.SCENE_VALUES))
    frames = [pl.read_parquet(io.BytesIO(content)) for _, content in files]
    return pl.concat([pl.DataFrame(schema=schema), *frames]).unique("scene_id", maintain_order=True)


def read_valid_pairs(store: SiteStore, atlas: Atlas) -> pl.DataFrame:
    """What `valid_pair_table` gives, worked out once for each atlas."""
    key = layout.valid_pairs_key(atlas.hash)
    if not store.exists(key):
        put_frame(store, key, valid_pair_table(atlas))
    return pl.read_parquet(io.BytesIO(store.get(key)))


def put_frame(store: SiteStore, key: str, frame: pl.DataFrame) -> None:
    """Write a frame as a parquet file without a format label, in place of the one that is there."""
    sink = io.BytesIO()
    frame.write_parquet(sink)
    store.put(key, sink.getvalue())


def _rows(site_log: SiteLog, kind: str) -> pl.DataFrame:
    return payload(log_kind(kind), site_log.read(kind))
