"""Small folders of footage, and specs that train tiny models on them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np

from gpu_jobs.posttrain.spec import PosttrainSpec
from worldloop.cosmos.families import ClipShape
from worldloop.federation.rounds import Training

TEXT2WORLD, VIDEO2WORLD = "Tiny-Cosmos-1.0-Text2World", "Tiny-Cosmos-1.0-Video2World"
PREDICT2, PREDICT25 = "Tiny-Cosmos-Predict2-Video2World", "Tiny-Cosmos-Predict2.5"
SHAPE = ClipShape(9, 64, 48, 24)


def write_clips(folder: Path, count: int = 3, *, num_frames: int = 9) -> Path:
    """Squares of different colours that move, with captions."""
    for name in ("videos", "metas"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        write_video(folder / "videos" / f"c{number}.mp4", moving_square(number, num_frames))
        (folder / "metas" / f"c{number}.txt").write_text(f"A square of colour number {number}.")
        clip = {"name": f"c{number}", "recipe_id": f"r{number}", "city": f"city{number}"}
        lines.append(json.dumps({**clip, "institution": "street"}))
    (folder / "clips.jsonl").write_text("\n".join(lines))
    return folder


def moving_square(seed: int, num_frames: int) -> np.ndarray:
    """A square on a dark ground, uint8 (T, 48, 64, 3)."""
    rng = np.random.default_rng(seed)
    frames = np.full((num_frames, 48, 64, 3), 30, np.uint8)
    colour = rng.integers(80, 255, 3)
    for time, frame in enumerate(frames):
        frame[8:28, 4 + 3 * time : 24 + 3 * time] = colour
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    """A video file, 24 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def training(**changes: Any) -> dict[str, Any]:
    """Two steps of two windows in float32."""
    fields = {"num_steps": 2, "batch_size": 2, "rank": 2, "precision": "fp32", "warmup_steps": 1,
              "learning_rate": 1e-2, "alpha": 2.0}  # fmt: skip
    record = asdict(Training(**{"shape": SHAPE, **fields, **changes}))
    return json.loads(json.dumps(record))


def spec(folder: Path, checkpoint_dir: Path, **changes: Any) -> PosttrainSpec:
    """A spec that trains on the clips of `folder / "footage"`."""
    kept = {key: value for key, value in changes.items() if key != "training"}
    return PosttrainSpec(
        **{
            "model": TEXT2WORLD,
            "revision": "tiny",
            "checkpoint_dir": str(checkpoint_dir),
            "footage_dir": str(folder / "footage"),
            "output_dir": str(folder / "out"),
            "training": training(**changes.get("training", {})),
            "seed": 7,
            "site": "aws",
            "device": "cpu",
            **kept,
        }
    )
