"""Footage shards of coloured squares that move, small enough to train on in seconds."""

from pathlib import Path

import numpy as np

from gpu_jobs.train_world_model.data import encode_frames, write_shard
from worldloop.seeds import stream

COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
CAPTIONS = "a {color} square that moves to the right over a grey floor"


def square_clip(
    color: str, *, num_frames: int = 9, width: int = 64, height: int = 32, start: int = 4
):
    """uint8 (T, H, W, 3)."""
    frames = np.full((num_frames, height, width, 3), 120, np.uint8)
    for index in range(num_frames):
        left = start + 2 * index
        frames[index, 8:24, left : left + 16] = COLORS[color]
    return frames


def write_square_shards(folder: Path, *, num_clips: int = 6, seed: int = 0, **shape: int) -> None:
    """Two shards with half of the clips each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = stream(seed, "square clips")
    clips, videos = [], []
    for number in range(num_clips):
        color = sorted(COLORS)[number % len(COLORS)]
        frames = square_clip(color, start=int(rng.integers(1, 16)), **shape)
        videos.append(encode_frames(frames, quality=90))
        clips.append(
            {
                "recipe_id": f"{seed:08x}{number:024x}",
                "place": "test/street",
                "rate_fps": 24,
                "num_frames": len(frames),
                "captions": [f"a {color} square", CAPTIONS.format(color=color)],
            }
        )
    half = num_clips // 2
    write_shard(folder / "a.npz", clips[:half], videos[:half])
    write_shard(folder / "b.npz", clips[half:], videos[half:])
