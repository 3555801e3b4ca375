"""Cosmos clips: what a world model makes of a wave's scenes, packed per city and wave."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.partitions import city_by_wave, split_key
from gpu_jobs.cosmos_generate.spec import CosmosGenerateSpec
from resources.clip_tables import read_every_clip, short_packs
from resources.control_inputs import clip_request, lay_out_source
from resources.job_launcher import JobLauncher
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.tables import publish, read
from resources.wave_plans import read_plan
from resources.world_models import WorldModels
from worldloop import layout
from worldloop.budgets import patience_s
from worldloop.contact_sheets import as_markdown, contact_sheet, first_and_last
from worldloop.cosmos.families import Family
from worldloop.cosmos.guards import guards_of, missing_guards
from worldloop.cosmos.models import model
from worldloop.cosmos.plans import WorldModelPlan
from worldloop.cosmos.recipes import AskedClip, asked_clips
from worldloop.cosmos.timing import gpu
from worldloop.errors import UnknownKeyError
from worldloop.packs import hash_file
from worldloop.plots import readable
from worldloop.records import (
    BLOCKED,
    CLIPS,
    FAILURES,
    GENERATIONS,
    PROMPTS,
    RECEIPTS,
    Table,
)
from worldloop.seeds import canonical_json

STEP = "generate"
_SHARD = ["wave", "index", "city", "institution", "recipe_id"]
_MAX_PICTURED = 6


@dg.asset(
    group_name="generation",
    kinds={"diffusers", "mp4"},
    partitions_def=city_by_wave,
    deps=["prompts", "rendered_clips"],
    pool="gpu",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def cosmos_clips(
    context: dg.AssetExecutionContext,
    store: SiteStore,
    staging: Staging,
    launcher: JobLauncher,
    world_models: WorldModels,
) -> dg.MaterializeResult[None]:
    """Footage of one city in one wave by the world model that the wave plans; none if it plans none.

    The model reads the prompts of the scenes and, if the plan says so, depth, segmentation, edges or
    first frames of their sketches. Clips that stand are not made again, a killed job goes on after its
    last finished clip. What a guard stops is a row of `blocked`, what cannot be made one of
    `failures`, how a clip was made one of `generations`. Formats: docs/formats.md#clips and #generations.
    """
    city, wave = split_key(context.partition_key)
    plan = read_plan(store, wave).world_model
    if plan is None:
        return dg.MaterializeResult(
            metadata={"dagster/row_count": 0, "note": "The wave plans no world model."}
        )
    asked = _asked(store, wave, city, plan)
    shard = f"{city}.cosmos"
    versions: Mapping[str, str] = {}
    with staging.lock(wave, shard, "cosmos_clips"):
        if _stands(store, wave, city, asked):
            context.log.info("All %d clips of %s in %s stand already", len(asked), city, wave)
        else:
            folder = staging.folder(wave, shard)
            ready, lacking = _take_inputs(store, plan, asked, folder / "inputs", wave, city)
            report: Mapping[str, Any] = {}
            if ready:
                report = launcher.run(
                    "cosmos_generate",
                    _spec(plan, ready, folder, world_models),
                    context=context,
                    timeout_s=patience_s(plan, len(ready)),
                    num_processes=world_models.cp_size,
                )
            versions = report.get("versions", {})
            for recovery in report.get("recoveries", ()):
                context.log.warning("Recovered: %s", recovery)
            _publish(store, wave, city, plan, asked, report, lacking, folder, context.run.run_id)
            if not lacking and not report.get("failures"):
                staging.clear(wave, shard)
    return dg.MaterializeResult(metadata=_describe(store, wave, city, plan, world_models, versions))


@dg.asset_check(asset=cosmos_clips, blocking=True, partitions_def=city_by_wave)
def every_planned_clip_is_made_blocked_or_failed(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Each clip that the plan asks for is exactly one of the three, of the planned shape, and nothing else is there."""
    city, wave = split_key(context.partition_key)
    plan = read_plan(store, wave).world_model
    if plan is None:
        return dg.AssetCheckResult(passed=True)
    asked = {clip.recipe.recipe_id for clip in _asked(store, wave, city, plan)}
    made, blocked, failed = (
        set(read(store, table, key(wave, city))["recipe_id"]) for table, key in _OUTCOMES
    )
    found = [*made, *blocked, *failed]
    clips = read(store, CLIPS, layout.cosmos_clips_key(wave, city))
    odd = clips.filter(
        ~pl.all_horizontal(pl.col(name) == n for name, n in asdict(plan.shape).items())
    )
    return dg.AssetCheckResult(
        passed=asked == set(found) and len(found) == len(asked) and odd.is_empty(),
        metadata={
            "of_another_shape": odd["recipe_id"].to_list()[:20],
            "lost": sorted(asked - set(found))[:20],
            "num_blocked": len(blocked),
            "num_failures": len(failed),
        },
    )


