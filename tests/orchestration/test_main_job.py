import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from orchestration.main_job import check_plan, plan_next_wave, update_catalogs, was_interrupted
from resources.wave_plans import take_wave
from tests.assets.stand_ins import Federated, unplug
from worldloop.errors import MalformedRecordError, UnknownKeyError


@pytest.mark.parametrize(
    ("error", "expected"), [(DagsterExecutionInterruptedError, True), (ValueError, False)]
)
def test_an_interrupted_step_is_told_from_a_failed_one(error, expected):
    @dg.op
    def work() -> None:
        try:
            raise error("stop")
        except error as cause:
            raise dg.Failure("ended", allow_retries=False) from cause

    @dg.job
    def some_job() -> None:
        work()

    result = some_job.execute_in_process(raise_on_error=False)

    assert not result.success
    assert was_interrupted(result) is expected


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        ({"places": ["tokio/zoo"]}, UnknownKeyError),
        ({"places": ["tokyo/zoo"], "num_frames": 1}, MalformedRecordError),
        ({"places": ["tokyo/zoo"], "clips_per_place": 0}, MalformedRecordError),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_opened(plan, error):
    with pytest.raises(error):
        check_plan(plan)


def test_why_a_catalog_could_not_follow_is_said_without_the_name_of_a_class(house, monkeypatch):
    federated = Federated(house)
    federated.film()
    monkeypatch.setattr("assets.site_catalogs.RETRIES", dg.RetryPolicy(max_retries=0))
    monkeypatch.setattr("orchestration.main_job.defs", house.definitions())
    unplug(monkeypatch, federated, "gcp")

    failed = update_catalogs(house.instance, ["gcp"])

    assert failed["gcp"].startswith("gcp: ")
    assert "did not answer" in failed["gcp"]


def test_a_wave_by_hand_leaves_the_key_that_a_sensor_has_taken(house, monkeypatch):
    monkeypatch.setattr("orchestration.main_job.defs", house.definitions())
    assert take_wave(house.store, "w0001", cause="continuous_generation")
    plan = {"places": ["tokyo/zoo"], "clips_per_place": 1, "num_frames": 9}

    keys = [plan_next_wave(house.instance, house.store, plan) for _ in range(2)]

    assert keys == ["w0002", "w0003"]
