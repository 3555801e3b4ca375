"""Footage shards: clips with captions that need numpy and Pillow to be read, and no video library.

`python -m gpu_jobs.train_world_model.data SPEC` writes them from packs of rendered clips.

A shard `<name>.npz` has `videos`, the bytes of all clips one after the other, each an AVIF image
sequence; `ends`, int64 (N,), where each of them ends; and `clips`, the UTF-8 bytes of a JSON list
whose entries have `recipe_id`, `place`, `rate_fps`, `num_frames` and `captions`.
"""

import io
import json
import logging
import sys
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from gpu_jobs.common.entry import run_job
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.seeds import stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteShardsSpec:
    """Write the clips of some packs as shards.

    Attributes:
        packs: Local packs (`worldloop.packs`) of rendered clips of one shape.
        output_dir: Folder of the shards; one shard per pack, finished ones are kept.
        quality: Of AVIF, 0 to 100. 60 is about 50 kB per second of 256x128 footage.
        speed: Of AVIF's encoder, 0 (small) to 10 (fast).
    """

    packs: tuple[str, ...]
    output_dir: str
    quality: int = 60
    speed: int = 8


@dataclass(frozen=True)
class WriteShardsReport:
    """What was written.

    Attributes:
        num_shards: Shards in the folder.
        num_clips: Clips written by this run; those of kept shards are not counted.
        size_bytes: Of all shards in the folder.
    """

    num_shards: int
    num_clips: int
    size_bytes: int


@dataclass(frozen=True)
class Footage:
    """Clips of one shape, decoded.

    Attributes:
        frames: uint8 (N, T, H, W, 3).
        clips: Facts and captions of each.
    """

    frames: NDArray[np.uint8]
    clips: list[dict[str, Any]]

    def thinned(self, num_clips: int) -> "Footage":
        """So many evenly spaced clips; all of them for 0 or if there are no more."""
        if not 0 < num_clips < len(self.clips):
            return self
        chosen = np.linspace(0, len(self.clips) - 1, num_clips).round().astype(int)
        return Footage(self.frames[chosen], [self.clips[i] for i in chosen])

    @property
    def rate_fps(self) -> int:
        """Frames per second."""
        return int(self.clips[0]["rate_fps"])

    @property
    def captions(self) -> list[str]:
        """All different captions, in the order in which they appear."""
        return list(dict.fromkeys(c for clip in self.clips for c in clip["captions"]))


def write_shards(spec: WriteShardsSpec) -> WriteShardsReport:
    """Write a shard for each pack that has none yet."""
    folder = Path(spec.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    num_clips = 0
    for pack in map(Path, spec.packs):
        path = folder / f"{pack.stem}.npz"
        if path.exists():
            continue
        clips, videos = zip(*_clips_of(pack, spec), strict=True)
        write_shard(path, list(clips), list(videos))
        num_clips += len(clips)
        log.info("Wrote %d clips of %s", len(clips), pack.name)
    shards = sorted(folder.glob("*.npz"))
    return WriteShardsReport(len(shards), num_clips, sum(s.stat().st_size for s in shards))


def write_shard(path: Path, clips: Sequence[dict[str, Any]], videos: Sequence[bytes]) -> None:
    """Write a shard, all or nothing.

    Args:
        path: Of the shard.
        clips: Facts and captions.
        videos: `encode_frames` of each.
    """
    record = json.dumps(list(clips), ensure_ascii=False, sort_keys=True).encode()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file,
            videos=np.frombuffer(b"".join(videos), np.uint8),
            ends=np.cumsum([len(video) for video in videos]).astype(np.int64),
            clips=np.frombuffer(record, np.uint8),
        )
    part.replace(path)


def encode_frames(frames: NDArray[np.uint8], *, quality: int = 60, speed: int = 8) -> bytes:
    """A clip (T, H, W, 3) as an AVIF image sequence."""
    _check_avif()
    pictures = [Image.fromarray(frame) for frame in frames]
    sink = io.BytesIO()
    pictures[0].save(
        sink,
        "AVIF",
        save_all=True,
        append_images=pictures[1:],
        quality=quality,
        speed=speed,
        max_threads=1,
    )
    return sink.getvalue()


