"""Rendered clips: procedural footage with exact annotations, packed per city and wave."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.partitions import city_by_wave, split_key
from gpu_jobs.render_clips.spec import RenderClipsSpec
from resources.clip_tables import short_packs
from resources.job_launcher import JobLauncher
from resources.renderer import Renderer
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.tables import publish, read
from worldloop import layout
from worldloop.contact_sheets import as_markdown, contact_sheet
from worldloop.errors import JobFailedError
from worldloop.packs import hash_file
from worldloop.recipes import PROCEDURAL_VERSION
from worldloop.records import CLIPS, FAILURES, GPU_COLUMNS, PROMPTS, RECEIPTS
from worldloop.scenes.scene import Scene
from worldloop.worlds.grammar import is_sketchable

_SHARD = ["wave", "index", "city", "institution", "recipe_id"]
_NOTHING: Mapping[str, Any] = {"clips": (), "failures": (), "receipts": (), "versions": {}}


@dg.asset(
    group_name="generation",
    kinds={"warp", "mp4"},
    partitions_def=city_by_wave,
    deps=["prompts"],
    pool="cpu",
    code_version=PROCEDURAL_VERSION,
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def rendered_clips(
    context: dg.AssetExecutionContext,
    store: SiteStore,
    staging: Staging,
    launcher: JobLauncher,
    renderer: Renderer,
) -> dg.MaterializeResult[None]:
    """Footage of one city in one wave: one pack of clips with depth, ids, camera and actions.

    Rendering is a pure function of the prompts, so a shard that stands complete is not rendered
    again, and a killed one goes on after its last finished clip. Clips that cannot be made are
    rows of `failures`. Scenes that no grammar shows, or not with their camera, are left to the
    world model of the wave. Bytes are the same on every CPU, not across devices: a shard that lost
    its pack is drawn where its clips were drawn. Formats: docs/formats.md#packs and #clips.
    """
    city, wave = split_key(context.partition_key)
    prompts = read(store, PROMPTS, layout.prompts_key(wave, city))
    asked = _sketchable(prompts)
    report: Mapping[str, Any] = _NOTHING
    with staging.lock(wave, city, "rendered_clips"):
        if _stands(store, wave, city, asked):
            context.log.info("All %d clips of %s in %s stand already", asked.height, city, wave)
        else:
            spec = RenderClipsSpec(
                recipes=tuple(json.loads(recipe) for recipe in asked["recipe"]),
                staging_dir=str(staging.folder(wave, city)),
                pack_path=str(staging.folder(wave, city) / "pack.tar"),
                device=_device(context, store, wave, city, asked, renderer),
            )
            if asked.height:
                report = launcher.run(
                    "render_clips", spec, context=context, timeout_s=120.0 + 120.0 * asked.height
                )
            _publish(store, wave, city, asked, report, spec.pack_path, run_id=context.run.run_id)
            if not report["failures"]:
                staging.clear(wave, city)
    num_left = prompts.height - asked.height
    return dg.MaterializeResult(
        metadata={
            **_describe(store, wave, city),
            "num_not_sketchable": num_left,
            "versions": dg.MetadataValue.json(dict(report["versions"])),
        }
    )


@dg.asset_check(asset=rendered_clips, blocking=True, partitions_def=city_by_wave)
def every_prompt_has_a_clip_or_a_failure(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Nothing that can be sketched is lost, and nothing is there that was not asked for."""
    city, wave = split_key(context.partition_key)
    asked = set(_sketchable(read(store, PROMPTS, layout.prompts_key(wave, city)))["recipe_id"])
    made = set(read(store, CLIPS, layout.clips_key(wave, city))["recipe_id"])
    failed = set(read(store, FAILURES, layout.failures_key(wave, city))["recipe_id"])
    return dg.AssetCheckResult(
        passed=asked == made | failed and not made & failed,
        metadata={"lost": sorted(asked - made - failed), "num_failures": len(failed)},
    )


