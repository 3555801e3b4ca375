"""The chain through the real definitions: real worlds, real jobs, tiny clips."""

import io
import json
import tarfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import polars as pl

from assets.partitions import shard_key
from resources.tables import read, read_record
from worldloop import layout
from worldloop.plots import readable
from worldloop.records import CLIPS, DEDUP, MANIFEST, PROMPTS, SIGNALS, VECTORS

WAVE, CITIES = "w0001", ("tokyo", "lima")


def test_every_planned_clip_is_rendered_measured_embedded_and_decided(carried):
    for city in CITIES:
        asked = set(read(carried.store, PROMPTS, layout.prompts_key(WAVE, city))["recipe_id"])
        for table, key in (
            (CLIPS, layout.clips_key),
            (SIGNALS, layout.signals_key),
            (VECTORS, layout.vectors_key),
        ):
            assert set(read(carried.store, table, key(WAVE, city))["recipe_id"]) == asked
    assert read(carried.store, DEDUP, layout.dedup_key(WAVE)).height == 4


def test_a_pack_is_a_tar_that_holds_the_clips_of_its_table(carried):
    clips = read(carried.store, CLIPS, layout.clips_key(WAVE, "tokyo"))

    with tarfile.open(fileobj=io.BytesIO(carried.store.get(clips["pack_key"][0]))) as pack:
        names = set(pack.getnames())

    expected = {member["name"] for members in clips["members"] for member in members}
    assert expected <= names


def test_a_release_names_only_accepted_clips_that_repeat_no_other(carried):
    manifest = read(carried.store, MANIFEST, layout.manifest_key(WAVE))
    record = read_record(carried.store, layout.release_key(WAVE))

    unique = read(carried.store, DEDUP, layout.dedup_key(WAVE)).filter(pl.col("status") == "unique")
    assert set(manifest["recipe_id"]) <= set(unique["recipe_id"])
    assert record["num_clips"] + record["num_rejected"] == 4


def test_running_a_closed_wave_again_changes_nothing(carried):
    before = carried.store.get(layout.release_key(WAVE))
    batches = len(carried.store.list(layout.LOGS))

    carried.execute("close_job", WAVE)

    assert carried.store.get(layout.release_key(WAVE)) == before
    assert len(carried.store.list(layout.LOGS)) == batches


def test_a_shard_that_stands_is_not_rendered_again(carried):
    receipts = carried.store.get(layout.receipts_key(WAVE, "tokyo"))

    carried.execute("city_job", shard_key("tokyo", WAVE))

    assert carried.store.get(layout.receipts_key(WAVE, "tokyo")) == receipts


def test_the_clip_index_answers_with_clips_of_the_release(carried):
    vectors = read(carried.store, VECTORS, layout.vectors_key(WAVE, "tokyo"))
    index = carried.resources["clip_index"]

    found = index.search(vectors["vector"][0].to_list(), limit=1, model_id=vectors["model_id"][0])

    assert found["recipe_id"][0] == vectors["recipe_id"][0]
    assert found["institution"][0] == "museum"


def test_the_gallery_page_shows_every_released_clip(carried):
    page = carried.store.local_path(layout.GALLERY) / "index.html"
    manifest = read(carried.store, MANIFEST, layout.manifest_key(WAVE))

    text = page.read_text()

    assert all(recipe_id in text for recipe_id in manifest["recipe_id"])


def test_the_coverage_counts_the_release_and_every_place_without_footage(carried):
    import dagster as dg

    event = carried.instance.get_latest_materialization_event(dg.AssetKey("coverage"))
    facts = {name: v.value for name, v in event.asset_materialization.metadata.items()}
    manifest = read(carried.store, MANIFEST, layout.manifest_key(WAVE))
    places = pl.read_parquet(io.BytesIO(carried.store.get(layout.coverage_key("places.parquet"))))

    assert facts["num_accepted"] == manifest.height
    assert facts["num_cities_covered"] == manifest["city"].n_unique()
    assert facts["dagster/row_count"] == places.height == facts["num_places"]
    assert 0 < facts["num_covered_pairs"] < facts["num_valid_pairs"]
    assert facts["map"].startswith("![Footage of the world](data:image/svg+xml;base64,")
    page = carried.store.get(layout.coverage_key("index.html")).decode()
    assert "Tokyo, Japan: 2 accepted of 2 made, 2 planned" in page


