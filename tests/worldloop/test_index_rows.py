import polars as pl
import pytest

from tests import rows
from worldloop.dayparts import daypart
from worldloop.index_rows import INDEX_COLUMNS, index_rows
from worldloop.records import CAPTIONS, SCENES


def make(**changes):
    prompts = rows.prompts(range(3)).rename({"recipe": "scene"})
    prompts = prompts.with_columns(scene=prompts["scene"].str.json_path_match("$.scene"))
    asked = {
        "scenes": prompts.select(list(SCENES.columns)),
        "captions": prompts.select(list(CAPTIONS.columns)),
        "clips": rows.clips(range(3)),
        "signals": rows.signals(range(3)),
        "decisions": rows.dedup(range(3)),
        "vectors": rows.vectors(range(3)),
    }
    return index_rows(**{**asked, **changes})


def test_rows_have_the_columns_of_the_index_in_key_order():
    made = make(clips=rows.clips(range(3)).reverse())

    assert made.columns == list(INDEX_COLUMNS)
    assert made["index"].to_list() == [0, 1, 2]


def test_a_rejected_duplicate_is_rejected_and_what_was_not_looked_at_is_pending():
    made = make(
        signals=rows.signals(range(2), rejected=(1,)),
        decisions=rows.dedup(range(3), duplicates=(1, 2)),
    )

    assert made["status"].to_list() == ["accepted", "rejected", "pending"]
    assert make(decisions=rows.dedup(range(1)))["status"].to_list() == [
        "accepted",
        "pending",
        "pending",
    ]


def test_a_clip_without_a_vector_has_no_row_and_one_with_two_models_has_two():
    other = rows.vectors(range(1)).with_columns(model_id=pl.lit("other"))

    assert make(vectors=rows.vectors(range(2)))["index"].to_list() == [0, 1]
    both = make(vectors=pl.concat([rows.vectors(range(1)), other]))
    assert both["model_id"].to_list() == ["other", "starter"]


def test_a_clip_of_a_world_model_names_its_sketch_and_a_sketch_names_none():
    made = rows.generations(range(1))
    twin = rows.ids(0)["recipe_id"]
    made = made.with_columns(recipe_id=pl.lit(twin), sketch_recipe_id=pl.lit("sketch"))

    found = make(generations=made)

    assert found["tier"].to_list() == ["draft", "sketch", "sketch"]
    assert found["sketch_recipe_id"].to_list() == ["sketch", None, None]


@pytest.mark.parametrize(
    ("hour", "sun_elevation_deg", "part"),
    [
        (23.0, -30.0, "night"),
        (3.0, -7.0, "night"),
        (6.0, -5.0, "dawn"),
        (19.0, 5.0, "dusk"),
        (9.0, 30.0, "morning"),
        (14.0, 50.0, "afternoon"),
        (22.5, 4.0, "dusk"),
    ],
)
def test_the_sun_decides_the_part_of_the_day(hour, sun_elevation_deg, part):
    assert daypart(hour=hour, sun_elevation_deg=sun_elevation_deg) == part
