"""What each family learns: its noise levels, what the transformer is asked, and how wrong its answer is.

Footage becomes latents by the backend's own functions, so that training and inference share one
scale; a test holds the estimate of the clean latent against the backend's. Losses are squared errors
of what the network itself answers, which for all of these families is the published weighting:

- Cosmos-1.0 and Predict1, EDM (arXiv 2206.00364): weights (s^2 + d^2) / (s d)^2 on the clean latent
  (cosmos_predict1/diffusion/training/models/model_image.py:414, commit 4ed35fa). Its learned
  uncertainty ("logvar") is left out: published weights do not have that network.
- Predict2, rectified flow: (1 + s)^2 / s^2 (cosmos_predict2/models/video2world_model.py, commit
  661da47), which is the even weighting of velocities. Its factor of 10 is left out, because AdamW
  does not see it.
- Predict2.5, rectified flow, even weights (cosmos_predict2/_src/predict2/schedulers/rectified_flow.py,
  commit 50369b8; examples/cosmos/train_cosmos_predict25_lora.py of diffusers, commit 58eb52c).

Given (conditioning) frames have no part in a loss; as published, they count in its mean.
Cosmos 3, whose transformer takes windows one by one and reads their captions itself, is in `cosmos3`.
"""

# B batch, C channels, T latent frames, H height, W width, L tokens, D width of a token

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from gpu_jobs.cosmos_generate.media import MediaRule
from gpu_jobs.posttrain.footage import STRETCHED
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.flops import PassFlops, pass_flops
from worldloop.cosmos.models import Model
from worldloop.errors import MalformedRecordError
from worldloop.seeds import derive_seed

Tensor = Any  # torch.Tensor; torch is imported inside functions

# cosmos_predict1/diffusion/training/config/base/model.py:41-47, commit 4ed35fa; Predict2 has the same
# normal distribution: cosmos_predict2/schedulers/rectified_flow_scheduler.py:42, commit 661da47
LOG_SIGMA_MEAN, LOG_SIGMA_STD = 0.0, 1.0
SIGMA_DATA = 0.5
# cosmos_predict1/diffusion/training/config/video2world/experiment.py:153-163, commit 4ed35fa
AUGMENT_MEAN, AUGMENT_STD = -3.0, 2.0
# cosmos_predict2/configs/base/defaults/model.py:94 and models/video2world_model.py:381-388, commit 661da47
HIGH_SIGMA_SHARE, HIGH_SIGMA = 0.05, (200.0, 100_000.0)
# cosmos_predict2/configs/base/config_video2world.py:159, commit 661da47
SIGMA_CONDITIONING = 0.0001
# examples/cosmos/train_cosmos_predict25_lora.py, commit 58eb52c of diffusers: sample_train_sigma_t and
# the default of --conditional_frame_timestep
SHIFT, CONDITIONAL_TIMESTEP = 5.0, 0.0001
# cosmos_predict1/diffusion/training/config/video2world/experiment.py:80-84, commit 4ed35fa
BETAS, EPS, GRADIENT_NORM = (0.9, 0.99), 1e-10, 1.0
_EDGE = 1e-6  # places closer to 0 or 1 are moved here, because a normal distribution has no end


@dataclass(frozen=True)
class Descent:
    """How AdamW follows the gradient of a loss.

    Attributes:
        betas: Of its two averages.
        eps: Added to the root of the second one.
        gradient_norm: Longer gradients are scaled down to this length.
    """

    betas: tuple[float, float] = BETAS
    eps: float = EPS
    gradient_norm: float = GRADIENT_NORM


@dataclass(frozen=True)
class Batch:
    """Windows of a step, on the device.

    Attributes:
        latent: Clean latents at the scale of the model, float32 (B, C, T, H, W).
        context: Captions as `Objective.context` gives them, (B, L, D).
        shape: Of the windows.
        given: First latent frames that each window is given.
        target: For controls: clean latents that are wanted in the place of the windows' own.
    """

    latent: Tensor
    context: Tensor
    shape: ClipShape
    given: Sequence[int]
    target: Tensor | None = None

    @property
    def wanted(self) -> Tensor:
        """The clean latents that a right answer means."""
        return self.latent if self.target is None else self.target

    def indicator(self) -> Tensor:
        """1 for latent frames that are given, 0 for the others, float32 (B, 1, T, 1, 1)."""
        import torch

        frames = torch.arange(self.latent.shape[2])
        given = torch.tensor(list(self.given))
        marks_BT = (frames[None] < given[:, None]).float()
        return marks_BT[:, None, :, None, None].to(self.latent.device)


