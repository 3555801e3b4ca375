"""Control videos: edges, blur, depth and segmentation, from footage or exactly from our own clips.

A control video is RGB uint8 of shape (T, H, W, 3), grey ones with three equal channels. Edges and
blur are computed from any footage as Transfer2.5 computes them; depth and segmentation come from a
procedural clip, which knows them exactly, where a photograph would need another network.
"""

import colorsys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldloop.errors import UnknownKeyError

if TYPE_CHECKING:  # it brings polars, which footage does not need
    from worldloop.annotations import AnnotatedClip

Frames = NDArray[np.uint8]
Value = TypeVar("Value")

# cosmos_transfer2/_src/transfer2/datasets/augmentors/control_input.py, AddControlInputEdge, commit 2ff49d0
EDGE_THRESHOLDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "very_low": (20, 50),
        "low": (50, 100),
        "medium": (100, 200),
        "high": (200, 300),
        "very_high": (300, 400),
    }
)
# the same file, AddControlInputBlur: min_downup_factor 4, max_downup_factor 16
BLUR_FACTORS: Mapping[str, int] = MappingProxyType(
    {"very_low": 4, "low": 4, "medium": 10, "high": 16, "very_high": 16}
)
TAN_22_5 = 13573  # tan(22.5 degrees) * 2**15, in integers so that every machine agrees
NEAR_QUANTILE = 0.995  # what is nearer saturates, so that one close leaf does not darken the scene
GOLDEN_RATIO = 0.6180339887498949


def edge_video(rgb: Frames, *, strength: str = "medium") -> Frames:
    """Canny edges, white on black.

    Sobel derivatives of three pixels, the strongest colour channel, the L1 norm, no blur before:
    the arithmetic of `cv2.Canny(frame, low, high)`, which Transfer2.5 calls on every frame.

    Args:
        rgb: Footage, shape (T, H, W, 3).
        strength: Key of `EDGE_THRESHOLDS`; higher keeps fewer edges.

    Returns:
        0 or 255, shape (T, H, W, 3).

    Raises:
        UnknownKeyError: If there is no such strength.
    """
    low, high = _known(EDGE_THRESHOLDS, "edge strength", strength)
    edges = np.stack([canny(frame, low=low, high=high) for frame in rgb])
    return _as_rgb(np.where(edges, np.uint8(255), np.uint8(0)))