def test_materialisations_show_a_picture_counts_and_where_things_are(carried):
    import dagster as dg

    event = carried.instance.get_latest_materialization_event(dg.AssetKey("rendered_clips"))
    metadata = event.asset_materialization.metadata

    assert metadata["dagster/row_count"].value == 2
    assert metadata["preview"].value.startswith("![")
    assert len(metadata["preview"].value) < 40_000
    assert metadata["cpu_s"].value > 0


def test_numbers_of_the_metadata_are_as_short_as_people_read_them(carried):
    import dagster as dg

    numbers = {
        f"{key.to_user_string()}: {name}": value.value
        for key in carried.instance.all_asset_keys()
        if (event := carried.instance.get_latest_materialization_event(key))
        for name, value in event.asset_materialization.metadata.items()
        if isinstance(value, dg.FloatMetadataValue)
    }

    assert "wave_plan: duration_s" in numbers
    assert {name: v for name, v in numbers.items() if v not in (round(v, 4), readable(v))} == {}


def test_the_gallery_shows_its_newest_clips_and_how_to_open_the_page(carried):
    import dagster as dg

    event = carried.instance.get_latest_materialization_event(dg.AssetKey("gallery"))
    facts = event.asset_materialization.metadata
    manifest = read(carried.store, MANIFEST, layout.manifest_key(WAVE))

    assert not any(isinstance(fact, dg.UrlMetadataValue) for fact in facts.values())
    command, _, address = facts["open_with"].value.rpartition(" ")
    assert command == "python3 -m webbrowser"
    assert Path(unquote(urlparse(address).path)).read_text().startswith("<!doctype html>")
    assert facts["location"].value in address
    assert facts["preview"].value.startswith("![Newest clips of the gallery](data:image/jpeg;")
    assert facts["duration_s"].value == round(float(manifest["duration_s"].sum()), 2)


def test_the_wave_settles_its_budget_when_it_is_released(carried):
    used = {line.kind: line.settled for line in carried.resources["ledger"].today()}

    assert used["cpu_s"] > 0
    assert used["bytes"] > 0


def test_a_plan_never_changes(carried):
    config = {"ops": {"wave_plan": {"config": {"places": ["cairo/zoo"]}}}}

    result = carried.execute("plan_job", WAVE, config, raises=False)

    failure = result.get_step_failure_events()[0].event_specific_data.error
    assert "PlanConflictError" in failure.to_string()


def test_an_unplanned_city_is_refused_by_name(house):
    house.plan("w0001", ["tokyo/museum"])

    result = house.execute("city_job", shard_key("lima", "w0001"), raises=False)

    failure = result.get_step_failure_events()[0].event_specific_data.error
    assert "'lima'" in failure.to_string()


def test_a_wave_closes_without_a_city_that_never_came(house):
    house.plan("w0001", ["tokyo/museum", "lima/hospital"], clips_per_place=1, num_frames=5)
    house.execute("city_job", shard_key("tokyo", "w0001"))

    house.execute("close_job", "w0001")

    manifest = read(house.store, MANIFEST, layout.manifest_key("w0001"))
    assert set(manifest["city"]) <= {"tokyo"}
    assert json.loads(house.store.get(layout.release_key("w0001")))["wave"] == "w0001"


def test_a_wave_closes_again_after_a_clip_was_taken_back_and_the_index_is_without_it(house):
    from resources.retractions import take_back

    house.plan(WAVE, ["tokyo/museum"], num_frames=5)
    house.carry(WAVE, ["tokyo"])
    gone, kept = sorted(read(house.store, CLIPS, layout.clips_key(WAVE, "tokyo"))["recipe_id"])
    federation = house.resources["catalogs"].federation
    take_back(federation, [gone], reason="asked for", actor="test")
    assert house.resources["clip_index"].count() == 2

    house.execute("close_job", WAVE)

    assert house.resources["clip_index"].count(f"recipe_id = '{gone}'") == 0
    assert house.resources["clip_index"].count(f"recipe_id = '{kept}'") == 1


def test_a_city_whose_chain_broke_in_the_middle_does_not_stop_the_release(house):
    house.plan("w0001", ["tokyo/museum"], clips_per_place=1, num_frames=5)
    from dagster import AssetKey

    house.definitions().resolve_job_def("city_job").execute_in_process(
        instance=house.instance,
        partition_key=shard_key("tokyo", "w0001"),
        asset_selection=[AssetKey("prompts"), AssetKey("rendered_clips")],
    )

    house.execute("close_job", "w0001")

    record = read_record(house.store, layout.release_key("w0001"))
    assert record["num_clips"] == 0
    assert record["rejects"][0]["stage"] == "incomplete"
