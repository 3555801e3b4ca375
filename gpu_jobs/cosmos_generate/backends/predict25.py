"""Predict2.5: one model for pictures, text, picture and video to world, of 2 and 14 billion weights.

A rectified-flow transformer with UniPC. Prompts are read by Qwen2.5-VL (Reason1): the states of all
its layers, each made zero-mean and unit-variance, side by side. Conditioning frames take the place
of the first latent frames on the way in, at a timestep of their own, and of their velocity on the
way out. `num_frames` of 1 makes a picture.

Frames and latents equal those of `Cosmos2_5_PredictBasePipeline` bit for bit. Two things are done
otherwise without changing a bit: only the conditioning frames are encoded, not the whole clip with
its padding (the autoencoder is causal, later frames are masked), and the schedule's numbers lie on
the device, so that no step waits for it. A batch may mix clips with and without conditioning, which
diffusers makes one at a time; a clip made in a batch of two is near, not equal, to one made alone.

Guidance is the makers' convention: cond + scale * (cond - uncond).
"""

# B batch, C channels, T frames, H height, W width, L tokens, D width of a token

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.autoencoders import WAN_FILE, load_wan_autoencoder
from gpu_jobs.cosmos_generate.backends.pipeline import (
    Layout,
    Prompts,
    check_finite,
    generators,
    noise,
    to_frames,
    to_model_range,
)
from gpu_jobs.cosmos_generate.checkpoints import load_transformer
from gpu_jobs.cosmos_generate.lora import apply_loras
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, Media, Module
from worldloop.cosmos.families import FAMILIES, ClipShape, Family
from worldloop.cosmos.models import Model
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError, UnknownKeyError

PIPELINES = ("Cosmos2_5_PredictBasePipeline",)
SAMPLER = "unipc"

# pipeline_cosmos2_5_predict.py of diffusers 0.42.1: _get_prompt_embeds, and the default of __call__
SYSTEM_PROMPT = "You are a helpful assistant who will provide prompts to an image generator."
CONDITIONAL_TIMESTEP = 0.0001

# scripts/convert_cosmos_to_diffusers.py, save_pipeline_cosmos2_5_predict, commit 0a88230 of diffusers;
# for checkpoints in the original layout, which bring no scheduler.
SCHEDULER: dict[str, Any] = {
    "use_karras_sigmas": True,
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "sigma_max": 200.0,
    "sigma_min": 0.01,
}


@dataclass
class Schedule:
    """UniPC over one clip, with its noise levels on the device.

    Attributes:
        scheduler: Of diffusers; keeps the history of its steps.
        sigmas: float32, one per step and the last, on the device.
        timesteps: As the scheduler counts them.
    """

    scheduler: Any
    sigmas: torch.Tensor
    timesteps: Any

    @classmethod
    def start(cls, config: dict[str, Any], *, num_steps: int, device: Any) -> "Schedule":
        """A schedule at its beginning.

        diffusers looks the first step up in the timesteps when it is taken, which waits for the
        device; here it is looked up before, with the same result.
        """
        diffusers = import_diffusers()
        scheduler = diffusers.UniPCMultistepScheduler.from_config(config or SCHEDULER)
        with warnings.catch_warnings():
            # diffusers hands a tensor to numpy.array, which torch answers with a warning of numpy 2
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            scheduler.set_timesteps(num_steps, device="cpu")
        timesteps = scheduler.timesteps
        scheduler.set_begin_index(scheduler.index_for_timestep(timesteps[0]))
        return cls(scheduler, scheduler.sigmas.to(device), timesteps)

    def advance(
        self, index: int, velocity_BCTHW: torch.Tensor, latent_BCTHW: torch.Tensor
    ) -> torch.Tensor:
        """Latents after a step."""
        stepped: torch.Tensor = self.scheduler.step(
            velocity_BCTHW, self.timesteps[index], latent_BCTHW, return_dict=False
        )[0]
        return stepped


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


