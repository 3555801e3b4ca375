"""Trains a small Cosmos model from nothing: `python -m gpu_jobs.train_world_model.job SPEC`.

Needs torch, diffusers, transformers, numpy and Pillow; no video library and no polars.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpu_jobs.common.entry import run_job
from gpu_jobs.train_world_model.data import Footage, read_footage
from gpu_jobs.train_world_model.spec import (
    AdaptWorldModelSpec,
    Stage,
    TrainWorldModelReport,
    TrainWorldModelSpec,
)
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.seeds import content_id

log = logging.getLogger(__name__)

_DECIDES_NO_WEIGHTS = (
    "shards_dir",
    "output_dir",
    "state_dir",
    "num_samples",
    "sample_steps",
    "sample_guidance",
    "checkpoint_every_s",
)
_PROMPT_FACTS = -1  # the last caption of a clip is the longest kind


def train_world_model(spec: TrainWorldModelSpec) -> TrainWorldModelReport:
    """Train, write the folder, draw samples.

    Raises:
        JobFailedError: If there are no shards, a state of another training, or no end to the loss.
        MalformedRecordError: If shards are broken or too short for a stage.
    """
    import torch

    from gpu_jobs.train_world_model.folder import write_folder

    started_s = time.monotonic()
    prepare_device(spec)
    footage = read_footage(Path(spec.shards_dir), num_threads=min(16, os.cpu_count() or 1))
    footage = footage.thinned(spec.num_clips)
    check_stages(
        [*spec.autoencoder_stages, *spec.transformer_stages],
        footage,
        stride=spec.autoencoder["temporal_compression_ratio"],
    )
    frames = torch.from_numpy(footage.frames).to(spec.device)
    log.info(json.dumps({"event": "footage_read", "num_clips": len(footage.clips)}))
    parts, history, resumed = _train(spec, footage, frames)
    psnr_db = _psnr(spec, parts["vae"], footage)
    folder = Path(spec.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_folder(folder, parts)
    report = TrainWorldModelReport(
        folder=str(folder),
        num_clips=len(footage.clips),
        autoencoder_psnr_db=psnr_db,
        stages=[row for part in history for row in part.rows],
        losses=[point for part in history for point in part.losses],
        num_parameters={
            name: sum(p.numel() for p in parts[name].parameters())
            for name in ("transformer", "vae", "text_encoder")
        },
        num_tokens=_num_tokens(spec, footage),
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        wall_s=0.0,
        resumed=resumed,
        versions=versions(spec),
    )
    sheet, prompts = _sheet(spec, footage, parts["vae"])
    wall_s = round(time.monotonic() - started_s, 1)
    report = replace(report, sheet=sheet, prompts=prompts, wall_s=wall_s)
    path = folder.with_name(f"{folder.name}.report.json")
    path.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False))
    return report


def main() -> None:
    """Read the spec from Pipes or from argv, do the work, report."""
    sys.exit(run_job(TrainWorldModelSpec, train_world_model))


def _train(
    spec: TrainWorldModelSpec, footage: Footage, frames: Any
) -> tuple[dict[str, Any], list[Any], bool]:
    """Both trainings; the parts of the folder, where each training ended, and whether one had begun."""
    from gpu_jobs.train_world_model.autoencoder import AutoencoderLearner
    from gpu_jobs.train_world_model.denoiser import NEGATIVE_PROMPT, DenoiserLearner
    from gpu_jobs.train_world_model.stages import StateFile, run_stages
    from gpu_jobs.train_world_model.tokens import build_tokenizer

    state_dir = Path(spec.state_dir or f"{spec.output_dir}.state")
    fingerprint = _fingerprint(spec, footage)
    files = {
        part: StateFile(state_dir / f"{part}.pt", fingerprint, spec.checkpoint_every_s)
        for part in ("autoencoder", "transformer")
    }
    resumed = files["autoencoder"].path.exists()
    learner = AutoencoderLearner(spec, frames)
    stages = [Stage(**stage) for stage in spec.autoencoder_stages]
    first = run_stages(learner, stages, files["autoencoder"], warmup=spec.warmup_steps)
    autoencoder = learner.finished()
    tokenizer = build_tokenizer(
        [*footage.captions, NEGATIVE_PROMPT], max_length=spec.context_tokens
    )
    denoiser = DenoiserLearner(spec, footage, frames, autoencoder=autoencoder, tokenizer=tokenizer)
    stages = [Stage(**stage) for stage in spec.transformer_stages]
    second = run_stages(denoiser, stages, files["transformer"], warmup=spec.warmup_steps)
    transformer, text_encoder = denoiser.finished()
    parts = {
        "transformer": transformer,
        "vae": autoencoder,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
    }
    return parts, [first, second], resumed


def _sheet(spec: TrainWorldModelSpec, footage: Footage, autoencoder: Any) -> tuple[str, list[str]]:
    """Footage, reconstruction and sample of the same prompts; the picture's path and the prompts."""
    import torch

    from gpu_jobs.train_world_model.autoencoder import reconstruct
    from gpu_jobs.train_world_model.folder import draw_samples, write_sheet

    if not spec.num_samples:
        return "", []
    num_frames = max(stage["num_frames"] for stage in spec.transformer_stages)
    chosen = np.linspace(0, len(footage.clips) - 1, spec.num_samples).round().astype(int).tolist()
    prompts = [footage.clips[i]["captions"][_PROMPT_FACTS] for i in chosen]
    folder = Path(spec.output_dir)
    samples = draw_samples(
        folder,
        prompts,
        shape=(num_frames, footage.frames.shape[2], footage.frames.shape[3]),
        rate_fps=footage.rate_fps,
        steps=spec.sample_steps,
        guidance=spec.sample_guidance,
        seed=spec.seed,
        device=spec.device,
    )
    given = [
        reconstruct(
            spec, autoencoder, torch.from_numpy(footage.frames[i, :num_frames]).to(spec.device)
        )
        for i in chosen
    ]
    path = folder.with_name(f"{folder.name}.png")
    rows = [
        (footage.frames[i, :num_frames], seen, sample)
        for i, seen, sample in zip(chosen, given, samples, strict=True)
    ]
    write_sheet(path, rows)
    return str(path), prompts


