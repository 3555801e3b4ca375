"""Features of clips and distances between sets of them, for judging samples against footage.

Sets are small: a round draws tens of samples. The Frechet distance (arXiv 1706.08500) needs a
covariance of every feature, and with fewer clips than features its estimate is mostly bias, about
as large for equal distributions as for different ones. So the distance here is the kernel distance of
arXiv 1801.01401 (a squared maximum mean discrepancy with a cubic kernel): its estimate is unbiased at
any number of clips, around 0 for equal distributions, and may fall below 0.
"""

# N clips of one set, M of another, D numbers of a feature, R resamples, T frames, H height, W width, C channels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldloop.curation.spacing import spaced_indices
from worldloop.errors import MalformedRecordError
from worldloop.seeds import stream

Features = NDArray[np.float64]
Frames = NDArray[np.uint8]

FRAME_STATISTICS = "frame_statistics"
BLOCK_MATCHING = "block_matching_8px"
NUM_RESAMPLES = 1000
_LUMA_WIDTH_PX = 128
_BLOCK_PX, _REACH_PX = 8, 6
_LUMA = (0.2126, 0.7152, 0.0722)  # BT.709
_INTERVAL = (5, 95)
_LEAST_CONTRAST = 0.01  # of luma in [0, 1]; below it a frame is empty


@dataclass(frozen=True)
class DecodedClip:
    """What judges look at.

    Attributes:
        frames: Evenly spaced frames, uint8 (T, H, W, 3).
        luma: Pairs of neighbouring frames at those places, float32 (T, 2, h, w) in [0, 1], 128 px wide.
        size: (width, height) of the file in pixels.
    """

    frames: Frames
    luma: NDArray[np.float32]
    size: tuple[int, int]


@dataclass(frozen=True)
class Distance:
    """A distance with its 90 % bootstrap interval over clips."""

    value: float
    low: float
    high: float


def read_clip(path: Path, *, num_frames: int, longest_px: int = 512) -> DecodedClip:
    """Decode a clip once.

    Args:
        path: A video file.
        num_frames: Evenly spaced frames that are kept; shorter clips give fewer.
        longest_px: Frames are shrunk to this longer side; no judge looks at finer detail.

    Raises:
        MalformedRecordError: If it cannot be decoded, or has a single frame.
    """
    try:
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            video.codec_context.thread_count = 1
            count = video.frames or sum(1 for _ in container.decode(video))
        with av.open(str(path)) as container:
            return _decoded(container, spaced_indices(count - 1, count=num_frames), longest_px)
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise MalformedRecordError(
            f"clip {path.name}",
            str(error)[:120],
            "a video of at least two frames",
            "Generate it again.",
        ) from error


def _decoded(container: Any, places: Sequence[int], longest_px: int) -> DecodedClip:
    kept: list[Frames] = []
    pairs: list[list[NDArray[np.float32]]] = []
    size, last = (0, 0), max(places) + 1
    for number, frame in enumerate(container.decode(video=0)):
        size = (frame.width, frame.height)
        if number in places or number - 1 in places:
            luma = _small_luma(frame)
            if number - 1 in places:
                pairs[-1].append(luma)
            if number in places:
                pairs.append([luma])
                share = min(1.0, longest_px / max(size))
                shrunk = frame.reformat(
                    round(size[0] * share), round(size[1] * share), format="rgb24"
                )
                kept.append(shrunk.to_ndarray())
        if number == last:
            break
    return DecodedClip(np.stack(kept), np.array(pairs, np.float32), size)


def _small_luma(frame: Any) -> NDArray[np.float32]:
    height = max(_BLOCK_PX, round(_LUMA_WIDTH_PX * frame.height / frame.width))
    rgb = np.asarray(frame.to_image().resize((_LUMA_WIDTH_PX, height), Image.Resampling.BOX))
    return np.asarray(rgb @ np.array(_LUMA) / 255, np.float32)


def temporal_consistency(luma_T2HW: NDArray[np.float32]) -> float:
    """How well frames are explained by moved blocks of the frames before them, at most 1.

    1 minus the mean absolute residual of block matching (blocks of 8 px, up to 6 px either way, on
    luma 128 px wide) over the mean absolute contrast of the frame, mean over the pairs. A still or
    smoothly moving clip is near 1, one that flickers or morphs is lower; a frozen one is 1, so motion
    has to be looked at beside it.
    """
    found = []
    for before, after in luma_T2HW:
        contrast = float(np.abs(after - after.mean()).mean())
        residual = _unexplained(before, after)
        found.append(1 - residual / max(contrast, _LEAST_CONTRAST))
    return float(np.mean(found))


