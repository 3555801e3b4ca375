"""Signals: what one decode pass tells about a clip, and the policy that accepts or rejects it.

Everything is measured while the frames go by, on what the decoder hands out anyway: motion comes
from the codec's own vectors, the rest from the luma plane. No frame is decoded twice or kept.
"""

import functools
import io
from dataclasses import dataclass, field
from typing import IO, Any

import av
import numpy as np
from numpy.typing import NDArray

from worldloop.curation.frames import undecodable
from worldloop.curation.spacing import spaced_indices
from worldloop.errors import MalformedRecordError

Luma = NDArray[np.float32]

NUM_HASHED_FRAMES = 4
NUM_MEASURED_FRAMES = 8
STILL_BELOW_PX = 0.05
DARK_BELOW, BRIGHT_ABOVE = 0.06, 0.94
# A cut is a frame that looks otherwise than the one before and that the encoder could not predict
# from the past (vectors cover less than 70 % of it). Looks are compared by histogram (half
# the L1 distance) and by layout (correlation of 16x9 luma); when both differ, vectors are not
# asked. A keyframe of a moving shot has no vectors and looks the same, so it is no cut; nor is a
# change of colour alone, such as a coarse keyframe's.
CUT_VECTORS_BELOW, CUT_COLORS_ABOVE, CUT_LAYOUT_BELOW, SAME_LAYOUT = 0.7, 0.3, 0.3, 0.9
_CODECS_WITH_VECTORS = ("h264", "mpeg4")


@dataclass(frozen=True)
class ClipSignals:
    """What was measured; the names are columns of `records.SIGNALS`.

    Attributes:
        num_decoded_frames: Frames that came out of the decoder.
        motion_mean_px: Mean length of the codec's motion vectors per frame step.
        motion_still_share: Share of frame steps with less than 0.05 px of motion.
        sharpness: Variance of the Laplacian of luma in [0, 1], mean of 8 frames.
        exposure_mean: Mean luma in [0, 1] of 8 frames.
        exposure_dark_share: Share of their pixels under 0.06.
        exposure_bright_share: Share of their pixels over 0.94.
        num_cuts: Shot cuts; a cut inside a generated clip is a defect.
        phash: 64-bit perceptual hashes of 4 evenly spaced frames.
    """

    num_decoded_frames: int
    motion_mean_px: float
    motion_still_share: float
    sharpness: float
    exposure_mean: float
    exposure_dark_share: float
    exposure_bright_share: float
    num_cuts: int
    phash: tuple[int, ...]


@dataclass(frozen=True)
class SignalPolicy:
    """Which clips are accepted. A changed threshold is a new version.

    Attributes:
        version: Goes into every verdict's metadata.
        exposure_mean_min: Darker clips are rejected; a lit night street has about 0.4.
        exposure_mean_max: Brighter clips are rejected.
        dark_share_max: Clips with more black than this are rejected.
        bright_share_max: Clips with more white than this are rejected.
        still_share_max: Clips that stand still for a larger share are rejected.
        sharpness_min: Softer clips are rejected.
        num_cuts_max: Clips with more cuts are rejected.
    """

    version: str = "1"
    exposure_mean_min: float = 0.03
    exposure_mean_max: float = 0.93
    dark_share_max: float = 0.97
    bright_share_max: float = 0.90
    still_share_max: float = 0.95
    sharpness_min: float = 0.0004
    num_cuts_max: int = 0


def judge(
    signals: ClipSignals, policy: SignalPolicy | None = None, *, num_frames: int
) -> tuple[bool, str]:
    """Accept or reject a clip.

    Args:
        signals: What was measured.
        policy: Thresholds; the default policy if none is given.
        num_frames: How many frames the recipe asked for.

    Returns:
        Whether the clip is accepted, and why not (empty if it is).
    """
    policy = policy or SignalPolicy()
    s = signals
    faults = (
        (
            s.num_decoded_frames != num_frames,
            f"{s.num_decoded_frames} frames, not {num_frames}",
        ),
        (s.num_cuts > policy.num_cuts_max, f"{s.num_cuts} cuts inside the clip"),
        (
            s.exposure_mean < policy.exposure_mean_min
            or s.exposure_dark_share > policy.dark_share_max,
            f"too dark: mean {s.exposure_mean:.3f}, {s.exposure_dark_share:.0%} black",
        ),
        (
            s.exposure_mean > policy.exposure_mean_max
            or s.exposure_bright_share > policy.bright_share_max,
            f"too bright: mean {s.exposure_mean:.3f}, {s.exposure_bright_share:.0%} white",
        ),
        (
            s.motion_still_share > policy.still_share_max,
            f"still: {s.motion_still_share:.0%} of steps do not move",
        ),
        (s.sharpness < policy.sharpness_min, f"blurred: sharpness {s.sharpness:.5f}"),
    )
    reason = "; ".join(text for found, text in faults if found)
    return not reason, reason


