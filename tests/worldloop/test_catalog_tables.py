import polars as pl
import pytest

from tests import rows
from worldloop.catalog_tables import (
    TABLES,
    WIDE,
    WIDE_KINDS,
    Place,
    clip_rows,
    decode_position,
    encode_position,
    release_tag,
    retracted_recipes,
    rows_hash,
    shared_rows,
    touched_waves,
)
from worldloop.errors import MalformedRecordError
from worldloop.index_rows import index_rows
from worldloop.logs import KINDS, log_kind, log_rows
from worldloop.records import RELEASE_CLIPS, SCORES

# The place of a column, counted from 1, is its field id in every table that stands somewhere: new
# columns go to the end of a line, and nothing else may change here.
FIELDS = {
    "clips": "origin wave index city institution scene_id recipe_id sketch_recipe_id generator "
    "generator_version tier content_sha256 pack_key num_frames duration_s size_bytes motion_mean_px "
    "motion_still_share sharpness exposure_mean exposure_dark_share exposure_bright_share num_cuts "
    "status reason duplicate_of similarity release",
    "clip_files": "origin wave index city institution scene_id recipe_id generator generator_version "
    "content_sha256 pack_key num_frames width_px height_px rate_fps duration_s size_bytes",
    "failures": "origin wave index city institution scene_id recipe_id stage reason",
    "receipts": "origin receipt_id wave index city institution recipe_id step run_id host finished_at "
    "cpu_s gpu_s peak_rss_mb resumed guardrail ms_per_step tflops peak_gpu_gb busy_share",
    "generations": "origin wave index city institution scene_id recipe_id model revision checkpoint "
    "tier profile num_steps guidance sampler seed batch_size prompt_form control sketch_recipe_id "
    "draft_recipe_id guardrail tiny",
    "blocked": "origin wave index city institution scene_id recipe_id guard category reason",
    "audits": "origin audit_id done_at site actor action of_kind of_id reason",
    "lineage": "origin wave index city institution scene_id recipe_id generator generator_version "
    "content_sha256 pack_key num_frames duration_s size_bytes tier sketch_recipe_id",
    "scores": "origin wave index city institution recipe_id motion_mean_px motion_still_share "
    "sharpness exposure_mean exposure_dark_share exposure_bright_share num_cuts accepted reason",
    "duplicates": "origin wave index city institution recipe_id content_sha256 status duplicate_of "
    "kind similarity epsilon model_id",
    "superseded": "origin recipe_id superseded_by kind similarity",
    "releases": "origin wave site root_hash num_clips num_rejected duration_s atlas_hash log_position",
    "release_clips": "origin release wave recipe_id content_sha256 pack_key",
    "projections": "origin site projection measured_at num_rows size_bytes num_behind lag_s recall "
    "took_s num_requests repaired_at",
    "reconciliations": "site origin of_kind measured_at num_expected num_missing num_repaired",
    "rounds": "origin round opened_at ended_at model strategy codec outcome num_sites num_deltas "
    "size_bytes took_s loss_before loss_after adapter_sha256 base_round lineage_depth",
    "round_waves": "origin round wave root_hash",
    "round_deltas": "origin round site status num_clips num_steps size_bytes took_s gpu_s loss_before "
    "loss_after norm staleness content_sha256",
}


def logged(kind, payload, *origins):
    """Rows of a kind as they came into the logs of some sites."""
    return shared_rows(kind, {o: log_rows(log_kind(kind), payload) for o in origins or ("local",)})


def wide(num=4, *, changes=(), released=0, origins=("local",), **judged):
    made = rows.wave_tables(range(num), **judged)
    release = rows.lineage(range(released)).with_columns(release=pl.lit("w0001"))
    superseded = pl.concat([rows.superseded(*pair) for pair in changes] or [made["superseded"]])
    return {
        "lineage": logged("lineage", rows.lineage(range(num)), *origins),
        "scores": logged("scores", made["signals"].select(list(SCORES.columns)), *origins),
        "duplicates": logged("duplicates", made["dedup"]),
        "superseded": logged("superseded", superseded),
        "release_clips": logged("release_clips", release.select(list(RELEASE_CLIPS.columns))),
    }


def test_columns_keep_their_places_for_ever():
    assert {name: " ".join(table.columns) for name, table in TABLES.items()} == FIELDS


def test_no_table_has_a_column_of_another_kind_than_scalars():
    for table in TABLES.values():
        assert not [n for n, kind in table.columns.items() if isinstance(kind, pl.List | pl.Struct)]


def test_every_table_has_its_key_and_its_writer_among_its_columns():
    for table in TABLES.values():
        assert {*table.key, table.writer, *table.order} <= set(table.columns)


