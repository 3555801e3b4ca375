"""Render recipes to clips and clips to one pack; stops and starts anywhere without losing a clip.

A finished clip stands in `<staging>/<recipe_id>/`, complete with the hashes of its files; one that
is being made stands in `<recipe_id>.partial/`. Only whole clips are renamed, and the pack is written
when all are there.
"""

import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_jobs.common.entry import run_job
from gpu_jobs.common.staged_clips import (
    clip_rows,
    is_full_disk,
    is_whole,
    new_clip,
    no_space_is_a_store_error,
    only_job_in,
)
from gpu_jobs.render_clips.spec import RenderClipsReport, RenderClipsSpec
from worldloop.errors import ClipRejectedError, JobFailedError
from worldloop.packs import write_pack
from worldloop.recipes import Recipe

MAX_INSTANCES = 65535  # ids.mkv has 16 bits
RECEIPT_NAME = ".receipt.json"  # hidden, so that no pack holds it
VERSIONED = ("warp-lang", "av", "numpy", "polars", "pillow", "worldloop")

_COSTS = ("cpu_s", "peak_rss_mb", "resumed", "device", "gpu_s")

log = logging.getLogger(__name__)

OnClip = Callable[[dict[str, Any]], None]


def render_clips(spec: RenderClipsSpec, *, on_clip: OnClip | None = None) -> RenderClipsReport:
    """Render what is not there yet, then write the pack.

    Args:
        spec: What to render and where to.
        on_clip: Called after each clip with its log line: event, recipe_id, and either cpu_s and
            resumed, or stage and reason.

    Raises:
        MalformedRecordError: If a recipe cannot be read; nothing has been rendered then.
        JobFailedError: If the device is not there, before anything is rendered; or if too many clips
            failed: those that did not stay in the staging folder.
        StoreError: If the disk is full.
    """
    recipes = [Recipe.from_record(record) for record in spec.recipes]
    staging = Path(spec.staging_dir)
    drawn_by = name_device(spec.device)
    report = RenderClipsReport([], [], [], {"device": drawn_by, **_versions()})
    finished: list[tuple[str, Path]] = []
    with no_space_is_a_store_error(staging), only_job_in(staging):
        for recipe in recipes:
            line = _finish_clip(recipe, staging, spec.device, drawn_by)
            if line["event"] == "clip_failed":
                report.failures.append(
                    {k: line[k] for k in ("recipe_id", "scene_id", "stage", "reason")}
                )
            else:
                finished.append((recipe.recipe_id, staging / recipe.recipe_id))
                report.receipts.append({k: line[k] for k in ("recipe_id", *_COSTS)})
            log.info(json.dumps(line))
            if on_clip is not None:
                on_clip(line)
        _check_share(report, len(recipes), spec)
        members = write_pack(Path(spec.pack_path), finished)
    report.clips.extend(clip_rows([_facts(recipe) for recipe in recipes], members))
    return report


def main() -> None:
    """Read the spec from Pipes or from argv, do the work, report."""
    sys.exit(run_job(RenderClipsSpec, render_clips))


def name_device(device: str) -> str:
    """What a device is called in reports: `cpu`, or the name and the architecture of a GPU.

    Args:
        device: Warp's name of it.

    Raises:
        JobFailedError: If this machine does not have it.
    """
    if device == "cpu":
        return device
    import warp

    try:
        found = warp.get_device(device)
    except (ValueError, RuntimeError) as error:
        there = ", ".join(repr(str(one)) for one in warp.get_devices())
        raise JobFailedError(
            f"The renderer is asked for the device {device!r}; expected one that Warp finds on this "
            f"machine: {there}. Set WORLDLOOP_RENDER_DEVICE to one of them (by hand: `device` in the "
            "spec); if a GPU is missing, see whether `nvidia-smi` lists it. Nothing was rendered."
        ) from error
    return f"{found.name} sm_{found.arch}" if found.is_cuda else str(found)