def blur_video(rgb: Frames, *, strength: str = "medium") -> Frames:
    """Footage that lost its detail: made smaller by a factor and enlarged again, both bicubic.

    Transfer2.5 lays a bilateral filter before this on a GPU; it is left out, and the factor alone
    decides how much of the footage is left.

    Args:
        rgb: Footage, shape (T, H, W, 3).
        strength: Key of `BLUR_FACTORS`.

    Returns:
        Shape (T, H, W, 3).

    Raises:
        UnknownKeyError: If there is no such strength.
    """
    factor = _known(BLUR_FACTORS, "blur strength", strength)
    height, width = rgb.shape[1:3]
    small = (max(1, width // factor), max(1, height // factor))
    return np.stack([_down_and_up(frame, small) for frame in rgb])


def depth_video(depth_m: NDArray[np.float32]) -> Frames:
    """Inverse depth as grey values over the range of the whole video: near is bright, sky is black.

    Args:
        depth_m: Metres along the optical axis, 0 where the sky is, shape (T, H, W).

    Returns:
        Shape (T, H, W, 3).
    """
    seen = depth_m > 0
    inverse = np.zeros(depth_m.shape, np.float64)
    np.divide(1.0, depth_m, out=inverse, where=seen)
    if not seen.any():
        return _as_rgb(np.zeros(depth_m.shape, np.uint8))
    far = 0.0 if not seen.all() else float(inverse.min())
    near = float(np.quantile(inverse[seen], NEAR_QUANTILE))
    span = max(near - far, 1e-9)
    grey = np.rint(255.0 * np.clip((inverse - far) / span, 0.0, 1.0)).astype(np.uint8)
    return _as_rgb(grey)


def seg_video(instance: NDArray[np.int32]) -> Frames:
    """A colour for every instance, the same in every frame and every clip; id 0 is black.

    Args:
        instance: Instance ids, shape (T, H, W).

    Returns:
        Shape (T, H, W, 3).
    """
    ids, where = np.unique(instance, return_inverse=True)
    colours = np.stack([instance_colour(int(i)) for i in ids])
    picture: Frames = colours[where.reshape(instance.shape)]
    return picture


def instance_colour(instance_id: int) -> Frames:
    """The colour of an instance: hues a golden section apart, in three tones.

    Example:
        >>> instance_colour(0).tolist()
        [0, 0, 0]
    """
    if instance_id <= 0:
        return np.zeros(3, np.uint8)
    saturation, value = ((1.0, 1.0), (0.55, 1.0), (1.0, 0.6))[instance_id % 3]
    colour = colorsys.hsv_to_rgb((instance_id * GOLDEN_RATIO) % 1.0, saturation, value)
    return np.rint(255.0 * np.asarray(colour)).astype(np.uint8)


_FROM_CLIP: Mapping[str, Callable[["AnnotatedClip"], Frames]] = MappingProxyType(
    {
        "edge": lambda clip: edge_video(clip.rgb),
        "blur": lambda clip: blur_video(clip.rgb),
        "vis": lambda clip: blur_video(clip.rgb),
        "depth": lambda clip: depth_video(clip.depth_m),
        "seg": lambda clip: seg_video(clip.instance),
    }
)


def control_from_clip(clip: "AnnotatedClip", kind: str) -> Frames:
    """The control video of a procedural clip.

    Args:
        clip: As `worldloop.annotations.read_clip` reads it.
        kind: `edge`, `blur` (`vis` is another name of it), `depth` or `seg`.

    Raises:
        UnknownKeyError: If there is no such kind.
    """
    return _known(_FROM_CLIP, "kind of control", kind)(clip)


def control_from_footage(rgb: Frames, kind: str) -> Frames | None:
    """The control video of any footage, or None where footage alone does not tell it (depth, seg)."""
    if kind == "edge":
        return edge_video(rgb)
    return blur_video(rgb) if kind in ("blur", "vis") else None


def canny(frame: Frames, *, low: int, high: int) -> NDArray[np.bool_]:
    """Edges of one picture.

    Args:
        frame: RGB, shape (H, W, 3).
        low: Gradient (L1 norm of the Sobel derivatives) that an edge goes on with.
        high: Gradient that an edge needs somewhere.

    Returns:
        Shape (H, W).
    """
    dx, dy = _strongest_gradient(frame)
    size = np.abs(dx) + np.abs(dy)
    ridge = (size > low) & _is_ridge(size, dx, dy)
    return _connected(ridge, ridge & (size > high))


def _strongest_gradient(frame: Frames) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sobel derivatives in x and y of the channel whose gradient is largest, the first of equals."""
    p = np.pad(frame.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = p[:-2] + 2 * p[1:-1] + p[2:]
    along = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    dx, dy = across[:, 2:] - across[:, :-2], along[2:] - along[:-2]
    best = np.argmax(np.abs(dx) + np.abs(dy), axis=2)[..., None]
    return np.take_along_axis(dx, best, 2)[..., 0], np.take_along_axis(dy, best, 2)[..., 0]


def _is_ridge(
    size: NDArray[np.int32], dx: NDArray[np.int32], dy: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Where the gradient is largest across the edge."""
    height, width = size.shape
    p = np.pad(size, 1)

    def at(down: int, right: int) -> NDArray[np.int32]:
        shifted: NDArray[np.int32] = p[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        return shifted

    x, y = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    flat, steep = x * TAN_22_5, x * TAN_22_5 + (x << 16)
    horizontal = (size > at(0, -1)) & (size >= at(0, 1))
    vertical = (size > at(-1, 0)) & (size >= at(1, 0))
    falling = (size > at(-1, -1)) & (size > at(1, 1))
    rising = (size > at(-1, 1)) & (size > at(1, -1))
    diagonal = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(y < flat, horizontal, np.where(y > steep, vertical, diagonal))


def _connected(ridge: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The ridges that touch a strong pixel, by growing from the strong ones."""
    open_ = np.pad(ridge & ~strong, 1)
    found = np.pad(strong, 1)
    row = found.shape[1]
    around = np.array([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    flat_open, flat_found = open_.reshape(-1), found.reshape(-1)
    front = np.flatnonzero(flat_found)
    while front.size:
        near = (front[:, None] + around).reshape(-1)
        front = np.unique(near[flat_open[near]])
        flat_open[front] = False
        flat_found[front] = True
    return found[1:-1, 1:-1]


def _down_and_up(frame: Frames, small: tuple[int, int]) -> Frames:
    picture = Image.fromarray(frame)
    coarse = picture.resize(small, Image.Resampling.BICUBIC)
    return np.asarray(coarse.resize(picture.size, Image.Resampling.BICUBIC))


def _as_rgb(grey: Frames) -> Frames:
    return np.repeat(grey[..., None], 3, axis=-1)


def _known(table: Mapping[str, Value], what: str, key: str) -> Value:
    if key not in table:
        raise UnknownKeyError(what, key, table)
    return table[key]
