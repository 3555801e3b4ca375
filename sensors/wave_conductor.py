"""Which step of which open wave is due? Carries every wave from its plan to its release."""

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.partitions import shard_key, waves
from resources.site_store import SiteStore
from resources.wave_plans import read_plan
from worldloop.budgets import patience_s
from worldloop.conducting import CityState, RunSummary, city_states, due_steps
from worldloop.waves import WavePlan

MAX_RUNTIME_TAG, SKETCH_RUNTIME_S = "dagster/max_runtime", 7200
_CITY_TAG, _WAVE_TAG = "dagster/partition/city", "dagster/partition/wave"


def build_wave_conductor(
    city_job: UnresolvedAssetJobDefinition, close_job: UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """The sensor that requests one run per planned city, then the run that closes the wave.

    Run keys name the cause (`w0001/tokyo`, `w0001/close`), so a restarted daemon asks for nothing
    twice; a city is run again from the UI or a backfill, never by this sensor. No automation
    condition stands on this path: a rebuilt atlas can request nothing.
    """

    @dg.sensor(
        name="wave_conductor",
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
            if due.close:
                requests.append(
                    dg.RunRequest(
                        run_key=f"{wave}/close", job_name=close_job.name, partition_key=wave
                    )
                )
            ended = sum(state != "live" for state in states.values())
            progress.append(f"{wave}: {ended} of {len(planned)} cities have ended")
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


def _summary(run: dg.DagsterRun) -> RunSummary:
    return RunSummary(
        city=run.tags[_CITY_TAG],
        finished=run.is_finished,
        succeeded=run.status == DagsterRunStatus.SUCCESS,
        will_retry=run.status == DagsterRunStatus.FAILURE
        and run.tags.get("dagster/will_retry") == "true",
    )
