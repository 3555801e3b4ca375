"""Transfer2.5: clips that follow edges, blur, depth or segmentation; Control2World over a base model.

Every control has a control network of its own, which reads the latents of the control video beside
those of the clip and adds to the base model's blocks, scaled by `control_weight`. With several
controls their additions are summed, after weights that sum to more than 1 have been scaled down to
1, as NVIDIA's own code does (cosmos_transfer2/config.py, ControlConfig, commit 2ff49d0).

Clips longer than `frames_per_chunk` are made in parts, each going on from the last frame of the one
before, whose latents are decoded and encoded again in between. Frames and latents equal those of
`Cosmos2_5_TransferPipeline` bit for bit with one control, where its `num_frames_per_chunk` is ours:
diffusers always denoises whole chunks of 93 frames and cuts them off, here a shorter clip is one
chunk of its own length.

What can be loaded: Transfer2.5 in diffusers folders (`transformer/`, and `controlnet/<kind>/` or a
folder per control) and in the makers' layout (`general/<kind>/*.pt`, base model and control network
in one file). Control models of Cosmos-1.0 and Transfer1 are `control1`'s.
"""

# B batch, C channels, T frames, H height, W width

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_jobs.cosmos_generate.backends.control_networks import (
    ControlKey,
    control_weights,
    load_control,
)
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

PIPELINES = ("Cosmos2_5_TransferPipeline",)

# pipeline_cosmos2_5_transfer.py of diffusers 0.42.1, defaults of __call__
FRAMES_PER_CHUNK = 93
FRAMES_CARRIED = 1
CONDITIONAL_TIMESTEP = 0.1


@dataclass(frozen=True)
class Guide:
    """One control of a batch.

    Attributes:
        network: Its control network, on the device.
        scale: `control_weight` of all clips, or of each in a tensor (B, 1, 1).
        video: Control video of every clip in [-1, 1], (B, C, T, H, W); black where a clip has none.
    """

    network: Module
    scale: Any
    video: torch.Tensor


@dataclass(frozen=True)
class Chunks:
    """How a clip is cut into parts.

    Attributes:
        length: Frames of a part.
        carried: Frames of the part before that a part goes on from.
        starts: First frame of each part.
    """

    length: int
    carried: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, options: DenoiseOptions) -> "Chunks":
        """The parts of a clip; `extra` may say `frames_per_chunk` and `frames_carried`.

        Raises:
            MalformedRecordError: If a part would carry as many frames as it has, or half a latent frame.
        """
        num_frames = options.shape.num_frames
        length = min(int(options.extra.get("frames_per_chunk", FRAMES_PER_CHUNK)), num_frames)
        carried = int(options.extra.get("frames_carried", FRAMES_CARRIED))
        if length == num_frames:
            return cls(length, 0, (0,))
        if not 0 <= carried < length or length % 4 != 1 or (carried and carried % 4 != 1):
            raise MalformedRecordError(
                "parts of a long clip",
                {"frames_per_chunk": length, "frames_carried": carried},
                "1 + 4 k frames each, fewer carried than made",
                "Use 93 and 1.",
            )
        starts = range(0, num_frames - carried, length - carried)
        return cls(length, carried, tuple(starts))

    @property
    def carried_latents(self) -> int:
        """Latent frames that a part goes on from."""
        return (self.carried - 1) // 4 + 1 if self.carried else 0


