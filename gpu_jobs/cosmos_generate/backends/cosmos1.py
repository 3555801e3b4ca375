"""Cosmos-1.0 and Predict1: Text2World and Video2World diffusion models of 7 and 14 billion weights.

The transformer sees EDM-scaled latents (arXiv 2206.00364, sigma_data 0.5). Conditioning frames of
Video2World replace the first latent frames on its way in, with a breath of noise
(`augment_sigma`), and again in what it says of the clean latent; one more input channel marks them.

Samplers: `res` (default) is that of the makers, `edm_euler` is that of diffusers, with which frames
equal `CosmosTextToWorldPipeline` and `CosmosVideoToWorldPipeline` bit for bit. Three things differ
by design: `res` has one more pass than steps; it draws the breath of noise once and not in every
pass (as the original code, which seeds it anew each time); and clips of a batch have noise of
their own. A clip that is denoised in a batch of two is near, not equal, to the one made alone:
matrix kernels sum in another order.
"""

# B batch, C channels, T frames, H height, W width

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu_jobs.cosmos_generate.backends.autoencoders import load_cosmos_autoencoder
from gpu_jobs.cosmos_generate.backends.control1 import controlled
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
    EulerSampler,
    ResSampler,
    Sampler,
)
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, Media, Module
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import UnknownKeyError

PIPELINES = ("CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline")

# cosmos_predict1/diffusion/inference/inference_utils.py:46, commit 4ed35fa
AUGMENT_SIGMA = 0.001

# scripts/convert_cosmos_to_diffusers.py, save_pipeline_cosmos_1_0, commit 0a88230 of diffusers;
# for checkpoints in the original layout, which bring no scheduler.
SCHEDULER = {
    "sigma_min": 0.002,
    "sigma_max": 80,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "sigma_min",
}


@dataclass
class Cosmos1WorldModel(T5WorldModel):
    """A loaded Text2World or Video2World checkpoint; see `protocol.WorldModel`."""

    pipelines = PIPELINES

    @classmethod
    def load_autoencoder(cls, layout: Layout, dtype: torch.dtype) -> Module:
        """The video autoencoder, in any of its layouts."""
        return load_cosmos_autoencoder(layout.autoencoder(), dtype)

    def begin(
        self,
        requests: Sequence[ClipRequest],
        embeddings: Sequence[Embedding],
        options: DenoiseOptions,
        *,
        device: Any,
        media: Sequence[Media],
    ) -> GuidedDenoising:
        """Start a batch; `options.extra` may hold `augment_sigma` and `input_frames_guidance`.

        Clips with controls run the transformer with the branch of each control's model folder.

        Raises:
            MalformedRecordError: If conditioning frames are missing or differ in number, or a control
                has no model folder.
            UnknownKeyError: If there is no such sampler.
        """
        frames_BTHWC = conditioning_frames(
            self.model, self.family, media, num_frames=options.shape.num_frames
        )
        scheduler = self.scheduler()
        sampler = _sampler(scheduler, options, device=device)
        streams = generators(requests)
        frames = self._frames(frames_BTHWC, options, streams, scheduler, device=device)
        start_BCTHW = noise(self._shape(len(requests), options), streams, device=device)
        if frames is not None and options.sampler == "res":
            frames.noise = noise(start_BCTHW.shape, streams, device=device)
        denoiser = EdmDenoiser(
            transformer=controlled(self, requests, media, device=device),
            scheduler=scheduler,
            sampler=sampler,
            times=scheduler.precondition_noise(sampler.sigmas.to(device)),
            prompts=Prompts.stacked(embeddings, device=device, dtype=self.dtype),
            options=options,
            dtype=self.dtype,
            frames=frames,
        )
        start_BCTHW = start_BCTHW * scheduler.config.sigma_max
        return GuidedDenoising(denoiser, sampler, options, start_BCTHW)

    def decode(
        self, latents: torch.Tensor, request: ClipRequest, options: DenoiseOptions
    ) -> Decoded:
        """Frames of one clip.

        Raises:
            ClipRejectedError: If its latents are not finite.
        """
        check_finite(latents, request)
        vae, sigma_data = self.parts["tokenizer"], self.scheduler().config.sigma_data
        latent_BCTHW = latents[None].to(vae.device)
        if vae.config.latents_mean is None:
            latent_BCTHW = latent_BCTHW / sigma_data
        else:
            mean, std = _statistics(vae, latent_BCTHW)
            latent_BCTHW = latent_BCTHW * std / sigma_data + mean
        with torch.no_grad():
            video_BCTHW = vae.decode(latent_BCTHW.to(vae.dtype), return_dict=False)[0]
        return Decoded(frames=to_frames(video_BCTHW[0]))

    def scheduler(self) -> Any:
        """The scheduler of the checkpoint, as diffusers has it; a new one."""
        from diffusers import EDMEulerScheduler

        return EDMEulerScheduler.from_config({**SCHEDULER, **self.scheduler_config})

    def _shape(self, batch_size: int, options: DenoiseOptions) -> tuple[int, ...]:
        shape, vae = options.shape, self.parts["tokenizer"].config
        return (
            batch_size,
            self.parts["transformer"].config.out_channels,
            (shape.num_frames - 1) // vae.temporal_compression_ratio + 1,
            shape.height_px // vae.spatial_compression_ratio,
            shape.width_px // vae.spatial_compression_ratio,
        )

    def _frames(
        self,
        frames_BTHWC: Any,
        options: DenoiseOptions,
        streams: Sequence[torch.Generator],
        scheduler: Any,
        *,
        device: Any,
    ) -> "Frames | None":
        """Conditioning frames as the denoiser takes them; None for Text2World."""
        if frames_BTHWC is None:
            return None
        shape_BCTHW = self._shape(len(frames_BTHWC), options)
        video_BCTHW = to_model_range(frames_BTHWC).to(device, self.parts["tokenizer"].dtype)
        stride = self.parts["tokenizer"].config.temporal_compression_ratio
        num_latents = (video_BCTHW.shape[2] - 1) // stride + 1
        if options.sampler == "edm_euler":
            video_BCTHW = _padded(video_BCTHW, options.shape.num_frames)
        clean_BCTHW = torch.zeros(shape_BCTHW, device=device)
        encoded_BCTHW = self.encoded_video(video_BCTHW, scheduler.config.sigma_data)
        clean_BCTHW[:, :, :num_latents] = encoded_BCTHW[:, :, :num_latents]
        indicator = torch.zeros(1, 1, shape_BCTHW[2], 1, 1, device=device)
        indicator[:, :, :num_latents] = 1.0
        return Frames(
            clean=clean_BCTHW,
            indicator=indicator,
            streams=streams,
            augment_sigma=float(options.extra.get("augment_sigma", AUGMENT_SIGMA)),
            hidden_from_uncond=bool(options.extra.get("input_frames_guidance", False)),
        )

    def encoded_video(self, video_BCTHW: torch.Tensor, sigma_data: float) -> torch.Tensor:
        """Latents of conditioning frames at the scale of the model, clip by clip for its memory."""
        vae = self.parts["tokenizer"]
        with torch.no_grad():
            each = [vae.encode(clip[None]).latent_dist.mode() for clip in video_BCTHW]
        latent_BCTHW = torch.cat(each).float()
        if vae.config.latents_mean is None:
            return latent_BCTHW * sigma_data
        mean, std = _statistics(vae, latent_BCTHW)
        return (latent_BCTHW - mean) * sigma_data / std