class Noise(Protocol):
    """Where the randomness of a step comes from."""

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape of a batch, float32."""

    def even(self, name: str, count: int) -> Tensor:
        """Numbers between 0 and 1, float64 on the CPU, one a window."""


@dataclass(frozen=True)
class SeededNoise:
    """Noise of each window from a seed of its own: it does not depend on what else is in the batch.

    On a GPU the numbers are drawn there, from generators seeded by the same seeds; they are not those
    of the CPU.

    Attributes:
        seeds: One a window.
    """

    seeds: Sequence[int]

    def normal(self, name: str, like: Tensor) -> Tensor:
        """See `Noise`."""
        import torch

        each = [
            torch.randn(
                like.shape[1:],
                generator=self._generator(seed, name, like.device),
                device=like.device,
            )
            for seed in self.seeds
        ]
        return torch.stack(each)

    def even(self, name: str, count: int) -> Tensor:
        """See `Noise`."""
        import torch

        assert count == len(self.seeds), "one seed a window"
        return torch.cat(
            [
                torch.rand(1, generator=self._generator(seed, name, "cpu"), dtype=torch.float64)
                for seed in self.seeds
            ]
        )

    def _generator(self, seed: int, name: str, device: Any) -> Any:
        import torch

        return torch.Generator(device).manual_seed(derive_seed(seed, name))


@dataclass(frozen=True)
class Question:
    """What the transformer is asked of a batch, and what would be right.

    Attributes:
        inputs: Arguments of the transformer.
        wanted: The right answer, float32 (B, C, T, H, W).
        indicator: 1 for given frames, which are not judged, (B, 1, T, 1, 1).
        estimate: From an answer to the clean latent it means, as inference computes it.
    """

    inputs: Mapping[str, Any]
    wanted: Tensor
    indicator: Tensor
    estimate: Callable[[Tensor], Tensor] = field(repr=False)

    def losses(self, answer_BCTHW: Tensor) -> Tensor:
        """Mean squared error of each window, (B,)."""
        wrong_BCTHW = (answer_BCTHW.float() - self.wanted) * (1 - self.indicator)
        return wrong_BCTHW.square().mean(dim=(1, 2, 3, 4))


@dataclass(frozen=True)
class Cost:
    """What a step costs, apart from activations that are computed again.

    Attributes:
        tokens: Of the transformer that are trained on.
        once: Operations of the forward pass that gradients go back through.
        beside: Operations of what is computed forward alone.
    """

    tokens: int
    once: PassFlops
    beside: float = 0.0


@dataclass(frozen=True)
class Objective(ABC):
    """What a family learns.

    Attributes:
        takes_frames: Whether the model takes conditioning frames.
    """

    takes_frames: bool
    text_part: ClassVar[str] = "text_encoder"
    """Part of a backend that reads captions; empty where the transformer does."""
    fit: ClassVar[MediaRule] = STRETCHED
    """How footage of another size is fitted."""

    @property
    def descent(self) -> Descent:
        """How the optimizer follows the loss."""
        return Descent()

    def bound_to(self, world: Any) -> "Objective":
        """The same with what it needs of a loaded backend."""
        return self

    def trains(self, parameter: str) -> bool:
        """Whether training of all weights changes the one with this name."""
        return True

    def context(self, world: Any, caption: str, shape: ClipShape) -> Tensor:
        """A caption as the transformer takes it, (L, D) on the CPU, of one length for all captions.

        Args:
            world: The backend; `text_part` is on the device.
            caption: In words.
            shape: Of the windows that it goes with.

        Raises:
            MalformedRecordError: If it has more tokens than the model takes.
        """
        return world._encoded("caption", caption)

    def dropped(self, blank: Callable[[], Tensor], shape: ClipShape, *, negative: bool) -> Tensor:
        """What takes the place of a dropped caption, (L, D) on the CPU.

        Args:
            blank: Gives the negative prompt as the transformer takes it.
            shape: Of the windows.
            negative: Whether the negative prompt is drawn for it, and not nothing.
        """
        import torch

        return blank() if negative else torch.zeros_like(blank())

    def caption_key(self, caption: str, shape: ClipShape) -> str:
        """Tells captions apart that `context` makes different tensors of; begins with the SHA-256 of the words.

        Whose caption is taken back has its files removed by that hash.
        """
        return hashlib.sha256(caption.encode()).hexdigest()

    def text_id(self, world: Any) -> str:
        """Tells readers of captions of one model apart that are no part with weights; else empty."""
        return ""

    @abstractmethod
    def encoded(self, world: Any, video_BCTHW: Tensor) -> Tensor:
        """Latents of whole windows by the backend's own function, float32 (B, C, T, H, W).

        Args:
            world: The backend; its autoencoder is on the device.
            video_BCTHW: Frames between -1 and 1.
        """

    @abstractmethod
    def losses(self, transformer: Any, batch: Batch, places_B: Tensor, noise: Noise) -> Tensor:
        """Loss of each window, (B,) with gradient.

        Args:
            transformer: The network, an adapter in it or not.
            batch: Windows.
            places_B: Quantiles of noise levels, between 0 and 1.
            noise: Of the latents and of given frames.
        """

    @abstractmethod
    def step_cost(self, world: Any, batch_size: int, latent: Tensor, context: Tensor) -> Cost:
        """What a step of so many windows costs.

        Args:
            world: The backend.
            batch_size: Windows.
            latent: One of them, (C, T, H, W).
            context: Its caption, (L, D).
        """


@dataclass(frozen=True)
class BatchedObjective(Objective):
    """What families learn whose transformer, `CosmosTransformer3DModel`, takes the windows of a step at once."""

    @abstractmethod
    def levels(self, places_B: Tensor, latent_frames: int) -> Tensor:
        """Noise levels at quantiles of the training distribution, float32 (B,) on the CPU."""

    @abstractmethod
    def question(self, batch: Batch, levels_B: Tensor, noise: Noise, *, dtype: Any) -> Question:
        """What the transformer is asked at these noise levels.

        Args:
            batch: Windows.
            levels_B: As `levels` gives them.
            noise: Of the latents and of given frames.
            dtype: Precision of what enters the network.
        """

    def losses(self, transformer: Any, batch: Batch, places_B: Tensor, noise: Noise) -> Tensor:
        """See `Objective`."""
        levels_B = self.levels(places_B, int(batch.latent.shape[2]))
        question = self.question(batch, levels_B, noise, dtype=dtype_of(transformer))
        return question.losses(transformer(**question.inputs)[0])

    def step_cost(self, world: Any, batch_size: int, latent: Tensor, context: Tensor) -> Cost:
        """See `Objective`."""
        config = world.parts["transformer"].config
        _, frames, height, width = latent.shape
        _, rows, columns = config.patch_size
        inner = config.num_attention_heads * config.attention_head_dim
        known = replace(
            world.model,
            num_layers=config.num_layers,
            num_heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            width=0,
            mlp_width=int(inner * config.mlp_ratio),
            patch=rows,
        )
        once = window_flops(known, latent, batch_size, text_tokens=int(context.shape[0]))
        return Cost(batch_size * frames * (height // rows) * (width // columns), once)


@dataclass(frozen=True)
class EdmObjective(BatchedObjective):
    """Cosmos-1.0 and Predict1. Noise grows with the root of the latent frames (`adjust_video_noise`)."""

    def levels(self, places_B: Tensor, latent_frames: int) -> Tensor:
        """See `Objective`."""
        return log_normal(places_B, LOG_SIGMA_MEAN, LOG_SIGMA_STD) * math.sqrt(latent_frames)

    def question(self, batch: Batch, levels_B: Tensor, noise: Noise, *, dtype: Any) -> Question:
        """See `Objective`; the noise on given frames is drawn as published."""
        clean = batch.latent
        augment_B = log_normal(noise.even("augment", len(clean)), AUGMENT_MEAN, AUGMENT_STD)
        return self.question_at(batch, levels_B, augment_B, noise, dtype=dtype)

    def question_at(
        self, batch: Batch, levels_B: Tensor, augment_B: Tensor, noise: Noise, *, dtype: Any
    ) -> Question:
        """What the transformer is asked with this much noise on given frames."""
        clean, indicator = batch.latent, batch.indicator()
        sigma, augment = (_wide(each, clean) for each in (levels_B, augment_B))
        noisy = clean + sigma * noise.normal("latent", clean)
        seen = noisy
        if any(batch.given):
            given = clean + augment * noise.normal("frames", clean)
            given = given * _c_in(augment) / _c_in(sigma)
            seen = indicator * given + (1 - indicator) * noisy
        skip = SIGMA_DATA**2 / (sigma.square() + SIGMA_DATA**2)
        out = sigma * SIGMA_DATA * _c_in(sigma)
        inputs = {
            "hidden_states": (seen * _c_in(sigma)).to(dtype),
            "timestep": (0.25 * levels_B.to(clean.device).log()).to(dtype),
            "fps": batch.shape.rate_fps,
            **_common(batch, dtype),
        }
        if self.takes_frames:
            inputs["condition_mask"] = _mask(indicator, clean, dtype)
        return Question(
            inputs,
            wanted=(batch.wanted - skip * noisy) / out,
            indicator=indicator,
            estimate=lambda answer: (
                indicator * clean + (1 - indicator) * (skip * noisy + out * answer.float())
            ),
        )

    def encoded(self, world: Any, video_BCTHW: Tensor) -> Tensor:
        """See `Objective`."""
        vae = world.parts["tokenizer"]
        sigma_data = world.scheduler().config.sigma_data
        return world.encoded_video(video_BCTHW.to(vae.device, vae.dtype), sigma_data)


@dataclass(frozen=True)
class FlowObjective(BatchedObjective):
    """A rectified flow: at time t the network sees (1 - t) clean + t noise and answers noise - clean.

    Attributes:
        conditional_time: What the network is told of given frames' noise.
        times_by_frame: Whether times are told frame by frame even where nothing is given.
    """

    conditional_time: float
    times_by_frame: bool

    def question(self, batch: Batch, levels_B: Tensor, noise: Noise, *, dtype: Any) -> Question:
        """See `Objective`."""
        clean, indicator = batch.latent, batch.indicator()
        time = _wide(levels_B, clean)
        drawn = noise.normal("latent", clean)
        noisy = (1 - time) * clean + time * drawn
        seen = indicator * clean + (1 - indicator) * noisy
        inputs = {"hidden_states": seen.to(dtype), **_common(batch, dtype)}
        if self.times_by_frame:
            times = indicator * self.conditional_time + (1 - indicator) * time
            inputs["condition_mask"] = _mask(indicator, clean, dtype)
        else:
            times = time.flatten()
        inputs.update(self._told(batch, times, dtype))
        return Question(
            inputs,
            wanted=drawn - batch.wanted,
            indicator=indicator,
            estimate=lambda answer: (
                indicator * clean + (1 - indicator) * (noisy - time * answer.float())
            ),
        )

    @abstractmethod
    def _told(self, batch: Batch, times: Tensor, dtype: Any) -> dict[str, Any]:
        """Arguments that the family's pipelines give in their own way."""


