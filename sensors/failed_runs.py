"""Has a run failed? Tells somebody."""

import dagster as dg

from assets.site_catalogs import is_site_catalog
from resources.alerts import Alerts
from sensors.wave_conductor import is_another_try, was_kept_waiting


@dg.run_failure_sensor(
    name="failed_runs",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def failed_runs(context: dg.RunFailureSensorContext, alerts: Alerts) -> None:
    """Send an alert for every failed run that will not be retried.

    Runs of nothing but catalogs of sites are left to `late_catalogs`, which tells of an incident
    once and not at every try. So are further tries to close a wave while a site does not answer.
    """
    run = context.dagster_run
    if run.tags.get("dagster/will_retry") == "true":
        return
    if run.asset_selection and all(is_site_catalog(key) for key in run.asset_selection):
        return
    if is_another_try(run) and was_kept_waiting(context.instance, run.run_id):
        return
    alerts.send(
        f"worldloop run failed: {run.job_name}",
        run_id=run.run_id,
        partition=run.tags.get("dagster/partition", ""),
        error=context.failure_event.message or "",
    )
