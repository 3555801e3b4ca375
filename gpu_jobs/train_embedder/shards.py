"""Frame shards: what the embedder is trained on and judged by, as plain .npz files.

A shard `<name>.npz` has `frames`, uint8 (N, H, W, 3); `scene_of_frame`, int32 (N,); and `scenes`,
the UTF-8 bytes of a JSON list whose entries have `scene_id`, `city`, `institution`, `weather`,
`daypart`, `season` and `captions`, a list of different true sentences about the scene.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import JobFailedError, MalformedRecordError

LABELS = ("city", "institution", "weather", "daypart", "season")


@dataclass(frozen=True)
class FrameShard:
    """Frames of some scenes.

    Attributes:
        frames: uint8 (N, H, W, 3).
        scene_of_frame: int32 (N,), index into `scenes`, ascending.
        scenes: Labels and captions of each scene.
    """

    frames: NDArray[np.uint8]
    scene_of_frame: NDArray[np.int32]
    scenes: list[dict[str, Any]]


def write_shard(path: Path, shard: FrameShard) -> None:
    """Write a shard, all or nothing."""
    record = json.dumps(shard.scenes, ensure_ascii=False, sort_keys=True).encode()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file,
            frames=shard.frames,
            scene_of_frame=shard.scene_of_frame,
            scenes=np.frombuffer(record, np.uint8),
        )
    part.replace(path)


def read_shards(folder: Path) -> FrameShard:
    """All shards of a folder as one, in order of their names.

    Raises:
        JobFailedError: If there are none.
        MalformedRecordError: If a file is not a shard.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise JobFailedError(
            f"No frame shards (*.npz) are in {str(folder)!r}. Render some with "
            "python -m gpu_jobs.train_embedder.frames."
        )
    shards = [_read_shard(path) for path in paths]
    starts = np.cumsum([0, *(len(shard.scenes) for shard in shards)])
    return FrameShard(
        np.concatenate([shard.frames for shard in shards]),
        np.concatenate(
            [s.scene_of_frame + np.int32(start) for s, start in zip(shards, starts, strict=False)]
        ),
        [scene for shard in shards for scene in shard.scenes],
    )


def _read_shard(path: Path) -> FrameShard:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            scenes = json.loads(arrays["scenes"].tobytes())
            return FrameShard(arrays["frames"], arrays["scene_of_frame"], scenes)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise MalformedRecordError(
            f"frame shard {path.name}", str(error)[:80], "frames, scenes", "Render it again."
        ) from error