def _finish_clip(recipe: Recipe, staging: Path, device: str, drawn_by: str) -> dict[str, Any]:
    """Render a clip, unless it stands there already; the line says what happened."""
    line = {"recipe_id": recipe.recipe_id, "scene_id": recipe.scene.scene_id}
    folder = staging / recipe.recipe_id
    start_s = time.process_time()
    if _drawn_by(folder) == drawn_by and is_whole(folder):
        return {"event": "clip_done", **line, **_receipt(folder, start_s, resumed=True)}
    shutil.rmtree(folder, ignore_errors=True)
    stage = ["build"]
    try:
        _render(recipe, folder, device, drawn_by, stage)
    except ClipRejectedError as error:
        return {"event": "clip_failed", **line, "stage": error.stage, "reason": error.reason}
    except Exception as error:
        if is_full_disk(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        return {"event": "clip_failed", **line, "stage": stage[0], "reason": reason}
    return {"event": "clip_done", **line, **_receipt(folder, start_s, resumed=False)}


def _render(recipe: Recipe, folder: Path, device: str, drawn_by: str, stage: list[str]) -> None:
    """Make all files of a clip beside their place, then rename; `stage[0]` says how far it got."""
    from gpu_jobs.render_clips.audit import check_frame
    from gpu_jobs.render_clips.encode import ClipWriter
    from gpu_jobs.render_clips.engine import Engine
    from worldloop.worlds.grammar import build_world, is_sketchable

    if recipe.shape.width_px % 2 or recipe.shape.height_px % 2:
        raise ClipRejectedError(
            "build",
            f"{recipe.shape.width_px}x{recipe.shape.height_px} px; H.264 needs even numbers",
        )
    if not is_sketchable(recipe.scene):
        raise ClipRejectedError(
            "build",
            f"no grammar shows {recipe.scene.place!r} with camera {recipe.scene.camera!r}",
        )
    world = build_world(recipe)
    if len(world.instances) > MAX_INSTANCES:
        raise ClipRejectedError(
            "build", f"{len(world.instances)} instances, at most {MAX_INSTANCES} have an id"
        )
    with new_clip(folder) as partial:
        stage[0] = "render"
        start_s = time.monotonic()
        engine = Engine(world, recipe.shape, device=device)
        with ClipWriter(partial, recipe, world) as writer:
            for index in range(recipe.shape.num_frames):
                frame = engine.render(index)
                check_frame(index, frame, world.instances)
                writer.add(frame)
            stage[0] = "encode"
            writer.finish(engine.intrinsics())
        held_s = 0.0 if device == "cpu" else max(round(time.monotonic() - start_s, 3), 0.001)
        receipt = {"device": drawn_by, "gpu_s": held_s}
        (partial / RECEIPT_NAME).write_text(json.dumps(receipt), encoding="utf-8")


def _drawn_by(folder: Path) -> str:
    """Name of the device that drew a staged clip; empty if there is none, or nothing says so."""
    try:
        receipt = json.loads((folder / RECEIPT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(receipt["device"])


def _check_share(report: RenderClipsReport, total: int, spec: RenderClipsSpec) -> None:
    failed = len(report.failures)
    if total and failed / total > spec.max_failed_share:
        first = report.failures[0]
        raise JobFailedError(
            f"{failed} of {total} clips failed, at most {spec.max_failed_share:.0%} may; the first "
            f"one, {first['recipe_id']}, at {first['stage']}: {first['reason']}. Finished clips "
            f"stay in {spec.staging_dir!r}; correct the cause and run the job again."
        )


def _facts(recipe: Recipe) -> dict[str, Any]:
    """What the table of clips says of a clip before its bytes are known."""
    return {
        "recipe_id": recipe.recipe_id,
        "scene_id": recipe.scene.scene_id,
        "num_frames": recipe.shape.num_frames,
        "width_px": recipe.shape.width_px,
        "height_px": recipe.shape.height_px,
        "rate_fps": recipe.shape.rate_fps,
        "duration_s": recipe.shape.duration_s,
    }


def _receipt(folder: Path, start_s: float, *, resumed: bool) -> dict[str, Any]:
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu_s": round(time.process_time() - start_s, 3),
        "peak_rss_mb": round(peak_kb / 1024, 1),
        "resumed": resumed,
        **json.loads((folder / RECEIPT_NAME).read_text(encoding="utf-8")),
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in VERSIONED}


if __name__ == "__main__":
    main()
