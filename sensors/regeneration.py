"""What should the promoted checkpoint make anew? Opens a wave of the places that were done worst."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.partitions import waves
from assets.wave_plan import WavePlanConfig
from resources.checkpoint_lines import adapter_values, line_of
from resources.checkpoint_registry import CheckpointRegistry
from resources.ledger import Ledger
from resources.round_files import read_evaluation_record
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.wave_plans import planned_waves, read_plan, take_wave
from sensors.continuous_generation import waves_name, why_no_wave
from sensors.retraining import released_waves
from worldloop.cosmos.tiers import SKETCH
from worldloop.errors import (
    BudgetExceededError,
    MalformedRecordError,
    UnknownKeyError,
    UnreachableError,
)
from worldloop.federation.comparisons import adapter_of
from worldloop.federation.evaluation import Evaluation, weakest_places
from worldloop.federation.triggers import (
    CellCount,
    MadeWave,
    RegenerationPlan,
    regeneration_plan,
    wave_order,
)
from worldloop.logs import log_kind, payload
from worldloop.sites import Retraining, Site
from worldloop.waves import WavePlan, next_wave_key

CURSOR_VERSION = 1
_RUN_KEY, _PARTITION, _SENSOR = "dagster/run_key", "dagster/partition", "dagster/sensor_name"
_NAME = "regeneration"
_made: dict[
    tuple[str, str, str], MadeWave
] = {}  # by store, model and wave; a release never changes


def build_regeneration(plan_job: UnresolvedAssetJobDefinition, site: Site) -> dg.SensorDefinition:
    """The sensor that makes places anew; switched off until somebody switches it on.

    One wave a cause: a promotion, or a wave in which places failed or fell below the target. Which causes
    were answered stands in the run keys, and again in the plans, whose adapters name their round; so a
    restarted daemon or a lost cursor opens nothing twice.
    """
    settings = site.training

    @dg.sensor(
        name=_NAME,
        description="Opens a wave with the promoted checkpoint for the weakest places first.",
        job=plan_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def regeneration(
        context: dg.SensorEvaluationContext,
        store: SiteStore,
        site_log: SiteLog,
        ledger: Ledger,
        registry: CheckpointRegistry,
    ) -> dg.SensorResult | dg.SkipReason:
        """Open a wave that makes the weakest places anew with the promoted adapter."""
        if not settings.model:
            return dg.SkipReason(
                "No model is post-trained: name one under [sites.NAME.training] in sites.toml."
            )
        reason = why_no_wave(context.instance, store, plan_job.name, site)
        if reason is not None:
            return dg.SkipReason(reason)
        try:
            made = made_waves(store, site_log, settings.model)
        except UnreachableError as error:
            return dg.SkipReason(f"What was made cannot be counted now: {error}")
        asked = {
            **_asked_by_cursor(context.cursor),
            **_asked_by_runs(context.instance, plan_job.name),
        }
        taken = {*context.instance.get_dynamic_partitions(waves_name()), *planned_waves(store)}
        while True:
            wave = next_wave_key(taken)
            due = _due(store, registry, settings, made, asked, wave)
            if isinstance(due, str):
                return dg.SkipReason(due)
            if take_wave(store, wave, cause=due.cause):
                break
            taken.add(wave)  # another sensor was quicker; the next key may have another checkpoint
        weight = settings.regeneration.weight
        adapter = adapter_values(store, registry, settings.model, due.adapter, weight=weight)
        config = regeneration_config(due, site, adapter)
        try:
            ledger.reserve(wave, WavePlanConfig(**config).estimate(site.usd_per_gpu_hour))
        except (BudgetExceededError, MalformedRecordError, UnknownKeyError) as error:
            return dg.SkipReason(f"{due.reason}, but: {error}")
        context.log.info("%s: %d places as %s (%s)", due.cause, len(due.places), wave, due.reason)
        return dg.SensorResult(
            dynamic_partitions_requests=[waves.build_add_request([wave])],
            run_requests=[
                dg.RunRequest(
                    run_key=due.cause,
                    partition_key=wave,
                    run_config={"ops": {"wave_plan": {"config": config}}},
                    tags={"worldloop/reason": due.reason},
                )
            ],
            cursor=json.dumps({"version": CURSOR_VERSION, "asked": {**asked, due.cause: wave}}),
        )

    return regeneration


def _due(
    store: SiteStore,
    registry: CheckpointRegistry,
    settings: Retraining,
    made: list[MadeWave],
    asked: Mapping[str, str],
    wave: str,
) -> RegenerationPlan | str:
    """What to make anew as this wave, or in words why nothing; its key says which checkpoint has a turn."""
    line = line_of(settings.model)
    shadow = registry.shadow(line)
    is_new = bool(shadow) and f"regenerate:{shadow}" not in {
        **_asked_by_plans(made, shadow),
        **asked,
    }
    promoted = shadow if is_new else registry.chosen(line, wave)  # a trial begins with a wave
    due = regeneration_plan(
        made,
        promoted=promoted,
        asked={
            **_asked_by_plans(made, shadow),
            **_asked_by_plans(made, promoted),
            **asked,
        },
        settings=settings,
        weakest=_found_weak(store, promoted, made),
    )
    if is_new and not isinstance(due, str):
        words = f"{shadow} is tried as shadow; the weakest places are made anew with it"
        return replace(due, reason=words)
    return due


def regeneration_config(
    due: RegenerationPlan, site: Site, adapter: Mapping[str, Any]
) -> dict[str, Any]:
    """What to ask of the wave: fields of `WavePlanConfig`.

    Args:
        due: Which places.
        site: The coordinator; sketches have the shape that its generation has.
        adapter: As `resources.checkpoint_lines.adapter_values` gives it.
    """
    asked, sketch = site.training.regeneration, site.generation
    follows = bool({*asked.control} - {"first_frames"})  # then a sketch has its model's frames
    return {
        "places": list(due.places),
        "clips_per_place": due.clips_per_place,
        "num_frames": 0 if follows else sketch.num_frames,
        "rate_fps": 0 if follows else sketch.rate_fps,
        "width_px": sketch.width_px,
        "height_px": sketch.height_px,
        "num_samples": sketch.num_samples,
        "tier": asked.tier,
        "profile": asked.profile,
        "control": list(asked.control),
        "batch_size": asked.batch_size,
        "allow_unguarded": asked.allow_unguarded,
        **adapter,
    }


def made_waves(store: SiteStore, site_log: SiteLog, model: str) -> list[MadeWave]:
    """What each released wave has of every place, from its plan and the shared logs alone.

    Raises:
        UnreachableError: If a site does not answer.
    """
    released = [one.wave for one in released_waves(store)]
    unread = [wave for wave in released if (store.url, model, wave) not in _made]
    if unread:
        tables = {
            kind: payload(log_kind(kind), site_log.read(kind, waves=unread))
            for kind in ("lineage", "scores", "release_clips")
        }
        for wave in unread:
            rows = {kind: rows.filter(pl.col("wave") == wave) for kind, rows in tables.items()}
            _made[store.url, model, wave] = _counted(read_plan(store, wave), model, rows)
    return [_made[store.url, model, wave] for wave in released]


def _counted(plan: WavePlan, model: str, rows: Mapping[str, pl.DataFrame]) -> MadeWave:
    generated = plan.world_model
    is_generated = generated is not None and generated.model == model
    is_sketch = pl.col("tier") == SKETCH
    clips = rows["lineage"].filter(~is_sketch if is_generated else is_sketch)
    counts = (
        clips.join(rows["scores"].select("recipe_id", "sharpness"), on="recipe_id", how="left")
        .with_columns(
            place=pl.format("{}/{}", "city", "institution"),
            released=pl.col("recipe_id").is_in(rows["release_clips"]["recipe_id"].implode()),
        )
        .group_by("place")
        .agg(pl.len(), pl.col("released").sum(), pl.col("sharpness").mean().fill_null(0.0))
    )
    found = {place: (made, good, sharp) for place, made, good, sharp in counts.iter_rows()}
    planned = Counter(clip.place for clip in plan.clips)
    if is_generated and generated is not None and generated.share < 1:
        planned = Counter({place: made for place, (made, _, _) in found.items()})  # ids chose them
    return MadeWave(
        wave=plan.wave,
        adapter=adapter_of(plan) if is_generated else "",
        is_generated=is_generated,
        cells={
            place: CellCount(num, *found.get(place, (0, 0, 0.0))[1:])
            for place, num in sorted(planned.items())
        },
    )


def _found_weak(store: SiteStore, promoted: str, made: Iterable[MadeWave]) -> tuple[str, ...]:
    """Places as the promoted round's evaluation ranks them, the weakest first."""
    record = read_evaluation_record(store, promoted) if promoted else None
    if record is None:
        return ()
    among = {place for one in made for place in one.cells}
    return weakest_places(Evaluation.from_record(record), len(among), among=among)


def _asked_by_runs(instance: dg.DagsterInstance, plan_job: str) -> dict[str, str]:
    records = instance.get_run_records(dg.RunsFilter(job_name=plan_job, tags={_SENSOR: _NAME}))
    tags = [record.dagster_run.tags for record in records]
    return {one[_RUN_KEY]: one[_PARTITION] for one in tags if {_RUN_KEY, _PARTITION} <= one.keys()}


def _asked_by_cursor(cursor: str | None) -> dict[str, str]:
    state = json.loads(cursor) if cursor else {}
    return dict(state["asked"]) if state.get("version") == CURSOR_VERSION else {}


def _asked_by_plans(made: Iterable[MadeWave], promoted: str) -> dict[str, str]:
    """Whether a released wave was made with the promoted adapter, whoever asked for it."""
    mine = [one.wave for one in made if promoted and one.adapter == promoted]
    return {f"regenerate:{promoted}": min(mine, key=wave_order)} if mine else {}
