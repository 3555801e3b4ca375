"""Which step of which open wave is due? Carries every wave from its plan to its release."""

from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.partitions import shard_key, waves
from resources.site_store import SiteStore
from resources.wave_plans import read_plan
from worldloop.budgets import patience_s
from worldloop.catalog_incidents import retry_at
from worldloop.conducting import CityState, RunSummary, city_states, due_steps
from worldloop.errors import UnreachableError
from worldloop.waves import WavePlan

MAX_RUNTIME_TAG, SKETCH_RUNTIME_S = "dagster/max_runtime", 7200
_CITY_TAG, _WAVE_TAG = "dagster/partition/city", "dagster/partition/wave"


def build_wave_conductor(
    city_job: UnresolvedAssetJobDefinition, close_job: UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """The sensor that requests one run per planned city, then the run that closes the wave.

    Run keys name the cause (`w0001/tokyo`, `w0001/close`), so a restarted daemon asks for nothing
    twice; a city is run again from the UI or a backfill, never by this sensor. A wave that could not
    close because a site did not answer is closed again after two minutes, four, eight, and then
    every quarter of an hour; after any other failure it waits for a person. No automation condition
    stands on this path: a rebuilt atlas can request nothing.
    """

    @dg.sensor(
        name="wave_conductor",
        description="Carries open waves: a run a city, then the run that closes the wave.",
        jobs=[city_job, close_job],
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def wave_conductor(
        context: dg.SensorEvaluationContext, store: SiteStore
    ) -> dg.SensorResult | dg.SkipReason:
        """Carry open waves: one run per planned city, then one run that closes the wave."""
        requests: list[dg.RunRequest] = []
        progress: list[str] = []
        for wave in open_waves(context.instance):
            plan = read_plan(store, wave)
            planned = plan.cities
            states = states_of_cities(context.instance, city_job.name, wave)
            due = due_steps(planned, states)
            requests += [
                dg.RunRequest(
                    run_key=f"{wave}/{city}",
                    job_name=city_job.name,
                    partition_key=shard_key(city, wave),
                    tags=_longer(plan, city),
                )
                for city in due.cities
            ]
            ended = sum(state != "live" for state in states.values())
            words = f"{ended} of {len(planned)} cities have ended"
            if due.close:
                run_key, words = closing(context.instance, close_job.name, wave)
                requests += [
                    dg.RunRequest(run_key=key, job_name=close_job.name, partition_key=wave)
                    for key in (run_key,)
                    if key
                ]
            progress.append(f"{wave}: {words}")
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason("; ".join(progress) or "No wave is open.")

    return wave_conductor


def _longer(plan: WavePlan, city: str) -> dict[str, str]:
    """Tags that let a run take as long as its world model may need; none for sketches alone."""
    if plan.world_model is None:
        return {}
    seconds = SKETCH_RUNTIME_S + patience_s(plan.world_model, len(plan.clips_of(city)))
    return {MAX_RUNTIME_TAG: f"{seconds:.0f}"}


def open_waves(instance: dg.DagsterInstance) -> list[str]:
    """Waves with a plan and no release, oldest first."""
    if waves.name is None:
        return []
    known = set(instance.get_dynamic_partitions(waves.name))
    planned = instance.get_materialized_partitions(dg.AssetKey("wave_plan"))
    released = instance.get_materialized_partitions(dg.AssetKey("release"))
    return sorted((known & planned) - released)


def states_of_cities(
    instance: dg.DagsterInstance, city_job: str, wave: str
) -> dict[str, CityState]:
    """State of every city of a wave that has a run or stands made."""
    records = instance.get_run_records(RunsFilter(job_name=city_job, tags={_WAVE_TAG: wave}))
    runs = [
        _summary(record.dagster_run) for record in records if _CITY_TAG in record.dagster_run.tags
    ]
    made = [
        city
        for city, _, of_wave in (
            key.partition("|")
            for key in instance.get_materialized_partitions(dg.AssetKey("embeddings"))
        )
        if of_wave == wave
    ]
    return city_states(runs, made)


def closing(instance: dg.DagsterInstance, close_job: str, wave: str) -> tuple[str, str]:
    """The run key to close a wave with now, or nothing; and what to say of it.

    Only what waits for a site heals by itself, so only that is tried again.
    """
    of_wave = RunsFilter(job_name=close_job, tags={"dagster/partition": wave})
    tries = instance.get_run_records(of_wave)
    if not tries:
        return f"{wave}/close", "every city has ended"
    newest = tries[0]
    run_id = newest.dagster_run.run_id
    if not newest.dagster_run.is_finished or newest.end_time is None:
        return "", "it is being closed"
    if not was_kept_waiting(instance, run_id):
        return "", f"the run {run_id[:8]} that closes it did not; materialise its assets again"
    due_at = retry_at(datetime.fromtimestamp(newest.end_time, UTC), len(tries))
    if datetime.now(UTC) < due_at:
        return "", f"a site did not answer; it is closed again at {due_at:%H:%M} UTC"
    return f"{wave}/close/{run_id}", "it is closed again now"


def is_another_try(run: dg.DagsterRun) -> bool:
    """Whether a run closes a wave that could not be closed before."""
    return "/close/" in run.tags.get("dagster/run_key", "")


def was_kept_waiting(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run failed because a site did not answer."""
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        error = entry.get_dagster_event().step_failure_data.error
        while error is not None:
            if error.cls_name == UnreachableError.__name__:
                return True
            error = error.cause
    return False


def _summary(run: dg.DagsterRun) -> RunSummary:
    return RunSummary(
        city=run.tags[_CITY_TAG],
        finished=run.is_finished,
        succeeded=run.status == DagsterRunStatus.SUCCESS,
        will_retry=run.status == DagsterRunStatus.FAILURE
        and run.tags.get("dagster/will_retry") == "true",
    )