def _psnr(spec: TrainWorldModelSpec, autoencoder: Any, footage: Footage) -> float:
    from gpu_jobs.train_world_model.autoencoder import reconstruction_psnr_db

    return reconstruction_psnr_db(spec, autoencoder, footage)


def prepare_device(spec: TrainWorldModelSpec | AdaptWorldModelSpec) -> None:
    """Refuse a GPU that is not there; take the fast paths of one that is."""
    import torch

    if spec.device == "cpu":
        return
    if not torch.cuda.is_available():
        raise JobFailedError(
            f"The spec asks for {spec.device!r} and this machine shows no CUDA device. Use device='cpu' "
            "with recipes.tiny, or check the driver with `nvidia-smi`."
        )
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def check_stages(stages: Sequence[dict[str, Any]], footage: Footage, *, stride: int) -> None:
    """Refuse stages that the footage or the autoencoder cannot serve.

    Args:
        stages: `Stage` as mappings.
        footage: What there is to train on.
        stride: Frames that become one latent frame.

    Raises:
        MalformedRecordError: If a stage's clips are longer, or their frames do not fit the stride.
    """
    longest = footage.frames.shape[1]
    for stage in stages:
        frames = stage["num_frames"]
        if frames > longest or (frames - 1) % stride:
            raise MalformedRecordError(
                "num_frames of a training stage",
                frames,
                f"1 + k * {stride}, at most the {longest} frames of the footage",
                "Correct the recipe, or render longer clips.",
            )


def _num_tokens(spec: TrainWorldModelSpec, footage: Footage) -> int:
    _, _, height, width, _ = footage.frames.shape
    frames = max(stage["num_frames"] for stage in spec.transformer_stages)
    time_stride = int(spec.autoencoder["temporal_compression_ratio"])
    stride = 2 * int(spec.autoencoder["spatial_compression_ratio"])
    num_tokens: int = (1 + (frames - 1) // time_stride) * (height // stride) * (width // stride)
    return num_tokens


def _fingerprint(spec: TrainWorldModelSpec, footage: Footage) -> str:
    """Of all that decides the weights."""
    record = {k: v for k, v in asdict(spec).items() if k not in _DECIDES_NO_WEIGHTS}
    return content_id({**record, "clips": [clip["recipe_id"] for clip in footage.clips]})


def versions(spec: TrainWorldModelSpec | AdaptWorldModelSpec) -> dict[str, str]:
    """Versions and hardware that the weights depend on."""
    import torch
    import transformers

    from gpu_jobs.common.torch_ops import import_diffusers

    device = torch.cuda.get_device_name() if spec.device != "cpu" else "cpu"
    return {
        "torch": torch.__version__,
        "diffusers": import_diffusers().__version__,
        "transformers": transformers.__version__,
        "device": device,
    }


if __name__ == "__main__":
    main()