def _unexplained(before_HW: NDArray[np.float32], after_HW: NDArray[np.float32]) -> float:
    """Mean absolute difference after every block took its best match."""
    rows, columns = (side // _BLOCK_PX for side in after_HW.shape)
    height, width = rows * _BLOCK_PX, columns * _BLOCK_PX
    padded = np.pad(before_HW[:height, :width], _REACH_PX, mode="edge")
    best = np.full((rows, columns), np.inf)
    for down in range(2 * _REACH_PX + 1):
        for right in range(2 * _REACH_PX + 1):
            moved = padded[down : down + height, right : right + width]
            wrong = np.abs(moved - after_HW[:height, :width])
            blocks = wrong.reshape(rows, _BLOCK_PX, columns, _BLOCK_PX).mean(axis=(1, 3))
            best = np.minimum(best, blocks)
    return float(best.mean())


def frame_statistics(clip: DecodedClip) -> Features:
    """Simple statistics of a clip, float64 (24,): colours, edges and change at four scales.

    What a feature space needs where no autoencoder is at hand; it knows nothing of what is shown.
    """
    rgb = clip.frames.astype(np.float64) / 255
    parts = [rgb.mean(axis=(0, 1, 2)) - 0.5, rgb.std(axis=(1, 2)).mean(axis=0)]
    luma_T2HW = clip.luma.astype(np.float64)
    for _ in range(4):
        now = luma_T2HW[:, 1]
        steps = [np.abs(np.diff(now, axis=axis)).mean() for axis in (1, 2)]
        parts.append(
            np.array(
                [
                    *steps,
                    now.std(axis=(1, 2)).mean(),
                    np.abs(luma_T2HW[:, 1] - luma_T2HW[:, 0]).mean(),
                ]
            )
        )
        height, width = (side // 2 * 2 for side in luma_T2HW.shape[2:])
        even = luma_T2HW[:, :, :height, :width]
        luma_T2HW = (even[..., ::2, :] + even[..., 1::2, :])[..., ::2] / 2
    parts.append(np.array([luma_T2HW.mean() - 0.5, luma_T2HW.std()]))
    return np.concatenate(parts)


def pooled_latent(latent_CTHW: NDArray[np.float32]) -> Features:
    """Latents of a window as float64 (3 C,): mean, deviation and change over time of each channel."""
    given = np.asarray(latent_CTHW, np.float64)
    change = np.diff(given, axis=1) if given.shape[1] > 1 else np.zeros_like(given)
    return np.concatenate(
        [given.mean(axis=(1, 2, 3)), given.std(axis=(1, 2, 3)), np.abs(change).mean(axis=(1, 2, 3))]
    )


def scaled(sets: Sequence[Features], reference_MD: Features) -> list[Features]:
    """Features over the deviation that each has in the reference; their zero stays where it is."""
    deviation = reference_MD.std(axis=0)
    deviation = np.maximum(deviation, 1e-3 * max(float(deviation.max()), 1e-9))
    return [np.asarray(one / deviation, np.float64) for one in sets]


class KernelDistance:
    """Kernel distances of several equally long sets to one reference, resampled together.

    The kernel is (x.y / r + 1) ** 3 with r the mean square length of the reference's features.
    Resamples count pairs of different clips only, so that drawing a clip twice adds no bias; the same
    clips of every set are drawn together, so that differences are paired.

    Args:
        reference_MD: Features of footage, at least two.
        names: Of the resampling's random stream.
    """

    def __init__(self, reference_MD: Features, *names: str) -> None:
        if len(reference_MD) < 2:
            raise MalformedRecordError(
                "reference footage",
                f"{len(reference_MD)} clips",
                "two or more",
                "Give more footage.",
            )
        self._names = names
        self._reference = reference_MD
        self._radius = float(np.square(reference_MD).sum(axis=1).mean()) or 1.0
        self._own = self._kernel(reference_MD, reference_MD)

    def to(self, features_ND: Features) -> Distance:
        """The distance of a set, at least two clips."""
        return _interval(*self._estimates(features_ND))

    def change(self, before_ND: Features, after_ND: Features) -> Distance:
        """The distance of one set minus that of another of the same prompts."""
        (value_1, resampled_1), (value_2, resampled_2) = (
            self._estimates(features) for features in (before_ND, after_ND)
        )
        return _interval(value_2 - value_1, resampled_2 - resampled_1)

    def _estimates(self, features_ND: Features) -> tuple[float, Features]:
        count, total = len(features_ND), len(self._reference)
        within = self._kernel(features_ND, features_ND)
        across = self._kernel(features_ND, self._reference)
        weights_RN, weights_RM = (
            np.concatenate([np.ones((1, number)), _counts(number, *self._names, name)])
            for number, name in ((count, "clips"), (total, "reference"))
        )
        # a draw of one clip alone has no pair
        whole = ((weights_RN > 0).sum(axis=1) > 1) & ((weights_RM > 0).sum(axis=1) > 1)
        weights_RN, weights_RM = weights_RN[whole], weights_RM[whole]
        cross = np.einsum("rn,nm,rm->r", weights_RN, across, weights_RM, optimize=True)
        cross /= weights_RN.sum(axis=1) * weights_RM.sum(axis=1)
        found = _pairs(within, weights_RN) + _pairs(self._own, weights_RM) - 2 * cross
        return float(found[0]), found[1:]

    def _kernel(self, one: Features, other: Features) -> Features:
        return np.asarray((one @ other.T / self._radius + 1) ** 3, np.float64)


def _pairs(kernel_NN: Features, weights_RN: Features) -> Features:
    """Weighted means of a kernel over pairs of different clips; (R,)."""
    own = np.diag(kernel_NN)
    total = ((weights_RN @ kernel_NN) * weights_RN).sum(axis=1) - np.square(weights_RN) @ own
    count = weights_RN.sum(axis=1) ** 2 - np.square(weights_RN).sum(axis=1)
    return np.asarray(total / count, np.float64)


def _counts(total: int, *names: str) -> Features:
    """How often each clip is drawn in each resample."""
    drawn = stream("kernel distance", *names).multinomial(
        total, np.full(total, 1 / total), size=NUM_RESAMPLES
    )
    return np.asarray(drawn, np.float64)


def _interval(value: float, resampled_R: Features) -> Distance:
    low, high = np.percentile(resampled_R, _INTERVAL)
    return Distance(value, float(low), float(high))
