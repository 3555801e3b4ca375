"""World-model clips through the real definitions: their tables, their links, and what releases take."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.partitions import shard_key
from resources.clip_tables import read_clips
from resources.site_catalog import wave_index_rows
from resources.tables import publish, read, read_record
from resources.wave_plans import read_plan
from tests.assets.generation import SPECS, StandInLauncher
from tests.conftest import House
from worldloop import layout
from worldloop.annotations import read_clip
from worldloop.records import (
    BLOCKED,
    CLIPS,
    DEDUP,
    FAILURES,
    GENERATIONS,
    MANIFEST,
    RECEIPTS,
    SIGNALS,
    VECTORS,
)
from worldloop.releases import read_release

WAVE, CITY = "w0001", "tokyo"
MODEL = {
    "world_model": "Tiny-Cosmos-Predict2-Video2World",
    "tier": "tiny",
    "control": ["first_frames"],
}
KEY = shard_key(CITY, WAVE)


KEPT = []


class KeepingLauncher(StandInLauncher):
    """Reads the source clip as the job would, while it is there."""

    def _report(self, spec):
        KEPT.append(read_clip(Path(spec.requests[0]["controls"][0]["path"])))
        return super()._report(spec)


def rows_of(house, table, key, *more):
    return read(house.store, table, key(WAVE, CITY, *more))


def make(house, *, assets=("prompts", "rendered_clips", "cosmos_clips"), raises=True):
    return (
        house.definitions()
        .resolve_job_def("city_job")
        .execute_in_process(
            instance=house.instance,
            partition_key=KEY,
            asset_selection=[dg.AssetKey(name) for name in assets],
            raise_on_error=raises,
        )
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A wave of two scenes, each as a sketch and as a clip of a tiny model, with its release."""
    SPECS.clear()  # another module may have asked the stand-in before
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path_factory.mktemp("generated"), instance)
        house.resources["launcher"] = StandInLauncher()
        house.plan(WAVE, [f"{CITY}/museum"], **MODEL)
        house.carry(WAVE, [CITY])
        yield house


def test_each_scene_has_a_sketch_and_a_clip_that_names_it(generated):
    sketches = rows_of(generated, CLIPS, layout.clips_key)
    clips = rows_of(generated, CLIPS, layout.cosmos_clips_key)
    made = rows_of(generated, GENERATIONS, layout.generations_key)

    assert clips["scene_id"].to_list() == sketches["scene_id"].to_list()
    assert made["sketch_recipe_id"].to_list() == sketches["recipe_id"].to_list()
    assert clips["generator"].unique().to_list() == ["tiny-cosmos-predict2-video2world"]
    assert not set(clips["recipe_id"]) & set(sketches["recipe_id"])


def test_the_job_gets_the_first_frames_of_the_sketch_as_a_file(generated):
    request = SPECS[0].requests[0]

    assert request["conditioning"]["path"].endswith(f"{request['sketch_recipe_id']}/first_1.png")
    assert request["conditioning"]["num_frames"] == 1
    assert SPECS[0].guards["text"] == []


def test_a_controlled_clip_gets_its_sketch_as_a_folder_with_annotations(house):
    house.resources["launcher"] = KeepingLauncher()
    model = {"world_model": "Tiny-Cosmos-Transfer2.5", "tier": "tiny", "control": ["depth", "seg"]}
    house.plan(WAVE, [f"{CITY}/museum"], clips_per_place=1, num_frames=0, **model)
    make(house)

    (request,) = SPECS[-1].requests
    assert [control["kind"] for control in request["controls"]] == ["depth", "seg"]
    assert request["conditioning"] is None
    assert KEPT[-1].depth_m.shape == (9, 54, 96)


def test_signals_vectors_and_decisions_cover_both_kinds_of_clips(generated):
    asked = set(read_clips(generated.store, WAVE, CITY)["recipe_id"])

    assert len(asked) == 4
    assert set(rows_of(generated, SIGNALS, layout.signals_key)["recipe_id"]) == asked
    assert set(rows_of(generated, VECTORS, layout.vectors_key)["recipe_id"]) == asked
    decided = read(generated.store, DEDUP, layout.dedup_key(WAVE))
    sketches = set(rows_of(generated, CLIPS, layout.clips_key)["recipe_id"])
    for row in decided.filter(pl.col("duplicate_of").is_not_null()).iter_rows(named=True):
        assert (row["recipe_id"] in sketches) == (row["duplicate_of"] in sketches)