@dataclass
class ReasonWorldModel:
    """A loaded checkpoint whose prompts are read by Qwen2.5-VL; the base of Predict2.5 and Transfer2.5.

    Attributes:
        model: Its entry in the registry of models.
        parts: `text_encoder`, `transformer` and `tokenizer` (the video autoencoder).
        text_tokenizer: Turns prompts into token ids.
        scheduler_config: Of the checkpoint's own scheduler.
        dtype: Precision of weights and of what enters the transformer.
    """

    model: Model
    parts: dict[str, Module]
    text_tokenizer: Any
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    _negative: tuple[str, torch.Tensor] | None = field(init=False, repr=False, default=None)

    @property
    def family(self) -> Family:
        """The family of the model."""
        return FAMILIES[self.model.family]

    def encode(self, prompt: str, negative_prompt: str) -> Embedding:
        """Encode a prompt and its negative, each (L, D) on the CPU.

        The last negative prompt is remembered, because a batch shares it.

        Raises:
            MalformedRecordError: If either has more tokens than the encoder takes.
        """
        if self._negative is None or self._negative[0] != negative_prompt:
            self._negative = (negative_prompt, self._encoded("negative prompt", negative_prompt))
        return Embedding(cond=self._encoded("prompt", prompt), uncond=self._negative[1])

    def check_sampler(self, name: str) -> None:
        """Refuse a sampler that the family does not know.

        Raises:
            UnknownKeyError: If it is not UniPC.
        """
        if name != SAMPLER:
            raise UnknownKeyError("sampler of Predict2.5", name, [SAMPLER])

    def latent_shape(self, shape: ClipShape, batch: int) -> tuple[int, int, int, int, int]:
        """Shape of the latents of a batch, (B, C, T, H, W)."""
        frames, rows, columns = self.model.latent_size(shape)
        return batch, self.parts["transformer"].config.out_channels, frames, rows, columns

    def statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the autoencoder's latents, (1, C, 1, 1, 1) in float32."""
        config = self.parts["tokenizer"].config
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(1, config.z_dim, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean.to(like.device), std.to(like.device)

    def _encoded(self, what: str, text: str) -> torch.Tensor:
        limit = self.family.max_prompt_tokens
        conversation = [
            {"role": role, "content": [{"type": "text", "text": words}]}
            for role, words in (("system", SYSTEM_PROMPT), ("user", text))
        ]
        tokens = self.text_tokenizer.apply_chat_template(
            conversation,
            tokenize=True,
            add_generation_prompt=False,
            add_vision_id=False,
            max_length=limit,
            truncation=False,
            padding="max_length",
        )
        ids = tokens if isinstance(tokens, list) else tokens["input_ids"]
        if len(ids) > limit:
            raise MalformedRecordError(
                what,
                f"{len(ids)} tokens",
                f"at most {limit} with the system prompt for {self.model.name}",
                "Shorten it.",
            )
        encoder = self.parts["text_encoder"]
        device = next(encoder.parameters()).device
        ids_BL = torch.tensor([ids], dtype=torch.long, device=device)
        with torch.no_grad():
            layers = encoder(ids_BL, output_hidden_states=True).hidden_states[1:]
        normalised = [
            (state - state.mean(dim=-1, keepdim=True)) / (state.std(dim=-1, keepdim=True) + 1e-8)
            for state in layers
        ]
        states_LD: torch.Tensor = torch.cat(normalised, dim=-1)[0].to(encoder.dtype).cpu()
        return states_LD


class Predict25(ReasonWorldModel):
    """A loaded Predict2.5 checkpoint; see `protocol.WorldModel`."""

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


def load(
    model: Model,
    checkpoint_dir: Path,
    *,
    transformer_dir: str = "",
    loras: Sequence[dict[str, Any]] = (),
    dtype: torch.dtype,
    device: Any,
) -> Predict25:
    """Load a Predict2.5 checkpoint; parts stay on the CPU until residency moves them.

    Args:
        model: Its entry in the registry.
        checkpoint_dir: Folder of model folders.
        transformer_dir: Folder of post-trained weights in it; empty: the model's own.
        loras: `{"path": str, "weight": float}` each.
        dtype: Precision of weights.
        device: Where it will run.

    Raises:
        MalformedRecordError: If a folder is missing, or holds weights of another family.
    """
    layout = Layout(model, checkpoint_dir, PIPELINES)
    layout.check()
    return Predict25(
        model=model,
        parts=load_reason_parts(layout, transformer_dir=transformer_dir, loras=loras, dtype=dtype),
        text_tokenizer=load_chat_tokenizer(layout),
        scheduler_config=layout.scheduler_config(),
        dtype=dtype,
    )


def load_chat_tokenizer(layout: Layout) -> Any:
    """The tokenizer of the text encoder."""
    import_diffusers()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(layout.text("tokenizer"))


def load_reason_parts(
    layout: Layout,
    *,
    transformer_dir: str,
    loras: Sequence[dict[str, Any]],
    dtype: torch.dtype,
) -> dict[str, Module]:
    """Text encoder, transformer with its adapters, and video autoencoder, on the CPU."""
    import_diffusers()
    from transformers import Qwen2_5_VLForConditionalGeneration

    weights = layout.checkpoint_dir / transformer_dir if transformer_dir else layout.folder
    transformer = load_transformer(weights, layout.model, dtype)
    apply_loras(transformer, loras)
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        layout.text("text_encoder"), dtype=dtype
    )
    # the makers' layout of this line keeps the autoencoder beside the weights
    beside = (layout.folder / WAN_FILE).is_file()
    return {
        "text_encoder": encoder.eval(),
        "transformer": transformer.eval(),
        "tokenizer": load_wan_autoencoder(layout.folder if beside else layout.autoencoder(), dtype),
    }
