"""Cosmos Predict2: Text2Image, and Video2World of 2 and 14 billion weights.

The transformer is a rectified flow: with t = sigma / (sigma + 1) it sees (1 - t) * latent and
answers a velocity, so that the clean latent is (1 - t) * latent - t * output. Conditioning frames
of Video2World replace the first latent frames on its way in and in what it says; they have a time
of their own (that of `sigma_conditioning`), and one more input channel marks them.

Samplers: `flow_euler` is that of diffusers, with which frames equal `Cosmos2TextToImagePipeline`
and `Cosmos2VideoToWorldPipeline` bit for bit. `res` is that of the makers: the second-order
multistep solver on the same noise levels (cosmos_predict2/schedulers/rectified_flow_scheduler.py,
commit 661da47), one more pass at the end, and the mean of the encoded frames rather than a sample.
A clip that is denoised in a batch of two is near, not equal, to the one made alone.

Text2Image models are not told the frame rate, and take one frame.
"""

# B batch, C channels, T frames, H height, W width

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_jobs.cosmos_generate.backends.autoencoders import load_wan_autoencoder
from gpu_jobs.cosmos_generate.backends.pipeline import (
    GuidedDenoising,
    Layout,
    Prompts,
    T5WorldModel,
    check_finite,
    conditioning_frames,
    generators,
    noise,
    to_frames,
    to_model_range,
)
from gpu_jobs.cosmos_generate.backends.samplers import (
    SIGMA_MAX,
    SIGMA_MIN,
    EulerSampler,
    ResSampler,
    Sampler,
)
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, Media, Module
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError, UnknownKeyError

PIPELINES = ("Cosmos2TextToImagePipeline", "Cosmos2VideoToWorldPipeline")

# cosmos_predict2/configs/base/config_video2world.py:159-160, commit 661da47
SIGMA_CONDITIONING = 0.0001
SIGMA_DATA = 1.0

# scripts/convert_cosmos_to_diffusers.py, save_pipeline_cosmos_2_0, commit 0a88230 of diffusers,
# and the values that its pipelines register on top.
SCHEDULER = {"use_karras_sigmas": True}
REGISTERED = {
    "sigma_max": SIGMA_MAX,
    "sigma_min": SIGMA_MIN,
    "sigma_data": SIGMA_DATA,
    "final_sigmas_type": "sigma_min",
}


