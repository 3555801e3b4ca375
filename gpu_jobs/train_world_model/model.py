"""The networks of a small Cosmos-1.0 model, and what they are trained to do."""

# B batch, C channels, T frames, H height, W width, L tokens, D width of a token

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gpu_jobs.common.torch_ops import import_diffusers

# Configuration of the published post-training of Predict1,
# cosmos_predict1/diffusion/training: EDMSDE(p_mean=0.0, p_std=1.0, sigma_max=80, sigma_min=0.0002),
# times the square root of the number of latent frames (adjust_video_noise).
P_MEAN, P_STD = 0.0, 1.0
SIGMA_MIN, SIGMA_MAX = 0.0002, 80.0
SIGMA_DATA = 0.5
# scripts/convert_cosmos_to_diffusers.py of diffusers, save_pipeline_cosmos_1_0
SCHEDULER: dict[str, Any] = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": SIGMA_DATA,
    "sigma_schedule": "karras",
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "sigma_min",
}
_DIFFERENCES_WEIGHT = 0.5
_TEXT_SHARPNESS = 2.0


def build_autoencoder(config: dict[str, Any]) -> Any:
    """A new `AutoencoderKLCosmos`, whose latents are not normalised yet."""
    diffusers = import_diffusers()
    return diffusers.AutoencoderKLCosmos(**{**config, "latents_mean": None, "latents_std": None})


def build_text_encoder(config: dict[str, Any], *, vocab_size: int) -> Any:
    """A new T5 encoder."""
    import_diffusers()
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**config, vocab_size=vocab_size, pad_token_id=0, eos_token_id=1))


def build_transformer(config: dict[str, Any]) -> Any:
    """A new `CosmosTransformer3DModel` that starts as the identity: nothing is predicted.

    Position embeddings must not be zero, since the network divides by their norm.
    """
    transformer = import_diffusers().CosmosTransformer3DModel(**config)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm2, block.norm3):
            nn.init.zeros_(norm.linear_2.weight)
        # most places of the context are empty, answer 0 and take the attention of a new network
        nn.init.constant_(block.attn2.norm_k.weight, _TEXT_SHARPNESS)
        with torch.no_grad():
            block.attn2.to_v.weight.mul_(_TEXT_SHARPNESS)
    nn.init.zeros_(transformer.norm_out.linear_2.weight)
    nn.init.zeros_(transformer.proj_out.weight)
    for linear in (
        transformer.time_embed.t_embedder.linear_1,
        transformer.time_embed.t_embedder.linear_2,
    ):
        nn.init.normal_(linear.weight, std=0.02)
    positions = transformer.learnable_pos_embed
    for table in (positions.pos_emb_t, positions.pos_emb_h, positions.pos_emb_w):
        nn.init.normal_(table, std=1 / math.sqrt(width))
    return transformer


