"""Cosmos 3: one transformer for pictures, worlds, sound, actions and transfer (Edge, Nano, Super).

The transformer reads text itself, so that `encode` only checks prompts; there is no text encoder.
A request with controls is transfer, one with an action track is an action mode, all others make a
picture (1 frame) or a world. A folder with fixed noise levels is a distilled model: four steps, no
guidance. Frames, latents, sound and actions equal those of `Cosmos3OmniPipeline` bit for bit, and
for transfer and distilled models those of the modular pipelines of diffusers 0.42.1.

Done otherwise without changing a bit: the reasoner's pass over the text runs once per prompt
(`cosmos3_text`), only given frames are encoded (`cosmos3_inputs`), and no step waits for the device
(`cosmos3_denoising`). For a speed layer: generator blocks are `transformer.layers`; tokens stand as
[controls, video (T, H, W) row by row, sound, actions] with the text kept apart; the generator's
linears are `self_attn.add_{q,k,v}_proj`, `self_attn.to_add_out` and `mlp_moe_gen.*`.

Guidance is diffusers' convention: uncond + scale * (cond - uncond), none at 1.
"""

# C channels, T frames, H height, W width, L tokens

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.cosmos3_denoising import (
    DistilledClip,
    Latents,
    Passes,
    TransferClip,
    Turns,
    WorldClip,
)
from gpu_jobs.cosmos_generate.backends.cosmos3_inputs import (
    Start,
    start_action,
    start_transfer,
    start_world,
)
from gpu_jobs.cosmos_generate.backends.cosmos3_layout import Cosmos3Folder
from gpu_jobs.cosmos_generate.backends.cosmos3_packing import Extras, Pack, VideoItem, build_pack
from gpu_jobs.cosmos_generate.backends.cosmos3_schedule import (
    Schedule,
    check_fixed,
    start_fixed,
    start_schedule,
)
from gpu_jobs.cosmos_generate.backends.cosmos3_text import TextReader, install_reader
from gpu_jobs.cosmos_generate.backends.pipeline import check_finite
from gpu_jobs.cosmos_generate.lora import apply_loras
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, Media, Module
from worldloop.cosmos.families import FAMILIES, ClipShape, Family
from worldloop.cosmos.models import Model
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError


