"""Render recipes to clips and clips to one pack; stops and starts anywhere without losing a clip.

A finished clip stands in `<staging>/<recipe_id>/`, complete with the hashes of its files; one that
is being made stands in `<recipe_id>.partial/`. Only whole clips are renamed, and the pack is written
when all are there.
"""

import errno
import fcntl
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_jobs.common.entry import run_job
from gpu_jobs.render_clips.spec import RenderClipsReport, RenderClipsSpec
from worldloop.errors import ClipRejectedError, JobFailedError, StoreError
from worldloop.packs import (
    PackMember,
    clip_files,
    content_sha256,
    hash_file,
    sync_folder,
    write_pack,
)
from worldloop.recipes import Recipe

SUMS_NAME = ".sums.json"
MAX_INSTANCES = 65535  # ids.mkv has 16 bits
VERSIONED = ("warp-lang", "av", "numpy", "polars", "pillow", "worldloop")

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
        JobFailedError: If too many clips failed; those that did not stay in the staging folder.
        StoreError: If the disk is full.
    """
    recipes = [Recipe.from_record(record) for record in spec.recipes]
    staging = Path(spec.staging_dir)
    report = RenderClipsReport([], [], [], _versions())
    finished: list[tuple[str, Path]] = []
    with _no_space_is_a_store_error(staging), _only_job_in(staging):
        for recipe in recipes:
            line = _finish_clip(recipe, staging, spec.device)
            if line["event"] == "clip_failed":
                report.failures.append(
                    {k: line[k] for k in ("recipe_id", "scene_id", "stage", "reason")}
                )
            else:
                finished.append((recipe.recipe_id, staging / recipe.recipe_id))
                report.receipts.append(
                    {k: line[k] for k in ("recipe_id", "cpu_s", "peak_rss_mb", "resumed")}
                )
            log.info(json.dumps(line))
            if on_clip is not None:
                on_clip(line)
        _check_share(report, len(recipes), spec)
        members = write_pack(Path(spec.pack_path), finished)
    report.clips.extend(_rows(recipes, members))
    return report


def main() -> None:
    """Read the spec from Pipes or from argv, do the work, report."""
    sys.exit(run_job(RenderClipsSpec, render_clips))


def _finish_clip(recipe: Recipe, staging: Path, device: str) -> dict[str, Any]:
    """Render a clip, unless it stands there already; the line says what happened."""
    line = {"recipe_id": recipe.recipe_id, "scene_id": recipe.scene.scene_id}
    folder = staging / recipe.recipe_id
    start_s = time.process_time()
    if _is_whole(folder):
        return {"event": "clip_done", **line, **_receipt(start_s, resumed=True)}
    shutil.rmtree(folder, ignore_errors=True)
    stage = ["build"]
    try:
        _render(recipe, folder, device, stage)
    except ClipRejectedError as error:
        return {"event": "clip_failed", **line, "stage": error.stage, "reason": error.reason}
    except Exception as error:
        if _is_full_disk(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        return {"event": "clip_failed", **line, "stage": stage[0], "reason": reason}
    return {"event": "clip_done", **line, **_receipt(start_s, resumed=False)}


def _render(recipe: Recipe, folder: Path, device: str, stage: list[str]) -> None:
    """Make all files of a clip beside their place, then rename; `stage[0]` says how far it got."""
    from gpu_jobs.render_clips.audit import check_frame
    from gpu_jobs.render_clips.encode import ClipWriter
    from gpu_jobs.render_clips.engine import Engine
    from worldloop.worlds.grammar import build_world

    if recipe.shape.width_px % 2 or recipe.shape.height_px % 2:
        raise ClipRejectedError(
            "build",
            f"{recipe.shape.width_px}x{recipe.shape.height_px} px; H.264 needs even numbers",
        )
    world = build_world(recipe)
    if len(world.instances) > MAX_INSTANCES:
        raise ClipRejectedError(
            "build", f"{len(world.instances)} instances, at most {MAX_INSTANCES} have an id"
        )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        stage[0] = "render"
        engine = Engine(world, recipe.shape, device=device)
        with ClipWriter(partial, recipe, world) as writer:
            for index in range(recipe.shape.num_frames):
                frame = engine.render(index)
                check_frame(index, frame, world.instances)
                writer.add(frame)
            stage[0] = "encode"
            writer.finish(engine.intrinsics())
        _seal(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Note the hashes of all files and bring everything to disk."""
    files = clip_files(folder)
    sums = folder / SUMS_NAME
    sums.write_text(json.dumps({f.name: hash_file(f) for f in files}), encoding="utf-8")
    for file in (*files, sums):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(folder)


def _is_whole(folder: Path) -> bool:
    """Whether a staged clip has all its files with the bytes that it was sealed with."""
    try:
        sums = json.loads((folder / SUMS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(sums) and sums == {f.name: hash_file(f) for f in clip_files(folder)}


def _check_share(report: RenderClipsReport, total: int, spec: RenderClipsSpec) -> None:
    failed = len(report.failures)
    if total and failed / total > spec.max_failed_share:
        first = report.failures[0]
        raise JobFailedError(
            f"{failed} of {total} clips failed, at most {spec.max_failed_share:.0%} may; the first "
            f"one, {first['recipe_id']}, at {first['stage']}: {first['reason']}. Finished clips "
            f"stay in {spec.staging_dir!r}; correct the cause and run the job again."
        )


def _rows(recipes: list[Recipe], members: list[PackMember]) -> list[dict[str, Any]]:
    """One row per clip in the pack."""
    by_clip: dict[str, list[PackMember]] = {}
    for member in members:
        by_clip.setdefault(member.clip_id, []).append(member)
    return [
        {
            "recipe_id": recipe.recipe_id,
            "scene_id": recipe.scene.scene_id,
            "content_sha256": content_sha256({m.file_name: m.sha256 for m in files}),
            "num_frames": recipe.shape.num_frames,
            "width_px": recipe.shape.width_px,
            "height_px": recipe.shape.height_px,
            "rate_fps": recipe.shape.rate_fps,
            "duration_s": recipe.shape.duration_s,
            "size_bytes": sum(m.size_bytes for m in files),
            "members": [asdict(m) for m in files],
        }
        for recipe in recipes
        if (files := by_clip.get(recipe.recipe_id))
    ]


def _receipt(start_s: float, *, resumed: bool) -> dict[str, Any]:
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu_s": round(time.process_time() - start_s, 3),
        "peak_rss_mb": round(peak_kb / 1024, 1),
        "resumed": resumed,
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in VERSIONED}


@contextmanager
def _only_job_in(staging: Path) -> Iterator[None]:
    """Hold the lock of a staging folder; a second job waits and then finds everything done."""
    staging.mkdir(parents=True, exist_ok=True)
    with (staging / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(json.dumps({"event": "waiting_for_lock", "staging_dir": str(staging)}))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _no_space_is_a_store_error(staging: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_full_disk(error):
            raise
        free_mb = shutil.disk_usage(staging).free // 1_000_000
        raise StoreError(
            f"No room left to write in {str(staging)!r}: {free_mb} MB free, a clip "
            "needs about 4 MB. Free some space (`worldloop gc --dry-run` shows what would go) and "
            "run the job again: finished clips are kept."
        ) from error


def _is_full_disk(error: Exception) -> bool:
    """Whether a write found no room; FFmpeg's errors carry the number without being OSErrors."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


if __name__ == "__main__":
    main()
