"""Conditioning media: pictures, videos, controls and actions, read as each family reads them.

Which frames of a video condition a clip and how other sizes are fitted differs between families;
`RULES` says it for the program, `Family.long_video`, `short_video` and `other_size` for people.
Sources: cosmos_predict1/diffusion/inference/inference_utils.py (commit 4ed35fa),
cosmos_predict2/pipelines/video2world.py (661da47), cosmos_predict2/_src/predict2/inference/utils.py
(cosmos-predict2.5, 50369b8), cosmos_transfer2/_src/transfer2/inference/utils.py (2ff49d0) and
pipeline_cosmos3_omni.py of diffusers 0.42.1. They resize floating-point tensors; here pictures of 8
bits are resized, which differs by rounding.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gpu_jobs.cosmos_generate.controls import control_from_clip, control_from_footage
from gpu_jobs.cosmos_generate.protocol import Media
from worldloop.cosmos.families import ClipShape, Family
from worldloop.cosmos.requests import ActionTrack, ClipRequest, Conditioning, Control
from worldloop.errors import MalformedRecordError

Frames = NDArray[np.uint8]

VIDEO_TYPES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
OTHER_PICTURE_TYPES = (".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp", ".avif")
BICUBIC, BILINEAR, AREA = (
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
)


@dataclass(frozen=True)
class MediaRule:
    """How a family reads its conditioning media.

    Attributes:
        take: Which frames of a longer video.
        fit: Resize straight to the clip's size, or cover it and crop about the centre.
        filter: Of the resizing.
    """

    take: Literal["first", "last"]
    fit: Literal["stretch", "cover"]
    filter: Image.Resampling


RULES: Mapping[str, MediaRule] = MappingProxyType(
    {
        "cosmos1": MediaRule("last", "stretch", BICUBIC),
        "predict1": MediaRule("last", "stretch", BICUBIC),
        "predict2": MediaRule("last", "cover", BILINEAR),
        "predict2.5": MediaRule("last", "cover", BILINEAR),
        "transfer2.5": MediaRule("first", "stretch", AREA),
        "cosmos3": MediaRule("first", "cover", BICUBIC),
    }
)
CONTROL_FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "edge": BILINEAR,
        "blur": AREA,
        "vis": AREA,
        "depth": BILINEAR,
        "seg": Image.Resampling.NEAREST,
    }
)


def read_media(request: ClipRequest, *, family: Family, shape: ClipShape) -> Media:
    """Read everything that a request brings beside its words.

    Args:
        request: What is asked.
        family: Decides which frames are taken and how they are fitted.
        shape: Of the clip; frames come out in its size.

    Returns:
        Conditioning frames, control videos of the clip's length by kind, and actions.

    Raises:
        MalformedRecordError: If a file is missing, corrupt, too short or of a type or count that the
            family does not take; the message names the file.
    """
    only_source = family.tasks == ("control2world",)
    frames = None
    if request.conditioning is not None and not only_source:
        frames = _conditioning_frames(
            request.conditioning,
            family,
            shape,
            action_frames=request.action.chunk_size + 1 if request.action else 1,
        )
    return Media(
        frames=frames,
        controls=_control_videos(request, family, shape),
        actions=_actions(request.action) if request.action is not None else None,
    )


def read_frames(path: Path, *, count: int, take: Literal["first", "last"]) -> Frames:
    """The first or last frames of a video, or a picture as one frame.

    Args:
        path: Picture or video.
        count: How many at most.
        take: From which end.

    Returns:
        RGB, shape (T, H, W, 3), T <= count.

    Raises:
        MalformedRecordError: If the file cannot be decoded.
    """
    if path.suffix.lower() not in VIDEO_TYPES:
        return read_picture(path)[None]
    frames: Iterable[Frames] = _decoded(path)
    if take == "last":
        frames = deque(frames, maxlen=count)
    kept = [frame for _, frame in zip(range(count), frames, strict=False)]
    if not kept:
        raise _corrupt(path, "no video frames")
    return np.stack(kept)


def read_picture(path: Path) -> Frames:
    """A picture as RGB, shape (H, W, 3); what is transparent becomes white.

    Raises:
        MalformedRecordError: If it cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                over = picture.convert("RGBA")
                white = Image.new("RGBA", over.size, (255, 255, 255, 255))
                return np.asarray(Image.alpha_composite(white, over).convert("RGB"))
            return np.asarray(picture.convert("RGB"))
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise _corrupt(path, str(error)) from error


def fit_frames(frames: Frames, shape: ClipShape, rule: MediaRule) -> Frames:
    """Frames in the clip's size, by the rule of a family.

    Args:
        frames: RGB, shape (T, H, W, 3).
        shape: Of the clip.
        rule: How.
    """
    width, height = shape.width_px, shape.height_px
    if frames.shape[1:3] == (height, width):
        return frames
    if rule.fit == "stretch":
        return _resized(frames, (width, height), rule.filter)
    scale = max(width / frames.shape[2], height / frames.shape[1])
    covering = (math.ceil(scale * frames.shape[2]), math.ceil(scale * frames.shape[1]))
    large = _resized(frames, covering, rule.filter)
    top = round((covering[1] - height) / 2.0)
    left = round((covering[0] - width) / 2.0)
    return np.ascontiguousarray(large[:, top : top + height, left : left + width])


