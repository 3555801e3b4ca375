"""Video files whose bytes depend on their frames alone, and the small picture that stands for a clip."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


class VideoFile:
    """One video file: one thread, no dates, no random ids.

    Args:
        path: `.mp4` (H.264, for people) or `.mkv` (FFV1, lossless).
        size: (width, height) in pixels, both even for H.264.
        rate_fps: Frames per second.
        codec: `libx264` or `ffv1`.
        pixel_format: Of the arrays that `add` takes, e.g. `yuv420p` or `gray16le`.
        comment: Metadata of the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: tuple[int, int],
        rate_fps: int,
        codec: str = "libx264",
        pixel_format: str = "yuv420p",
        comment: str = "",
    ) -> None:
        self._pixel_format = pixel_format
        options = {"fflags": "+bitexact"}
        if path.suffix == ".mp4":
            options["movflags"] = "+faststart"
        self._file = av.open(str(path), "w", options=options)
        if comment:
            self._file.metadata["comment"] = comment
        self._stream: Any = self._file.add_stream(codec, rate=rate_fps)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = pixel_format
        self._tick = Fraction(1, rate_fps)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add(self, pixels: NDArray[Any]) -> None:
        """Encode the next frame, an array in the file's pixel format."""
        frame = av.VideoFrame.from_ndarray(pixels, format=self._pixel_format)
        frame.pts, frame.time_base = self._next, self._tick
        self._next += 1
        for packet in self._stream.encode(frame):
            self._file.mux(packet)

    def close(self) -> None:
        """Write what is left; closing twice does nothing."""
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


def write_poster(path: Path, rgb: NDArray[np.uint8]) -> None:
    """The small picture that stands for a clip, from one of its frames (H, W, 3)."""
    image = Image.fromarray(rgb)
    image.thumbnail((POSTER_WIDTH_PX, POSTER_WIDTH_PX))
    image.save(path, quality=POSTER_QUALITY, optimize=True)
