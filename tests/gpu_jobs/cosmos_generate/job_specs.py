"""Specs of small generations, as tests of the job use them."""

from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.spec import CosmosGenerateSpec
from worldloop.cosmos.models import model
from worldloop.cosmos.profiles import profile

TEXT2WORLD = "Tiny-Cosmos-1.0-Text2World"
VIDEO2WORLD = "Tiny-Cosmos-1.0-Video2World"


def asked_clips(count: int, **changes: Any) -> tuple[dict[str, Any], ...]:
    """Requests of a batch: each another prompt and another seed."""
    return tuple(
        {"clip_id": f"clip{i}", "prompt": f"A quiet street, number {i}.", "seed": i, **changes}
        for i in range(count)
    )


def small_spec(folder: Path, *, count: int = 2, **changes: Any) -> CosmosGenerateSpec:
    """A spec of a tiny model, two steps a clip, all in one folder."""
    name = changes.get("model", TEXT2WORLD)
    known = model(name)
    return CosmosGenerateSpec(
        **{
            "model": name,
            "revision": "tiny",
            "checkpoint_dir": str(folder / "checkpoints"),
            "requests": asked_clips(count),
            "shape": {"num_frames": 9, "width_px": 64, "height_px": 48, "rate_fps": 24},
            "num_steps": 2,
            "guidance": known.default_guidance,
            "sampler": known.known_samplers[0],
            "profile": profile("exact").to_record(),
            "staging_dir": str(folder / "staging"),
            "pack_path": str(folder / "pack.tar"),
            "device": "cpu",
            **changes,
        }
    )
