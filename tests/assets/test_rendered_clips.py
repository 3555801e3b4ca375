"""Which device a shard is drawn on, through the real definitions and the real job."""

import dagster as dg
import polars as pl
import pytest

from assets.partitions import shard_key
from resources.job_launcher import JobLauncher
from resources.renderer import Renderer
from resources.tables import publish, read
from worldloop import layout
from worldloop.records import CLIPS, RECEIPTS

WAVE, CITY = "w0001", "tokyo"
MISSING = "cuda:99"
ASKED = []


class ListeningLauncher(JobLauncher):
    """Notes the device of every spec, then really runs the job."""

    def run(self, job, spec, *, context, timeout_s, num_processes=1):
        ASKED.append(spec.device)
        return super().run(job, spec, context=context, timeout_s=timeout_s)


@pytest.fixture
def planned(house):
    """One place of one city, planned; nothing is drawn yet."""
    ASKED.clear()
    house.resources["launcher"] = ListeningLauncher()
    house.plan(WAVE, ["tokyo/museum"])
    return house


def draw(house, device="cpu", *, raises=True):
    house.resources["renderer"] = Renderer(device=device)
    return (
        house.definitions()
        .resolve_job_def("city_job")
        .execute_in_process(
            instance=house.instance,
            partition_key=shard_key(CITY, WAVE),
            asset_selection=[dg.AssetKey("prompts"), dg.AssetKey("rendered_clips")],
            raise_on_error=raises,
        )
    )


def lose_packs(house):
    """The packs of the shard are gone, as after a loss or when disk was short; its tables stand."""
    clips = read(house.store, CLIPS, layout.clips_key(WAVE, CITY))
    for key in clips["pack_key"].unique():
        house.store.delete(key)
    return clips


def draw_as_if_on_gpu(house):
    """What a shard drawn on a GPU leaves: receipts with GPU seconds."""
    draw(house)
    key = layout.receipts_key(WAVE, CITY)
    receipts = read(house.store, RECEIPTS, key)
    publish(house.store, RECEIPTS, key, receipts.with_columns(gpu_s=pl.lit(0.4)))


def test_receipts_and_metadata_tell_that_a_cpu_drew(planned):
    result = draw(planned)

    receipts = read(planned.store, RECEIPTS, layout.receipts_key(WAVE, CITY))
    (event,) = result.asset_materializations_for_node("rendered_clips")
    assert ASKED == ["cpu"]
    assert receipts.height
    assert receipts["gpu_s"].to_list() == [0.0] * receipts.height
    assert event.metadata["versions"].value["device"] == "cpu"
    assert event.metadata["versions"].value["warp-lang"]
    assert event.metadata["gpu_s"].value == 0.0


def test_the_device_of_the_resource_reaches_the_job_which_says_that_it_is_missing(planned):
    result = draw(planned, MISSING, raises=False)

    (event, *_) = [
        entry.dagster_event
        for entry in planned.instance.all_logs(result.run_id)
        if "closed with exception" in entry.user_message
    ]
    assert not result.success
    assert set(ASKED) == {MISSING}
    assert not planned.store.exists(layout.failures_key(WAVE, CITY))
    message = event.event_specific_data.error.to_string()
    assert f"asked for the device '{MISSING}'; expected one that Warp finds" in message


def test_a_lost_pack_is_drawn_where_it_was_drawn_before(planned):
    draw(planned)
    before = lose_packs(planned)

    draw(planned, MISSING)

    assert ASKED == ["cpu", "cpu"]
    assert read(planned.store, CLIPS, layout.clips_key(WAVE, CITY)).equals(before)
    assert planned.store.exists(before["pack_key"][0])


def test_a_lost_pack_of_a_gpu_is_not_replaced_by_other_bytes_of_a_cpu(planned):
    draw_as_if_on_gpu(planned)
    lose_packs(planned)

    result = draw(planned, raises=False)

    (failure,) = result.get_step_failure_events()
    message = failure.event_specific_data.error.to_string()
    assert "were drawn on a CUDA device" in message
    assert "Set WORLDLOOP_RENDER_DEVICE" in message
    assert ASKED == ["cpu"]


def test_a_lost_pack_of_a_gpu_is_drawn_on_the_gpu_that_there_is(planned):
    draw_as_if_on_gpu(planned)
    lose_packs(planned)

    draw(planned, MISSING, raises=False)

    assert set(ASKED[1:]) == {MISSING}


def test_a_shard_that_stands_asks_for_no_device(planned):
    draw(planned)

    draw(planned, MISSING)

    assert ASKED == ["cpu"]
