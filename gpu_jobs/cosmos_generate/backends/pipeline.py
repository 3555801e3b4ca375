"""What all backends but Cosmos 3 have in common: loading, prompts, a guided loop, folders, frames.

Each of these families has a text encoder, a `CosmosTransformer3DModel`, a video autoencoder and a
sampler. Cosmos-1.0, Predict1 and Predict2 read prompts with T5 and are denoised by the loop here;
what differs (how the transformer's output becomes an estimate of the clean latent, and how
conditioning frames enter) is in `cosmos1` and `predict2`. What Predict2.5 and Transfer2.5 share
beyond this is in `reason1`.

Guidance of the loop here is the makers' convention: cond + scale * (cond - uncond), so that 0 is no
guidance. As in diffusers, a scale of 1 or less runs the conditional pass alone.
"""

# B batch, C channels, T frames, H height, W width, L tokens, D width of a token

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.samplers import Sampler
from gpu_jobs.cosmos_generate.checkpoints import load_transformer
from gpu_jobs.cosmos_generate.lora import apply_loras
from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Embedding, Media, Module
from worldloop.cosmos.companions import COMPANIONS, Role
from worldloop.cosmos.families import Family
from worldloop.cosmos.models import Model
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import ClipRejectedError, MalformedRecordError


class Denoiser(Protocol):
    """Estimates the clean latent, once per branch and step."""

    def x0(self, branch: str, index: int, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """What the model takes the clean latent for, from branch `cond` or `uncond`."""

    def skip(self, branch: str, index: int) -> None:
        """Use up what `x0` would have drawn for a branch that is not wanted in this step."""


@dataclass
class GuidedDenoising:
    """A batch on its way from noise to latents; see `protocol.Denoising`.

    Attributes:
        denoiser: What the model sees.
        sampler: Where to go from there.
        options: Guidance and policy.
        standing: The batch as it stands, (B, C, T, H, W).
    """

    denoiser: Denoiser
    sampler: Sampler
    options: DenoiseOptions
    standing: torch.Tensor
    num_steps: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_steps = len(self.sampler.sigmas)

    def step(self, index: int) -> None:
        """Take one step; steps are taken in order."""
        self.options.policy.start_step(index, self.num_steps)
        with torch.no_grad():
            x0_BCTHW = self._guided_x0(index)
            self.standing = self.sampler.advance(index, self.standing, x0_BCTHW)

    def latents(self) -> torch.Tensor:
        """The batch as `decode` takes it, float32 (B, C, T, H, W)."""
        return self.standing.float()

    def _guided_x0(self, index: int) -> torch.Tensor:
        latent_BCTHW = self.standing.float()
        cond_BCTHW = self.denoiser.x0("cond", index, latent_BCTHW)
        if self.options.guidance <= 1.0:
            return cond_BCTHW
        if not self.options.policy.guided():
            self.denoiser.skip("uncond", index)
            return cond_BCTHW
        uncond_BCTHW = self.denoiser.x0("uncond", index, latent_BCTHW)
        return cond_BCTHW + self.options.guidance * (cond_BCTHW - uncond_BCTHW)


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts of a batch on the device, (B, L, D)."""

    cond: torch.Tensor
    uncond: torch.Tensor

    @classmethod
    def stacked(
        cls, embeddings: Sequence[Embedding], *, device: Any, dtype: torch.dtype
    ) -> "Prompts":
        """Prompts of all clips of a batch."""
        cond = torch.stack([embedding.cond for embedding in embeddings])
        uncond = torch.stack([embedding.uncond for embedding in embeddings])
        return cls(cond.to(device=device, dtype=dtype), uncond.to(device=device, dtype=dtype))

    def of(self, branch: str) -> torch.Tensor:
        """Prompts of a branch."""
        return self.cond if branch == "cond" else self.uncond


@dataclass
class PromptedWorldModel(ABC):
    """A loaded checkpoint whose prompts are read by an encoder of its own; the base of the backends.

    Attributes:
        model: Its entry in the registry of models.
        checkpoint_dir: Folder of all model folders.
        parts: `text_encoder`, `transformer` and `tokenizer` (the video autoencoder).
        text_tokenizer: Turns prompts into token ids.
        scheduler_config: Of the checkpoint's own scheduler.
        dtype: Precision of weights and of what enters the transformer.
        pipelines: Names of the diffusers pipelines whose folders hold such a model.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()

    model: Model
    checkpoint_dir: Path
    parts: dict[str, Module]
    text_tokenizer: Any
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    _negative: tuple[str, torch.Tensor] | None = field(init=False, repr=False, default=None)

    @classmethod
    def load(
        cls,
        model: Model,
        checkpoint_dir: Path,
        *,
        transformer_dir: str = "",
        loras: Sequence[dict[str, Any]] = (),
        dtype: torch.dtype,
        device: Any,
    ) -> Self:
        """Load a checkpoint on the CPU; residency moves its parts. See `registry.load_model`.

        Args:
            model: Its entry in the registry of models.
            checkpoint_dir: Folder of all model folders.
            transformer_dir: Folder of post-trained weights in it; empty: the model's own.
            loras: `{"path": str, "weight": float}` each.
            dtype: Precision of the weights.
            device: Where it will run.

        Raises:
            MalformedRecordError: If a part is missing or of another family or task.
        """
        import_diffusers()
        from transformers import AutoTokenizer

        layout = Layout(model, checkpoint_dir, cls.pipelines)
        layout.check()
        weights = checkpoint_dir / transformer_dir if transformer_dir else layout.folder
        transformer = load_transformer(weights, model, dtype)
        apply_loras(transformer, loras)
        autoencoder = cls.load_autoencoder(layout, dtype)
        text_tokenizer = AutoTokenizer.from_pretrained(layout.text("tokenizer"))
        text_encoder = cls.load_text_encoder(layout.text("text_encoder"), dtype)
        parts = {
            "text_encoder": text_encoder.eval(),
            "transformer": transformer.eval(),
            "tokenizer": autoencoder,
        }
        return cls(model, checkpoint_dir, parts, text_tokenizer, layout.scheduler_config(), dtype)

    @classmethod
    @abstractmethod
    def load_autoencoder(cls, layout: "Layout", dtype: torch.dtype) -> Module:
        """The video autoencoder of the family."""

    @classmethod
    @abstractmethod
    def load_text_encoder(cls, folder: Path, dtype: torch.dtype) -> Module:
        """The text encoder of the family."""

    @property
    def family(self) -> Family:
        """The family of the model."""
        return self.model.record

    def encode(self, prompt: str, negative_prompt: str) -> Embedding:
        """Encode a prompt and its negative, each (L, D) on the CPU.

        The last negative prompt is remembered, because a batch shares it.

        Raises:
            MalformedRecordError: If either has more tokens than the encoder takes.
        """
        if self._negative is None or self._negative[0] != negative_prompt:
            self._negative = (negative_prompt, self._encoded("negative prompt", negative_prompt))
        return Embedding(cond=self._encoded("prompt", prompt), uncond=self._negative[1])

    @abstractmethod
    def _encoded(self, what: str, text: str) -> torch.Tensor:
        """States of one text, (L, D) on the CPU."""


class T5WorldModel(PromptedWorldModel):
    """A loaded checkpoint with a T5 text encoder; embeddings have zeros after the end of a prompt."""

    @classmethod
    def load_text_encoder(cls, folder: Path, dtype: torch.dtype) -> Module:
        """The T5 encoder."""
        from transformers import T5EncoderModel

        return T5EncoderModel.from_pretrained(folder, dtype=dtype)

    def _encoded(self, what: str, text: str) -> torch.Tensor:
        limit = self.family.max_prompt_tokens
        tokens = self.text_tokenizer(
            [text], padding="max_length", max_length=limit, return_tensors="pt"
        )
        length = int(tokens.attention_mask.sum())
        if tokens.input_ids.shape[1] > limit:
            raise MalformedRecordError(
                what, f"{length} tokens", f"at most {limit} for {self.model.name}", "Shorten it."
            )
        encoder = self.parts["text_encoder"]
        device = next(encoder.parameters()).device
        mask = tokens.attention_mask.bool().to(device)
        with torch.no_grad():
            states_BLD = encoder(tokens.input_ids.to(device), attention_mask=mask).last_hidden_state
        states_LD: torch.Tensor = states_BLD[0].to(self.dtype).cpu()
        states_LD[length:] = 0
        return states_LD


def generators(requests: Sequence[ClipRequest]) -> list[torch.Generator]:
    """One stream of noise per clip, on the CPU: the same numbers whatever the device."""
    return [torch.Generator().manual_seed(request.seed) for request in requests]


def noise(
    shape_BCTHW: Sequence[int], streams: Sequence[torch.Generator], *, device: Any
) -> torch.Tensor:
    """Standard normal noise in float32, every clip from its own stream."""
    each = [
        torch.randn((1, *shape_BCTHW[1:]), generator=stream, dtype=torch.float32)
        for stream in streams
    ]
    noise_BCTHW = torch.cat(each)
    return noise_BCTHW if torch.device(device).type == "cpu" else _uploaded(noise_BCTHW, device)


def _uploaded(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    """A tensor on a GPU without waiting for what runs there."""
    return tensor.pin_memory().to(device, non_blocking=True)


def conditioning_frames(
    model: Model, family: Family, media: Sequence[Media], *, num_frames: int
) -> NDArray[np.uint8] | None:
    """Conditioning frames of a batch, uint8 (B, T, H, W, 3); None for models that take none.

    Raises:
        MalformedRecordError: If a clip has none, too many, or not as many as the others.
    """
    if model.task in ("text2image", "text2world"):
        return None
    counts = sorted({0 if clip.frames is None else len(clip.frames) for clip in media})
    legal = family.conditioning_frames or tuple(range(1, num_frames))
    if len(counts) != 1 or counts[0] not in legal or counts[0] >= num_frames:
        raise MalformedRecordError(
            f"conditioning of a batch of {model.name}",
            f"clips with {counts} frames",
            f"the same number in every clip of a batch, one of {legal} and fewer than {num_frames}",
            "Give every clip a picture or video, and batch clips of one number of frames.",
        )
    return np.stack([clip.frames for clip in media if clip.frames is not None])


def to_model_range(frames_BTHWC: NDArray[np.uint8]) -> torch.Tensor:
    """Frames as the video autoencoder was trained on: float32 in [-1, 1], (B, C, T, H, W)."""
    unit = torch.from_numpy(frames_BTHWC.astype(np.float32) / 255.0)
    return (2.0 * unit - 1.0).permute(0, 4, 1, 2, 3)


def to_frames(video_CTHW: torch.Tensor) -> NDArray[np.uint8]:
    """Decoded video as uint8 (T, H, W, 3), by the arithmetic of the diffusers pipelines.

    They shift to [0, 1] in the precision of the decoder, and cut off what lies behind the point
    after scaling to 255.
    """
    unit_CTHW = (video_CTHW * 0.5 + 0.5).clamp(0, 1)
    frames_THWC = (unit_CTHW.permute(1, 2, 3, 0).float() * 255).to(torch.uint8)
    return np.ascontiguousarray(frames_THWC.cpu().numpy())


def check_finite(latent_CTHW: torch.Tensor, request: ClipRequest) -> None:
    """Refuse a clip whose latents are not numbers; the others of its batch are not touched.

    Raises:
        ClipRejectedError: At stage `denoise`.
    """
    if not bool(torch.isfinite(latent_CTHW).all()):
        raise ClipRejectedError(
            "denoise",
            f"The latents of {request.clip_id!r} have NaN or infinite values. "
            "Choose a profile of higher precision, another seed or less guidance.",
        )


@dataclass(frozen=True)
class Layout:
    """Where the parts of a model lie: in one diffusers folder, or in folders that models share.

    Attributes:
        model: Its entry in the registry of models.
        checkpoint_dir: Folder of all model folders.
        pipelines: Names of the diffusers pipelines that `model_index.json` may name.
    """

    model: Model
    checkpoint_dir: Path
    pipelines: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The model's own folder."""
        return self.checkpoint_dir / self.model.name

    @property
    def is_diffusers(self) -> bool:
        """Whether it is a diffusers folder, which brings all of its parts."""
        return (self.folder / "model_index.json").exists()

    def check(self) -> None:
        """Refuse a folder that is not there or holds another family.

        Raises:
            MalformedRecordError: In one of these cases.
        """
        if not self.folder.is_dir():
            raise self._missing("its folder", f"no {self.model.name} in the checkpoint folder")
        if not self.is_diffusers:
            return
        found = json.loads((self.folder / "model_index.json").read_text()).get("_class_name")
        if found not in self.pipelines:
            raise MalformedRecordError(
                f"weights in {self.model.name}",
                found,
                f"weights of {' or '.join(self.pipelines)}",
                "Name the model that this folder holds, or download this one.",
            )

    def text(self, name: str) -> Path:
        """Folder of the text encoder or of its tokenizer.

        Args:
            name: `text_encoder` or `tokenizer`.

        Raises:
            MalformedRecordError: If it is not there.
        """
        own = self.folder / name
        return self._there(name, [own] if self.is_diffusers else self._shared("text_encoder"))

    def autoencoder(self) -> Path:
        """Folder of the video autoencoder: `vae/`, a folder that models share, or `tokenizer/`.

        Raises:
            MalformedRecordError: If it is not there.
        """
        own = self.folder / ("vae" if self.is_diffusers else "tokenizer")
        shared = [] if self.is_diffusers else self._shared("tokenizer")
        return self._there("video autoencoder", [*shared, own])

    def _shared(self, role: Role) -> list[Path]:
        names = [name for name in self.model.needs if COMPANIONS[name].role == role]
        return [self.checkpoint_dir / name for name in names]

    def _there(self, what: str, places: Sequence[Path]) -> Path:
        for place in places:
            if place.is_dir():
                return place
        names = [str(place.relative_to(self.checkpoint_dir)) for place in places]
        raise self._missing(f"its {what}", f"no {' and no '.join(names)}")

    def scheduler_config(self) -> dict[str, Any]:
        """The checkpoint's own scheduler configuration; empty if it brings none."""
        path = self.folder / "scheduler" / "scheduler_config.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _missing(self, what: str, found: str) -> MalformedRecordError:
        remedy = f"Run: worldloop models download {self.model.name}"
        return MalformedRecordError(f"folders of {self.model.name}", found, what, remedy)