@dg.asset_check(asset=rendered_clips, blocking=True, partitions_def=city_by_wave)
def packs_hold_what_the_table_says(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Every pack of the shard is in the store with the size that its clips need."""
    city, wave = split_key(context.partition_key)
    clips = read(store, CLIPS, layout.clips_key(wave, city))
    short = short_packs(store, clips)
    return dg.AssetCheckResult(passed=not short, metadata={"short_packs": short})


def _sketchable(prompts: pl.DataFrame) -> pl.DataFrame:
    """The rows whose scenes the procedural renderer can show."""
    scenes = (Scene.from_record(json.loads(recipe)["scene"]) for recipe in prompts["recipe"])
    return prompts.filter(pl.Series([is_sketchable(scene) for scene in scenes], dtype=pl.Boolean))


def _stands(store: SiteStore, wave: str, city: str, asked: pl.DataFrame) -> bool:
    key = layout.clips_key(wave, city)
    if not store.exists(key):
        return False
    clips = read(store, CLIPS, key)
    return set(clips["recipe_id"]) == set(asked["recipe_id"]) and all(
        store.exists(pack) for pack in clips["pack_key"].unique()
    )


def _device(
    context: dg.AssetExecutionContext,
    store: SiteStore,
    wave: str,
    city: str,
    asked: pl.DataFrame,
    renderer: Renderer,
) -> str:
    """Where to draw: where the shard's published clips were drawn, as logs and releases name their bytes.

    Raises:
        JobFailedError: If they were drawn on a GPU and the renderer is a CPU.
    """
    on_gpu = _were_drawn_on_gpu(store, wave, city, asked)
    if on_gpu is None or on_gpu == (renderer.device != "cpu"):
        return renderer.device
    if on_gpu:
        raise JobFailedError(
            f"The clips of {city} in {wave} were drawn on a CUDA device, as their receipts say (gpu_s), and "
            f"the renderer's device is {renderer.device!r}; expected a CUDA device of the same kind, or "
            "their bytes would differ from those that the log names. Set WORLDLOOP_RENDER_DEVICE to it, e.g. "
            "'cuda:0', and materialise the partition again; without one, plan the places in a new wave."
        )
    context.log.info(
        "Clips of %s in %s were drawn on a CPU; drawing there again, not on %s, for the same bytes",
        city,
        wave,
        renderer.device,
    )
    return "cpu"


def _were_drawn_on_gpu(store: SiteStore, wave: str, city: str, asked: pl.DataFrame) -> bool | None:
    """Whether a GPU drew the clips that the shard's tables have; None if they have none."""
    if not store.exists(layout.clips_key(wave, city)):
        return None
    clips = read(store, CLIPS, layout.clips_key(wave, city)).join(asked, on="recipe_id", how="semi")
    receipts = read(store, RECEIPTS, layout.receipts_key(wave, city))
    costs = receipts.join(clips, on="recipe_id", how="semi")["gpu_s"]
    return None if costs.is_empty() else bool((costs > 0).any())


def _publish(
    store: SiteStore,
    wave: str,
    city: str,
    asked: pl.DataFrame,
    report: Mapping[str, Any],
    pack_path: str,
    *,
    run_id: str,
) -> None:
    """Pack first, then the tables that point at it: a reader never sees a row without its bytes."""
    shard = asked.select(_SHARD)
    made = shard.clear()
    pack_key = ""
    if report["clips"]:
        pack = Path(pack_path)
        pack_key = layout.pack_key(wave, city, hash_file(pack))
        store.put_file(pack_key, pack)
        made = shard.join(pl.DataFrame(report["clips"]), on="recipe_id")
        made = made.with_columns(
            pl.lit("procedural").alias("generator"),
            pl.lit(PROCEDURAL_VERSION).alias("generator_version"),
            pl.lit(pack_key).alias("pack_key"),
        )
    failed = _joined(shard, report["failures"])
    receipts = _joined(shard, report["receipts"])
    if receipts.height:
        receipts = receipts.drop("device").with_columns(
            (pl.col("recipe_id") + f":render:{run_id}").alias("receipt_id"),
            pl.lit("render").alias("step"),
            pl.lit(run_id).alias("run_id"),
            pl.lit(platform.node()).alias("host"),
            pl.lit(datetime.now(UTC)).alias("finished_at"),
            pl.lit("none").alias("guardrail"),
            *(pl.lit(None, pl.Float64).alias(name) for name in GPU_COLUMNS),
        )
    publish(
        store,
        FAILURES,
        layout.failures_key(wave, city),
        failed if failed.height else FAILURES.empty(),
    )
    publish(
        store,
        RECEIPTS,
        layout.receipts_key(wave, city),
        receipts if receipts.height else RECEIPTS.empty(),
    )
    publish(store, CLIPS, layout.clips_key(wave, city), made if made.height else CLIPS.empty())


def _joined(shard: pl.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return shard.join(pl.DataFrame(rows), on="recipe_id") if rows else shard.clear()


def _describe(store: SiteStore, wave: str, city: str) -> dict[str, Any]:
    clips = read(store, CLIPS, layout.clips_key(wave, city))
    failures = read(store, FAILURES, layout.failures_key(wave, city))
    receipts = read(store, RECEIPTS, layout.receipts_key(wave, city))
    posters = [
        store.get_range(row["pack_key"], member["offset"], member["size_bytes"])
        for row in clips.head(8).iter_rows(named=True)
        for member in row["members"]
        if ".poster." in member["name"]
    ]
    cpu_s = float(receipts["cpu_s"].sum())
    return {
        "dagster/row_count": clips.height,
        "num_failures": failures.height,
        "size_bytes": int(clips["size_bytes"].sum()),
        "duration_s": round(float(clips["duration_s"].sum()), 2),
        "cpu_s": round(cpu_s, 2),
        "gpu_s": round(float(receipts["gpu_s"].sum()), 2),
        "frames_per_cpu_s": round(float(clips["num_frames"].sum()) / cpu_s, 1) if cpu_s else 0.0,
        "location": dg.MetadataValue.path(
            f"{store.url}/{clips['pack_key'][0]}" if clips.height else store.url
        ),
        "preview": dg.MetadataValue.md(
            as_markdown(contact_sheet(posters), alt=f"{city} in {wave}")
        ),
    }
