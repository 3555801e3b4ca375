"""Small mp4 clips made with PyAV, for tests of what reads mp4."""

import io
from collections.abc import Iterable

import av
import numpy as np
from numpy.typing import NDArray

Frames = list[NDArray[np.uint8]]


def encode(
    frames: Iterable[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    crf: int = 18,
    keyframe_every: int = 250,
) -> bytes:
    """RGB frames as an mp4."""
    frames = list(frames)
    height, width, _ = frames[0].shape
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        options = {"preset": "veryfast", "crf": str(crf), "g": str(keyframe_every)}
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def canvas(
    seed: int = 0, *, hue: tuple[float, float, float] = (1.0, 0.8, 0.6)
) -> NDArray[np.uint8]:
    """A wide picture of grainy squares, 216x768, that a camera can pan over."""
    rng = np.random.default_rng(seed)
    patches = (rng.random((27, 96, 3)) * hue).repeat(8, axis=0).repeat(8, axis=1)
    grain = rng.random((216, 768, 1)) * 0.15
    return np.asarray(patches * 200 + grain * 200 + 12, np.uint8)


def pan(
    picture: NDArray[np.uint8],
    *,
    num_frames: int = 24,
    step_px: int = 2,
    size_px: tuple[int, int] = (144, 256),
) -> Frames:
    """A camera that moves right by a known number of pixels a frame."""
    height, width = size_px
    return [picture[20 : 20 + height, i * step_px : i * step_px + width] for i in range(num_frames)]
