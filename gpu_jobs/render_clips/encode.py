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
# Without cpu-independent, x264's macroblock tree takes other roundings on other CPUs, and on the same
# CPU now and then: 3 different files in 300 encodes of the same 5 frames of 64x48 noise.
X264_OPTIONS = {
    "preset": "veryfast",
    "crf": "18",
    "threads": "1",
    "x264-params": "cpu-independent=1",
}
FFV1_OPTIONS = {"level": "3", "slices": "4", "slicecrc": "0", "context": "0"}


class ClipWriter:
    """Writes one clip, frame by frame, into an empty folder.

    Use as a context manager: leaving it closes the videos; `finish` writes the tables.
    """

    def __init__(self, folder: Path, recipe: Recipe, world: World) -> None:
        self.folder, self.recipe, self.world = folder, recipe, world
        self._boxes: list[pl.DataFrame] = []
        self._num_frames = 0
        self._rgb = _Video(folder / "rgb.mp4", recipe, "libx264", "yuv420p")
        self._depth = _Video(folder / "depth.mkv", recipe, "ffv1", "gray16le")
        self._ids = _Video(folder / "ids.mkv", recipe, "ffv1", "gray16le")

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

    def __init__(self, path: Path, recipe: Recipe, codec: str, pixel_format: str) -> None:
        shape = recipe.shape
        self._pixel_format = pixel_format
        options = {"fflags": "+bitexact"}
        if path.suffix == ".mp4":
            options["movflags"] = "+faststart"
        self._file = av.open(str(path), "w", options=options)
        if path.name == "depth.mkv":
            self._file.metadata["comment"] = DEPTH_FORMULA
        self._stream: Any = self._file.add_stream(codec, rate=shape.rate_fps)
        self._stream.width, self._stream.height = shape.width_px, shape.height_px
        self._stream.pix_fmt = pixel_format
        self._tick = Fraction(1, shape.rate_fps)
        context = self._stream.codec_context
        context.thread_count = 1
        context.flags |= av.codec.context.Flags.bitexact
        if codec == "libx264":
            self._stream.options = X264_OPTIONS
            context.color_range, context.colorspace = 1, 1  # limited range, BT.709
            context.color_primaries, context.color_trc = 1, 1
        else:
            self._stream.options = FFV1_OPTIONS
        self._next = 0
        self._open = True

    def add(self, pixels: NDArray[Any]) -> None:
        frame = av.VideoFrame.from_ndarray(pixels, format=self._pixel_format)
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


def to_yuv420(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BT.709 in limited range, planes below each other as PyAV wants them.

    In integers of our own, so that no CPU decides a rounding by the path it takes.

    Args:
        rgb: (H, W, 3), both even.

    Returns:
        (H * 3 / 2, W).

    Example:
        >>> to_yuv420(np.full((2, 2, 3), 255, np.uint8)).tolist()
        [[235, 235], [235, 235], [128, 128]]
    """
    height, width, _ = rgb.shape
    red, green, blue = (rgb[..., i].astype(np.int32) for i in range(3))
    luma = (11966 * red + 40254 * green + 4064 * blue + (16 << 16) + (1 << 15)) >> 16
    r, g, b = (
        c[::2, ::2] + c[::2, 1::2] + c[1::2, ::2] + c[1::2, 1::2] for c in (red, green, blue)
    )
    half = (128 << 18) + (1 << 17)
    u = (-6596 * r - 22189 * g + 28785 * b + half) >> 18
    v = (28785 * r - 26145 * g - 2640 * b + half) >> 18
    planes: NDArray[np.uint8] = (
        np.concatenate([luma.ravel(), u.ravel(), v.ravel()])
        .astype(np.uint8)
        .reshape(height * 3 // 2, width)
    )
    return planes


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
