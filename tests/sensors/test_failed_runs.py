import logging

import dagster as dg

from resources.alerts import Alerts
from sensors.failed_runs import failed_runs


@dg.op
def break_down() -> None:
    raise ValueError("the disk is full of penguins")


@dg.job
def unlucky_job() -> None:
    break_down()


def alerts_about(caplog, **tags: str) -> list[str]:
    with dg.DagsterInstance.ephemeral() as instance:
        result = unlucky_job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
        context = dg.build_run_status_sensor_context(
            sensor_name="failed_runs",
            dagster_event=result.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=result.dagster_run,
        ).for_run_failure()
        with caplog.at_level(logging.ERROR, logger="worldloop.alerts"):
            failed_runs(context, alerts=Alerts())
    return [record.getMessage() for record in caplog.records if record.name == "worldloop.alerts"]


def test_a_failed_run_is_told_once_with_its_job_and_run(caplog):
    told = alerts_about(caplog)

    assert len(told) == 1
    assert "unlucky_job" in told[0]
    assert "run_id" in told[0]


def test_a_run_that_will_be_retried_is_not_told_yet(caplog):
    assert alerts_about(caplog, **{"dagster/will_retry": "true"}) == []


def test_another_try_to_close_a_wave_is_told_unless_a_site_still_does_not_answer(
    caplog, monkeypatch
):
    tags = {"dagster/run_key": "w0001/close/before"}
    assert len(alerts_about(caplog, **tags)) == 1
    caplog.clear()

    monkeypatch.setattr("sensors.failed_runs.was_kept_waiting", lambda instance, run_id: True)

    assert alerts_about(caplog, **tags) == []