def reconstruction_loss(
    autoencoder: nn.Module,
    video_BCTHW: torch.Tensor,
    *,
    posterior_std: float,
    kl_weight: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """How far the autoencoder is from giving back what it was given.

    Mean absolute difference of pixels and of their differences to neighbours in time and space, and
    the KL divergence of a posterior of fixed width from a standard normal.

    Args:
        autoencoder: `AutoencoderKLCosmos`.
        video_BCTHW: Between -1 and 1.
        posterior_std: Noise on the latents.
        kl_weight: Weight of the divergence, a mean over latent numbers.
        generator: Of the noise, on the CPU.
    """
    latent = autoencoder.encode(video_BCTHW).latent_dist.mode()
    noise = _normal(latent.shape, generator, latent.device)
    given = autoencoder.decode(latent + posterior_std * noise.to(latent.dtype)).sample.float()
    loss = (given - video_BCTHW).abs().mean()
    for axis in (2, 3, 4):
        if video_BCTHW.shape[axis] > 1:
            wrong = torch.diff(given, dim=axis) - torch.diff(video_BCTHW, dim=axis)
            loss = loss + _DIFFERENCES_WEIGHT * wrong.abs().mean()
    return loss + kl_weight * 0.5 * latent.float().square().mean()


@dataclass(frozen=True)
class NoiseLevels:
    """Log-normal noise levels, times the root of a clip's latent frames.

    Attributes:
        mean: Of the logarithm.
        std: Of the logarithm.
        lowest: Levels below are left out.
        highest: Levels above are left out.
    """

    mean: float = P_MEAN
    std: float = P_STD
    lowest: float = SIGMA_MIN
    highest: float = SIGMA_MAX

    def share(self, latent_frames: int, lowest: float, highest: float) -> float:
        """Share of all levels that lies between two."""
        low, high = (self._place(level, latent_frames) for level in (lowest, highest))
        return high - low

    def draw(
        self, num_clips: int, *, latent_frames: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Levels to learn on, float32 (B,) on the CPU."""
        low, high = (self._place(level, latent_frames) for level in (self.lowest, self.highest))
        even = torch.rand(num_clips, generator=generator, dtype=torch.float64)
        normal = torch.special.ndtri((low + (high - low) * even).clamp(1e-9, 1 - 1e-9))
        sigma = torch.exp(self.mean + self.std * normal) * math.sqrt(latent_frames)
        return sigma.clamp(self.lowest, self.highest).float()

    def _place(self, level: float, latent_frames: int) -> float:
        """Share of levels below one."""
        normal = (math.log(level) - 0.5 * math.log(latent_frames) - self.mean) / self.std
        return 0.5 * math.erfc(-normal / math.sqrt(2))


def denoising_loss(
    transformer: nn.Module,
    latent_BCTHW: torch.Tensor,
    context_BLD: torch.Tensor,
    *,
    frame_size: tuple[int, int],
    rate_fps: int,
    generator: torch.Generator,
    levels: NoiseLevels = NoiseLevels(),
    teacher: nn.Module | None = None,
) -> torch.Tensor:
    """The EDM loss (arXiv 2206.00364, table 1): squared error of the clean latent, evenly weighted.

    Args:
        transformer: `CosmosTransformer3DModel`.
        latent_BCTHW: Clean latents with standard deviation `SIGMA_DATA`.
        context_BLD: Encoded captions.
        frame_size: (height, width) of the frames in pixels.
        rate_fps: Frames per second.
        generator: Of noise levels and noise, on the CPU.
        levels: Noise levels to learn on.
        teacher: Another transformer whose answer is wanted in the place of the clean latent.
    """
    device = latent_BCTHW.device
    sigma_B = levels.draw(
        len(latent_BCTHW), latent_frames=latent_BCTHW.shape[2], generator=generator
    ).to(device)
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    noisy = latent_BCTHW + sigma * _normal(latent_BCTHW.shape, generator, device)
    total = (sigma.square() + SIGMA_DATA**2).sqrt()
    asked = {
        "hidden_states": noisy / total,
        "timestep": 0.25 * sigma_B.log(),
        "encoder_hidden_states": context_BLD,
        "fps": rate_fps,
        "padding_mask": latent_BCTHW.new_zeros(1, 1, *frame_size),
        "return_dict": False,
    }
    predicted = transformer(**asked)[0].float()
    if teacher is None:
        own = SIGMA_DATA**2 / total.square() * noisy
        wanted = (latent_BCTHW - own) * total / (sigma * SIGMA_DATA)
    else:
        with torch.no_grad():
            wanted = teacher(**asked)[0].float()
    return (predicted - wanted).square().mean()


def encode_captions(
    text_encoder: Any, ids_BL: torch.Tensor, mask_BL: torch.Tensor, *, length: int
) -> torch.Tensor:
    """Captions as the transformer attends to them: (B, length, D), zeros after each caption's end."""
    states_BLD = text_encoder(ids_BL, attention_mask=mask_BL).last_hidden_state
    states_BLD = states_BLD * mask_BL.unsqueeze(-1)
    padded: torch.Tensor = nn.functional.pad(states_BLD, (0, 0, 0, length - states_BLD.shape[1]))
    return padded


class Averages:
    """Exponential moving averages of weights; early on they forget faster.

    Args:
        modules: Whose weights are averaged.
        decay: Share of the old average that a step keeps.
    """

    def __init__(self, modules: dict[str, nn.Module], *, decay: float):
        self.modules, self.decay, self.num_steps = modules, decay, 0
        self.weights = {
            name: {key: value.detach().clone() for key, value in module.state_dict().items()}
            for name, module in modules.items()
        }
        # tensors stay where they are, so that listing them once is enough
        states = {name: module.state_dict() for name, module in modules.items()}
        self._followed = [value for state in states.values() for value in state.values()]
        self._averages = [self.weights[name][key] for name in states for key in states[name]]

    def update(self) -> None:
        """Take the weights after a step into account."""
        self.num_steps += 1
        decay = min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._followed, 1 - decay)

    def apply(self) -> None:
        """Give the modules their averaged weights."""
        for name, module in self.modules.items():
            module.load_state_dict(self.weights[name])

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"num_steps": self.num_steps, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.num_steps = state["num_steps"]
        for name, weights in self.weights.items():
            for key, value in weights.items():
                value.copy_(state["weights"][name][key])


def _normal(shape: Any, generator: torch.Generator, device: Any) -> torch.Tensor:
    """Standard normal numbers: on a GPU from a generator there, seeded by the one on the CPU."""
    if torch.device(device).type == "cpu":
        return torch.randn(shape, generator=generator)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
