"""Latents of the footage, worked out once for all steps of a stage."""

# N clips, S windows of a clip, B batch, C channels, T latent frames, H height, W width

from typing import Any

import numpy as np

from gpu_jobs.train_world_model.autoencoder import autocast, to_model_range
from gpu_jobs.train_world_model.data import batch_indices
from gpu_jobs.train_world_model.spec import AdaptWorldModelSpec, Stage, TrainWorldModelSpec
from worldloop.seeds import stream

_FRAMES_AT_ONCE = 256  # that the encoder sees


class Latents:
    """Normalised latents of evenly spaced windows of every clip.

    Those of one length are kept at a time: encoding the footage costs less than a hundred steps
    that encode their own clips.

    Args:
        spec: Says how many windows, the precision and the device.
        frames: uint8 tensor (N, T, H, W, 3) on the device.
        autoencoder: Trained, with the statistics of its latents in its config.
    """

    def __init__(
        self, spec: TrainWorldModelSpec | AdaptWorldModelSpec, frames: Any, autoencoder: Any
    ):
        import torch

        self.spec, self.frames, self.autoencoder = spec, frames, autoencoder
        shape = (1, -1, 1, 1, 1)
        config = autoencoder.config
        self.mean = torch.tensor(config.latents_mean, device=frames.device).view(shape)
        self.std = torch.tensor(config.latents_std, device=frames.device).view(shape)
        self.time_stride = int(config.temporal_compression_ratio)
        self._kept: tuple[int, Any] = (0, None)

    def batch(self, stage: Stage, number: int, *names: str | int) -> tuple[Any, list[int]]:
        """The latents of a step, float32 (B, C, T, H, W) in the transformer's scale, and their clips.

        Args:
            stage: Says how many and how long.
            number: Of the step.
            names: Of the random streams.
        """
        latents_NSCTHW = self._of(stage.num_frames)
        num_clips, num_windows = latents_NSCTHW.shape[:2]
        chosen = batch_indices(num_clips, stage.batch_size, number, *names, "order")
        windows = stream(*names, "window", number).integers(num_windows, size=len(chosen))
        return latents_NSCTHW[chosen, windows.tolist()].float(), chosen

    def _of(self, num_frames: int) -> Any:
        """All windows of one length, (N, S, C, T, H, W)."""
        import torch

        if self._kept[0] != num_frames:
            self._kept = (0, None)
            starts = window_starts(
                self.frames.shape[1], num_frames, count=self.spec.windows_per_clip
            )
            together = max(1, _FRAMES_AT_ONCE // num_frames)
            rows = []
            for clip in self.frames:
                cut = torch.stack([clip[start : start + num_frames] for start in starts])
                rows.append(torch.cat([self._encode(part) for part in cut.split(together)]))
            self._kept = (num_frames, torch.stack(rows))
        return self._kept[1]

    def _encode(self, frames_BTHWC: Any) -> Any:
        import torch

        from gpu_jobs.train_world_model.model import SIGMA_DATA

        with torch.no_grad(), autocast(self.spec):
            latent = self.autoencoder.encode(to_model_range(frames_BTHWC)).latent_dist.mode()
        kept = torch.bfloat16 if self.spec.precision == "bf16" else torch.float32
        return ((latent.float() - self.mean) / self.std * SIGMA_DATA).to(kept)


def window_starts(num_frames: int, window: int, *, count: int) -> list[int]:
    """First frames of at most so many windows of a clip, evenly spaced.

    Example:
        >>> window_starts(61, 29, count=5)
        [0, 8, 16, 24, 32]
        >>> window_starts(61, 61, count=5)
        [0]
    """
    latest = num_frames - window
    return sorted({int(start) for start in np.linspace(0, latest, min(count, latest + 1)).round()})