@dataclass
class ControlledDenoising:
    """A batch on its way from noise to latents, part by part; see `protocol.Denoising`.

    Attributes:
        world: The model.
        options: Guidance and policy.
        prompts: Encoded prompts, on the device.
        guides: Controls.
        streams: Noise of each clip.
        chunks: Parts of the clip.
        device: Where the denoising runs.
        latent: The current part as it stands, float32 (B, C, T, H, W).
        cond: Latents of carried frames, (B, C, T, H, W), zeros elsewhere.
        mask: 1 where a latent frame is carried, (B, 1, T, H, W) in the precision of the transformer.
        schedule: Noise levels and steps of the current part.
    """

    world: "Transfer25"
    options: DenoiseOptions
    prompts: Prompts
    guides: Sequence[Guide]
    streams: Sequence[torch.Generator]
    chunks: Chunks
    device: Any
    num_steps: int = field(init=False)
    latent: torch.Tensor = field(init=False)
    cond: torch.Tensor = field(init=False)
    mask: torch.Tensor = field(init=False)
    schedule: Schedule = field(init=False)
    _kept: torch.Tensor = field(init=False)
    _hints: list[torch.Tensor] = field(init=False)
    _done: list[torch.Tensor] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.num_steps = self.options.num_steps * len(self.chunks.starts)
        self._begin_chunk(0)

    def step(self, index: int) -> None:
        """Take one step; steps are taken in order. The first of a later part begins that part."""
        with torch.no_grad():
            self._step(index)

    def latents(self) -> torch.Tensor:
        """All parts side by side in time, float32 (B, C, parts x T, H, W)."""
        return torch.cat(self._done, dim=2)

    def _step(self, index: int) -> None:
        chunk, step = divmod(index, self.options.num_steps)
        if step == 0 and chunk > 0:
            self._begin_chunk(chunk)
        policy = self.options.policy
        policy.start_step(step, self.options.num_steps)
        timestep_B1T11 = self._timestep(step)
        mask = self.mask
        seen_BCTHW = (mask * self.cond + (1 - mask) * self.latent).to(mask.dtype)
        velocity_BCTHW = self._velocity("cond", seen_BCTHW, timestep_B1T11)
        if self.options.guidance > 1.0 and policy.guided():
            away_BCTHW = self._velocity("uncond", seen_BCTHW, timestep_B1T11)
            velocity_BCTHW = velocity_BCTHW + self.options.guidance * (velocity_BCTHW - away_BCTHW)
        self.latent = self.schedule.advance(step, velocity_BCTHW, self.latent)
        if step == self.options.num_steps - 1:
            self._done.append(self.latent)

    def _begin_chunk(self, chunk: int) -> None:
        """Noise, carried frames and control latents of a part, drawn in the order of diffusers."""
        shape_BCTHW = self.world.chunk_shape(self.options, self.chunks, len(self.streams))
        self.latent = noise(shape_BCTHW, self.streams, device=self.device)
        self.cond = self._carried(shape_BCTHW, chunk)
        self.mask = torch.zeros(
            (shape_BCTHW[0], 1, *shape_BCTHW[2:]), dtype=self.world.dtype, device=self.device
        )
        if chunk:
            self.mask[:, :, : self.chunks.carried_latents] = 1.0
        self._kept = (self.latent - self.cond) * self.mask
        self._hints = [self._hint(guide, shape_BCTHW, chunk) for guide in self.guides]
        self.schedule = Schedule.start(
            self.world.scheduler_config, num_steps=self.options.num_steps, device=self.device
        )

    def _timestep(self, step: int) -> torch.Tensor:
        """Noise level of every latent frame; carried frames have one of their own."""
        known = self.mask[:, :, :, :1, :1].float()
        sigma = self.schedule.sigmas[step].to(self.world.dtype)
        return known * CONDITIONAL_TIMESTEP + (1 - known) * sigma

    def _carried(self, shape_BCTHW: tuple[int, ...], chunk: int) -> torch.Tensor:
        """Latents of the frames that a part goes on from; zeros in the first part.

        diffusers encodes a whole part, black where nothing is known. What is masked cannot be seen in
        the result, so only the known frames are encoded; the noise of all is drawn.
        """
        cond_BCTHW = torch.zeros(shape_BCTHW, device=self.device)
        known_BCTHW = None
        if chunk and self.chunks.carried:
            before_BCTHW = self.world.video_of(self._done[-1])
            known_BCTHW = before_BCTHW[:, :, -self.chunks.carried :]
        for index, stream in enumerate(self.streams):
            drawn_CTHW = self.world.posterior_noise(shape_BCTHW, stream)
            if known_BCTHW is not None:
                latent = self.world.sampled(known_BCTHW[index : index + 1], drawn_CTHW)
                mean, std = self.world.statistics(latent)
                cond_BCTHW[index, :, : latent.shape[2]] = ((latent.float() - mean) / std)[0].to(
                    self.device
                )
        return cond_BCTHW

    def _hint(self, guide: Guide, shape_BCTHW: tuple[int, ...], chunk: int) -> torch.Tensor:
        """Latents of a control video's part, in the precision of the transformer."""
        start = self.chunks.starts[chunk]
        part_BCTHW = _padded(
            guide.video[:, :, start : start + self.chunks.length], self.chunks.length
        )
        latents = [
            self.world.sampled(
                part_BCTHW[index : index + 1], self.world.posterior_noise(shape_BCTHW, stream)
            )
            for index, stream in enumerate(self.streams)
        ]
        latent_BCTHW = torch.cat(latents).to(self.world.dtype)
        mean, std = self.world.statistics(latent_BCTHW)
        dtype = self.world.parts["tokenizer"].dtype
        return ((latent_BCTHW - mean.to(dtype)) / std.to(dtype)).to(self.device)

    def _velocity(
        self, branch: str, seen_BCTHW: torch.Tensor, timestep_B1T11: torch.Tensor
    ) -> torch.Tensor:
        shared = {
            "timestep": timestep_B1T11,
            "encoder_hidden_states": self.world.context(self.prompts.of(branch)),
            "condition_mask": self.mask,
            "padding_mask": self.world.padding(self.options, self.device),
            "return_dict": False,
        }

        def forward() -> torch.Tensor:
            added = [
                guide.network(
                    controls_latents=hint,
                    latents=seen_BCTHW,
                    conditioning_scale=guide.scale,
                    **shared,
                )[0]
                for guide, hint in zip(self.guides, self._hints, strict=True)
            ]
            said: torch.Tensor = self.world.parts["transformer"](
                hidden_states=seen_BCTHW, block_controlnet_hidden_states=_summed(added), **shared
            )[0]
            return said

        return self._kept + self.options.policy.run(branch, forward) * (1 - self.mask)