def test_the_status_is_the_one_that_the_search_index_shows():
    judged = {"rejected": (1,), "duplicates": (2,)}
    made = rows.wave_tables(range(5), **judged)
    indexed = index_rows(
        scenes=rows.prompts(range(5)).select("scene_id", scene="recipe").head(0),
        captions=made["prompts"].select("recipe_id", "caption"),
        **{name: made[name] for name in ("clips", "vectors")},
        signals=made["signals"].head(4),
        decisions=made["dedup"].filter(pl.col("index") != 3),
    )
    inputs = wide(5, **judged)
    inputs["scores"] = inputs["scores"].head(4)
    inputs["duplicates"] = inputs["duplicates"].filter(pl.col("index") != 3)
    found = clip_rows(**inputs)

    assert found["status"].to_list() == indexed["status"].to_list()
    assert set(found["status"]) == {"accepted", "rejected", "duplicate", "pending"}


def test_a_late_arrival_makes_a_duplicate_of_an_accepted_clip():
    found = clip_rows(**wide(4, changes=[(3, 1)]))
    changed = found.row(3, named=True)
    assert (changed["status"], changed["reason"], changed["similarity"]) == (
        "duplicate",
        "semantic",
        0.99,
    )
    assert changed["duplicate_of"] == found["recipe_id"][1]


def test_rows_do_not_depend_on_the_order_in_which_the_logs_are_read():
    inputs = wide(5, changes=[(3, 1)], released=2, origins=("aws", "local"), duplicates=(2,))
    shuffled = {
        name: frame.sample(fraction=1.0, shuffle=True, seed=3) for name, frame in inputs.items()
    }
    assert clip_rows(**shuffled).equals(clip_rows(**inputs))


def test_a_clip_that_two_sites_have_is_judged_by_its_own_site():
    inputs = wide(2, origins=("aws", "local"))
    is_ours = pl.col("origin") == "local"
    inputs["scores"] = inputs["scores"].with_columns(
        sharpness=pl.when(is_ours).then(0.5).otherwise(0.1)
    )
    found = clip_rows(**inputs)

    assert found.height == 4
    assert dict(found.select("origin", "sharpness").unique().rows()) == {"aws": 0.1, "local": 0.5}


def test_a_clip_is_of_the_first_release_that_has_it():
    inputs = wide(1, released=1)
    more = inputs["release_clips"].with_columns(release=pl.lit("w10000"))
    inputs["release_clips"] = pl.concat([more, inputs["release_clips"]])
    assert clip_rows(**inputs)["release"].to_list() == ["w0001"]


def test_a_decision_touches_the_waves_of_those_that_rest_on_it():
    inputs = wide(4, changes=[(3, 1)])
    new = inputs["duplicates"].filter(pl.col("index") == 1).with_columns(wave=pl.lit("w0009"))
    every = {"duplicates": inputs["duplicates"], "superseded": inputs["superseded"]}
    assert touched_waves({"duplicates": new}, **every) == {"w0001", "w0009"}
    assert touched_waves({"scores": inputs["scores"].head(0)}, **every) == set()


def test_ids_are_those_of_the_log():
    for kind in (*WIDE_KINDS, "releases"):
        of_kind = KINDS[kind]
        frame = pl.DataFrame(
            [dict.fromkeys(of_kind.table.columns)], schema=dict(of_kind.table.columns)
        )
        named = frame.with_columns(pl.lit(f"a {name}").alias(name) for name in of_kind.table.key)
        logged_rows = log_rows(of_kind, named)
        found = TABLES[kind].rows("aws", logged_rows).select(TABLES[kind].ids)
        assert found.to_series().to_list() == logged_rows["id"].to_list()


def test_what_is_taken_back_names_its_recipe():
    assert retracted_recipes("lineage", pl.Series(["r"])).to_list() == ["r"]
    assert retracted_recipes("superseded", pl.Series(["r/s"])).to_list() == ["r"]
    assert retracted_recipes("release_clips", pl.Series(["w0001/r"])).to_list() == ["r"]
    assert retracted_recipes("releases", pl.Series(["w0001"])).is_empty()


def test_the_hash_sees_every_value_and_no_order():
    found = clip_rows(**wide(4))
    other = found.with_columns(
        sharpness=pl.when(pl.col("index") == 2).then(None).otherwise("sharpness")
    )
    empty = found.with_columns(release=pl.lit(""))
    assert rows_hash(WIDE, found.reverse()) == rows_hash(WIDE, found)
    assert len({rows_hash(WIDE, frame) for frame in (found, other, empty)}) == 3


def test_a_position_survives_its_text():
    place = {"aws": {"lineage": Place(3, "ab"), "shared/retractions": Place(1, "cd")}}
    assert decode_position(encode_position(place)) == place
    with pytest.raises(MalformedRecordError, match="position"):
        decode_position("[1]")


def test_a_release_has_its_tag():
    assert release_tag("w0007") == "release-w0007"
