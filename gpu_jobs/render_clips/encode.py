"""From frames to the files of a clip, byte for byte the same wherever they are made."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from gpu_jobs.render_clips.engine import Frame
from worldloop.annotations import DEPTH_FORMULA, KEY_NAMES, encode_depth
from worldloop.recipes import Recipe
from worldloop.seeds import canonical_json
from worldloop.worlds.world import Instance, Track, World

POSTER_WIDTH_PX = 256
POSTER_QUALITY = 78


class ClipWriter:
    """Writes one clip, frame by frame, into an empty folder.

    Use as a context manager: leaving it closes the videos; `finish` writes the tables.
    """

    def __init__(self, folder: Path, recipe: Recipe, world: World) -> None:
        self.folder, self.recipe, self.world = folder, recipe, world
        self._boxes: list[pl.DataFrame] = []
        self._num_frames = 0
        self._rgb = _Video(folder / "rgb.mp4", recipe, "libx264", "rgb24", "yuv420p")
        self._depth = _Video(folder / "depth.mkv", recipe, "ffv1", "gray16le", "gray16le")
        self._ids = _Video(folder / "ids.mkv", recipe, "ffv1", "gray16le", "gray16le")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for video in (self._rgb, self._depth, self._ids):
            video.close()

    def add(self, frame: Frame) -> None:
        """Encode the next frame."""
        self._rgb.add(frame.rgb)
        self._depth.add(encode_depth(frame.depth))
        self._ids.add(frame.instance.astype(np.uint16))
        self._boxes.append(_box_rows(self._num_frames, frame.boxes))
        if self._num_frames == self.recipe.shape.num_frames // 2:
            _write_poster(self.folder / "poster.jpg", frame.rgb)
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


class _Video:
    """One video file whose bytes depend on its frames alone: one thread, no dates, no random ids."""

    def __init__(self, path: Path, recipe: Recipe, codec: str, given: str, stored: str) -> None:
        shape = recipe.shape
        self._given, self._stored = given, stored
        options = {"fflags": "+bitexact"}
        if path.suffix == ".mp4":
            options["movflags"] = "+faststart"
        self._file = av.open(str(path), "w", options=options)
        if path.name == "depth.mkv":
            self._file.metadata["comment"] = DEPTH_FORMULA
        self._stream: Any = self._file.add_stream(codec, rate=shape.rate_fps)
        self._stream.width, self._stream.height = shape.width_px, shape.height_px
        self._stream.pix_fmt = stored
        self._tick = Fraction(1, shape.rate_fps)
        context = self._stream.codec_context
        context.thread_count = 1
        context.flags |= av.codec.context.Flags.bitexact
        if codec == "libx264":
            self._stream.options = {"preset": "veryfast", "crf": "18", "threads": "1"}
            context.color_range, context.colorspace = 1, 1  # limited range, BT.709
            context.color_primaries, context.color_trc = 1, 1
        else:
            self._stream.options = {"level": "3", "slices": "4", "slicecrc": "0", "context": "0"}
        self._next = 0
        self._open = True

    def add(self, pixels: NDArray[Any]) -> None:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=self._given)
        if self._given != self._stored:
            frame = frame.reformat(
                format=self._stored,
                dst_colorspace="ITU709",
                dst_color_range="MPEG",
                interpolation="BILINEAR",
            )
        frame.pts, frame.time_base = self._next, self._tick
        self._next += 1
        for packet in self._stream.encode(frame):
            self._file.mux(packet)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        for packet in self._stream.encode():
            self._file.mux(packet)
        self._file.close()


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


def _write_poster(path: Path, rgb: NDArray[np.uint8]) -> None:
    image = Image.fromarray(rgb)
    image.thumbnail((POSTER_WIDTH_PX, POSTER_WIDTH_PX))
    image.save(path, quality=POSTER_QUALITY, optimize=True)
