"""Renders footage and writes it as shards: `python -m gpu_jobs.train_world_model.footage SPEC`.

Needs what rendering needs, and no GPU. A killed job goes on with the clip at which it was killed.
"""

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from gpu_jobs.common.entry import run_job
from gpu_jobs.render_clips.job import render_clips
from gpu_jobs.render_clips.spec import RenderClipsSpec
from gpu_jobs.train_world_model.data import WriteShardsReport, WriteShardsSpec, write_shards
from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.errors import MalformedRecordError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.casting import CASTABLE, cast_scene
from worldloop.seeds import derive_seed, stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FootageSpec:
    """Render clips of all institutions in turn, each in a city of its own draw.

    Attributes:
        output_dir: Folder of the shards; finished ones are kept.
        num_clips: Clips in all, a multiple of `clips_per_shard`.
        clips_per_shard: Clips of a shard.
        num_frames: Length of a clip.
        width_px: Width.
        height_px: Height.
        rate_fps: Frames per second.
        num_samples: Samples a pixel.
        seed: Of cities and scenes.
    """

    output_dir: str
    num_clips: int = 80
    clips_per_shard: int = 20
    num_frames: int = 61
    width_px: int = 256
    height_px: int = 128
    rate_fps: int = 24
    num_samples: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shards that cannot be filled.

        Raises:
            MalformedRecordError: If clips do not fill shards.
        """
        if min(self.num_clips, self.clips_per_shard) < 1 or self.num_clips % self.clips_per_shard:
            raise MalformedRecordError(
                "num_clips of footage",
                self.num_clips,
                f"a positive multiple of clips_per_shard, {self.clips_per_shard}",
                "Render more or fewer clips.",
            )


def write_footage(spec: FootageSpec) -> WriteShardsReport:
    """Render the clips of every shard that is not there yet, and write it.

    Raises:
        JobFailedError: If too many clips of a shard cannot be rendered.
        StoreError: If the disk is full.
    """
    atlas, folder = load_atlas(), Path(spec.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    num_clips = 0
    for first in range(0, spec.num_clips, spec.clips_per_shard):
        name = f"clips-{first:04d}"
        if (folder / f"{name}.npz").exists():
            continue
        work = folder / f"{name}.partial"
        pack = work / f"{name}.tar"
        numbers = range(first, first + spec.clips_per_shard)
        recipes = tuple(_recipe(spec, atlas, number) for number in numbers)
        work.mkdir(exist_ok=True)
        render_clips(RenderClipsSpec(recipes, str(work / "staging"), str(pack)))
        num_clips += write_shards(WriteShardsSpec((str(pack),), str(folder))).num_clips
        shutil.rmtree(work)
    shards = sorted(folder.glob("*.npz"))
    return WriteShardsReport(len(shards), num_clips, sum(s.stat().st_size for s in shards))


def main() -> None:
    """Read the spec from Pipes or from argv, do the work, report."""
    sys.exit(run_job(FootageSpec, write_footage))


def _recipe(spec: FootageSpec, atlas: Atlas, number: int) -> dict[str, object]:
    """The recipe of a clip: institutions take turns, cities are drawn."""
    institution = CASTABLE[number % len(CASTABLE)]
    cities = sorted(atlas.cities)
    city = cities[int(stream(spec.seed, "footage city", number).integers(len(cities)))]
    shape = Shape(
        spec.num_frames, spec.width_px, spec.height_px, spec.rate_fps, num_samples=spec.num_samples
    )
    seed = derive_seed("footage", spec.seed, number)
    scene = cast_scene(atlas, place=f"{city}/{institution}", seed=seed, sketch=True)
    return Recipe(scene, shape).to_record()


if __name__ == "__main__":
    main()
