import dagster as dg
import pytest

from assets.partitions import shard_key
from worldloop.errors import MalformedRecordError, UnreachableError


def tick(house):
    sensor = house.definitions().resolve_sensor_def("wave_conductor")
    with dg.build_sensor_context(
        instance=house.instance, resources={"store": house.store}, sensor_name="wave_conductor"
    ) as context:
        return sensor(context)


def keys(result):
    return [request.run_key for request in result.run_requests]


def record_run(house, city, wave, status, **tags):
    house.instance.add_run(
        dg.DagsterRun(
            job_name="city_job",
            run_id=f"{city}-{wave}-{status.value}",
            status=status,
            tags={"dagster/partition/city": city, "dagster/partition/wave": wave, **tags},
        )
    )


@pytest.fixture
def planned(house):
    house.plan("w0001", ["tokyo/museum", "lima/hospital"])
    return house


def test_every_planned_city_is_requested_once_and_no_other(planned):
    result = tick(planned)

    assert keys(result) == ["w0001/tokyo", "w0001/lima"]
    assert result.run_requests[0].partition_key == shard_key("tokyo", "w0001")


def test_a_live_city_is_waited_for(planned):
    record_run(planned, "tokyo", "w0001", dg.DagsterRunStatus.STARTED)
    record_run(planned, "lima", "w0001", dg.DagsterRunStatus.SUCCESS)

    assert "1 of 2" in tick(planned).skip_message


def test_a_city_that_failed_after_its_retries_closes_as_failed(planned):
    record_run(planned, "tokyo", "w0001", dg.DagsterRunStatus.FAILURE)
    record_run(planned, "lima", "w0001", dg.DagsterRunStatus.SUCCESS)

    assert keys(tick(planned)) == ["w0001/close"]


def test_a_cancelled_city_does_not_hold_the_wave_open(planned):
    record_run(planned, "tokyo", "w0001", dg.DagsterRunStatus.CANCELED)
    record_run(planned, "lima", "w0001", dg.DagsterRunStatus.SUCCESS)

    assert keys(tick(planned)) == ["w0001/close"]


def test_a_failure_that_will_be_retried_holds_the_wave_open(planned):
    record_run(
        planned, "tokyo", "w0001", dg.DagsterRunStatus.FAILURE, **{"dagster/will_retry": "true"}
    )
    record_run(planned, "lima", "w0001", dg.DagsterRunStatus.SUCCESS)

    assert "1 of 2" in tick(planned).skip_message


def test_a_rebuilt_atlas_requests_no_run(carried):
    carried.execute("atlas_job")

    assert tick(carried).skip_message == "No wave is open."


def test_a_city_with_a_world_model_may_take_as_long_as_that_needs(house):
    model = {"world_model": "Tiny-Cosmos3", "tier": "tiny"}
    house.plan("w0001", ["tokyo/museum"], **model)

    (request,) = tick(house).run_requests

    assert int(request.tags["dagster/max_runtime"]) > 7200


def close_fails(house, error):
    """A run that closes the wave and ends with an error, recorded as the daemon's worker does it."""

    @dg.op(name="dedup_clusters")
    def failing():
        raise error

    @dg.job(name="close_job", executor_def=dg.in_process_executor)
    def close_job():
        failing()

    tags = {"dagster/partition": "w0001", "dagster/run_key": "w0001/close/before"}
    return close_job.execute_in_process(
        instance=house.instance, raise_on_error=False, tags=tags
    ).run_id


@pytest.fixture
def ended(planned):
    """A wave whose cities have all ended."""
    for city in ("tokyo", "lima"):
        record_run(planned, city, "w0001", dg.DagsterRunStatus.SUCCESS)
    return planned


def test_a_wave_that_a_silent_site_kept_open_is_closed_again_after_a_pause(ended, monkeypatch):
    run_id = close_fails(ended, UnreachableError("The site 'azure' cannot be reached."))
    assert "a site did not answer; it is closed again at" in tick(ended).skip_message

    monkeypatch.setattr("sensors.wave_conductor.retry_at", lambda ended_at, _: ended_at)

    assert keys(tick(ended)) == [f"w0001/close/{run_id}"]


def test_a_wave_that_cannot_close_for_another_reason_waits_for_a_person(ended, monkeypatch):
    close_fails(ended, MalformedRecordError("a pack", "damaged", "a tar", "Delete it."))
    monkeypatch.setattr("sensors.wave_conductor.retry_at", lambda ended_at, _: ended_at)

    assert "materialise its assets again" in tick(ended).skip_message


def test_a_wave_that_is_being_closed_is_not_closed_twice(ended):
    ended.instance.add_run(
        dg.DagsterRun(
            job_name="close_job",
            run_id="closing",
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": "w0001"},
        )
    )

    assert tick(ended).skip_message == "w0001: it is being closed"
