"""How fast clips are rendered here: `python -m gpu_jobs.render_clips.bench [--full]`.

Frames per CPU-second of drawing alone, per grammar; then whole jobs from process start to pack; then
the same clips in two processes at once. The size is what the targets speak of, 256x144 at 5 samples.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gpu_jobs.render_clips.spec import RenderClipsSpec
from worldloop.atlas.atlas import load_atlas
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.casting import cast_scene
from worldloop.worlds.grammar import build_world

PLACES = (
    "tokyo/street",
    "lima/museum",
    "nairobi/zoo",
    "paris/hospital",
    "new_york/amusement_park",
)
SEED = 1


@dataclass(frozen=True)
class JobRun:
    """What some jobs, started at once, cost together."""

    num_frames: int
    cpu_s: float
    wall_s: float
    peak_rss_mb: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="16 clips of 121 frames, not 4 of 61")
    full = parser.parse_args().full
    num_clips, num_frames = (16, 121) if full else (4, 61)
    recipes = make_recipes(num_clips, num_frames)
    console = Console()
    console.print(_drawing_table(num_frames))
    alone, together = run_jobs([recipes]), run_jobs([recipes[::2], recipes[1::2]])
    table = Table(
        "processes", "frames / CPU-s", "CPU-s", "wall s", "peak RSS MB",
        title=f"Jobs from process start to pack, {num_clips} clips x {num_frames} frames",
    )  # fmt: skip
    for name, run in (("1", alone), ("2 at once", together)):
        rate = f"{run.num_frames / run.cpu_s:.1f}"
        table.add_row(name, rate, f"{run.cpu_s:.1f}", f"{run.wall_s:.1f}", f"{run.peak_rss_mb:.0f}")
    console.print(table)
    console.print(f"Two processes are {alone.wall_s / together.wall_s:.2f} times as fast as one.")


def make_recipes(num_clips: int, num_frames: int) -> list[Recipe]:
    """Recipes of all grammars in turn, each clip with a seed of its own."""
    atlas = load_atlas()
    return [
        Recipe(
            cast_scene(atlas, place=PLACES[i % len(PLACES)], seed=SEED + i, sketch=True),
            Shape(num_frames=num_frames),
        )
        for i in range(num_clips)
    ]


def run_jobs(shares: list[list[Recipe]]) -> JobRun:
    """Run one job per share, all at once, each in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="render-bench-") as scratch:
        commands = [
            [sys.executable, "-m", "gpu_jobs.render_clips.job", str(_write_spec(Path(scratch), i, share))]
            for i, share in enumerate(shares)
        ]  # fmt: skip
        start_s, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        jobs = [
            subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for c in commands
        ]
        reports = [json.loads(job.communicate()[0]) for job in jobs]
        wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    return JobRun(
        sum(clip["num_frames"] for report in reports for clip in report["clips"]),
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        wall_s,
        max(receipt["peak_rss_mb"] for report in reports for receipt in report["receipts"]),
    )


def _write_spec(scratch: Path, index: int, share: list[Recipe]) -> Path:
    spec = RenderClipsSpec(
        recipes=tuple(recipe.to_record() for recipe in share),
        staging_dir=str(scratch / f"staging-{index}"),
        pack_path=str(scratch / f"{index}.tar"),
        max_failed_share=1.0,
    )
    path = scratch / f"{index}.json"
    path.write_text(json.dumps(asdict(spec)), encoding="utf-8")
    return path


def _drawing_table(num_frames: int) -> Table:
    from gpu_jobs.render_clips.engine import Engine

    table = Table(
        "place", "triangles", "build CPU-s", "frames / CPU-s",
        title="Drawing alone, 256x144, 5 samples, all labels",
    )  # fmt: skip
    for recipe in make_recipes(len(PLACES), num_frames):
        start_s = time.process_time()
        world = build_world(recipe)
        build_s = time.process_time() - start_s
        engine = Engine(world, recipe.shape)
        engine.render(0)
        start_s = time.process_time()
        for index in range(1, num_frames):
            engine.render(index)
        rate = (num_frames - 1) / (time.process_time() - start_s)
        triangles = world.static.num_faces + world.moving.num_faces
        table.add_row(recipe.scene.place, f"{triangles:,}", f"{build_s:.2f}", f"{rate:.1f}")
    return table


if __name__ == "__main__":
    main()
