"""Folders of footage in the layout of the guides, small and seeded."""

import json
from pathlib import Path

import numpy as np

from gpu_jobs.common.video import VideoFile, to_yuv420
from worldloop.seeds import stream

SIZE = (64, 48)


def write_video(path: Path, num_frames: int = 12, *, size: tuple[int, int] = SIZE) -> Path:
    """Frame n is grey of brightness 16 n, with a bright square that depends on the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    left = int(stream("square", path.stem).integers(0, width - 16))
    with VideoFile(path, size=size, rate_fps=24) as video:
        for number in range(num_frames):
            frame = np.full((height, width, 3), (16 * number) % 256, np.uint8)
            frame[8:24, left : left + 16] = 255
            video.add(to_yuv420(frame))
    return path


def write_folder(root: Path, captions: dict[str, str], *, num_frames: int = 12) -> Path:
    """A video and a caption a name."""
    (root / "metas").mkdir(parents=True, exist_ok=True)
    for name, caption in captions.items():
        write_video(root / "videos" / f"{name}.mp4", num_frames)
        (root / "metas" / f"{name}.txt").write_text(caption)
    return root


def list_clips(root: Path, cities: dict[str, str]) -> None:
    """Write `clips.jsonl`: name to city."""
    rows = [
        {"name": name, "recipe_id": f"r-{name}", "city": city, "institution": "zoo"}
        for name, city in cities.items()
    ]
    (root / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
