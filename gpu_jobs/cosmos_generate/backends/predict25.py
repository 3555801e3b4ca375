"""Predict2.5: one model for pictures, text, picture and video to world, of 2 and 14 billion weights.

A rectified-flow transformer with UniPC, whose prompts Qwen2.5-VL reads (see `reason1`). Conditioning
frames take the place of the first latent frames on the way in, at a timestep of their own, and of
their velocity on the way out. `num_frames` of 1 makes a picture.

Frames and latents equal those of `Cosmos2_5_PredictBasePipeline` bit for bit. Two things are done
otherwise without changing a bit: only the conditioning frames are encoded, not the whole clip with
its padding (the autoencoder is causal, later frames are masked), and the schedule's numbers lie on
the device, so that no step waits for it. A batch may mix clips with and without conditioning, which
diffusers makes one at a time; a clip made in a batch of two is near, not equal, to one made alone.

Guidance is the makers' convention: cond + scale * (cond - uncond).
"""

# B batch, C channels, T frames, H height, W width

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu_jobs.cosmos_generate.backends.pipeline import (
    Prompts,
    check_finite,
    generators,
    noise,
    to_frames,
    to_model_range,
)
from gpu_jobs.cosmos_generate.backends.reason1 import ReasonWorldModel, Schedule
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, Media, Module
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError

PIPELINES = ("Cosmos2_5_PredictBasePipeline",)

# pipeline_cosmos2_5_predict.py of diffusers 0.42.1, default of __call__
CONDITIONAL_TIMESTEP = 0.0001


@dataclass
class FlowDenoising:
    """A batch on its way from noise to latents; see `protocol.Denoising`.

    Attributes:
        transformer: The network.
        prompts: Encoded prompts, on the device.
        schedule: Noise levels and steps.
        options: Guidance and policy.
        latent: The batch as it stands, float32 (B, C, T, H, W).
        cond: Conditioning latents, float32 (B, C, T, H, W), zeros where there are none.
        mask: 1 where a latent frame conditions, (B, 1, T, H, W) in the precision of the transformer.
        padding: Zeros of the picture's size, (1, 1, H, W): nothing of it is padding.
    """

    transformer: Module
    prompts: Prompts
    schedule: Schedule
    options: DenoiseOptions
    latent: torch.Tensor
    cond: torch.Tensor
    mask: torch.Tensor
    padding: torch.Tensor
    num_steps: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_steps = len(self.schedule.timesteps)
        self._kept = (self.latent - self.cond) * self.mask
        self._indicator = self.mask[:, :, :, :1, :1].float()

    def step(self, index: int) -> None:
        """Take one step; steps are taken in order."""
        with torch.no_grad():
            self._step(index)

    def latents(self) -> torch.Tensor:
        """The batch as `decode` takes it, float32 (B, C, T, H, W)."""
        return self.latent

    def _step(self, index: int) -> None:
        policy = self.options.policy
        policy.start_step(index, self.num_steps)
        sigma = self.schedule.sigmas[index]
        timestep_B1T11 = self._indicator * CONDITIONAL_TIMESTEP + (1 - self._indicator) * sigma
        velocity_BCTHW = self._velocity("cond", timestep_B1T11)
        if self.options.guidance > 1.0 and policy.guided():
            away_BCTHW = self._velocity("uncond", timestep_B1T11)
            velocity_BCTHW = velocity_BCTHW + self.options.guidance * (velocity_BCTHW - away_BCTHW)
        self.latent = self.schedule.advance(index, velocity_BCTHW, self.latent)

    def _velocity(self, branch: str, timestep_B1T11: torch.Tensor) -> torch.Tensor:
        """What a branch says, with the known velocity of conditioning frames."""
        mask = self.mask
        seen_BCTHW = mask * self.cond + (1 - mask) * self.latent
        seen_BCTHW = seen_BCTHW.to(mask.dtype)
        said_BCTHW = self.options.policy.run(
            branch,
            lambda: self.transformer(
                hidden_states=seen_BCTHW,
                condition_mask=mask,
                timestep=timestep_B1T11,
                encoder_hidden_states=self.prompts.of(branch),
                padding_mask=self.padding,
                return_dict=False,
            )[0],
        )
        return self._kept + said_BCTHW * (1 - mask)


