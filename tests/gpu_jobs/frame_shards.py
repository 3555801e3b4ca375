"""Frame shards of plain colours, whose captions can be learned in seconds."""

from pathlib import Path

import numpy as np

from gpu_jobs.train_embedder.shards import FrameShard, write_shard
from worldloop.seeds import stream

COLORS = {"street": (90, 90, 110), "zoo": (60, 160, 60), "museum": (200, 180, 150)}


def write_colored_shards(folder: Path, *, seed: int, scenes_per_institution: int = 12) -> None:
    """Two shards: noisy frames of one colour for each institution, darker at night."""
    folder.mkdir(parents=True)
    for part in range(2):
        rng = stream(seed, "colored shard", part)
        frames, scenes = [], []
        for number in range(scenes_per_institution):
            for institution, color in COLORS.items():
                night = number % 2 == 1
                light = (0.35 if night else 1.0) * rng.uniform(0.9, 1.1)
                noise = rng.normal(0, 12, (2, 18, 32, 3))
                frames.append(np.clip(np.array(color) * light + noise, 0, 255).astype(np.uint8))
                scenes.append(_scene(f"{part}-{number}", institution, night=night))
        owners = np.repeat(np.arange(len(scenes), dtype=np.int32), 2)
        write_shard(folder / f"part-{part}.npz", FrameShard(np.concatenate(frames), owners, scenes))


def _scene(name: str, institution: str, *, night: bool) -> dict[str, object]:
    daypart = "night" if night else "afternoon"
    return {
        "scene_id": f"{name}-{institution}",
        "city": "tokyo",
        "institution": institution,
        "weather": "clear",
        "daypart": daypart,
        "season": "spring",
        "captions": [institution, f"a {institution} at {daypart}", f"{daypart} in a {institution}"],
    }