@dg.asset_check(asset=cosmos_clips, blocking=True, partitions_def=city_by_wave)
def generated_packs_hold_what_the_table_says(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Every pack of the shard is in the store with the size that its clips need."""
    city, wave = split_key(context.partition_key)
    key = layout.cosmos_clips_key(wave, city)
    clips = read(store, CLIPS, key) if store.exists(key) else CLIPS.empty()
    short = short_packs(store, clips)
    return dg.AssetCheckResult(passed=not short, metadata={"short_packs": short})


@dg.asset_check(asset=cosmos_clips, blocking=True, partitions_def=city_by_wave)
def guarded_as_required(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """No clip of a model that requires its guards was made without one of them; tiny models show nothing."""
    city, wave = split_key(context.partition_key)
    key = layout.generations_key(wave, city)
    rows = read(store, GENERATIONS, key) if store.exists(key) else GENERATIONS.empty()
    unguarded = [
        row["recipe_id"]
        for row in rows.iter_rows(named=True)
        if not row["tiny"] and _missing(model(row["model"]).record, row["guardrail"])
    ]
    return dg.AssetCheckResult(passed=not unguarded, metadata={"unguarded": unguarded[:20]})


def _failures_key(wave: str, city: str) -> str:
    return layout.failures_key(wave, city, STEP)


_OUTCOMES = (
    (CLIPS, layout.cosmos_clips_key),
    (BLOCKED, layout.blocked_key),
    (FAILURES, _failures_key),
)


def _missing(family: Family, state: str) -> tuple[str, ...]:
    return missing_guards(family, guards_of(state))


def _asked(store: SiteStore, wave: str, city: str, plan: WorldModelPlan) -> list[AskedClip]:
    prompts = read(store, PROMPTS, layout.prompts_key(wave, city))
    return asked_clips(plan, prompts.iter_rows(named=True))


def _stands(store: SiteStore, wave: str, city: str, asked: Sequence[AskedClip]) -> bool:
    key = layout.cosmos_clips_key(wave, city)
    if not store.exists(key):
        return False
    clips = read(store, CLIPS, key)
    settled = {
        *clips["recipe_id"],
        *read(store, BLOCKED, layout.blocked_key(wave, city))["recipe_id"],
    }
    return settled == {clip.recipe.recipe_id for clip in asked} and all(
        store.exists(pack) for pack in clips["pack_key"].unique()
    )


def _take_inputs(
    store: SiteStore,
    plan: WorldModelPlan,
    asked: Sequence[AskedClip],
    inputs: Path,
    wave: str,
    city: str,
) -> tuple[list[AskedClip], list[AskedClip]]:
    """Lay the control inputs out; clips whose source was never made come second."""
    if not plan.control:
        return list(asked), []
    if plan.source == "draft":
        drafts = {clip.recipe.source_recipe_id for clip in asked}
        rows = read_every_clip(store).filter(pl.col("recipe_id").is_in(drafts))
    else:
        rows = read(store, CLIPS, layout.clips_key(wave, city))
    sources = {row["recipe_id"]: row for row in rows.iter_rows(named=True)}
    ready = [clip for clip in asked if clip.recipe.source_recipe_id in sources]
    for clip in ready:
        source = clip.recipe.source_recipe_id
        lay_out_source(store, sources[source], plan, inputs / source)
    return ready, [clip for clip in asked if clip.recipe.source_recipe_id not in sources]


def _spec(
    plan: WorldModelPlan, ready: Sequence[AskedClip], folder: Path, machine: WorldModels
) -> CosmosGenerateSpec:
    return CosmosGenerateSpec(
        model=plan.model,
        revision=plan.revision,
        checkpoint_dir=machine.checkpoint_dir,
        requests=tuple(clip_request(clip, plan, folder / "inputs").to_record() for clip in ready),
        shape=asdict(plan.shape),
        num_steps=plan.num_steps,
        guidance=plan.guidance,
        sampler=plan.sampler,
        profile=plan.profile.to_record(),
        staging_dir=str(folder / "clips"),
        transformer_dir=plan.checkpoint,
        loras=tuple(asdict(lora) for lora in plan.loras),
        guards={
            "text": list(plan.text_guards),
            "video": list(plan.video_guards),
            "dir": machine.guardrail_dir or machine.checkpoint_dir,
        },
        batch_size=plan.batch_size,
        pack_path=str(folder / "pack.tar"),
        device=machine.device,
        cp_size=machine.cp_size,
        memory_cap_gb=machine.memory_cap_gb,
    )


def _publish(
    store: SiteStore,
    wave: str,
    city: str,
    plan: WorldModelPlan,
    asked: Sequence[AskedClip],
    report: Mapping[str, Any],
    lacking: Sequence[AskedClip],
    folder: Path,
    run_id: str,
) -> None:
    """Pack first, then the tables that point at it: a reader never sees a row without its bytes."""
    shard = _shard(asked, wave, city)
    pack_key = ""
    if report.get("clips"):
        pack = folder / "pack.tar"
        pack_key = layout.pack_key(wave, city, hash_file(pack))
        store.put_file(pack_key, pack)
    failures = [*report.get("failures", ()), *(_lacks_source(clip) for clip in lacking)]
    for table, key, rows in (
        (FAILURES, _failures_key(wave, city), _joined(FAILURES, shard, failures)),
        (
            BLOCKED,
            layout.blocked_key(wave, city),
            _joined(BLOCKED, shard, report.get("blocked", ())),
        ),
        (RECEIPTS, layout.receipts_key(wave, city, STEP), _receipts(shard, report, run_id)),
        (GENERATIONS, layout.generations_key(wave, city), _generations(shard, plan, asked, report)),
        (CLIPS, layout.cosmos_clips_key(wave, city), _clips(shard, plan, report, pack_key)),
    ):
        publish(store, table, key, rows)


def _shard(asked: Sequence[AskedClip], wave: str, city: str) -> pl.DataFrame:
    rows = [
        (wave, clip.index, city, clip.recipe.scene.institution, clip.recipe.recipe_id)
        for clip in asked
    ]
    return pl.DataFrame(rows, schema={name: CLIPS.columns[name] for name in _SHARD}, orient="row")


def _lacks_source(clip: AskedClip) -> dict[str, str]:
    return {
        "recipe_id": clip.recipe.recipe_id,
        "scene_id": clip.recipe.scene.scene_id,
        "stage": "control",
        "reason": "the clip that gives its control was not made",
    }


def _joined(table: Table, shard: pl.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of a report with their shard columns, in the order of the plan."""
    names = ["recipe_id", *(name for name in table.columns if name not in shard.columns)]
    schema = {name: table.columns[name] for name in names}
    frame = pl.DataFrame([{name: row.get(name) for name in names} for row in rows], schema=schema)
    return shard.join(frame, on="recipe_id", maintain_order="left")


def _clips(
    shard: pl.DataFrame, plan: WorldModelPlan, report: Mapping[str, Any], pack_key: str
) -> pl.DataFrame:
    return _joined(CLIPS, shard, report.get("clips", ())).with_columns(
        generator=pl.lit(plan.generator),
        generator_version=pl.lit(plan.revision),
        pack_key=pl.lit(pack_key),
    )


def _receipts(shard: pl.DataFrame, report: Mapping[str, Any], run_id: str) -> pl.DataFrame:
    return _joined(RECEIPTS, shard, report.get("receipts", ())).with_columns(
        receipt_id=pl.col("recipe_id") + f":{STEP}:{run_id}",
        step=pl.lit(STEP),
        run_id=pl.lit(run_id),
        host=pl.lit(platform.node()),
        finished_at=pl.lit(datetime.now(UTC)),
        gpu_s=pl.col("gpu_s").fill_null(0.0),
    )


def _generations(
    shard: pl.DataFrame,
    plan: WorldModelPlan,
    asked: Sequence[AskedClip],
    report: Mapping[str, Any],
) -> pl.DataFrame:
    """How each clip was made: what was asked, and what the job says of prompts and guards."""
    by_id = {clip.recipe.recipe_id: clip for clip in asked}
    rows = [
        {
            **_generation(plan, by_id[said["recipe_id"]]),
            "upsampled_prompt": said.get("upsampled_prompt") or "",
            "negative_prompt": said["negative_prompt"],
            "guardrail": said["guardrail"],
        }
        for said in report.get("generations", ())
    ]
    return _joined(GENERATIONS, shard, rows)


def _generation(plan: WorldModelPlan, clip: AskedClip) -> dict[str, Any]:
    recipe = clip.recipe
    adapters = "".join(f" + {lora.path} x {lora.weight:g}" for lora in plan.loras)
    return {
        "recipe_id": recipe.recipe_id,
        "scene_id": recipe.scene.scene_id,
        "model": plan.model,
        "revision": plan.revision,
        "checkpoint": f"{plan.checkpoint}{adapters}",
        "tier": plan.tier,
        "profile": plan.profile.name,
        "num_steps": recipe.num_steps,
        "guidance": recipe.guidance,
        "sampler": recipe.sampler,
        "seed": recipe.seed,
        "batch_size": recipe.batch_size,
        "prompt_form": recipe.prompt_form,
        "prompt": recipe.prompt,
        "control": "+".join(recipe.control),
        "sketch_recipe_id": clip.sketch_recipe_id or None,
        "draft_recipe_id": clip.draft_recipe_id or None,
        "tiny": model(plan.model).tiny,
        "recipe": canonical_json(recipe.to_record()).decode(),
    }


def _describe(
    store: SiteStore,
    wave: str,
    city: str,
    plan: WorldModelPlan,
    machine: WorldModels,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    clips = read(store, CLIPS, layout.cosmos_clips_key(wave, city))
    receipts = read(store, RECEIPTS, layout.receipts_key(wave, city, STEP))
    duration_s, gpu_s = float(clips["duration_s"].sum()), float(receipts["gpu_s"].sum())
    frames_per_gpu_s = float(clips["num_frames"].sum()) / gpu_s if gpu_s else 0.0
    states = read(store, GENERATIONS, layout.generations_key(wave, city))["guardrail"]
    facts = {
        "dagster/row_count": clips.height,
        "num_blocked": read(store, BLOCKED, layout.blocked_key(wave, city)).height,
        "num_failures": read(store, FAILURES, _failures_key(wave, city)).height,
        "model": f"{plan.model}@{plan.revision}",
        "tier": plan.tier,
        "profile": plan.profile.name,
        "guardrail": ", ".join(sorted(states.unique())) or "no clip",
        "size_bytes": int(clips["size_bytes"].sum()),
        "duration_s": round(duration_s, 2),
        "cpu_s": round(float(receipts["cpu_s"].sum()), 2),
        "gpu_s": round(gpu_s, 2),
        "frames_per_gpu_s": round(frames_per_gpu_s, 2),
        "cost_usd": round(machine.cost_usd(gpu_s), 4),
        "location": dg.MetadataValue.path(
            f"{store.url}/{clips['pack_key'][0]}" if clips.height else store.url
        ),
        "preview": dg.MetadataValue.md(
            as_markdown(
                contact_sheet(_first_and_last_frames(store, clips)),
                alt=f"First and last frames of {city} in {wave}",
            )
        ),
    }
    if duration_s:
        facts["usd_per_footage_s"] = round(machine.cost_usd(gpu_s) / duration_s, 6)
    return {
        **facts,
        **_speed(receipts, versions),
        "versions": dg.MetadataValue.json(dict(versions)),
    }


def _speed(receipts: pl.DataFrame, versions: Mapping[str, str]) -> dict[str, float]:
    """Means over the clips; what no receipt has is left out."""
    facts = {
        name: readable(float(value))
        for name, value in (
            ("ms_per_step", receipts["ms_per_step"].mean()),
            ("tflops", receipts["tflops"].mean()),
            ("peak_gpu_gb", receipts["peak_gpu_gb"].max()),
            ("busy_share", receipts["busy_share"].mean()),
        )
        if isinstance(value, float | int)
    }
    try:
        peak_tflops = gpu(versions.get("gpu", "")).bf16_tflops
    except UnknownKeyError:
        return facts
    if "tflops" in facts:
        facts["share_of_bf16_peak"] = round(facts["tflops"] / peak_tflops, 3)
    return facts


def _first_and_last_frames(store: SiteStore, clips: pl.DataFrame) -> list[bytes]:
    pictures: list[bytes] = []
    for row in clips.head(_MAX_PICTURED).iter_rows(named=True):
        video = next(m for m in row["members"] if m["name"].endswith(".rgb.mp4"))
        content = store.get_range(row["pack_key"], video["offset"], video["size_bytes"])
        pictures += first_and_last(content)
    return pictures
