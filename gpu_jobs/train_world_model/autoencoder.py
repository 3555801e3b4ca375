"""Training the video autoencoder, and what it makes of footage afterwards."""

# B batch, C channels, T frames, H height, W width

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.train_world_model.components import start_from_components
from gpu_jobs.train_world_model.data import Footage, batch_indices
from gpu_jobs.train_world_model.spec import AdaptWorldModelSpec, Stage, TrainWorldModelSpec
from worldloop.seeds import derive_seed, stream

_CLIPS_SEEN = 48  # for the head start
_CLIPS_WEIGHED, _FRAMES_WEIGHED = 6, 9  # to see what channels change


def autocast(spec: TrainWorldModelSpec | AdaptWorldModelSpec) -> Any:
    """The precision of forward passes."""
    import torch

    if spec.precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(spec.device, dtype=torch.bfloat16)


def windows(footage: Any, stage: Stage, number: int, *names: str | int) -> tuple[Any, list[int]]:
    """The clips of a step, cut to windows: float32 (B, C, T, H, W) in [-1, 1], and their indices.

    Args:
        footage: uint8 tensor (N, T, H, W, 3).
        stage: Says how many and how long.
        number: Of the step.
        names: Of the random streams.
    """
    import torch

    num_clips, num_frames = footage.shape[:2]
    chosen = batch_indices(num_clips, stage.batch_size, number, *names, "order", stage.num_frames)
    latest = num_frames - stage.num_frames
    starts = stream(*names, "window", number).integers(0, latest + 1, size=len(chosen)).tolist()
    cut = [footage[i, s : s + stage.num_frames] for i, s in zip(chosen, starts, strict=True)]
    return to_model_range(torch.stack(cut)), chosen


def to_model_range(frames_BTHWC: Any) -> Any:
    """uint8 (B, T, H, W, C) as the autoencoder sees it: float32 (B, C, T, H, W) in [-1, 1]."""
    return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


class AutoencoderLearner:
    """The autoencoder in training.

    Args:
        spec: What to train.
        footage: uint8 tensor (N, T, H, W, 3) on the device.
    """

    part = "autoencoder"

    def __init__(self, spec: TrainWorldModelSpec, footage: Any):
        import torch

        from gpu_jobs.train_world_model.model import Averages, build_autoencoder

        torch.manual_seed(derive_seed(spec.seed, self.part))
        self.spec, self.footage = spec, footage
        self.network = build_autoencoder(spec.autoencoder).to(spec.device).train()
        start_from_components(self.network, self._some_footage())
        self.averages = Averages({"network": self.network}, decay=spec.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=spec.autoencoder_learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=spec.device != "cpu",
        )

    def _some_footage(self) -> Iterator[Any]:
        """Evenly spaced clips, to see what footage is made of."""
        for clip in self.footage[:: max(1, len(self.footage) // _CLIPS_SEEN)]:
            yield to_model_range(clip[None])

    def step(self, stage: Stage, number: int, *, rate: float) -> Any:
        """One optimizer step."""
        import torch

        from gpu_jobs.train_world_model.model import reconstruction_loss

        video_BCTHW, _ = windows(self.footage, stage, number, self.spec.seed, self.part)
        generator = torch.Generator().manual_seed(derive_seed(self.spec.seed, self.part, number))
        with autocast(self.spec):
            loss = reconstruction_loss(
                self.network,
                video_BCTHW,
                posterior_std=self.spec.posterior_std,
                kl_weight=self.spec.kl_weight,
                generator=generator,
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.autoencoder_learning_rate * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.averages.update()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Weights, their averages and the optimizer."""
        return {
            "network": self.network.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.network.load_state_dict(state["network"])
        self.averages.load_state_dict(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])

    def finished(self) -> Any:
        """The trained network with averaged weights and the statistics of its latents in its config."""
        import torch

        self.averages.apply()
        self.network.eval().requires_grad_(False)
        total = square = torch.zeros((), dtype=torch.float64)
        count = 0
        for clip in self.footage:
            latent = self.encode(to_model_range(clip[None])).double().cpu()
            total = total + latent.sum(dim=(0, 2, 3, 4))
            square = square + latent.square().sum(dim=(0, 2, 3, 4))
            count += latent[:, 0].numel()
        mean = total / count
        std = (square / count - mean.square()).clamp_min(1e-8).sqrt()
        std = std / self._spreads(std.float())
        self.network.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        return self.network

    def _spreads(self, std_C: Any) -> Any:
        """How wide each latent channel shall be for the transformer, 1 on average, float64 (C,).

        A channel counts by what noise of its standard deviation changes in pixels.
        """
        import torch

        if self.spec.whitening == 1:
            return torch.ones_like(std_C).double()
        generator = torch.Generator().manual_seed(derive_seed(self.spec.seed, self.part, "spreads"))
        changes = torch.zeros(len(std_C), dtype=torch.float64)
        for clip in self.footage[:: max(1, len(self.footage) // _CLIPS_WEIGHED)]:
            latent = self.encode(to_model_range(clip[None, :_FRAMES_WEIGHED]))
            noise = torch.randn(latent.shape[2:], generator=generator).to(latent)
            for channel, std in enumerate(std_C.tolist()):
                moved = latent.clone()
                moved[:, channel] += std * noise
                changes[channel] += (
                    (self._decode(moved) - self._decode(latent)).square().mean().cpu()
                )
        weight = changes.sqrt().clamp_min(1e-9) ** (1 - self.spec.whitening)
        return weight / weight.square().mean().sqrt()

    def _decode(self, latent_BCTHW: Any) -> Any:
        import torch

        with torch.no_grad(), autocast(self.spec):
            return self.network.decode(latent_BCTHW).sample.float()

    def encode(self, video_BCTHW: Any) -> Any:
        """Latents, not normalised, float32."""
        import torch

        with torch.no_grad(), autocast(self.spec):
            return self.network.encode(video_BCTHW).latent_dist.mode().float()


def reconstruct(spec: TrainWorldModelSpec, autoencoder: Any, clip: Any) -> NDArray[np.uint8]:
    """A clip (T, H, W, 3) of the footage through the autoencoder."""
    import torch

    with torch.no_grad(), autocast(spec):
        latent = autoencoder.encode(to_model_range(clip[None])).latent_dist.mode()
        video = autoencoder.decode(latent).sample[0].float()
    pixels = ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(pixels.permute(1, 2, 3, 0).cpu().numpy())


def reconstruction_psnr_db(
    spec: TrainWorldModelSpec, autoencoder: Any, footage: Footage, *, num_clips: int = 16
) -> float:
    """Mean over evenly spaced clips."""
    import torch

    values = []
    step = max(1, len(footage.frames) // num_clips)
    for frames in footage.frames[::step]:
        given = reconstruct(spec, autoencoder, torch.from_numpy(frames).to(spec.device))
        error = np.square(given.astype(np.float64) - frames).mean()
        values.append(10 * np.log10(255**2 / max(float(error), 1e-9)))
    return round(float(np.mean(values)), 2)