def decode_frames(video: bytes) -> NDArray[np.uint8]:
    """The frames of `encode_frames`, uint8 (T, H, W, 3)."""
    with Image.open(io.BytesIO(video)) as picture:
        frames = []
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def read_footage(folder: Path, *, num_threads: int = 1) -> Footage:
    """All shards of a folder, in order of their names, decoded.

    Args:
        folder: Holds `*.npz`.
        num_threads: Clips decoded side by side.

    Raises:
        JobFailedError: If there are no shards, or this Pillow cannot read AVIF.
        MalformedRecordError: If a file is not a shard, or clips differ in shape or rate.
    """
    _check_avif()
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise JobFailedError(
            f"No footage shards (*.npz) are in {str(folder)!r}. Write some with "
            "python -m gpu_jobs.train_world_model.data."
        )
    read = [entry for path in paths for entry in _read_shard(path)]
    with ThreadPoolExecutor(num_threads) as pool:
        frames = list(pool.map(decode_frames, [video for _, video in read]))
    clips = [clip for clip, _ in read]
    shapes = {(*shown.shape, clip["rate_fps"]) for shown, clip in zip(frames, clips, strict=True)}
    if len(shapes) > 1:
        raise MalformedRecordError(
            f"footage in {folder.name}",
            sorted(shapes)[:3],
            "clips of one shape and rate",
            "Put clips of other shapes into a folder of their own.",
        )
    return Footage(np.stack(frames), clips)


def batch_indices(num_clips: int, batch_size: int, step: int, *names: str | int) -> list[int]:
    """Clips of a step: every epoch takes each clip once, in an order of its own.

    Args:
        num_clips: Clips there are.
        batch_size: Clips of a step.
        step: Number of the step.
        names: Of the random stream, e.g. seed and part.

    Example:
        >>> sorted(batch_indices(4, 2, 0, 7) + batch_indices(4, 2, 1, 7))
        [0, 1, 2, 3]
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = {p // num_clips for p in positions}
    orders = {e: stream(*names, "epoch", e).permutation(num_clips) for e in sorted(epochs)}
    return [int(orders[p // num_clips][p % num_clips]) for p in positions]


def _clips_of(pack: Path, spec: WriteShardsSpec) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Facts and video of each clip of a pack."""
    from gpu_jobs.train_embedder.captions import caption_variants
    from worldloop.annotations import decode_video
    from worldloop.atlas.atlas import load_atlas
    from worldloop.packs import read_member, read_pack_index
    from worldloop.recipes import Recipe

    atlas = load_atlas()
    wanted = ("rgb.mp4", "recipe.json")
    members = [m for m in read_pack_index(pack) if m.file_name in wanted]
    by_clip = {
        m.clip_id: {n.file_name: n for n in members if n.clip_id == m.clip_id} for m in members
    }
    with pack.open("rb") as source:
        for clip_id, files in by_clip.items():
            recipe = Recipe.from_record(json.loads(read_member(source, files["recipe.json"])))
            frames = decode_video(read_member(source, files["rgb.mp4"]), "rgb24")
            facts = {
                "recipe_id": clip_id,
                "place": recipe.scene.place,
                "rate_fps": recipe.shape.rate_fps,
                "num_frames": len(frames),
                "captions": caption_variants(recipe.scene, atlas),
            }
            yield facts, encode_frames(frames, quality=spec.quality, speed=spec.speed)


def _read_shard(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            clips = json.loads(arrays["clips"].tobytes())
            ends = arrays["ends"].tolist()
            videos = arrays["videos"].tobytes()
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise MalformedRecordError(
            f"footage shard {path.name}", str(error)[:80], "videos, ends, clips", "Write it again."
        ) from error
    starts = [0, *ends[:-1]]
    return [(c, videos[a:b]) for c, a, b in zip(clips, starts, ends, strict=True)]


def _check_avif() -> None:
    if not features.check("avif"):
        raise JobFailedError(
            "This Pillow has no AVIF codec, in which footage shards are written. Install Pillow 11.3 "
            "or newer from a wheel."
        )


if __name__ == "__main__":
    sys.exit(run_job(WriteShardsSpec, write_shards))
