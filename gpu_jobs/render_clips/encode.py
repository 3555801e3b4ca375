"""From frames to the files of a clip, byte for byte the same wherever they are made."""

from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_jobs.common.video import VideoFile, to_yuv420, write_poster
from gpu_jobs.render_clips.engine import Frame
from worldloop.annotations import DEPTH_FORMULA, KEY_NAMES, encode_depth
from worldloop.recipes import Recipe
from worldloop.seeds import canonical_json
from worldloop.worlds.world import Instance, Track, World


class ClipWriter:
    """Writes one clip, frame by frame, into an empty folder.

    Use as a context manager: leaving it closes the videos; `finish` writes the tables.
    """

    def __init__(self, folder: Path, recipe: Recipe, world: World) -> None:
        self.folder, self.recipe, self.world = folder, recipe, world
        self._boxes: list[pl.DataFrame] = []
        self._num_frames = 0
        shape = recipe.shape
        size = (shape.width_px, shape.height_px)
        self._rgb = VideoFile(folder / "rgb.mp4", size=size, rate_fps=shape.rate_fps)
        self._depth, self._ids = (
            VideoFile(
                folder / name,
                size=size,
                rate_fps=shape.rate_fps,
                codec="ffv1",
                pixel_format="gray16le",
                comment=comment,
            )
            for name, comment in (("depth.mkv", DEPTH_FORMULA), ("ids.mkv", ""))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for video in (self._rgb, self._depth, self._ids):
            video.close()

    def add(self, frame: Frame) -> None:
        """Encode the next frame."""
        self._rgb.add(to_yuv420(frame.rgb))
        self._depth.add(encode_depth(frame.depth))
        self._ids.add(frame.instance.astype(np.uint16))
        self._boxes.append(_box_rows(self._num_frames, frame.boxes))
        if self._num_frames == self.recipe.shape.num_frames // 2:
            write_poster(self.folder / "poster.jpg", frame.rgb)
        self._num_frames += 1

    def finish(self, intrinsics: tuple[float, float, float, float]) -> None:
        """Close the videos and write everything that is not a video."""
        self.__exit__()
        boxes = pl.concat(self._boxes)
        _write_table(self.folder / "boxes.parquet", boxes)
        _write_table(
            self.folder / "frames.parquet",
            frame_table(self.world.track, self.recipe.shape.rate_fps, intrinsics),
        )
        _write_table(
            self.folder / "instances.parquet",
            instance_table(self.world.instances, boxes["instance_id"]),
        )
        (self.folder / "recipe.json").write_bytes(canonical_json(self.recipe.to_record()))


def frame_table(
    track: Track, rate_fps: int, intrinsics: tuple[float, float, float, float]
) -> pl.DataFrame:
    """One row per frame: what the player did, how fast it went, and where the camera is."""
    count = len(track.keys)
    keys = {f"key_{name}": track.keys[:, i] for i, name in enumerate(KEY_NAMES)}
    lens = dict(zip(("fx", "fy", "cx", "cy"), intrinsics, strict=True))
    poses = np.ascontiguousarray(track.camera_to_world, np.float64).reshape(count, 16)
    return pl.DataFrame(
        {
            "frame": np.arange(count, dtype=np.int32),
            "time_s": np.arange(count) / rate_fps,
            **keys,
            "mouse_yaw_deg": track.mouse_deg[:, 0].astype(np.float32),
            "mouse_pitch_deg": track.mouse_deg[:, 1].astype(np.float32),
            **{
                f"v{axis}": track.velocity_mps[:, i].astype(np.float32)
                for i, axis in enumerate("xyz")
            },
            **{name: np.full(count, value) for name, value in lens.items()},
            "camera_to_world": pl.Series(poses, dtype=pl.Array(pl.Float64, 16)),
        }
    )


def instance_table(instances: tuple[Instance, ...], seen: pl.Series) -> pl.DataFrame:
    """One row per instance that the clip shows, and the sky."""
    ids = sorted({0, *seen.to_list()})
    return pl.DataFrame(
        {
            "instance_id": pl.Series(ids, dtype=pl.Int32),
            "semantic_id": pl.Series([int(instances[i].semantic) for i in ids], dtype=pl.Int32),
            "semantic": [instances[i].semantic.name.lower() for i in ids],
            "phrase": [instances[i].phrase for i in ids],
        }
    )


def _box_rows(frame: int, boxes: NDArray[np.int32]) -> pl.DataFrame:
    ids = np.flatnonzero(boxes[:, 4] > 0)
    ids = ids[ids > 0].astype(np.int32)
    columns = ("x0", "y0", "x1", "y1", "num_pixels")
    return pl.DataFrame(
        {
            "frame": np.full(len(ids), frame, np.int32),
            "instance_id": ids,
            **{name: boxes[ids, i].astype(np.int32) for i, name in enumerate(columns)},
        }
    )


def _write_table(path: Path, table: pl.DataFrame) -> None:
    table.write_parquet(path, compression="zstd", compression_level=3, statistics=False)