@dataclass(frozen=True)
class Predict2Objective(FlowObjective):
    """Predict2: log-normal noise s with t = s / (1 + s), and a share of far noisier windows."""

    def levels(self, places_B: Tensor, latent_frames: int) -> Tensor:
        """See `Objective`; the last places are those of very high noise, where there is a video."""
        import torch

        share = HIGH_SIGMA_SHARE if latent_frames > 1 else 0.0
        inner = (places_B / (1 - share)).clamp(max=1.0)
        sigma_B = log_normal(inner, LOG_SIGMA_MEAN, LOG_SIGMA_STD) * math.sqrt(latent_frames)
        if share:
            low, high = (math.log(each) for each in HIGH_SIGMA)
            high_B = torch.exp(low + (high - low) * (places_B - (1 - share)) / share).float()
            sigma_B = torch.where(places_B >= 1 - share, high_B, sigma_B)
        return sigma_B / (sigma_B + 1)

    def _told(self, batch: Batch, times: Tensor, dtype: Any) -> dict[str, Any]:
        more = {"fps": batch.shape.rate_fps} if self.takes_frames else {}
        return {"timestep": times.to(dtype), **more}

    def encoded(self, world: Any, video_BCTHW: Tensor) -> Tensor:
        """See `Objective`; the mean, as the sampler `res` takes it."""
        from gpu_jobs.cosmos_generate.protocol import DenoiseOptions

        vae = world.parts["tokenizer"]
        height, width = video_BCTHW.shape[3:]
        shape = ClipShape(int(video_BCTHW.shape[2]), int(width), int(height), 1)
        options = DenoiseOptions(shape, 1, 0.0, "res")
        return world._encoded_video(
            video_BCTHW.to(vae.device, vae.dtype), options, [None] * len(video_BCTHW), ()
        )


