"""Which drafts are worth a higher tier? Opens one wave that renders the best of a released wave again."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.partitions import waves
from assets.wave_plan import WavePlanConfig
from resources.clip_tables import read_drafts
from resources.ledger import Ledger
from resources.site_store import SiteStore
from resources.wave_plans import claim_wave, planned_waves, read_plan
from sensors.continuous_generation import waves_name, why_no_wave
from worldloop.cosmos.promotion import (
    can_promote,
    choose_drafts,
    promoted_drafts,
    promotion_config,
)
from worldloop.errors import BudgetExceededError, MalformedRecordError, UnknownKeyError
from worldloop.sites import Site
from worldloop.waves import WavePlan

CURSOR_VERSION = 1


def build_promoted_drafts(
    plan_job: UnresolvedAssetJobDefinition, site: Site
) -> dg.SensorDefinition:
    """The sensor that renders survivors again; switched off until somebody switches it on.

    Which drafts were promoted is read from the plans, so no draft is promoted twice, whatever becomes
    of this sensor's cursor; the cursor only counts the day's promotions and skips finished waves.
    """
    settings = site.promotion

    @dg.sensor(
        name="promoted_drafts",
        description="Renders the best drafts of a released wave again at the next tier.",
        job=plan_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def promoted_drafts_sensor(
        context: dg.SensorEvaluationContext, store: SiteStore, ledger: Ledger
    ) -> dg.SensorResult | dg.SkipReason:
        """Open a wave that renders the best drafts of a released wave at the next tier."""
        now = datetime.now(UTC)
        state = _state(context.cursor, now, asdict(settings))
        reason = why_no_wave(context.instance, store, plan_job.name, site)
        left = settings.max_per_day - int(state["promoted"])
        if reason is None and left <= 0:
            reason = (
                f"{state['promoted']} drafts were promoted today (UTC), and max_per_day in sites.toml is "
                f"{settings.max_per_day}."
            )
        if reason is not None:
            return dg.SkipReason(reason)
        found = _next_promotion(context.instance, store, state, site, left)
        if found is None:
            return dg.SensorResult(
                skip_reason=dg.SkipReason("No released wave has drafts left to promote."),
                cursor=json.dumps(state),
            )
        source, config = found
        known = context.instance.get_dynamic_partitions(waves_name())
        wave = claim_wave(store, known, cause=f"promote:{source.wave}")
        try:
            ledger.reserve(wave, WavePlanConfig(**config).estimate(site.usd_per_gpu_hour))
        except (BudgetExceededError, MalformedRecordError, UnknownKeyError) as error:
            return dg.SkipReason(f"Drafts of {source.wave} wait: {error}")
        num_drafts = len(config["drafts"])
        context.log.info("Promoting %d drafts of %s as %s", num_drafts, source.wave, wave)
        return dg.SensorResult(
            dynamic_partitions_requests=[waves.build_add_request([wave])],
            run_requests=[
                dg.RunRequest(
                    run_key=f"promote:{source.wave}:{wave}",
                    partition_key=wave,
                    run_config={"ops": {"wave_plan": {"config": config}}},
                )
            ],
            cursor=json.dumps({**state, "promoted": state["promoted"] + num_drafts}),
        )

    return promoted_drafts_sensor


def _next_promotion(
    instance: dg.DagsterInstance, store: SiteStore, state: dict[str, Any], site: Site, limit: int
) -> tuple[WavePlan, dict[str, Any]] | None:
    """The oldest released wave with drafts to promote, and what to ask for; finished ones go into the state."""
    released = instance.get_materialized_partitions(dg.AssetKey("release"))
    waiting = sorted(released - set(state["finished"]))
    if not waiting:
        return None
    plans = {wave: read_plan(store, wave) for wave in planned_waves(store)}
    promoted = promoted_drafts(list(plans.values()))
    for wave in waiting:
        plan = plans.get(wave)
        if plan is not None and can_promote(plan, site.promotion):
            drafts = read_drafts(store, wave)
            chosen = choose_drafts(
                drafts, share=site.promotion.share, promoted=promoted, limit=limit
            )
            if chosen:
                index_of = dict(drafts.select("recipe_id", "index").iter_rows())
                pairs = [(index_of[recipe_id], recipe_id) for recipe_id in chosen]
                return plan, promotion_config(plan, pairs, site.promotion)
        state["finished"].append(wave)
    return None


def _state(cursor: str | None, now: datetime, settings: dict[str, Any]) -> dict[str, Any]:
    """The cursor; a new day counts from zero, and other settings look at every wave anew."""
    known = json.loads(json.dumps(settings))  # as the cursor keeps them: lists, not tuples
    today = now.date().isoformat()
    state = json.loads(cursor) if cursor else {}
    if state.get("version") != CURSOR_VERSION:
        state = {}
    return {
        "version": CURSOR_VERSION,
        "day": today,
        "promoted": state.get("promoted", 0) if state.get("day") == today else 0,
        "finished": state.get("finished", []) if state.get("settings") == known else [],
        "settings": known,
    }