@dataclass
class Transfer25(ReasonWorldModel):
    """A loaded Transfer2.5 checkpoint; see `protocol.WorldModel`.

    `Control.model_dir` is relative to `checkpoint_dir`.
    """

    pipelines = PIPELINES

    _networks: dict[ControlKey, Module] = field(init=False, repr=False, default_factory=dict)

    @property
    def folder(self) -> Path:
        """Its own folder, where `controlnet/<kind>/` lies."""
        return self.checkpoint_dir / self.model.name

    def begin(
        self,
        requests: Sequence[ClipRequest],
        embeddings: Sequence[Embedding],
        options: DenoiseOptions,
        *,
        device: Any,
        media: Sequence[Media],
    ) -> ControlledDenoising:
        """Start a batch; its clips may differ in their controls. Control networks are loaded when first asked for.

        Clips of several parts need the video autoencoder until their last part begins.

        Raises:
            UnknownKeyError: If the sampler is not UniPC.
            MalformedRecordError: If a clip has no control, or a control has no network.
        """
        self.check_sampler(options.sampler)
        return ControlledDenoising(
            world=self,
            options=options,
            prompts=Prompts.stacked(embeddings, device=device, dtype=self.dtype),
            guides=self._guides(requests, media, device),
            streams=generators(requests),
            chunks=Chunks.of(options),
            device=device,
        )

    def decode(self, latents: Any, request: ClipRequest, options: DenoiseOptions) -> Decoded:
        """Frames of one clip, its parts put together.

        Raises:
            ClipRejectedError: If its latents are not numbers.
        """
        check_finite(latents, request)
        chunks = Chunks.of(options)
        videos = []
        for index, part_CTHW in enumerate(latents.chunk(len(chunks.starts), dim=1)):
            video_CTHW = self.video_of(part_CTHW[None])[0]
            videos.append(to_frames(video_CTHW[:, chunks.carried if index else 0 :]))
        return Decoded(frames=np.concatenate(videos)[: options.shape.num_frames])

    def chunk_shape(
        self, options: DenoiseOptions, chunks: Chunks, batch: int
    ) -> tuple[int, int, int, int, int]:
        """Shape of the latents of one part."""
        _, channels, _, rows, columns = self.latent_shape(options.shape, batch)
        return batch, channels, (chunks.length - 1) // 4 + 1, rows, columns

    def context(self, prompt_BLD: torch.Tensor) -> Any:
        """What the blocks attend to: the prompt, and an empty picture where the model wants one."""
        config = self.parts["transformer"].config
        if not config.img_context_dim_in:
            return prompt_BLD
        picture = torch.zeros(
            prompt_BLD.shape[0],
            config.img_context_num_tokens,
            config.img_context_dim_in,
            device=prompt_BLD.device,
            dtype=self.dtype,
        )
        return prompt_BLD, picture

    def padding(self, options: DenoiseOptions, device: Any) -> torch.Tensor:
        """Zeros: nothing of the picture is padding."""
        size = (options.shape.height_px, options.shape.width_px)
        return torch.zeros(1, 1, *size, dtype=self.dtype, device=device)

    def video_of(self, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """Decoded video in [-1, 1], in the precision of the autoencoder, where the autoencoder lies."""
        vae = self.parts["tokenizer"]
        latent_BCTHW = latent_BCTHW.to(vae.device)
        mean, std = self.statistics(latent_BCTHW)
        scaled = latent_BCTHW * std.to(vae.dtype) + mean.to(vae.dtype)
        with torch.no_grad():
            video: torch.Tensor = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
        return video

    def posterior_noise(
        self, shape_BCTHW: tuple[int, ...], stream: torch.Generator
    ) -> torch.Tensor:
        """What sampling a latent of one clip draws, (1, C, T, H, W)."""
        dtype = self.parts["tokenizer"].dtype
        return torch.randn((1, *shape_BCTHW[1:]), generator=stream, dtype=dtype)

    def sampled(self, video_BCTHW: torch.Tensor, noise_BCTHW: torch.Tensor) -> torch.Tensor:
        """A latent drawn from the autoencoder's posterior with noise that is at least as long."""
        vae = self.parts["tokenizer"]
        with torch.no_grad():
            posterior = vae.encode(video_BCTHW.to(device=vae.device, dtype=vae.dtype)).latent_dist
        drawn = noise_BCTHW[:, :, : posterior.mean.shape[2]].to(vae.device)
        latent: torch.Tensor = posterior.mean + posterior.std * drawn
        return latent

    def _guides(
        self, requests: Sequence[ClipRequest], media: Sequence[Media], device: Any
    ) -> list[Guide]:
        """One guide for each control that any clip of the batch has."""
        weights = [control_weights(request) for request in requests]
        keys = list(dict.fromkeys(key for each in weights for key in each))
        if not all(weights):
            raise MalformedRecordError(
                "a batch of Transfer2.5",
                [
                    request.clip_id
                    for request, each in zip(requests, weights, strict=True)
                    if not each
                ],
                "at least one control for every clip",
                "Give edge, blur, depth or seg.",
            )
        return [self._guide(key, weights, media, device) for key in keys]

    def _guide(
        self,
        key: ControlKey,
        weights: Sequence[Mapping[ControlKey, float]],
        media: Sequence[Media],
        device: Any,
    ) -> Guide:
        videos = [clip.controls[key[0]] for clip in media if key[0] in clip.controls]
        black = np.zeros_like(videos[0])
        video_BTHWC = np.stack(
            [
                clip.controls[key[0]] if key in each else black
                for clip, each in zip(media, weights, strict=True)
            ]
        )
        scales = [each.get(key, 0.0) for each in weights]
        scale: Any = scales[0]
        if len(set(scales)) > 1:
            scale = torch.tensor(scales, dtype=self.dtype, device=device).view(-1, 1, 1)
        return Guide(self._network(key).to(device), scale, to_model_range(video_BTHWC))

    def _network(self, key: ControlKey) -> Module:
        """A control network, loaded once."""
        if key not in self._networks:
            kind, model_dir = key
            original = self.folder / "general"  # where the makers' layout keeps all controls
            own = original if original.is_dir() else self.folder / "controlnet"
            folder = self.checkpoint_dir / model_dir if model_dir else own
            self._networks[key] = load_control(folder, kind, self.parts["transformer"], self.dtype)
        return self._networks[key]


load = Transfer25.load


def _padded(video_BCTHW: torch.Tensor, length: int) -> torch.Tensor:
    """A video of at least a length, its last frame repeated."""
    missing = length - video_BCTHW.shape[2]
    if missing <= 0:
        return video_BCTHW
    return torch.cat([video_BCTHW, video_BCTHW[:, :, -1:].repeat(1, 1, missing, 1, 1)], dim=2)


def _summed(added: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """The additions of all controls, block by block."""
    return [
        blocks[0] if len(blocks) == 1 else sum(blocks[1:], blocks[0])
        for blocks in zip(*added, strict=True)
    ]
