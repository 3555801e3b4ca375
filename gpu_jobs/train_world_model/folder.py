"""Writing a trained model as a diffusers folder, and drawing samples from it as anybody would."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.train_world_model.model import SCHEDULER

INDEX = "model_index.json"
PIPELINE = "CosmosTextToWorldPipeline"


def write_folder(folder: Path, parts: dict[str, Any]) -> None:
    """Write a diffusers folder beside its place, then rename.

    Args:
        folder: Where it shall stand; what stands there is replaced.
        parts: `transformer`, `vae`, `text_encoder` and `tokenizer`.
    """
    diffusers = import_diffusers()
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    scheduler = diffusers.EDMEulerScheduler(**SCHEDULER)
    for name, part in {**parts, "scheduler": scheduler}.items():
        part.save_pretrained(partial / name)
    index = {
        "_class_name": PIPELINE,
        "_diffusers_version": diffusers.__version__,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "EDMEulerScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "CosmosTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCosmos"],
    }
    (partial / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def draw_samples(
    folder: Path,
    prompts: Sequence[str],
    *,
    shape: tuple[int, int, int],
    rate_fps: int,
    steps: int,
    guidance: float,
    seed: int,
    device: str,
) -> list[NDArray[np.uint8]]:
    """Clips of a written folder through the public pipeline of diffusers.

    No guards run: the model knows nothing but our own rendered footage.

    Args:
        folder: Diffusers folder.
        prompts: One clip each.
        shape: (frames, height, width).
        rate_fps: Frames per second.
        steps: Denoising steps.
        guidance: Guidance scale.
        seed: Of the first clip; the next one has the next.
        device: Where to run; bf16 on a GPU.

    Returns:
        uint8 (T, H, W, 3) each.
    """
    import torch

    diffusers = import_diffusers()
    dtype = torch.bfloat16 if device != "cpu" else torch.float32
    pipeline = getattr(diffusers, PIPELINE).from_pretrained(
        folder, safety_checker=_unguarded(), dtype=dtype
    )
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    frames, height, width = shape
    clips = []
    for number, prompt in enumerate(prompts):
        video = pipeline(
            prompt=prompt,
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            fps=rate_fps,
            generator=torch.Generator().manual_seed(seed + number),
            output_type="np",
        ).frames[0]
        clips.append((np.asarray(video) * 255).round().astype(np.uint8))
    return clips


def write_sheet(
    path: Path,
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    *,
    columns: int = 3,
    gap_px: int = 0,
) -> None:
    """Clips side by side as a PNG, a few frames of each.

    Args:
        path: Of the picture.
        rows: Clips (T, H, W, 3) of each row, all of one size.
        columns: Evenly spaced frames of each clip.
        gap_px: White between the clips of a row.
    """
    lines = []
    for clips in rows:
        gap = np.full((clips[0].shape[1], gap_px, 3), 255, np.uint8)
        tiles: list[NDArray[np.uint8]] = []
        for clip in clips:
            shown = np.linspace(0, len(clip) - 1, columns).round().astype(int)
            tiles += [gap] if tiles and gap_px else []
            tiles += [clip[index] for index in shown]
        lines.append(np.concatenate(tiles, axis=1))
    part = path.with_suffix(".part")
    Image.fromarray(np.concatenate(lines)).save(part, "PNG", optimize=True)
    part.replace(path)


def _unguarded() -> Any:
    """What the pipeline wants of a safety checker, passing everything."""
    import torch

    class Unguarded(torch.nn.Module):  # type: ignore[misc]
        dtype, device = torch.float32, torch.device("cpu")

        def check_text_safety(self, prompt: str) -> bool:
            return True

        def check_video_safety(self, frames: Any) -> Any:
            return frames

    return Unguarded()
