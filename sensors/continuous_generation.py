"""May the next wave open? Opens it when the last one has its release and the budgets allow."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.partitions import cities, is_nearly_full, waves
from resources.checkpoint_lines import adapter_values, line_of
from resources.checkpoint_registry import CheckpointRegistry
from resources.ledger import Ledger
from resources.site_store import SiteStore
from resources.wave_plans import claim_wave
from sensors.wave_conductor import open_waves
from worldloop.budgets import estimate_wave
from worldloop.conducting import reason_not_to_open
from worldloop.errors import BudgetExceededError
from worldloop.federation.triggers import wave_order
from worldloop.sites import PROMOTED, Site

CURSOR_VERSION = 1
_CAUSE = "continuous_generation"


def build_continuous_generation(
    plan_job: UnresolvedAssetJobDefinition, site: Site
) -> dg.SensorDefinition:
    """The sensor that keeps footage coming; switched off until somebody switches it on."""
    plan = {**asdict(site.generation), "control": list(site.generation.control)}
    plan["weigh_by_acceptance"] &= not site.generation.targets  # which leave no place to pick
    del plan["min_hours_between_waves"], plan["adapter"]

    @dg.sensor(
        name="continuous_generation",
        description="Opens the next wave of footage when none is open and the budget allows it.",
        job=plan_job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def continuous_generation(
        context: dg.SensorEvaluationContext,
        store: SiteStore,
        ledger: Ledger,
        registry: CheckpointRegistry,
    ) -> dg.SensorResult | dg.SkipReason:
        """Open the next wave: adds its partition, reserves its budget, asks for its plan."""
        wave = json.loads(context.cursor)["wave"] if context.cursor else None
        unplanned = why_unplanned(context.instance, wave, plan_job.name)
        if unplanned is not None:
            return dg.SkipReason(unplanned)
        known = context.instance.get_dynamic_partitions(waves_name())
        now = datetime.now(UTC)
        reason = reason_not_to_open(
            open_waves=open_waves(context.instance),
            last_opened_at=_last_opened_at(context.cursor),
            now=now,
            min_hours_between=site.generation.min_hours_between_waves,
            disk_used_gb=store.used_bytes() / 1e9,
            max_disk_gb=site.max_disk_gb,
        )
        if reason is not None:
            return dg.SkipReason(reason)
        if is_nearly_full(len(known) + 1, len(cities.get_partition_keys())):
            context.log.warning(
                "%d waves come near the number of partitions that Dagster handles well; delete the "
                "partitions of the oldest released ones in the UI (their data and lineage stay).",
                len(known),
            )
        wave = claim_wave(store, known, cause=_CAUSE)
        adapter: dict[str, Any] = {}
        if site.generation.adapter:
            model = site.generation.world_model
            chosen = registry.chosen(line_of(model), wave)
            if not (chosen or registry.history(line_of(model))):
                return dg.SkipReason(_nothing_promoted(model))
            if chosen:
                weight = site.training.regeneration.weight
                adapter = adapter_values(store, registry, model, chosen, weight=weight)
            context.log.info("%s makes %s", chosen or f"The base of {model} alone", wave)
        try:
            ledger.reserve(
                wave, estimate_wave(site.generation, usd_per_gpu_hour=site.usd_per_gpu_hour)
            )
        except BudgetExceededError as error:
            return dg.SkipReason(str(error))
        return dg.SensorResult(
            dynamic_partitions_requests=[waves.build_add_request([wave])],
            run_requests=[
                dg.RunRequest(
                    run_key=f"{wave}/plan",
                    partition_key=wave,
                    run_config={"ops": {"wave_plan": {"config": {**plan, **adapter}}}},
                )
            ],
            cursor=json.dumps(
                {"version": CURSOR_VERSION, "wave": wave, "opened_at": now.isoformat()}
            ),
        )

    return continuous_generation


def _nothing_promoted(model: str) -> str:
    return (
        f'adapter = "{PROMOTED}" is asked for, and no checkpoint of {model} was ever promoted. Leave adapter '
        "empty under [sites.NAME.generation] in sites.toml until a round has promoted one."
    )


def waves_name() -> str:
    """Name of the partitions of waves."""
    assert waves.name is not None
    return waves.name


def why_unplanned(instance: dg.DagsterInstance, wave: str | None, plan_job: str) -> str | None:
    """Why the wave that was opened last holds up the next one although it has no plan yet."""
    if wave is None or wave in instance.get_materialized_partitions(dg.AssetKey("wave_plan")):
        return None
    newest = instance.get_run_records(
        dg.RunsFilter(job_name=plan_job, tags={"dagster/partition": wave}), limit=1
    )
    if newest and newest[0].dagster_run.is_finished:
        return f"Wave {wave} could not be planned: materialise wave_plan of {wave} in the UI."
    return f"Wave {wave} is being planned."


def why_no_wave(
    instance: dg.DagsterInstance, store: SiteStore, plan_job: str, site: Site
) -> str | None:
    """Why no wave may open now that nobody's clock is waited for: another one is planned or carried, or the disk is full."""
    known = instance.get_dynamic_partitions(waves_name())
    unplanned = why_unplanned(instance, max(known, key=wave_order, default=None), plan_job)
    return unplanned or reason_not_to_open(
        open_waves=open_waves(instance),
        last_opened_at=None,
        now=datetime.now(UTC),
        min_hours_between=0.0,
        disk_used_gb=store.used_bytes() / 1e9,
        max_disk_gb=site.max_disk_gb,
    )


def _last_opened_at(cursor: str | None) -> datetime | None:
    if not cursor:
        return None
    state = json.loads(cursor)
    return (
        datetime.fromisoformat(state["opened_at"]) if state["version"] == CURSOR_VERSION else None
    )
