"""What a family of world models must do so that one job can run them all.

A `WorldModel` holds one loaded checkpoint. `encode` runs the text encoder, `begin` starts the
denoising of a batch, whose `step` runs the transformer through a `StepPolicy`, and `decode` turns
latents into frames. Speed lives in the policy and in what was done to the transformer before;
a family knows nothing of it. With the policy `Plain` and the scheduler of diffusers, frames equal
those of the diffusers pipeline bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldloop.cosmos.families import ClipShape, Family
from worldloop.cosmos.requests import ClipRequest

Tensor = Any  # torch.Tensor; torch is imported inside functions
Module = Any  # torch.nn.Module


@dataclass(frozen=True)
class Embedding:
    """Encoded prompts of one clip, on the CPU.

    Attributes:
        cond: Of the prompt, without a batch axis: a tensor or what the family makes of it.
        uncond: Of the negative prompt.
    """

    cond: Any
    uncond: Any


@dataclass(frozen=True)
class Decoded:
    """A decoded clip.

    Attributes:
        frames: RGB, uint8, shape (T, H, W, 3).
        sound: float32 in [-1, 1], shape (channels, samples), or None.
        sound_rate_hz: Samples per second of the sound.
        actions: float32, shape (T - 1, action size), or None.
    """

    frames: NDArray[np.uint8]
    sound: NDArray[np.float32] | None = None
    sound_rate_hz: int = 0
    actions: NDArray[np.float32] | None = None


class StepPolicy(Protocol):
    """Decides, pass by pass, what is computed. One policy serves one batch."""

    def start_step(self, step: int, num_steps: int) -> None:
        """Called before the passes of a step."""

    def guided(self) -> bool:
        """Whether the unconditional pass of the current step is wanted."""

    def run(self, branch: str, forward: Callable[[], Tensor]) -> Tensor:
        """The transformer's output of a branch (`cond` or `uncond`): computed, or extrapolated.

        The output may be a tensor or a (nested) tuple or list of tensors and None.
        """


class Plain:
    """Computes every pass of every step."""

    def start_step(self, step: int, num_steps: int) -> None:
        """Nothing to prepare."""

    def guided(self) -> bool:
        """Always."""
        return True

    def run(self, branch: str, forward: Callable[[], Tensor]) -> Tensor:
        """Always computed."""
        return forward()


class Denoising(Protocol):
    """A batch on its way from noise to latents."""

    num_steps: int

    def step(self, index: int) -> None:
        """Take one step; steps are taken in order."""

    def latents(self) -> Tensor:
        """Latents of the batch as `decode` takes them, batch axis first."""


@dataclass(frozen=True)
class DenoiseOptions:
    """How a batch is denoised.

    Attributes:
        shape: Of every clip.
        num_steps: Denoising steps.
        guidance: Guidance scale in the family's own convention.
        sampler: One of `Family.samplers`.
        policy: What is computed in each step.
        extra: Values of one family, e.g. `augment_sigma`.
    """

    shape: ClipShape
    num_steps: int
    guidance: float
    sampler: str
    policy: StepPolicy = field(default_factory=Plain)
    extra: Mapping[str, Any] = field(default_factory=dict)


class WorldModel(Protocol):
    """One loaded checkpoint of one family."""

    family: Family
    parts: dict[str, Module]
    """`text_encoder`, `transformer`, `tokenizer` (the video autoencoder) and others, for offloading."""

    def encode(self, prompt: str, negative_prompt: str) -> Embedding:
        """Encode a prompt; the text encoder must be on the device."""

    def begin(
        self,
        requests: Sequence[ClipRequest],
        embeddings: Sequence[Embedding],
        options: DenoiseOptions,
        *,
        device: Any,
        media: Sequence["Media"],
    ) -> Denoising:
        """Start a batch: noise by each request's seed, conditioning latents encoded.

        The video autoencoder must be on the device where there is conditioning.
        """

    def decode(self, latents: Tensor, request: ClipRequest, options: DenoiseOptions) -> Decoded:
        """Frames of one clip of the batch (its latents without the batch axis)."""


@dataclass(frozen=True)
class Media:
    """Decoded inputs of one request, as `gpu_jobs.cosmos_generate.media` reads them.

    Attributes:
        frames: Conditioning frames, RGB uint8 (T, H, W, 3) in the clip's size; None without.
        controls: Control videos by kind, RGB uint8 (T, H, W, 3).
        actions: float32 (T, size), or None.
    """

    frames: NDArray[np.uint8] | None = None
    controls: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    actions: NDArray[np.float32] | None = None
