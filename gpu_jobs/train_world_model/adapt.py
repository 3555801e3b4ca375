"""Adapts a trained model to tile-sparse attention: `python -m gpu_jobs.train_world_model.adapt SPEC`.

The sparse transformer learns to answer as the dense one that it comes from, at the noise levels at
which the speed profile is sparse; at the others it is kept as it was. The result is a folder of its
own. Needs what the training needs.
"""

# B batch, C channels, T latent frames, H height, W width

import copy
import hashlib
import json
import logging
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_jobs.common.entry import run_job
from gpu_jobs.train_world_model.autoencoder import autocast
from gpu_jobs.train_world_model.data import Footage, read_footage
from gpu_jobs.train_world_model.denoiser import (
    Captions,
    attention_kernels,
    compile_blocks,
    in_full_precision,
)
from gpu_jobs.train_world_model.job import check_stages, prepare_device, versions
from gpu_jobs.train_world_model.latents import Latents
from gpu_jobs.train_world_model.spec import AdaptWorldModelReport, AdaptWorldModelSpec, Stage
from gpu_jobs.train_world_model.windowed import WindowedAttention
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.seeds import content_id, derive_seed, stream

log = logging.getLogger(__name__)

Band = tuple[float, float]  # lowest and highest noise level
_DECIDES_NO_WEIGHTS = (
    "shards_dir",
    "checkpoint_dir",
    "output_dir",
    "state_dir",
    "checkpoint_every_s",
)
_NUM_PROBES = 8  # batches by which the distance is measured
_PROBES_FROM = 10_000_000  # their step numbers, which no training reaches