def _conditioning_frames(
    asked: Conditioning, family: Family, shape: ClipShape, *, action_frames: int
) -> Frames:
    path, count = Path(asked.path), asked.num_frames
    _check_type(path, family)
    legal = {*family.conditioning_frames, action_frames}
    if family.conditioning_frames and count not in legal:
        raise MalformedRecordError(
            f"conditioning frames of {path.name}",
            count,
            f"one of {family.conditioning_frames} for {family.title}",
            "Change num_input_frames.",
        )
    rule = RULES.get(family.key, RULES["predict2"])
    frames = read_frames(path, count=count, take=rule.take)
    if len(frames) < count:
        what = "picture" if path.suffix.lower() in family.picture_types else "video"
        raise MalformedRecordError(
            f"{what} {path.name}",
            f"{len(frames)} frames",
            f"at least {count}, which condition the clip",
            "Give a longer video, or ask for fewer conditioning frames.",
        )
    if count > shape.num_frames:
        raise MalformedRecordError(
            f"conditioning frames of {path.name}",
            count,
            f"at most the {shape.num_frames} frames of the clip",
            "Ask for a longer clip or fewer conditioning frames.",
        )
    return fit_frames(frames, shape, rule)


def _check_type(path: Path, family: Family) -> None:
    """Refuse a file that is not there or of a type that the family does not take."""
    suffix = path.suffix.lower()
    if suffix not in family.picture_types and suffix not in VIDEO_TYPES:
        raise MalformedRecordError(
            f"picture {path.name}" if suffix in OTHER_PICTURE_TYPES else f"file {path.name}",
            suffix,
            f"a picture ({', '.join(family.picture_types)}) or a video ({', '.join(VIDEO_TYPES)})",
            "Convert it to one of these types.",
        )
    if not path.is_file():
        raise _missing(path)


def _control_videos(request: ClipRequest, family: Family, shape: ClipShape) -> dict[str, Frames]:
    kinds = [control.kind for control in request.controls]
    if kinds and "control2world" not in family.tasks:
        raise MalformedRecordError(
            f"controls of {request.clip_id}",
            kinds,
            f"none: {family.title} takes no control input",
            "Choose a model of a family with control2world.",
        )
    if not kinds and family.tasks == ("control2world",):
        raise MalformedRecordError(
            f"controls of {request.clip_id}",
            "none",
            f"at least one control: {family.title} makes clips from controls",
            "Give edge, blur, depth or seg.",
        )
    if len(set(kinds)) < len(kinds):
        raise MalformedRecordError(
            f"controls of {request.clip_id}", kinds, "each kind once", "Drop the doubled control."
        )
    return {
        control.kind: _control_video(control, request, family, shape)
        for control in request.controls
    }


def _control_video(
    control: Control, request: ClipRequest, family: Family, shape: ClipShape
) -> Frames:
    """A control video in the clip's size and length; a short one repeats its last frame."""
    path = Path(control.path)
    stretch = MediaRule("first", "stretch", CONTROL_FILTERS[control.kind])
    if not control.path:
        frames = _computed_control(control, request, family, shape)
    elif path.is_dir():
        from worldloop.annotations import read_clip  # brings polars, which no other input needs

        frames = control_from_clip(read_clip(path), control.kind)[: shape.num_frames]
    else:
        _check_type(path, family)
        frames = read_frames(path, count=shape.num_frames, take="first")
    fitted = fit_frames(frames, shape, stretch)
    missing = shape.num_frames - len(fitted)
    return np.concatenate([fitted, np.repeat(fitted[-1:], missing, axis=0)]) if missing else fitted


def _computed_control(
    control: Control, request: ClipRequest, family: Family, shape: ClipShape
) -> Frames:
    """Edges or blur of the conditioning footage."""
    if request.conditioning is None:
        raise MalformedRecordError(
            f"{control.kind} control of {request.clip_id}",
            "neither a control video nor footage",
            "one of them",
            "Give the control's path, or the footage to compute it from.",
        )
    path = Path(request.conditioning.path)
    _check_type(path, family)
    rule = RULES.get(family.key, RULES["transfer2.5"])
    footage = read_frames(path, count=shape.num_frames, take="first")
    frames = control_from_footage(fit_frames(footage, shape, rule), control.kind)
    if frames is None:
        raise MalformedRecordError(
            f"{control.kind} control of {request.clip_id}",
            "footage without a control video",
            f"a {control.kind} video or the folder of a procedural clip",
            "Give its path; only edge and blur are computed from footage.",
        )
    return frames


def _actions(track: ActionTrack) -> NDArray[np.float32] | None:
    """The rows of an action file; None if the mode answers actions and brings none."""
    if not track.path:
        return None
    path = Path(track.path)
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _corrupt(path, str(error)) from error
    rows = record.get("actions") if isinstance(record, dict) else record
    try:
        actions = np.asarray(rows, np.float32)
    except (TypeError, ValueError) as error:
        raise _bad_actions(path, str(error)) from error
    if actions.ndim != 2 or not actions.size or not np.isfinite(actions).all():
        raise _bad_actions(path, f"shape {actions.shape}")
    return actions


def _decoded(path: Path) -> Iterator[Frames]:
    """The frames of a video, in order."""
    if not path.is_file():
        raise _missing(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _corrupt(path, "no video stream")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise _corrupt(path, str(error)) from error


def _resized(frames: Frames, size: tuple[int, int], how: Image.Resampling) -> Frames:
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, how)) for frame in frames])


def _missing(path: Path) -> MalformedRecordError:
    return MalformedRecordError(
        f"media file {path.name}", "no such file", "a file that can be read", "Check its path."
    )


def _corrupt(path: Path, reason: str) -> MalformedRecordError:
    return MalformedRecordError(
        f"media file {path.name}",
        reason,
        "a picture or video that can be decoded",
        "Export it again; the file may be cut off.",
    )


def _bad_actions(path: Path, found: str) -> MalformedRecordError:
    return MalformedRecordError(
        f"actions in {path.name}",
        found,
        '{"domain": str, "rate_fps": float, "actions": [[...], ...]}, rows of one length, finite',
        "Write one row per frame.",
    )