def test_the_catalog_leads_from_a_clip_to_its_sketch(generated):
    found = wave_index_rows(generated.resources["site_log"], [WAVE])

    twins = found.filter(pl.col("tier") == "tiny")
    sketches = found.filter(pl.col("tier") == "sketch")
    assert set(twins["sketch_recipe_id"]) == set(sketches["recipe_id"])
    assert twins["caption"].sort().to_list() == sketches["caption"].sort().to_list()


def test_no_release_takes_clips_of_a_tiny_model_unless_it_is_told_to(generated):
    record = read_release(read_record(generated.store, layout.release_key(WAVE)))
    manifest = read(generated.store, MANIFEST, layout.manifest_key(WAVE))

    assert set(manifest["generator"]) <= {"procedural"}
    reasons = {(reject["stage"], reject["reason"]) for reject in record["rejects"]}
    accepted = rows_of(generated, SIGNALS, layout.signals_key).filter(pl.col("accepted"))
    if accepted.join(
        rows_of(generated, CLIPS, layout.cosmos_clips_key), on="recipe_id", how="semi"
    ).height:
        assert ("guardrail", "made by a model with random weights") in reasons


def test_the_ui_shows_speed_cost_guards_and_a_picture(generated):
    event = generated.instance.get_latest_materialization_event(dg.AssetKey("cosmos_clips"))
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}

    assert metadata["dagster/row_count"] == 2
    assert metadata["ms_per_step"] == 515.0
    assert metadata["share_of_bf16_peak"] == pytest.approx(600 / 989, abs=1e-3)
    assert metadata["gpu_s"] == 72.0
    assert metadata["guardrail"] == "unguarded"
    assert metadata["preview"].startswith("![")
    assert len(metadata["preview"]) < 40_000


def test_the_wave_settles_its_gpu_seconds(generated):
    used = {line.kind: line.settled for line in generated.resources["ledger"].today()}

    assert used["gpu_s"] == 72.0


def test_a_shard_that_stands_starts_no_job(generated):
    before, num_jobs = (
        generated.store.get(layout.receipts_key(WAVE, CITY, "generate")),
        len(SPECS),
    )

    make(generated, assets=("cosmos_clips",))

    assert len(SPECS) == num_jobs
    assert generated.store.get(layout.receipts_key(WAVE, CITY, "generate")) == before


def test_what_a_guard_stops_and_what_fails_is_counted_and_tried_again(house):
    house.resources["launcher"] = StandInLauncher(blocked=[0], failed=[1])
    house.plan(WAVE, [f"{CITY}/museum"], clips_per_place=3, num_frames=5, **MODEL)
    make(house)

    assert rows_of(house, CLIPS, layout.cosmos_clips_key).height == 1
    assert rows_of(house, BLOCKED, layout.blocked_key)["category"].to_list() == ["violence"]
    assert rows_of(house, FAILURES, layout.failures_key, "generate")["index"].to_list() == [1]
    house.resources["launcher"] = StandInLauncher(blocked=[0])
    make(house, assets=("cosmos_clips",))
    assert rows_of(house, CLIPS, layout.cosmos_clips_key)["index"].to_list() == [1, 2]
    assert rows_of(house, FAILURES, layout.failures_key, "generate").is_empty()


def test_an_unguarded_clip_of_a_model_that_requires_guards_stops_the_chain(house):
    real = "Cosmos-1.0-Diffusion-7B-Text2World"
    house.resources["launcher"] = StandInLauncher()
    model = {"world_model": real, "tier": "hero"}
    house.plan(WAVE, [f"{CITY}/museum"], clips_per_place=1, num_frames=5, **model)

    result = make(house, raises=False)

    failed = [c.check_name for c in result.get_asset_check_evaluations() if not c.passed]
    assert failed == ["guarded_as_required"]


def test_a_wave_without_a_world_model_writes_no_table_of_it(carried):
    keys = [key for key, _ in carried.store.list()]

    assert not [key for key in keys if key.startswith(("cosmos_clips", "generations", "blocked"))]
    receipts = read(carried.store, RECEIPTS, layout.receipts_key(WAVE, CITY))
    assert receipts["ms_per_step"].null_count() == receipts.height


