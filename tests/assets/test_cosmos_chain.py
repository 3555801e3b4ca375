"""Every stage for real: prompts to catalogued clips, by tiny models on the CPU, through Dagster."""

import polars as pl
import pytest

from resources.site_catalog import wave_index_rows
from resources.tables import read
from worldloop import layout
from worldloop.records import CLIPS, GENERATIONS, MANIFEST

WAVE, CITY = "w0001", "tokyo"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("Tiny-Cosmos-1.0-Text2World", []),
        ("Tiny-Cosmos-Predict2-Video2World", ["first_frames"]),
        ("Tiny-Cosmos-Predict2.5", ["first_frames"]),
        ("Tiny-Cosmos-Transfer2.5", ["depth"]),
        ("Tiny-Cosmos3", []),
    ],
)
def test_a_tiny_model_goes_from_prompts_to_catalogued_clips(house, name, control):
    model = {"world_model": name, "tier": "tiny", "control": control, "allow_unguarded": True}
    house.plan(WAVE, [f"{CITY}/museum"], num_frames=0, **model)

    house.carry(WAVE, [CITY])

    clips = read(house.store, CLIPS, layout.cosmos_clips_key(WAVE, CITY))
    made = read(house.store, GENERATIONS, layout.generations_key(WAVE, CITY))
    assert clips.select("num_frames", "width_px", "height_px").rows() == [(9, 64, 64)] * 2
    assert made["guardrail"].to_list() == ["unguarded"] * 2
    assert made["sketch_recipe_id"].null_count() == (0 if control else 2)
    found = wave_index_rows(house.resources["site_log"], [WAVE])
    assert set(clips["recipe_id"]) <= set(found["recipe_id"])
    accepted = found.filter((pl.col("tier") == "tiny") & (pl.col("status") == "accepted"))
    manifest = read(house.store, MANIFEST, layout.manifest_key(WAVE))
    assert set(accepted["recipe_id"]) <= set(manifest["recipe_id"])


@pytest.mark.slow
def test_a_world_model_makes_what_cannot_be_sketched(house):
    model = {"world_model": "Tiny-Cosmos-1.0-Text2World", "tier": "tiny", "allow_unguarded": True}
    house.plan(WAVE, [f"{CITY}/library", f"{CITY}/zoo"], clips_per_place=1, num_frames=0, **model)

    house.carry(WAVE, [CITY])

    sketches = read(house.store, CLIPS, layout.clips_key(WAVE, CITY))
    made = read(house.store, CLIPS, layout.cosmos_clips_key(WAVE, CITY))
    assert sketches["institution"].to_list() == ["zoo"]
    assert sorted(made["institution"]) == ["library", "zoo"]
    found = wave_index_rows(house.resources["site_log"], [WAVE])
    assert set(found["recipe_id"]) == {*sketches["recipe_id"], *made["recipe_id"]}
    manifest = read(house.store, MANIFEST, layout.manifest_key(WAVE))
    accepted = found.filter(pl.col("status") == "accepted")
    assert set(accepted["recipe_id"]) == set(manifest["recipe_id"]) != set()