@dataclass
class Frames:
    """Conditioning frames of a batch.

    Attributes:
        clean: Their latents at the scale of the model, zero where there are none.
        indicator: 1 for latent frames that are given, 0 for the others, (1, 1, T, 1, 1).
        streams: Noise of each clip.
        augment_sigma: Breath of noise on them on their way into the transformer.
        hidden_from_uncond: Whether the unconditional pass is not told which frames are given, so
            that guidance pulls towards them, too.
        noise: The breath of noise when it is the same in every pass; None draws it anew.
    """

    clean: torch.Tensor
    indicator: torch.Tensor
    streams: Sequence[torch.Generator]
    augment_sigma: float
    hidden_from_uncond: bool
    noise: torch.Tensor | None = None

    def draw(self) -> torch.Tensor:
        """Noise of the next pass."""
        if self.noise is not None:
            return self.noise
        return noise(self.clean.shape, self.streams, device=self.clean.device)

    def mask(self, branch: str, dtype: torch.dtype) -> torch.Tensor:
        """The channel that marks given frames, (B, 1, T, H, W)."""
        batch_size, _, num_frames, height, width = self.clean.shape
        hidden = branch == "uncond" and self.hidden_from_uncond
        mark = torch.zeros_like(self.indicator) if hidden else self.indicator
        return mark.expand(batch_size, 1, num_frames, height, width).to(dtype)