@dataclass(frozen=True)
class Predict25Objective(FlowObjective):
    """Predict2.5: t = shift u / (1 + (shift - 1) u), where u is the logistic of a normal number."""

    def levels(self, places_B: Tensor, latent_frames: int) -> Tensor:
        """See `Objective`."""
        import torch

        even_B = torch.sigmoid(normal_at(places_B))
        return (SHIFT * even_B / (1 + (SHIFT - 1) * even_B)).float()

    def _told(self, batch: Batch, times: Tensor, dtype: Any) -> dict[str, Any]:
        return {"timestep": times}

    def encoded(self, world: Any, video_BCTHW: Tensor) -> Tensor:
        """See `Objective`."""
        import torch

        device = world.parts["tokenizer"].device
        each = [world._latent_of(video_CTHW[None], device) for video_CTHW in video_BCTHW]
        return torch.stack(each)


def objective_of(model: Model) -> Objective:
    """What a model learns.

    Raises:
        MalformedRecordError: If models of its family are not trained here.
    """
    takes_frames = bool({"image2world", "video2world"} & set(model.all_tasks))
    if model.family in ("cosmos1", "predict1"):
        return EdmObjective(takes_frames)
    if model.family == "predict2":
        time = SIGMA_CONDITIONING / (SIGMA_CONDITIONING + 1)
        return Predict2Objective(takes_frames, time, times_by_frame=takes_frames)
    if model.family == "predict2.5":
        return Predict25Objective(True, CONDITIONAL_TIMESTEP, times_by_frame=True)
    if model.family == "cosmos3":
        from gpu_jobs.posttrain.cosmos3 import cosmos3_objective

        return cosmos3_objective(model)
    raise MalformedRecordError(
        f"family of {model.name} for post-training",
        model.family,
        f"one of {TRAINED}",
        "Choose a model of these families; the control models are not trained here.",
    )


