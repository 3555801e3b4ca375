"""Renders stills of many scenes into frame shards: `python -m gpu_jobs.train_embedder.frames SPEC`.

Needs numpy, warp-lang, pillow and astral; neither torch nor open_clip.
"""

import logging
import multiprocessing
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpu_jobs.common.entry import run_job
from gpu_jobs.train_embedder.captions import OUTDOORS, caption_variants
from gpu_jobs.train_embedder.shards import FrameShard, write_shard
from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.curation.spacing import spaced_indices
from worldloop.dayparts import daypart
from worldloop.errors import MalformedRecordError, WorldloopError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.casting import CASTABLE, cast_scene
from worldloop.scenes.scene import Scene
from worldloop.seeds import derive_seed, stream

log = logging.getLogger(__name__)

_WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
_HELD_OUT_SHARE = 5  # one city in five
_SNOW_DATE = "2026-01-20"  # winter where most snow in inhabited places falls


@dataclass(frozen=True)
class RenderFramesSpec:
    """Render these scenes.

    Attributes:
        output_dir: Folder of the shards; finished shards in it are kept.
        split: `train` has four cities in five, `holdout` the others; no seed is in both.
        num_scenes: Scenes, institutions in turn.
        num_frames: Evenly spaced frames of each.
        clip_frames: Length of the clip that they are spaced over.
        width_px: Width.
        height_px: Height.
        num_samples: Samples a pixel.
        scenes_per_shard: Scenes in a file.
        seed: Another seed is another data set.
        num_processes: Workers, one core each.
        device: `cpu` or `cuda:0`.
    """

    output_dir: str
    split: Literal["train", "holdout"] = "train"
    num_scenes: int = 20_000
    num_frames: int = 5
    clip_frames: int = 61
    width_px: int = 160
    height_px: int = 90
    num_samples: int = 5
    scenes_per_shard: int = 100
    seed: int = 0
    num_processes: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class RenderFramesReport:
    """What was rendered.

    Attributes:
        num_shards: Files in the folder.
        num_rendered: Scenes rendered by this run; those of kept shards are not counted.
        num_failed: Scenes of this run from which no usable frame came; the log says why.
    """

    num_shards: int
    num_rendered: int
    num_failed: int


def render_frames(spec: RenderFramesSpec) -> RenderFramesReport:
    """Render all shards of a spec that are not there yet."""
    folder = Path(spec.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    num_shards = -(-spec.num_scenes // spec.scenes_per_shard)
    missing = [i for i in range(num_shards) if not _shard_path(spec, i).exists()]
    rendered = failed = 0
    for done, (made, lost) in enumerate(_render_shards(spec, missing), start=1):
        rendered, failed = rendered + made, failed + lost
        log.info("Shard %d of %d: %d scenes, %d failed", done, len(missing), rendered, failed)
    return RenderFramesReport(num_shards, rendered, failed)


def held_out_cities(atlas: Atlas) -> tuple[str, ...]:
    """Cities that no training scene may show, whatever else the atlas holds."""
    return tuple(
        key for key in sorted(atlas.cities) if derive_seed("holdout", key) % _HELD_OUT_SHARE == 0
    )


def draw_scene(spec: RenderFramesSpec, number: int) -> Scene:
    """A scene of the split; half of those outdoors have an hour or a weather that casting finds rare."""
    atlas = _atlas()
    held_out = held_out_cities(atlas)
    cities = [key for key in sorted(atlas.cities) if (key in held_out) == (spec.split == "holdout")]
    names = (spec.seed, "train_embedder", spec.split, number)
    rng, institution = stream(*names), CASTABLE[number % len(CASTABLE)]
    place = f"{cities[int(rng.integers(len(cities)))]}/{institution}"
    draw = partial(cast_scene, atlas, place=place, seed=derive_seed(*names), sketch=True)
    wishes: dict[str, Any] = {}
    if institution in OUTDOORS and rng.random() < 0.5:
        wishes = {"weather": _WEATHERS[int(rng.integers(len(_WEATHERS)))]}
        if wishes["weather"] == "snow":
            wishes["date"] = _SNOW_DATE
        elif rng.random() < 0.5:
            wishes["hour"] = float(rng.integers(0, 96)) / 4
    for kept in (wishes, {k: v for k, v in wishes.items() if k == "weather"}):
        try:
            return draw(**kept)
        except MalformedRecordError:
            continue  # the place has no such weather or hour
    return draw()


def _render_shards(spec: RenderFramesSpec, missing: list[int]) -> Iterable[tuple[int, int]]:
    work = partial(_render_shard, spec)
    if spec.num_processes == 1:
        yield from map(work, missing)
        return
    with multiprocessing.get_context("spawn").Pool(spec.num_processes) as pool:
        yield from pool.imap_unordered(work, missing)


def _render_shard(spec: RenderFramesSpec, index: int) -> tuple[int, int]:
    """Render and write one shard; returns how many scenes it has and how many failed."""
    first = index * spec.scenes_per_shard
    numbers = range(first, min(first + spec.scenes_per_shard, spec.num_scenes))
    frames, scenes = [], []
    for number in numbers:
        scene = draw_scene(spec, number)
        try:
            frames.append(_render_scene(spec, scene))
        except WorldloopError as error:
            log.warning("Scene %s of %s: %s", scene.scene_id, scene.place, error)
            continue
        scenes.append(_labels(scene))
    if scenes:
        owners = np.repeat(np.arange(len(scenes), dtype=np.int32), [len(f) for f in frames])
        write_shard(_shard_path(spec, index), FrameShard(np.concatenate(frames), owners, scenes))
    return len(scenes), len(numbers) - len(scenes)


def _render_scene(spec: RenderFramesSpec, scene: Scene) -> Any:
    """uint8 (N, H, W, 3)."""
    from gpu_jobs.render_clips.audit import check_frame
    from gpu_jobs.render_clips.engine import Engine
    from worldloop.worlds.grammar import build_world

    shape = Shape(
        num_frames=spec.clip_frames,
        width_px=spec.width_px,
        height_px=spec.height_px,
        num_samples=spec.num_samples,
    )
    world = build_world(Recipe(scene, shape))
    engine = Engine(world, shape, device=spec.device)
    pictures = []
    for index in spaced_indices(spec.clip_frames, count=spec.num_frames):
        frame = engine.render(index)
        check_frame(index, frame, world.instances)
        pictures.append(frame.rgb.copy())
    return np.stack(pictures)


def _labels(scene: Scene) -> dict[str, Any]:
    return {
        "scene_id": scene.scene_id,
        "city": scene.city,
        "institution": scene.institution,
        "weather": scene.weather,
        "daypart": daypart(hour=scene.hour, sun_elevation_deg=scene.sun_elevation_deg),
        "season": scene.season,
        "captions": caption_variants(scene, _atlas()),
    }


def _shard_path(spec: RenderFramesSpec, index: int) -> Path:
    return Path(spec.output_dir) / f"{spec.split}-{spec.seed}-{index:05d}.npz"


@cache
def _atlas() -> Atlas:
    return load_atlas()


if __name__ == "__main__":
    sys.exit(run_job(RenderFramesSpec, render_frames))