@dataclass
class EdmDenoiser:
    """The transformer as an estimate of the clean latent; see `pipeline.Denoiser`.

    Attributes:
        transformer: The network.
        scheduler: Knows the EDM scaling.
        sampler: Knows the noise level of each pass.
        times: What the network is told of it, 0.25 * log(sigma), on the device.
        prompts: Encoded prompts.
        options: Shape and policy.
        dtype: Precision of what enters the network.
        frames: Conditioning frames, or None.
    """

    transformer: Any
    scheduler: Any
    sampler: Sampler
    times: torch.Tensor
    prompts: Prompts
    options: DenoiseOptions
    dtype: torch.dtype
    frames: Frames | None
    _padding: torch.Tensor = field(init=False, repr=False)
    _masks: dict[str, torch.Tensor | None] = field(init=False, repr=False)
    _given: list[bool] = field(init=False, repr=False)
    _augment_sigma: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        device, shape = self.times.device, self.options.shape
        size = (1, 1, shape.height_px, shape.width_px)
        self._padding = torch.zeros(size, device=device, dtype=self.dtype)
        self._masks = {
            branch: self.frames.mask(branch, self.dtype) if self.frames else None
            for branch in ("cond", "uncond")
        }
        augment_sigma = torch.tensor([self.frames.augment_sigma if self.frames else 0.0])
        # frames are given as long as the latent is noisier than they are; decided here, on the
        # CPU, because asking the GPU in every pass would make it wait
        self._given = (augment_sigma < self.sampler.sigmas.cpu()).tolist()
        self._augment_sigma = augment_sigma.to(device)

    def x0(self, branch: str, index: int, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """What the model takes the clean latent for."""
        sigma = self.sampler.sigmas[index]
        seen_BCTHW = self._with_frames(index, latent_BCTHW)
        seen_BCTHW = self.scheduler.precondition_inputs(seen_BCTHW, sigma).to(self.dtype)
        output_BCTHW = self.options.policy.run(
            branch, lambda: self._forward(branch, index, seen_BCTHW)
        )
        x0_BCTHW = self.scheduler.precondition_outputs(latent_BCTHW, output_BCTHW, sigma)
        if self.frames is None:
            return x0_BCTHW
        indicator = self._indicator(index)
        return indicator * self.frames.clean + (1 - indicator) * x0_BCTHW

    def skip(self, branch: str, index: int) -> None:
        """Draw the noise that the branch would have used, so that later passes see the same."""
        if self.frames is not None:
            self.frames.draw()

    def _forward(self, branch: str, index: int, seen_BCTHW: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.transformer(
            hidden_states=seen_BCTHW,
            timestep=self.times[index].expand(len(seen_BCTHW)).to(self.dtype),
            encoder_hidden_states=self.prompts.of(branch),
            fps=self.options.shape.rate_fps,
            condition_mask=self._masks[branch],
            padding_mask=self._padding,
            return_dict=False,
        )[0]
        return output

    def _with_frames(self, index: int, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """The latent with given frames in place of its first ones, scaled to its noise level."""
        if self.frames is None:
            return latent_BCTHW
        sigma_data, sigma = self.scheduler.config.sigma_data, self.sampler.sigmas[index]
        given_BCTHW = self.frames.clean + self.frames.draw() * self._augment_sigma
        given_BCTHW = (
            given_BCTHW * _c_in(self._augment_sigma, sigma_data) / _c_in(sigma, sigma_data)
        )
        indicator = self._indicator(index)
        return indicator * given_BCTHW + (1 - indicator) * latent_BCTHW

    def _indicator(self, index: int) -> torch.Tensor:
        assert self.frames is not None, "only asked where there are frames"
        return self.frames.indicator if self._given[index] else self.frames.indicator * 0


load = Cosmos1WorldModel.load


def _sampler(scheduler: Any, options: DenoiseOptions, *, device: Any) -> Sampler:
    if options.sampler == "res":
        return ResSampler(options.num_steps)
    if options.sampler == "edm_euler":
        scheduler.set_timesteps(options.num_steps, device=device)
        return EulerSampler(scheduler.sigmas)
    raise UnknownKeyError("sampler", options.sampler, ("res", "edm_euler"))


def _padded(video_BCTHW: torch.Tensor, num_frames: int) -> torch.Tensor:
    """The clip with grey frames after the given ones, as diffusers encodes it.

    The encoder is causal, so that only rounding tells it from encoding the given frames alone,
    which `res` does: it takes a fraction of the time and memory.
    """
    batch_size, channels, given, height, width = video_BCTHW.shape
    missing = (batch_size, channels, num_frames - given, height, width)
    return torch.cat([video_BCTHW, video_BCTHW.new_zeros(missing)], dim=2)


def _statistics(vae: Any, latent_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of latents by channel and latent frame."""
    mean, std = (
        torch.tensor(values)
        .view(1, vae.config.latent_channels, -1, 1, 1)[:, :, : latent_BCTHW.shape[2]]
        .to(latent_BCTHW)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


def _c_in(sigma: torch.Tensor, sigma_data: float) -> torch.Tensor:
    """What a latent of a noise level is multiplied with on its way into the network."""
    return 1 / ((sigma**2 + sigma_data**2) ** 0.5)