@dataclass
class Cosmos3:
    """A loaded Cosmos 3 checkpoint; see `protocol.WorldModel`.

    Attributes:
        model: Its entry in the registry of models.
        folder: What its index files say.
        pipeline: The diffusers pipeline of its parts, for prompts, positions and encoding; its loop is not used.
        parts: `transformer`, `tokenizer` (the video autoencoder) and, where the checkpoint has sound,
            `sound_tokenizer`.
        reader: What the transformer's layers recall text with.
    """

    model: Model
    folder: Cosmos3Folder
    pipeline: Any
    parts: dict[str, Module] = field(init=False)
    reader: TextReader = field(init=False)

    def __post_init__(self) -> None:
        pipeline = self.pipeline
        self.parts = {"transformer": pipeline.transformer, "tokenizer": pipeline.vae}
        # the autoencoder keeps notes on itself between chunks, and one clip may be decoded while the
        # next one is encoded: the same weights, other notes
        pipeline.vae = copy.copy(pipeline.vae)
        if pipeline.sound_tokenizer is not None:
            self.parts["sound_tokenizer"] = pipeline.sound_tokenizer
        self.reader = install_reader(pipeline.transformer)

    @property
    def family(self) -> Family:
        """The family of the model."""
        return FAMILIES[self.model.family]

    def encode(self, prompt: str, negative_prompt: str) -> Embedding:
        """The two texts, checked; they become tokens in `begin`, which knows the clip's mode.

        Raises:
            MalformedRecordError: If either has more tokens than the family takes.
        """
        limit = self.family.max_prompt_tokens
        for what, text in (("prompt", prompt), ("negative prompt", negative_prompt)):
            num_tokens = len(self.pipeline.text_tokenizer(text).input_ids)
            if num_tokens > limit:
                raise MalformedRecordError(
                    what,
                    f"{num_tokens} tokens",
                    f"at most {limit} for {self.model.name}",
                    "Shorten it.",
                )
        return Embedding(cond=prompt, uncond=negative_prompt)

    def begin(
        self,
        requests: Sequence[ClipRequest],
        embeddings: Sequence[Embedding],
        options: DenoiseOptions,
        *,
        device: Any,
        media: Sequence[Media],
    ) -> Turns:
        """Start a batch; its clips are denoised in turn, each as if it were alone.

        Args:
            requests: What is asked.
            embeddings: As `encode` gave them.
            options: How to denoise; `extra` takes `flow_shift`, `use_system_prompt`,
                `add_resolution_template`, `add_duration_template` and `view_point`.
            device: Where the transformer computes.
            media: Decoded inputs.

        Raises:
            MalformedRecordError: If a request cannot be what this checkpoint makes.
            UnknownKeyError: If a sampler, control, embodiment or action mode is unknown.
        """
        schedule, clips = self._schedule(options), []
        given = zip(requests, embeddings, media, strict=True)
        with torch.no_grad():
            for number, (request, embedding, inputs) in enumerate(given):
                start = self._start(request, embedding, options, inputs)
                clip = self._clip(request, start, options, schedule.again(), device)
                clip.passes.prefix = f"{number}:" if number else ""
                clips.append(clip)
        return Turns(clips, options)

    def decode(self, latents: Latents, request: ClipRequest, options: DenoiseOptions) -> Decoded:
        """Frames of one clip, with its sound and the actions that it answers.

        Raises:
            ClipRejectedError: If its latents are not numbers.
        """
        for latent in (latents.video, latents.sound, latents.actions):
            if latent is not None:
                check_finite(latent, request)
        with torch.no_grad():
            frames = self._frames(latents.video)
            if latents.sound is None:
                return Decoded(frames, actions=self._answered(latents, request))
            sound_CN = self.pipeline.decode_sound(latents.sound).float().cpu().numpy()
        rate_hz = int(self.pipeline.sound_tokenizer.config.sampling_rate)
        return Decoded(frames, sound_CN, rate_hz, self._answered(latents, request))

    def _frames(self, latent_BCTHW: torch.Tensor) -> NDArray[np.uint8]:
        vae, pipeline = self.parts["tokenizer"], self.pipeline
        mean, inverse_std = (
            statistic.to(device=latent_BCTHW.device, dtype=vae.dtype).view(1, -1, 1, 1, 1)
            for statistic in (pipeline._vae_latents_mean, pipeline._vae_latents_inv_std)
        )
        return rounded_frames(vae.decode(latent_BCTHW.to(vae.dtype) / inverse_std + mean).sample[0])

    def _schedule(self, options: DenoiseOptions) -> Schedule:
        folder = self.folder
        if folder.sigmas:
            check_fixed(
                folder.sigmas,
                num_steps=options.num_steps,
                guidance=options.guidance,
                sampler=options.sampler,
                name=self.model.name,
            )
            return start_fixed(folder.scheduler_config, sigmas=folder.sigmas)
        return start_schedule(
            folder.scheduler_config,
            num_steps=options.num_steps,
            sampler=options.sampler,
            native=folder.native_schedule,
            flow_shift=float(options.extra.get("flow_shift", 0.0)),
        )

    def _start(
        self, request: ClipRequest, embedding: Embedding, options: DenoiseOptions, media: Media
    ) -> Start:
        """What a clip starts from, by what it asks for."""
        texts = (embedding.cond, embedding.uncond)
        if self.folder.sigmas and (request.action or media.controls or request.sound):
            raise MalformedRecordError(
                f"clip {request.clip_id!r} of {self.model.name}",
                "actions, controls or sound",
                "a picture or a world: the model is distilled for these",
                "Leave them out, or choose Cosmos3-Nano or Cosmos3-Super.",
            )
        if self.folder.sigmas:  # the distilled pipeline knows no negative prompt
            texts = (embedding.cond, "")
        if request.action is not None:
            return start_action(self.pipeline, request, texts, options, media)
        if media.controls:
            return start_transfer(self.pipeline, request, texts, options, media)
        return start_world(self.pipeline, request, texts, options, media)

    def _clip(
        self,
        request: ClipRequest,
        start: Start,
        options: DenoiseOptions,
        schedule: Schedule,
        device: Any,
    ) -> WorldClip | TransferClip:
        """The clip at its first step; noise is drawn for video, sound and actions in this order."""
        generator = torch.Generator().manual_seed(request.seed)
        state, noisy_T11, given_BCTHW = self._noise(start, options.shape, generator, device)
        passes = self._passes(start, state, options, device)
        if start.controls:
            dtype = self.pipeline.transformer.dtype
            controls = [control.to(device=device, dtype=dtype) for control in start.controls]
            return TransferClip(
                passes, schedule, state, noisy_T11, given_BCTHW, controls, start.control_guidance
            )
        answers = start.actions is not None and not start.actions_are_given
        if not self.folder.sigmas:
            return WorldClip(
                passes,
                schedule,
                state,
                noisy_T11,
                actions_are_noisy=answers,
                action_width=start.action_width,
            )
        given = None if start.given is None else given_BCTHW
        return DistilledClip(passes, schedule, state, noisy_T11, given=given, generator=generator)

    def _noise(
        self, start: Start, shape: ClipShape, generator: torch.Generator, device: Any
    ) -> tuple[Latents, torch.Tensor, torch.Tensor]:
        """Latents at the first step, the mask of frames with noise, and given latents."""
        config = self.pipeline.transformer.config
        size_BCTHW = (1, config.latent_channel, *self.model.latent_size(shape))
        noisy_T11 = torch.ones(size_BCTHW[2], 1, 1, device=device)
        given_BCTHW = torch.zeros(size_BCTHW, device=device)
        if start.given is not None:
            clean = start.given.shape[2]
            noisy_T11[:clean] = 0.0
            given_BCTHW[:, :, :clean] = start.given.to(device)
        state = Latents(_mixed(noisy_T11, given_BCTHW, generator))
        if start.with_sound:
            num_sounds = self._num_sound_latents(shape)
            state.sound = _drawn((config.sound_dim, num_sounds), generator, device)
        if start.actions is not None:
            noisy = torch.tensor(0.0 if start.actions_are_given else 1.0, device=device)
            actions_LC = _mixed(noisy, start.actions.to(device), generator)
            actions_LC[:, start.action_width :] = 0
            state.actions = actions_LC
        return state, noisy_T11, given_BCTHW

    def _passes(self, start: Start, state: Latents, options: DenoiseOptions, device: Any) -> Passes:
        """Packs of all branches that a clip may need."""
        clean = 0 if start.given is None else start.given.shape[2]
        target = VideoItem(state.video, clean)
        controls = [VideoItem(control, control.shape[2]) for control in start.controls]
        extras = Extras(
            state.sound,
            float(self.pipeline.transformer.config.sound_latent_fps),
            state.actions,
            start.actions_are_given,
            None if start.domain_id is None else start.domain_id.to(device),
        )

        def pack(ids: Sequence[int], videos: Sequence[VideoItem]) -> Pack:
            rate_fps = float(options.shape.rate_fps)
            return build_pack(self.pipeline, ids, videos, extras, rate_fps=rate_fps, device=device)

        prompts = start.prompts
        packs = {"cond": pack(prompts.cond, [*controls, target])}
        if options.guidance != 1.0:
            packs["uncond"] = pack(prompts.uncond, [*controls, target])
        if start.control_guidance != 1.0:
            packs["no_control"] = pack(prompts.cond, [target])
        return Passes(
            self.pipeline.transformer,
            self.reader,
            packs,
            options,
            text_of={"no_control": "cond"},
        )

    def _num_sound_latents(self, shape: ClipShape) -> int:
        tokenizer = self.pipeline.sound_tokenizer
        num_samples = int(shape.num_frames / float(shape.rate_fps) * tokenizer.config.sampling_rate)
        return -(-num_samples // int(tokenizer._hop_size))

    def _answered(self, latents: Latents, request: ClipRequest) -> NDArray[np.float32] | None:
        """The actions that a clip answers, without the padding to the model's width."""
        from diffusers.pipelines.cosmos import pipeline_cosmos3_omni as omni

        track = request.action
        if latents.actions is None or track is None or track.mode == "forward_dynamics":
            return None
        width = omni._EMBODIMENT_TO_RAW_ACTION_DIM[track.domain]
        answered: NDArray[np.float32] = latents.actions[:, :width].float().cpu().numpy()
        return answered


def rounded_frames(video_CTHW: torch.Tensor) -> NDArray[np.uint8]:
    """Decoded video as uint8 (T, H, W, 3), by the arithmetic of the pictures of the pipeline."""
    unit_CTHW = (video_CTHW.float() * 0.5 + 0.5).clamp(0, 1)
    frames_THWC = (unit_CTHW.permute(1, 2, 3, 0) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(frames_THWC.cpu().numpy())


def load(
    model: Model,
    checkpoint_dir: Path,
    *,
    transformer_dir: str = "",
    loras: Sequence[dict[str, Any]] = (),
    dtype: torch.dtype,
    device: Any,
) -> Cosmos3:
    """Load a Cosmos 3 checkpoint; parts stay on the CPU until residency moves them.

    Args:
        model: Its entry in the registry.
        checkpoint_dir: Folder of model folders.
        transformer_dir: Folder of post-trained weights in it; empty: the model's own.
        loras: `{"path": str, "weight": float}` each.
        dtype: Precision of weights.
        device: Where it will run; not used here.

    Raises:
        MalformedRecordError: If a folder is missing, or holds weights of another family or size.
    """
    diffusers = import_diffusers()
    from transformers import AutoTokenizer

    folder = Cosmos3Folder.read(model, checkpoint_dir)
    transformer = folder.load_transformer(model, transformer_dir=transformer_dir, dtype=dtype)
    if loras:
        apply_loras(transformer, loras)
    vae = diffusers.AutoencoderKLWan.from_pretrained(folder.part("vae"), dtype=dtype)
    pipeline = diffusers.Cosmos3OmniPipeline(
        transformer=transformer,
        text_tokenizer=AutoTokenizer.from_pretrained(folder.part("text_tokenizer")),
        vae=vae.eval(),
        scheduler=None,
        sound_tokenizer=folder.load_sound_tokenizer(dtype=dtype),
        enable_safety_checker=False,
        default_use_system_prompt=folder.use_system_prompt,
        use_native_flow_schedule=folder.native_schedule,
    )
    return Cosmos3(model, folder, pipeline)


def _drawn(size: Sequence[int], generator: torch.Generator, device: Any) -> torch.Tensor:
    return torch.randn(tuple(size), generator=generator, dtype=torch.float32).to(device)


def _mixed(noisy: torch.Tensor, given: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What is given where there is no noise, noise elsewhere."""
    return (1.0 - noisy) * given + noisy * _drawn(given.shape, generator, given.device)
