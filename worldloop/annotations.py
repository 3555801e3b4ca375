"""A clip with its annotations, as its users read it: from a pack or from a folder.

rgb.mp4            H.264, what the camera saw
depth.mkv          FFV1 gray16le, 6553.5 / metres along the optical axis, 0 where the sky is
ids.mkv            FFV1 gray16le, instance ids
frames.parquet     one row per frame: actions, velocity, intrinsics, camera pose
boxes.parquet      one row per frame and visible instance
instances.parquet  one row per instance that the clip shows
poster.jpg         the middle frame, small
recipe.json        what makes the clip again
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import polars as pl
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.packs import clip_files, read_member, read_pack_index

DEPTH_SCALE = 6553.5  # 65535 at 0.1 m, the near end of what can be told apart
DEPTH_FORMULA = "depth_m = 6553.5 / value, value 0 is the sky"
KEY_NAMES = ("w", "a", "s", "d", "shift", "e")

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class AnnotatedClip:
    """A decoded clip.

    Attributes:
        rgb: uint8 (T, H, W, 3).
        depth_m: float32 (T, H, W), metres along the optical axis, 0 where the sky is.
        instance: int32 (T, H, W).
        semantic: int32 (T, H, W), `SemanticClass`.
        frames: One row per frame.
        boxes: One row per frame and visible instance; corners are inclusive.
        instances: One row per instance: instance_id, semantic_id, semantic, phrase.
        recipe: The record that makes the clip again.
    """

    rgb: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    instance: NDArray[np.int32]
    semantic: NDArray[np.int32]
    frames: pl.DataFrame
    boxes: pl.DataFrame
    instances: pl.DataFrame
    recipe: dict[str, Any]


def read_clip(source: Path, recipe_id: str = "") -> AnnotatedClip:
    """Read a clip from its folder, or from a pack by its id.

    Args:
        source: A folder with the files of one clip, or a pack.
        recipe_id: Which clip of the pack.

    Raises:
        MalformedRecordError: If the clip is not there, lacks a file, or its bytes have changed.
    """
    files = _folder_files(source) if source.is_dir() else _pack_files(source, recipe_id)
    tables = {
        name: pl.read_parquet(io.BytesIO(files(f"{name}.parquet")))
        for name in ("frames", "boxes", "instances")
    }
    instance = decode_video(files("ids.mkv"), "gray16le").astype(np.int32)
    return AnnotatedClip(
        rgb=decode_video(files("rgb.mp4"), "rgb24"),
        depth_m=decode_depth(decode_video(files("depth.mkv"), "gray16le")),
        instance=instance,
        semantic=_semantic(instance, tables["instances"]),
        recipe=json.loads(files("recipe.json")),
        **tables,
    )


def encode_depth(depth_m: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Metres to what `depth.mkv` stores; finest near by, as stereo is.

    Example:
        >>> encode_depth(np.array([0.0, 0.1, 10.0], np.float32))
        array([    0, 65535,   655], dtype=uint16)
    """
    near = DEPTH_SCALE / np.maximum(depth_m.astype(np.float64), 0.1)
    value: NDArray[np.uint16] = np.where(depth_m > 0, np.maximum(np.rint(near), 1), 0).astype(
        np.uint16
    )
    return value


def decode_depth(value: NDArray[np.uint16]) -> NDArray[np.float32]:
    """What `depth.mkv` stores to metres; 0 where the sky is."""
    depth = np.zeros(value.shape, np.float32)
    np.divide(DEPTH_SCALE, value, out=depth, where=value > 0, casting="unsafe")
    return depth


def decode_video(data: bytes, pixel_format: str) -> NDArray[Any]:
    """All frames of a video as one array (T, H, W) or (T, H, W, 3)."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([f.to_ndarray(format=pixel_format) for f in container.decode(video=0)])


def _semantic(instance: NDArray[np.int32], instances: pl.DataFrame) -> NDArray[np.int32]:
    ids = instances["instance_id"].to_numpy()
    table = np.zeros(int(max(ids.max(initial=0), instance.max(initial=0))) + 1, np.int32)
    table[ids] = instances["semantic_id"].to_numpy()
    return table[instance]


def _folder_files(folder: Path) -> Callable[[str], bytes]:
    known = {f.name: f for f in clip_files(folder)}

    def read(name: str) -> bytes:
        return _found(known, name, folder).read_bytes()

    return read


def _pack_files(pack: Path, recipe_id: str) -> Callable[[str], bytes]:
    known = {m.file_name: m for m in read_pack_index(pack) if m.clip_id == recipe_id}

    def read(name: str) -> bytes:
        member = _found(known, name, pack)
        with pack.open("rb") as source:
            return read_member(source, member)

    return read


def _found(known: dict[str, Entry], name: str, where: Path) -> Entry:
    if name not in known:
        raise MalformedRecordError(
            f"clip in {where.name}",
            sorted(known),
            f"a file {name!r}",
            "Check the recipe id, or render the clip again.",
        )
    return known[name]
