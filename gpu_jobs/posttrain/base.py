"""Bases: loaded models that are trained, measured and judged with, kept warm between commands.

A base is a backend of `cosmos_generate` with what training needs beside it: footage encoded at the
scale of the model, captions, and the loss of its family, with an adapter or without.
"""

# B batch, C channels, T frames (latent ones of latents), H height, W width, L tokens, D width of a token

import contextlib
import gc
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.posttrain.lora import added
from gpu_jobs.posttrain.objectives import Batch, Objective, noise_of, objective_of
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays

log = logging.getLogger(__name__)

Tensor = Any  # torch.Tensor; torch is imported inside functions


@dataclass(frozen=True)
class BaseKey:
    """What makes two bases the same.

    Attributes:
        model: Name in `worldloop.cosmos.models.MODELS`.
        checkpoint_dir: Folder that holds the model folders.
        transformer_dir: Folder of post-trained weights in it; empty: the model's own.
        precision: Of the transformer's weights: `bf16` or `fp32`.
        device: `cpu` or `cuda:<n>`.
    """

    model: str
    checkpoint_dir: str
    transformer_dir: str = ""
    precision: str = "bf16"
    device: str = "cpu"


@dataclass
class Base:
    """A loaded model.

    Attributes:
        key: What it is.
        world: The backend of `cosmos_generate`: `parts` has `transformer`, `tokenizer` and, but for Cosmos 3,
            `text_encoder`.
        objective: The loss of its family.
        load_s: Seconds that loading took.
    """

    key: BaseKey
    world: Any
    objective: Objective
    load_s: float = 0.0
    _blank: Tensor = field(default=None, repr=False)

    @property
    def transformer(self) -> Any:
        """The network that is trained, on the device, its weights without gradient."""
        return self.world.parts["transformer"]

    @property
    def device(self) -> Any:
        """Where the transformer is."""
        import torch

        return torch.device(self.key.device)

    @property
    def blank(self) -> Tensor:
        """The family's negative prompt, encoded, (L, D) on the CPU; guidance leads away from it."""
        if self._blank is None:
            family = self.world.family
            self._blank = self.encode_caption(family.negative_prompt, family.shape)
        return self._blank

    def dropped_caption(self, shape: ClipShape, *, negative: bool) -> Tensor:
        """What takes the place of a dropped caption, (L, D) on the CPU.

        Args:
            shape: Of the windows.
            negative: Whether the negative prompt is drawn for it, where a family trains with it.
        """
        return self.objective.dropped(lambda: self.blank, shape, negative=negative)

    def encode_caption(self, caption: str, shape: ClipShape) -> Tensor:
        """A caption as the transformer attends to it, (L, D) on the CPU; as inference encodes it.

        Args:
            caption: In words.
            shape: Of the windows that it goes with, which Cosmos 3 is told in words.

        Raises:
            MalformedRecordError: If it has more tokens than the encoder takes.
        """
        with self._visiting(self.objective.text_part):
            return self.objective.context(self.world, caption, shape)

    def encode_frames(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """A window at the scale of the model, float32 (C, T, H, W) on the CPU.

        The most likely latent, normalised as inference does it with conditioning frames.

        Args:
            frames_THWC: RGB of the clip's size; 1 + k * the family's stride frames.
        """
        import torch

        from gpu_jobs.cosmos_generate.backends.pipeline import to_model_range

        video_BCTHW = to_model_range(frames_THWC[None])
        with self._visiting("tokenizer"), torch.no_grad():
            latent_BCTHW = self.objective.encoded(self.world, video_BCTHW)
        return latent_BCTHW[0].float().cpu()

    @contextlib.contextmanager
    def adapted(self, adapter: Arrays | None, *, alpha: float) -> Iterator[None]:
        """The base with an adapter (or the difference of all weights) while the block lasts.

        Args:
            adapter: `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, or what is added to weights by
                their names; None is the base alone.
            alpha: Of its training; its scale is alpha / rank.

        Raises:
            MalformedRecordError: If it is of another model.
        """
        with added(self.transformer, adapter or {}, alpha=alpha):
            yield

    def denoising_losses(
        self,
        latent_BCTHW: Tensor,
        context_BLD: Tensor,
        *,
        shape: ClipShape,
        place: float,
        seeds: Sequence[int],
        given: Sequence[int] = (),
    ) -> list[float]:
        """Loss of each window at one noise level, without gradient, with the adapter of `adapted`.

        Args:
            latent_BCTHW: As `encode_frames` gives them.
            context_BLD: As `encode_caption` gives them.
            shape: Of the windows.
            place: Quantile of the noise level in the training distribution, between 0 and 1.
            seeds: Of the noise of each window: the same seed gives the same noise.
            given: Conditioning frames (not latent ones) of each window; empty: none.
        """
        import torch

        device = self.device
        batch = Batch(
            latent_BCTHW.to(device, torch.float32),
            context_BLD.to(device),
            shape,
            self.latent_frames(given or [0] * len(latent_BCTHW)),
        )
        places = torch.full((len(seeds),), place, dtype=torch.float64)
        with torch.no_grad():
            losses_B = self.objective.losses(
                self.transformer, batch, places, noise_of(batch, seeds)
            )
        return [float(loss) for loss in losses_B]

    def latent_frames(self, given: Sequence[int]) -> list[int]:
        """Latent frames that conditioning frames become.

        Raises:
            MalformedRecordError: If the model takes no conditioning frames, or not so many.
        """
        family, takes = self.world.family, self.objective.takes_frames
        legal = (0, *family.conditioning_frames) if takes else (0,)
        odd = sorted(set(given) - set(legal))
        if odd:
            raise MalformedRecordError(
                f"conditioning_frames of {self.key.model}",
                odd,
                f"some of {legal}",
                "Change the training of the plan, or choose a Video2World model.",
            )
        stride = family.frame_stride
        return [0 if count == 0 else (count - 1) // stride + 1 for count in given]

    @property
    def encoders(self) -> tuple[str, ...]:
        """Parts of the backend that encode footage."""
        return tuple(part for part in ("tokenizer", self.objective.text_part) if part)

    @contextlib.contextmanager
    def _visiting(self, part: str) -> Iterator[None]:
        """A part on the device while the block lasts; on a GPU it stays there, up to the next `settle`."""
        if part:
            self.world.parts[part].to(self.device)
        yield

    def settle(self) -> None:
        """Text encoder and autoencoder back to host memory, so that training has the GPU for itself."""
        import torch

        if self.device.type != "cuda":
            return
        for part in self.encoders:
            self.world.parts[part].to("cpu")
        gc.collect()
        torch.cuda.empty_cache()


def precision_of_weights(precision: str) -> str:
    """What weights that are not trained are kept in: FP8 is a precision of products alone.

    Example:
        >>> precision_of_weights("fp8"), precision_of_weights("fp32")
        ('bf16', 'fp32')
    """
    return "bf16" if precision == "fp8" else precision


class Bases:
    """Loaded models by key; at most `most` of them, the least recently used goes first."""

    def __init__(self, most: int = 1) -> None:
        self.most = most
        self._loaded: dict[BaseKey, Base] = {}

    def get(self, key: BaseKey) -> Base:
        """The base of a key, loaded if it is not there; `load_s` is 0 when it was warm.

        Raises:
            UnknownKeyError: If there is no such model.
            MalformedRecordError: If its folder is missing or of another family, or its family is not trained.
        """
        if key in self._loaded:
            base = self._loaded.pop(key)
            base.load_s = 0.0
        else:
            while len(self._loaded) >= self.most:
                self._loaded.pop(next(iter(self._loaded)))
                gc.collect()
            base = load_base(key)
        self._loaded[key] = base
        return base

    def drop(self, key: BaseKey) -> None:
        """Forget a base whose weights are not what they were."""
        self._loaded.pop(key, None)
        gc.collect()


def load_base(key: BaseKey) -> Base:
    """Load a model from its checkpoint folder; see `Bases.get`."""
    import torch

    from gpu_jobs.cosmos_generate.backends.registry import load_model

    started_s = time.monotonic()
    known = model(key.model)
    objective = objective_of(known)
    dtype = torch.bfloat16 if key.precision == "bf16" else torch.float32
    world: Any = load_model(
        known,
        Path(key.checkpoint_dir),
        transformer_dir=key.transformer_dir,
        dtype=dtype,
        device=torch.device(key.device),
    )
    for part in world.parts.values():
        part.requires_grad_(False)
    if key.device == "cpu":
        world.parts["tokenizer"].float()  # torch has no bf16 pooling on a CPU
    world.parts["transformer"].to(key.device)
    seconds = time.monotonic() - started_s
    log.info(json.dumps({"event": "base_loaded", "model": key.model, "load_s": round(seconds, 1)}))
    return Base(key, world, objective.bound_to(world), load_s=seconds)