def adapt_world_model(spec: AdaptWorldModelSpec) -> AdaptWorldModelReport:
    """Adapt the transformer, write the folder.

    Raises:
        JobFailedError: If there are no shards or no trained folder, or the loss has no end.
        MalformedRecordError: If stages do not fit the footage, or nothing would be sparse.
    """
    import torch

    from gpu_jobs.train_world_model.folder import write_folder
    from gpu_jobs.train_world_model.stages import StateFile, run_stages

    started_s = time.monotonic()
    prepare_device(spec)
    parts = _read_parts(Path(spec.checkpoint_dir), spec.device)
    footage = read_footage(Path(spec.shards_dir), num_threads=min(16, os.cpu_count() or 1))
    footage = footage.thinned(spec.num_clips)
    stride = int(parts["vae"].config.temporal_compression_ratio)
    check_stages(list(spec.stages), footage, stride=stride)
    _check_one_length(spec)
    frames = torch.from_numpy(footage.frames).to(spec.device)
    learner = AdaptedLearner(spec, footage, frames, parts=parts)
    state_dir = Path(spec.state_dir or f"{spec.output_dir}.state")
    file = StateFile(state_dir / "adapted.pt", _fingerprint(spec, footage), spec.checkpoint_every_s)
    before, resumed = learner.distance(), file.path.exists()
    stages = [Stage(**stage) for stage in spec.stages]
    progress = run_stages(learner, stages, file, warmup=spec.warmup_steps)
    transformer = learner.finished()
    after = learner.distance()
    folder = Path(spec.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_folder(folder, {**parts, "transformer": transformer})
    report = AdaptWorldModelReport(
        folder=str(folder),
        density=round(learner.windowed.window.density, 4),
        num_tiles=learner.windowed.window.tiling.num_tiles,
        before=before,
        after=after,
        stages=progress.rows,
        losses=progress.losses,
        wall_s=round(time.monotonic() - started_s, 1),
        resumed=resumed,
        versions=versions(spec),
    )
    path = folder.with_name(f"{folder.name}.report.json")
    path.write_text(json.dumps(asdict(report), indent=1))
    return report


class AdaptedLearner:
    """The sparse transformer in training, beside the dense one that it comes from.

    Args:
        spec: What to adapt to.
        footage: Facts and captions of the clips.
        frames: The frames of the footage, a uint8 tensor (N, T, H, W, 3) on the device.
        parts: Of the trained folder, on the device.
    """

    part = "adapted"

    def __init__(
        self, spec: AdaptWorldModelSpec, footage: Footage, frames: Any, *, parts: dict[str, Any]
    ):
        import torch

        from gpu_jobs.train_world_model.model import Averages

        self.spec, self.footage = spec, footage
        self.frame_size = (int(frames.shape[2]), int(frames.shape[3]))
        self.latents = Latents(spec, frames, parts["vae"])
        self.captions = Captions(spec, footage, parts["tokenizer"], self.part)
        self.text_encoder = parts["text_encoder"]
        self.teacher = parts["transformer"].eval().requires_grad_(False)
        self.student = copy.deepcopy(self.teacher).train().requires_grad_(True)
        self.windowed = self._windowed(parts["vae"])
        self.windowed.install(self.student)
        self.averages = Averages({"student": self.student}, decay=spec.ema_decay)
        self.weights = list(self.student.parameters())
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=spec.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=spec.device != "cpu",
        )
        self.hooks = [in_full_precision(one) for one in (self.student, self.teacher)]
        self.dense, self.sparse = noise_bands(spec)
        if spec.compile:
            compile_blocks(self.student)
            compile_blocks(self.teacher)

    def step(self, stage: Stage, number: int, *, rate: float) -> Any:
        """One optimizer step: dense at the noise levels of dense steps, else sparse."""
        import torch

        loss = self._loss(stage, number, band=self._band(stage, number))
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.averages.update()
        return loss

    def distance(self) -> float:
        """Squared distance of the sparse answer from the dense one; 1 is what predicting nothing costs."""
        import torch

        stage = Stage(**self.spec.stages[-1])
        with torch.no_grad():
            losses = [
                self._loss(stage, _PROBES_FROM + number, band=self.sparse)
                for number in range(_NUM_PROBES)
            ]
        return round(float(torch.stack(losses).mean()), 5)

    def state_dict(self) -> dict[str, Any]:
        """Weights, their averages and the optimizer."""
        return {
            "student": self.student.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.student.load_state_dict(state["student"])
        self.averages.load_state_dict(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])

    def finished(self) -> Any:
        """The adapted transformer with averaged weights."""
        self.averages.apply()
        return self.student.eval()

    def _loss(self, stage: Stage, number: int, *, band: Band) -> Any:
        import torch

        from gpu_jobs.train_world_model.model import NoiseLevels, denoising_loss, encode_captions

        spec = self.spec
        self.windowed.sparse = band == self.sparse
        latent_BCTHW, chosen = self.latents.batch(stage, number, spec.seed, self.part)
        ids_BL, mask_BL = self.captions.draw(chosen, number)
        generator = torch.Generator().manual_seed(derive_seed(spec.seed, self.part, number))
        with autocast(spec), attention_kernels(spec.attention):
            with torch.no_grad():
                context = encode_captions(
                    self.text_encoder, ids_BL, mask_BL, length=spec.context_tokens
                )
            return denoising_loss(
                self.student,
                latent_BCTHW,
                context,
                frame_size=self.frame_size,
                rate_fps=self.footage.rate_fps,
                generator=generator,
                levels=NoiseLevels(spec.sigma_mean, spec.sigma_std, *band),
                teacher=self.teacher,
            )

    def _band(self, stage: Stage, number: int) -> Band:
        """Noise levels of a step: those of sparse steps, and now and then of dense ones."""
        from gpu_jobs.train_world_model.model import NoiseLevels

        if not self.dense:
            return self.sparse
        levels = NoiseLevels(self.spec.sigma_mean, self.spec.sigma_std)
        length = 1 + (stage.num_frames - 1) // self.latents.time_stride
        shares = [levels.share(length, *band) for band in self.dense]
        rng = stream(self.spec.seed, self.part, "dense", number)
        if rng.random() >= max(self.spec.dense_share, sum(shares)):
            return self.sparse
        return self.dense[0] if rng.random() * sum(shares) < shares[0] else self.dense[-1]

    def _windowed(self, autoencoder: Any) -> WindowedAttention:
        stage = Stage(**self.spec.stages[-1])
        patch = self.student.config.patch_size
        across = int(autoencoder.config.spatial_compression_ratio)
        grid = (
            (1 + (stage.num_frames - 1) // self.latents.time_stride) // patch[0],
            self.frame_size[0] // across // patch[1],
            self.frame_size[1] // across // patch[2],
        )
        return WindowedAttention(grid, density=self.spec.density, device=self.spec.device)


def noise_bands(spec: AdaptWorldModelSpec) -> tuple[list[Band], Band]:
    """Noise levels of the dense steps of the Karras schedule, and of the sparse ones between them.

    Raises:
        MalformedRecordError: If no step is sparse.
    """
    from gpu_jobs.train_world_model.model import SCHEDULER, SIGMA_MAX, SIGMA_MIN

    first, last, steps = spec.dense_first_steps, spec.dense_last_steps, spec.num_steps
    if first + last >= steps or spec.density >= 1:
        raise MalformedRecordError(
            "density and dense steps of an adaptation",
            (spec.density, first, last),
            f"a density below 1 and fewer than {steps} dense steps",
            "Take them from a sparse speed profile.",
        )
    root = 1 / SCHEDULER["rho"]
    high, low = SCHEDULER["sigma_max"] ** root, SCHEDULER["sigma_min"] ** root

    def level(step: float) -> float:
        return float((high + step / (steps - 1) * (low - high)) ** SCHEDULER["rho"])

    top = level(first - 0.5) if first else SIGMA_MAX
    bottom = level(steps - last - 0.5) if last else SIGMA_MIN
    dense = [band for band in ((top, SIGMA_MAX), (SIGMA_MIN, bottom)) if band[0] < band[1]]
    return dense, (bottom, top)


def main() -> None:
    """Read the spec from Pipes or from argv, do the work, report."""
    sys.exit(run_job(AdaptWorldModelSpec, adapt_world_model))


def _read_parts(folder: Path, device: str) -> dict[str, Any]:
    """Parts of a trained folder, the networks in float32 on the device."""
    from gpu_jobs.common.torch_ops import import_diffusers

    if not (folder / "model_index.json").is_file():
        raise JobFailedError(
            f"No trained model is in {str(folder)!r}. Train one with "
            "python -m gpu_jobs.train_world_model.job."
        )
    diffusers = import_diffusers()
    from transformers import T5EncoderModel, T5TokenizerFast

    parts = {
        "transformer": diffusers.CosmosTransformer3DModel.from_pretrained(folder / "transformer"),
        "vae": diffusers.AutoencoderKLCosmos.from_pretrained(folder / "vae"),
        "text_encoder": T5EncoderModel.from_pretrained(folder / "text_encoder"),
    }
    for part in parts.values():
        part.to(device).eval().requires_grad_(False)
    return {**parts, "tokenizer": T5TokenizerFast.from_pretrained(folder / "tokenizer")}


def _check_one_length(spec: AdaptWorldModelSpec) -> None:
    lengths = sorted({stage["num_frames"] for stage in spec.stages})
    if len(lengths) != 1:
        raise MalformedRecordError(
            "num_frames of an adaptation's stages",
            lengths,
            "one length, that of the clips to generate",
            "Adapt to each length on its own.",
        )


def _fingerprint(spec: AdaptWorldModelSpec, footage: Footage) -> str:
    """Of all that decides the weights."""
    record = {k: v for k, v in asdict(spec).items() if k not in _DECIDES_NO_WEIGHTS}
    weights = sorted((Path(spec.checkpoint_dir) / "transformer").glob("*.safetensors"))
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    clips = [clip["recipe_id"] for clip in footage.clips]
    return content_id({**record, "clips": clips, "weights": hashes})


if __name__ == "__main__":
    main()