TRAINED = ("cosmos1", "predict1", "predict2", "predict2.5", "cosmos3")
"""Families that can be post-trained."""


def noise_of(batch: Batch, seeds: Sequence[int]) -> SeededNoise:
    """The noise of a batch; the same seed gives a window the same noise in any batch."""
    assert len(seeds) == len(batch.latent), "one seed a window"
    return SeededNoise(tuple(seeds))


def window_flops(model: Model, latent: Tensor, batch_size: int, *, text_tokens: int) -> PassFlops:
    """Operations of one forward pass over windows of a latent's size.

    Args:
        model: With the dimensions of the network that is trained.
        latent: One window, (C, T, H, W).
        batch_size: Windows.
        text_tokens: Tokens of a caption.
    """
    _, frames, height, width = latent.shape
    latents = replace(model, temporal_stride=1, spatial_stride=1)
    return pass_flops(
        latents, ClipShape(frames, width, height, 1), batch_size=batch_size, text_tokens=text_tokens
    )


def log_normal(places_B: Tensor, mean: float, std: float) -> Tensor:
    """Quantiles of a log-normal distribution, float32."""
    import torch

    return torch.exp(mean + std * normal_at(places_B)).float()


def dtype_of(transformer: Any) -> Any:
    """Precision of what enters the network: that of its first layer's weights."""
    return transformer.patch_embed.proj.weight.dtype


def normal_at(places_B: Tensor) -> Tensor:
    """Quantiles of the standard normal distribution, float64."""
    import torch

    return torch.special.ndtri(places_B.double().clamp(_EDGE, 1 - _EDGE))


def _c_in(sigma: Tensor) -> Tensor:
    """What a latent of a noise level is multiplied with on its way into an EDM network."""
    return (sigma.square() + SIGMA_DATA**2).rsqrt()


def _wide(each_B: Tensor, like: Tensor) -> Tensor:
    return each_B.to(like.device, like.dtype).view(-1, 1, 1, 1, 1)


def _mask(indicator: Tensor, like: Tensor, dtype: Any) -> Tensor:
    """The channel that marks given frames, (B, 1, T, H, W)."""
    batch_size, _, num_frames, height, width = like.shape
    return indicator.expand(batch_size, 1, num_frames, height, width).to(dtype)


def _common(batch: Batch, dtype: Any) -> dict[str, Any]:
    """What every family is told."""
    import torch

    size = (1, 1, batch.shape.height_px, batch.shape.width_px)
    device = batch.latent.device
    return {
        "encoder_hidden_states": batch.context.to(dtype),
        "padding_mask": torch.zeros(size, device=device, dtype=dtype),
        "return_dict": False,
    }