def measure_clip(video: bytes | IO[bytes]) -> ClipSignals:
    """Measure a clip in one decode pass.

    Args:
        video: An mp4 whose codec has motion vectors (H.264).

    Raises:
        MalformedRecordError: If the bytes are not a decodable mp4, or the codec has no vectors.
    """
    source = io.BytesIO(video) if isinstance(video, bytes) else video
    try:
        with av.open(source, format="mp4") as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            if codec.name not in _CODECS_WITH_VECTORS:
                raise MalformedRecordError(
                    "video", codec.name, "H.264, whose motion vectors we read", "Encode it again."
                )
            codec.options = {"flags2": "+export_mvs", "err_detect": "explode"}
            codec.thread_count = 1  # the clip is small, and CPU seconds count
            meter = _Meter(stream.frames)
            for frame in container.decode(stream):
                meter.see(frame)
    except (av.FFmpegError, IndexError) as error:
        raise undecodable(error) from error
    if meter.num_frames == 0:
        raise undecodable("no frames")
    return meter.result()


@dataclass
class _Meter:
    """Running measurements of one clip."""

    num_expected: int
    num_frames: int = 0
    num_cuts: int = 0
    steps_px: list[float] = field(default_factory=list)
    looks: tuple[NDArray[np.float64], Luma] | None = None
    anchor: int = 0
    sharpness: list[float] = field(default_factory=list)
    exposure: list[tuple[float, float, float]] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.measured = set(spaced_indices(self.num_expected, count=NUM_MEASURED_FRAMES))
        self.hashed = set(spaced_indices(self.num_expected, count=NUM_HASHED_FRAMES))

    def see(self, frame: av.VideoFrame) -> None:
        """Take one frame in order of display."""
        if frame.format.name != "yuv420p":
            frame = frame.reformat(format="yuv420p")
        index, planes = self.num_frames, [_plane(plane) for plane in frame.planes]
        self._follow_motion(frame, index)
        self._look_for_cut(planes)
        if index in self.measured or index in self.hashed:
            luma = _luma(planes[0])
            if index in self.measured:
                self.sharpness.append(float(_laplacian(luma).var()))
                dark, bright = (luma < DARK_BELOW).mean(), (luma > BRIGHT_ABOVE).mean()
                self.exposure.append((float(luma.mean()), float(dark), float(bright)))
            if index in self.hashed:
                self.hashes.append(perceptual_hash(luma))
        self.num_frames += 1

    def _follow_motion(self, frame: av.VideoFrame, index: int) -> None:
        side = frame.side_data.get("MOTION_VECTORS")
        vectors = None if side is None else side.to_ndarray()
        self.covered, length_px = _backward_vectors(vectors, frame.width * frame.height)
        if frame.pict_type == av.video.frame.PictureType.B:
            return  # what a B frame points to is not told; the P frame after it spans the same time
        if frame.pict_type == av.video.frame.PictureType.P and index and self.covered > 0:
            self.steps_px.append(length_px / (index - self.anchor))
        self.anchor = index

    def _look_for_cut(self, planes: list[NDArray[np.uint8]]) -> None:
        colors, layout = _color_histogram(planes), _layout(planes[0])
        if self.looks is not None:
            recolored = 0.5 * float(np.abs(colors - self.looks[0]).sum()) > CUT_COLORS_ABOVE
            alike = float((layout * self.looks[1]).sum())
            rearranged = alike < CUT_LAYOUT_BELOW
            unpredicted = self.covered < CUT_VECTORS_BELOW
            self.num_cuts += alike < SAME_LAYOUT and recolored + rearranged + unpredicted >= 2
        self.looks = colors, layout

    def result(self) -> ClipSignals:
        """The signals of all frames seen."""
        steps = np.array(self.steps_px or [0.0])
        mean, dark, bright = np.mean(self.exposure, axis=0) if self.exposure else (0.0, 1.0, 0.0)
        return ClipSignals(
            num_decoded_frames=self.num_frames,
            motion_mean_px=float(steps.mean()),
            motion_still_share=float((steps < STILL_BELOW_PX).mean()),
            sharpness=float(np.mean(self.sharpness or [0.0])),
            exposure_mean=float(mean),
            exposure_dark_share=float(dark),
            exposure_bright_share=float(bright),
            num_cuts=self.num_cuts,
            phash=tuple(self.hashes),
        )


