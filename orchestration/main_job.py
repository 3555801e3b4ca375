"""The main job: one wave from its plan to its release, through the definitions the daemon runs."""

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets.partitions import shard_key, waves
from assets.site_catalogs import asset_name
from assets.wave_plan import WavePlanConfig
from orchestration.definitions import defs
from resources.site_store import SiteStore
from resources.wave_plans import claim_wave, read_plan
from sensors.wave_conductor import open_waves
from worldloop.atlas.atlas import load_atlas
from worldloop.waves import plan_wave

SHOWCASE = (
    "hong_kong/street",
    "nairobi/zoo",
    "cairo/museum",
    "mumbai/hospital",
    "sydney/amusement_park",
)
_QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


@dataclass(frozen=True)
class Step:
    """One run of the main job.

    Attributes:
        title: What it does, for people.
        job: Name of the Dagster job.
        partition_key: Its partition, or None.
    """

    title: str
    job: str
    partition_key: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a wave ended.

    Attributes:
        wave: Its key.
        run_ids: Job and partition to run id, in order.
        failed: Steps that failed.
    """

    wave: str
    run_ids: dict[str, str]
    failed: tuple[str, ...]


def carry_wave(
    instance: dg.DagsterInstance,
    store: SiteStore,
    plan: dict[str, Any],
    *,
    on_step: Callable[[Step, int, int], None],
) -> Outcome:
    """Open a wave, or go on with the one that is open, and carry it to its release.

    Args:
        instance: Where runs and materialisations are recorded; the UI shows them.
        store: The site.
        plan: Fields of `WavePlanConfig`; what an open wave already has stays.
        on_step: Called before each step with the step, its number from 0 and the number of steps.

    Raises:
        KeyboardInterrupt: If a step was interrupted; the same call later goes on with the wave.
    """
    assert waves.name is not None
    check_plan(plan)
    known = instance.get_dynamic_partitions(waves.name)
    unfinished = open_waves(instance)
    wave = unfinished[0] if unfinished else claim_wave(store, known, cause=_by_hand())
    instance.add_dynamic_partitions(waves.name, [wave])
    run_ids: dict[str, str] = {}
    failed: list[str] = []

    def execute(step: Step, number: int, total: int, config: dict[str, Any] | None = None) -> bool:
        on_step(step, number, total)
        result = defs.resolve_job_def(step.job).execute_in_process(
            instance=instance,
            partition_key=step.partition_key,
            run_config={**_QUIET, **(config or {})},
            raise_on_error=False,
        )
        name = f"{step.job}[{step.partition_key}]" if step.partition_key else step.job
        run_ids[name] = result.run_id
        if was_interrupted(result):
            raise KeyboardInterrupt  # the wave stays open; a city that was cut short has not failed
        if not result.success:
            failed.append(name)
        return result.success

    opening: Sequence[tuple[Step, dict[str, Any] | None]] = [
        (Step("writing the atlas", "atlas_job"), None),
        (
            Step(f"planning {wave}", "plan_job", wave),
            None if unfinished else {"ops": {"wave_plan": {"config": plan}}},
        ),
    ]
    for number, (step, config) in enumerate(opening):
        if not execute(step, number, 8, config):
            return Outcome(wave, run_ids, tuple(failed))
    cities = read_plan(store, wave).cities
    steps = [Step(f"footage of {city}", "city_job", shard_key(city, wave)) for city in cities]
    steps.append(Step(f"closing {wave}", "close_job", wave))
    for number, step in enumerate(steps, start=2):
        execute(step, number, len(steps) + 3)
    return Outcome(wave, run_ids, tuple(failed))


def was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a run ended because somebody pressed Ctrl-C, and not by itself."""
    errors = [event.step_failure_data.error for event in result.get_step_failure_events()]
    return any(
        error and "DagsterExecutionInterruptedError" in error.to_string() for error in errors
    )


def check_plan(plan: dict[str, Any]) -> None:
    """Refuse a plan before anything is opened for it.

    Args:
        plan: Fields of `WavePlanConfig`.

    Raises:
        UnknownKeyError: If a place is unknown.
        MalformedRecordError: If a number cannot be, or no grammar builds a place that needs one.
    """
    config = WavePlanConfig(**plan)
    plan_wave(
        load_atlas(),
        wave="w0001",
        places=config.places or SHOWCASE,
        clips_per_place=config.clips_per_place,
        seed=1,
        shape=config.shape(),
        world_model=config.model_plan(),
    )


def plan_next_wave(instance: dg.DagsterInstance, store: SiteStore, plan: dict[str, Any]) -> str:
    """Add the next wave's partition and plan it; sensors do the rest.

    Returns:
        The wave's key.
    """
    assert waves.name is not None
    check_plan(plan)
    wave = claim_wave(store, instance.get_dynamic_partitions(waves.name), cause=_by_hand())
    instance.add_dynamic_partitions(waves.name, [wave])
    try:
        defs.resolve_job_def("plan_job").execute_in_process(
            instance=instance,
            partition_key=wave,
            run_config={**_QUIET, "ops": {"wave_plan": {"config": plan}}},
        )
    except Exception:
        instance.delete_dynamic_partition(waves.name, wave)
        raise
    return wave


def build_marts(instance: dg.DagsterInstance) -> bool:
    """Build the dbt marts from the logs, through the marts code location."""
    from orchestration.marts import defs as marts

    result = marts.resolve_job_def("marts_job").execute_in_process(
        instance=instance, run_config=_QUIET, raise_on_error=False
    )
    return result.success


def update_catalogs(
    instance: dg.DagsterInstance, sites: Sequence[str] | None = None
) -> dict[str, str]:
    """Bring the catalogs of sites up to date in one run, as the daemon does by itself.

    Args:
        instance: Where the run is recorded.
        sites: Names of sites; all when not given.

    Returns:
        Sites whose catalogs could not be brought up to date, each with why.
    """
    wanted = None if sites is None else [dg.AssetKey(asset_name(site)) for site in sites]
    result = defs.resolve_job_def("catalogs_job").execute_in_process(
        instance=instance, run_config=_QUIET, raise_on_error=False, asset_selection=wanted
    )
    if was_interrupted(result):
        raise KeyboardInterrupt
    failures = {
        str(event.step_key).removesuffix("_checks").removesuffix("_catalog"): _first_words(
            event.step_failure_data.error
        )
        for event in result.get_step_failure_events()
    }
    return failures


def _first_words(error: Any) -> str:
    """What an error said first, without where in the code."""
    cause = error
    while cause is not None and cause.cause is not None:
        cause = cause.cause
    if cause is None:
        return "failed"
    words = str(cause.message).strip().split("\n")[0]
    return re.sub(r"^[\w.]+(Failure|Error): ", "", words)  # the class, as Dagster writes it first


def _by_hand() -> str:
    """What a wave is for that somebody asked for: every asking is a cause of its own."""
    return f"by hand {platform.node()} {os.getpid()} {time.time_ns()}"