@dataclass
class Predict2WorldModel(T5WorldModel):
    """A loaded Text2Image or Video2World checkpoint; see `protocol.WorldModel`."""

    pipelines = PIPELINES

    @classmethod
    def load_autoencoder(cls, layout: Layout, dtype: torch.dtype) -> Module:
        """The video autoencoder, in any of its layouts."""
        return load_wan_autoencoder(layout.autoencoder(), dtype)

    def begin(
        self,
        requests: Sequence[ClipRequest],
        embeddings: Sequence[Embedding],
        options: DenoiseOptions,
        *,
        device: Any,
        media: Sequence[Media],
    ) -> GuidedDenoising:
        """Start a batch; `options.extra` may hold `sigma_conditioning`.

        Raises:
            MalformedRecordError: If conditioning frames are missing or differ in number, or a
                Text2Image model is asked for more than one frame.
            UnknownKeyError: If there is no such sampler.
        """
        self._check_length(options)
        frames_BTHWC = conditioning_frames(
            self.model, self.family, media, num_frames=options.shape.num_frames
        )
        sampler = self._sampler(options, device=device)
        streams = generators(requests)
        frames = self._frames(frames_BTHWC, options, streams, device=device)
        start_BCTHW = noise(self._shape(len(requests), options), streams, device=device)
        denoiser = FlowDenoiser(
            transformer=self.parts["transformer"],
            sigmas=sampler.sigmas,
            prompts=Prompts.stacked(embeddings, device=device, dtype=self.dtype),
            options=options,
            dtype=self.dtype,
            x0_dtype=torch.float32 if options.sampler == "res" else self.dtype,
            frames=frames,
        )
        return GuidedDenoising(denoiser, sampler, options, start_BCTHW * SIGMA_MAX)

    def decode(
        self, latents: torch.Tensor, request: ClipRequest, options: DenoiseOptions
    ) -> Decoded:
        """Frames of one clip.

        Raises:
            ClipRejectedError: If its latents are not finite.
        """
        check_finite(latents, request)
        vae = self.parts["tokenizer"]
        latent_BCTHW = latents[None].to(vae.device)
        mean, std = _statistics(vae, latent_BCTHW)
        if self.model.task == "text2image":  # diffusers divides by 1 / std here; it rounds so
            latent_BCTHW = latent_BCTHW / (1.0 / std) / SIGMA_DATA + mean
        else:
            latent_BCTHW = latent_BCTHW * std / SIGMA_DATA + mean
        with torch.no_grad():
            video_BCTHW = vae.decode(latent_BCTHW.to(vae.dtype), return_dict=False)[0]
        return Decoded(frames=to_frames(video_BCTHW[0]))

    def _check_length(self, options: DenoiseOptions) -> None:
        if self.model.task == "text2image" and options.shape.num_frames != 1:
            raise MalformedRecordError(
                f"length of a picture by {self.model.name}",
                f"{options.shape.num_frames} frames",
                "1 frame",
                "Set num_frames to 1, or choose a Video2World model.",
            )

    def _sampler(self, options: DenoiseOptions, *, device: Any) -> Sampler:
        if options.sampler == "res":
            sampler = ResSampler(options.num_steps)
            sampler.sigmas = sampler.sigmas.to(device)
            return sampler
        if options.sampler == "flow_euler":
            return EulerSampler(self._flow_levels(options.num_steps, device=device))
        raise UnknownKeyError("sampler", options.sampler, ("flow_euler", "res"))

    def _flow_levels(self, num_steps: int, *, device: Any) -> torch.Tensor:
        """Noise levels as the diffusers pipelines set them: the last one is kept, not zero."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        config = {
            key: value
            for key, value in {**SCHEDULER, **self.scheduler_config}.items()
            if key not in REGISTERED
        }
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        scheduler.register_to_config(**REGISTERED)
        ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
        scheduler.set_timesteps(sigmas=ramp.numpy(), device=device)
        levels: torch.Tensor = scheduler.sigmas
        levels[-1] = levels[-2]
        return levels

    def _shape(self, batch_size: int, options: DenoiseOptions) -> tuple[int, ...]:
        shape, strides = options.shape, self.parts["tokenizer"].temperal_downsample
        spatial = 2 ** len(strides)
        return (
            batch_size,
            self.parts["transformer"].config.out_channels,
            (shape.num_frames - 1) // self._temporal_stride + 1,
            shape.height_px // spatial,
            shape.width_px // spatial,
        )

    @property
    def _temporal_stride(self) -> int:
        return int(2 ** sum(self.parts["tokenizer"].temperal_downsample))

    def _frames(
        self,
        frames_BTHWC: NDArray[np.uint8] | None,
        options: DenoiseOptions,
        streams: Sequence[torch.Generator],
        *,
        device: Any,
    ) -> "Frames | None":
        """Conditioning frames as the denoiser takes them; None for Text2Image."""
        if frames_BTHWC is None:
            return None
        shape_BCTHW = self._shape(len(frames_BTHWC), options)
        num_latents = (frames_BTHWC.shape[1] - 1) // self._temporal_stride + 1
        video_BCTHW = to_model_range(frames_BTHWC).to(device, self.parts["tokenizer"].dtype)
        clean_BCTHW = torch.zeros(shape_BCTHW, device=device)
        clean_BCTHW[:, :, :num_latents] = self._encoded_video(
            video_BCTHW, options, streams, shape_BCTHW
        )
        indicator = torch.zeros(1, 1, shape_BCTHW[2], 1, 1, device=device)
        indicator[:, :, :num_latents] = 1.0
        sigma = torch.tensor(
            options.extra.get("sigma_conditioning", SIGMA_CONDITIONING),
            dtype=torch.float32,
            device=device,
        )
        return Frames(clean_BCTHW, indicator, time=sigma / (sigma + 1))

    def _encoded_video(
        self,
        video_BCTHW: torch.Tensor,
        options: DenoiseOptions,
        streams: Sequence[torch.Generator],
        shape_BCTHW: tuple[int, ...],
    ) -> torch.Tensor:
        """Latents of the given frames alone: the encoder is causal and works in chunks of four.

        `flow_euler` takes a sample, as diffusers does, and draws noise for the whole clip for it.
        """
        vae, each = self.parts["tokenizer"], []
        for clip_CTHW, stream in zip(video_BCTHW, streams, strict=True):
            with torch.no_grad():
                coded = vae.encode(clip_CTHW[None]).latent_dist
            latent_BCTHW = coded.mean
            if options.sampler == "flow_euler":
                drawn_BCTHW = torch.randn((1, *shape_BCTHW[1:]), generator=stream, dtype=vae.dtype)
                drawn_BCTHW = drawn_BCTHW[:, :, : latent_BCTHW.shape[2]].to(latent_BCTHW.device)
                latent_BCTHW = latent_BCTHW + coded.std * drawn_BCTHW
            each.append(latent_BCTHW)
        latent_BCTHW = torch.cat(each).float()
        mean, std = _statistics(vae, latent_BCTHW)
        return (latent_BCTHW - mean) / std * SIGMA_DATA


@dataclass
class Frames:
    """Conditioning frames of a batch.

    Attributes:
        clean: Their latents, zero where there are none.
        indicator: 1 for latent frames that are given, 0 for the others, (1, 1, T, 1, 1).
        time: What the network is told of their noise.
    """

    clean: torch.Tensor
    indicator: torch.Tensor
    time: torch.Tensor

    def put(self, other: torch.Tensor) -> torch.Tensor:
        """Given frames in place of the first ones of something else."""
        return self.indicator * self.clean + (1 - self.indicator) * other

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """The channel that marks given frames, (B, 1, T, H, W)."""
        batch_size, _, num_frames, height, width = self.clean.shape
        return self.indicator.expand(batch_size, 1, num_frames, height, width).to(dtype)


@dataclass
class FlowDenoiser:
    """The transformer as an estimate of the clean latent; see `pipeline.Denoiser`.

    Attributes:
        transformer: The network.
        sigmas: Noise level of each pass, on the device.
        prompts: Encoded prompts.
        options: Shape and policy.
        dtype: Precision of what enters the network.
        x0_dtype: Precision to which an estimate is rounded; diffusers rounds to `dtype`.
        frames: Conditioning frames, or None.
    """

    transformer: Any
    sigmas: torch.Tensor
    prompts: Prompts
    options: DenoiseOptions
    dtype: torch.dtype
    x0_dtype: torch.dtype
    frames: Frames | None
    _padding: torch.Tensor = field(init=False, repr=False)
    _more: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = self.options.shape
        size = (1, 1, shape.height_px, shape.width_px)
        self._padding = torch.zeros(size, device=self.sigmas.device, dtype=self.dtype)
        self._more = {}
        if self.frames is not None:
            self._more = {"fps": shape.rate_fps, "condition_mask": self.frames.mask(self.dtype)}

    def x0(self, branch: str, index: int, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """What the model takes the clean latent for."""
        sigma = self.sigmas[index]
        time = sigma / (sigma + 1)
        seen_BCTHW = latent_BCTHW * (1 - time)
        if self.frames is not None:
            seen_BCTHW = self.frames.put(seen_BCTHW)
        output_BCTHW = self.options.policy.run(
            branch, lambda: self._forward(branch, time, seen_BCTHW.to(self.dtype))
        )
        x0_BCTHW = (1 - time) * latent_BCTHW + -time * output_BCTHW.float()
        x0_BCTHW = x0_BCTHW.to(self.x0_dtype)
        return x0_BCTHW if self.frames is None else self.frames.put(x0_BCTHW)

    def skip(self, branch: str, index: int) -> None:
        """Nothing is drawn in a pass."""

    def _forward(self, branch: str, time: torch.Tensor, seen_BCTHW: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.transformer(
            hidden_states=seen_BCTHW,
            timestep=self._timestep(time, seen_BCTHW),
            encoder_hidden_states=self.prompts.of(branch),
            padding_mask=self._padding,
            return_dict=False,
            **self._more,
        )[0]
        return output

    def _timestep(self, time: torch.Tensor, seen_BCTHW: torch.Tensor) -> torch.Tensor:
        """One time per clip, or one per latent frame where some are given."""
        batch_size, _, num_frames, _, _ = seen_BCTHW.shape
        if self.frames is None:
            return time.expand(batch_size).to(self.dtype)
        times = time.view(1, 1, 1, 1, 1).expand(batch_size, -1, num_frames, -1, -1)
        indicator = self.frames.indicator
        return (indicator * self.frames.time + (1 - indicator) * times).to(self.dtype)


load = Predict2WorldModel.load


def _statistics(vae: Any, latent_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of latents by channel."""
    mean, std = (
        torch.tensor(values).view(1, vae.config.z_dim, 1, 1, 1).to(latent_BCTHW)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