def test_a_clip_whose_sketch_was_not_made_is_a_failure_of_its_own(house):
    house.resources["launcher"] = StandInLauncher()
    house.plan(WAVE, [f"{CITY}/museum"], num_frames=5, **MODEL)
    make(house, assets=("prompts", "rendered_clips"))
    key = layout.clips_key(WAVE, CITY)
    publish(house.store, CLIPS, key, read(house.store, CLIPS, key).head(1))

    make(house, assets=("cosmos_clips",))

    failed = rows_of(house, FAILURES, layout.failures_key, "generate")
    assert failed["stage"].to_list() == ["control"]
    assert rows_of(house, CLIPS, layout.cosmos_clips_key).height == 1


def test_throughput_is_shown_over_the_waves(generated):
    event = generated.instance.get_latest_materialization_event(dg.AssetKey("throughput"))
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}

    assert metadata["num_clips"] == 2
    assert metadata["frames_per_gpu_s"] == pytest.approx(18 / 72)
    assert metadata["over_waves"].count("data:image/svg+xml") == 4


def test_a_draft_gives_its_first_frames_to_the_clip_that_promotes_it(generated):
    sketches = rows_of(generated, CLIPS, layout.clips_key)
    drafts = rows_of(generated, CLIPS, layout.cosmos_clips_key)["recipe_id"].to_list()
    seeds = [clip.seed for clip in read_plan(generated.store, WAVE).clips]
    config = {
        **MODEL,
        "scenes": [f"{CITY}/museum@{seed}" for seed in seeds],
        "drafts": drafts,
        "source": "draft",
        "num_frames": 5,
    }
    generated.instance.add_dynamic_partitions("wave", ["w0002"])
    generated.execute("plan_job", "w0002", {"ops": {"wave_plan": {"config": config}}})
    generated.definitions().resolve_job_def("city_job").execute_in_process(
        instance=generated.instance,
        partition_key=shard_key(CITY, "w0002"),
        asset_selection=[
            dg.AssetKey(name) for name in ("prompts", "rendered_clips", "cosmos_clips")
        ],
    )

    made = read(generated.store, GENERATIONS, layout.generations_key("w0002", CITY))
    assert made["draft_recipe_id"].to_list() == drafts
    assert made["sketch_recipe_id"].null_count() == 2
    assert made["scene_id"].to_list() == sketches["scene_id"].to_list()
    paths = [request["conditioning"]["path"] for request in SPECS[-1].requests]
    assert [path.split("/")[-2] for path in paths] == drafts


TEXT_ONLY = {"world_model": "Tiny-Cosmos-1.0-Text2World", "tier": "tiny", "allow_unguarded": True}


def test_a_shard_without_any_sketch_is_carried_to_its_release(house):
    house.resources["launcher"] = StandInLauncher()
    house.plan(WAVE, [f"{CITY}/library"], num_frames=0, **TEXT_ONLY)
    house.carry(WAVE, [CITY])

    assert rows_of(house, CLIPS, layout.clips_key).is_empty()
    made = rows_of(house, CLIPS, layout.cosmos_clips_key)
    assert made["institution"].to_list() == ["library"] * 2
    assert rows_of(house, SIGNALS, layout.signals_key).height == 2
    assert rows_of(house, VECTORS, layout.vectors_key).height == 2
    assert set(read(house.store, MANIFEST, layout.manifest_key(WAVE))["recipe_id"]) <= set(
        made["recipe_id"]
    )


def test_a_shard_without_any_clip_is_carried_to_its_release(house):
    house.resources["launcher"] = StandInLauncher(blocked=[0, 1])
    house.plan(WAVE, [f"{CITY}/library"], num_frames=0, **TEXT_ONLY)
    house.carry(WAVE, [CITY])

    assert read_clips(house.store, WAVE, CITY).is_empty()
    assert rows_of(house, BLOCKED, layout.blocked_key).height == 2
    assert read(house.store, MANIFEST, layout.manifest_key(WAVE)).is_empty()


def test_scenes_that_cannot_be_sketched_are_counted_and_left_to_the_world_model(house):
    house.resources["launcher"] = StandInLauncher()
    places = [f"{CITY}/zoo"]
    house.plan(WAVE, places, asked={"camera": "drone"}, num_frames=0, **TEXT_ONLY)
    make(house)

    event = house.instance.get_latest_materialization_event(dg.AssetKey("rendered_clips"))
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert (metadata["dagster/row_count"], metadata["num_not_sketchable"]) == (0, 2)
    assert rows_of(house, CLIPS, layout.cosmos_clips_key).height == 2
