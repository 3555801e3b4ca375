"""Tiny models as tests of several families use them: written once, run here and by diffusers."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media, Plain
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.requests import ClipRequest

PROMPT, NEGATIVE = "A rainy street at night.", "static, no motion"
SHAPE = ClipShape(9, 64, 48, 24)


def picture_frames(count: int, *, seed: int = 0, shape: ClipShape = SHAPE) -> np.ndarray:
    """Random frames of a clip's size."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, shape.height_px, shape.width_px, 3), dtype=np.uint8)


def denoise(world, requests, *, frames=None, embedding=None, **changes) -> tuple[Any, list]:
    """Latents and decoded frames of a batch."""
    options = DenoiseOptions(
        **{"shape": SHAPE, "num_steps": 3, "guidance": 7.0, "sampler": "res", **changes}
    )
    embedding = embedding or world.encode(PROMPT, NEGATIVE)
    denoising = world.begin(
        requests,
        [embedding] * len(requests),
        options,
        device="cpu",
        media=[Media(frames=frames)] * len(requests),
    )
    for index in range(denoising.num_steps):
        denoising.step(index)
    latents = denoising.latents()
    clips = [
        world.decode(each, request, options).frames
        for each, request in zip(latents, requests, strict=True)
    ]
    return latents, clips


def request(seed: int = 3) -> ClipRequest:
    """A clip of a seed."""
    return ClipRequest(f"clip{seed}", PROMPT, seed=seed)


def diffusers_run(folder: Path, *, seeds=(3,), frames=None, dtype="float32", **call) -> Any:
    """What the diffusers pipeline of a folder makes of a call: latents and uint8 frames."""
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        folder, safety_checker=_passes_all(), dtype=getattr(torch, dtype)
    )
    pipe.set_progress_bar_config(disable=True)
    texts = {"prompt": [PROMPT] * len(seeds), "negative_prompt": [NEGATIVE] * len(seeds)}
    call = {**texts, "height": 48, "width": 64, **call}
    if frames is not None:
        pictures = [Image.fromarray(frame) for frame in frames]
        call["image" if len(pictures) == 1 else "video"] = (
            pictures[0] if len(pictures) == 1 else pictures
        )
    latents, outputs = (
        pipe(
            **call,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type=kind,
            return_dict=False,
        )[0]
        for kind in ("latent", "np")
    )
    return latents, np.round(outputs * 255).astype(np.uint8)


@cache
def _passes_all() -> Any:
    import torch

    class PassesAll(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def check_text_safety(self, prompt):
            return True

        def check_video_safety(self, frames):
            return frames

    return PassesAll()


@dataclass
class CountingPolicy(Plain):
    """Plain, but without guidance in some steps, and counts passes."""

    unguided: tuple[int, ...] = ()
    passes: list[str] = field(default_factory=list)
    step: int = 0

    def start_step(self, step, num_steps):
        self.step = step

    def guided(self):
        return self.step not in self.unguided

    def run(self, branch, forward):
        self.passes.append(branch)
        return forward()


def load_tiny(name: str, checkpoint_dir: Path, *, dtype="float32", **more) -> Any:
    """A tiny model, written on first use."""
    import torch

    from gpu_jobs.cosmos_generate.backends.registry import load_model
    from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint

    write_tiny_checkpoint(name, checkpoint_dir)
    return load_model(
        model(name), checkpoint_dir, dtype=getattr(torch, dtype), device="cpu", **more
    )