class Predict25(ReasonWorldModel):
    """A loaded Predict2.5 checkpoint; see `protocol.WorldModel`."""

    pipelines = PIPELINES

    def begin(
        self,
        requests: Sequence[ClipRequest],
        embeddings: Sequence[Embedding],
        options: DenoiseOptions,
        *,
        device: Any,
        media: Sequence[Media],
    ) -> FlowDenoising:
        """Start a batch; clips with and without conditioning may stand side by side.

        Raises:
            UnknownKeyError: If the sampler is not UniPC.
            MalformedRecordError: If a clip has a number of conditioning frames that the family does not take.
        """
        self.check_sampler(options.sampler)
        shape_BCTHW = self.latent_shape(options.shape, len(requests))
        cond_BCTHW, mask_B1THW = self._conditioning(media, shape_BCTHW, device)
        height, width = options.shape.height_px, options.shape.width_px
        return FlowDenoising(
            transformer=self.parts["transformer"],
            prompts=Prompts.stacked(embeddings, device=device, dtype=self.dtype),
            schedule=Schedule.start(
                self.scheduler_config, num_steps=options.num_steps, device=device
            ),
            options=options,
            latent=noise(shape_BCTHW, generators(requests), device=device),
            cond=cond_BCTHW,
            mask=mask_B1THW,
            padding=torch.zeros(1, 1, height, width, dtype=self.dtype, device=device),
        )

    def decode(self, latents: Any, request: ClipRequest, options: DenoiseOptions) -> Decoded:
        """Frames of one clip.

        Raises:
            ClipRejectedError: If its latents are not numbers.
        """
        check_finite(latents, request)
        vae = self.parts["tokenizer"]
        latents = latents.to(vae.device)
        mean, std = self.statistics(latents)
        # diffusers keeps 1 / std and divides by it; so it is here, to the last bit
        scaled_BCTHW = latents.float()[None] / (1.0 / std) + mean
        with torch.no_grad():
            video_CTHW = vae.decode(scaled_BCTHW.to(vae.dtype), return_dict=False)[0][0]
        return Decoded(frames=to_frames(video_CTHW))

    def _conditioning(
        self, media: Sequence[Media], shape_BCTHW: tuple[int, ...], device: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Conditioning latents and the mask of the latent frames that condition."""
        cond_BCTHW = torch.zeros(shape_BCTHW, device=device)
        mask_B1THW = torch.zeros(
            (shape_BCTHW[0], 1, *shape_BCTHW[2:]), dtype=self.dtype, device=device
        )
        for index, clip in enumerate(media):
            if clip.frames is None:
                continue
            self._check_count(len(clip.frames))
            latent_CTHW = self._latent_of(to_model_range(clip.frames[None]), device)
            cond_BCTHW[index, :, : latent_CTHW.shape[1]] = latent_CTHW
            mask_B1THW[index, :, : latent_CTHW.shape[1]] = 1.0
        return cond_BCTHW, mask_B1THW

    def _latent_of(self, video_BCTHW: torch.Tensor, device: Any) -> torch.Tensor:
        """The most likely latent of one clip's frames, normalised, (C, T, H, W)."""
        vae = self.parts["tokenizer"]
        with torch.no_grad():
            posterior = vae.encode(video_BCTHW.to(device=vae.device, dtype=vae.dtype)).latent_dist
        latent_BCTHW = posterior.mode().to(device=device, dtype=torch.float32)
        mean, std = self.statistics(latent_BCTHW)
        return ((latent_BCTHW - mean) * (1.0 / std))[0]

    def _check_count(self, count: int) -> None:
        if count not in self.family.conditioning_frames:
            raise MalformedRecordError(
                f"conditioning of a clip of {self.model.name}",
                f"{count} frames",
                f"one of {self.family.conditioning_frames}",
                "Change the number of conditioning frames.",
            )


load = Predict25.load