def perceptual_hash(luma: Luma) -> int:
    """64 bits that survive re-encoding: signs of the lowest 8x8 cosine terms against their median.

    Args:
        luma: float32 (H, W), at least 32 pixels a side.
    """
    small = _shrink(luma, 32, 32)
    terms = _cosines() @ small @ _cosines().T
    bits = (terms > np.median(terms.ravel()[1:])).ravel()  # the first term is the mean brightness
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_distance(left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Mean number of different bits, 0 to 64, of the hashes of two clips."""
    pairs = list(zip(left, right, strict=True))
    return sum((a ^ b).bit_count() for a, b in pairs) / len(pairs)


def _plane(plane: Any) -> NDArray[np.uint8]:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]


def _luma(plane: NDArray[np.uint8]) -> Luma:
    """Luma of a plane of limited range, 16 to 235, in [0, 1]."""
    return np.clip((plane.astype(np.float32) - 16) / 219, 0, 1).astype(np.float32, copy=False)


def _backward_vectors(vectors: NDArray[np.void] | None, area_px: int) -> tuple[float, float]:
    """Share of the frame that is predicted from the past, and the mean length of its vectors."""
    if vectors is None or not len(vectors):
        return 0.0, 0.0
    block_px = vectors["w"].astype(np.float64) * vectors["h"]
    past = vectors["source"] < 0
    covered_px = block_px[past].sum()
    if covered_px == 0:
        return 0.0, 0.0
    scale = vectors["motion_scale"][past].astype(np.float64)
    length = np.hypot(vectors["motion_x"][past] / scale, vectors["motion_y"][past] / scale)
    return float(covered_px / area_px), float((length * block_px[past]).sum() / covered_px)


def _color_histogram(planes: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Joint histogram, 8 steps of luma and 16 of either chroma, of every 16th pixel; sums to 1."""
    luma, blue, red = planes[0][::4, ::4], planes[1][::2, ::2], planes[2][::2, ::2]
    bins = (luma >> 5).astype(np.int64) << 8 | (blue >> 4).astype(np.int64) << 4 | red >> 4
    return np.bincount(bins.ravel(), minlength=2048) / bins.size


def _layout(luma: NDArray[np.uint8]) -> Luma:
    """float32 (9, 16): where it is light and dark, free of brightness and contrast."""
    small = _shrink(luma[::2, ::2].astype(np.float32), 9, 16)
    small -= small.mean()
    length = float(np.sqrt((small * small).sum()))
    return np.asarray(small / max(length, 1e-3), np.float32)


def _laplacian(luma: Luma) -> Luma:
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return around - 4 * luma[1:-1, 1:-1]


def _shrink(picture: Luma, height: int, width: int) -> Luma:
    """A picture as `height` x `width` means of blocks; without matrix products, whose threads cost more."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    sums = np.add.reduceat(np.add.reduceat(picture, rows, axis=0), columns, axis=1)
    sizes = np.outer(
        np.diff(rows, append=picture.shape[0]), np.diff(columns, append=picture.shape[1])
    )
    return np.asarray(sums / sizes, np.float32)


@functools.cache
def _cosines() -> Luma:
    """float32 (8, 32): the lowest rows of the type II cosine transform."""
    row, column = np.arange(8)[:, None], np.arange(32)[None, :]
    return np.cos(np.pi * row * (2 * column + 1) / 64).astype(np.float32)
