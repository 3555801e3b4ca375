"""What Predict2.5 and Transfer2.5 share: prompts read by Qwen2.5-VL (Reason1), and UniPC.

Prompts are the states of all layers of the encoder, each made zero-mean and unit-variance, side by
side. How conditioning frames and controls enter is in `predict25` and `transfer25`.
"""

# B batch, C channels, T frames, H height, W width, L tokens, D width of a token

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.autoencoders import WAN_FILE, load_wan_autoencoder
from gpu_jobs.cosmos_generate.backends.pipeline import Layout, PromptedWorldModel
from gpu_jobs.cosmos_generate.protocol import Module
from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError, UnknownKeyError

SAMPLER = "unipc"

# pipeline_cosmos2_5_predict.py of diffusers 0.42.1: _get_prompt_embeds
SYSTEM_PROMPT = "You are a helpful assistant who will provide prompts to an image generator."

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


class ReasonWorldModel(PromptedWorldModel):
    """A loaded checkpoint whose prompts are read by Qwen2.5-VL; the base of Predict2.5 and Transfer2.5."""

    @classmethod
    def load_autoencoder(cls, layout: Layout, dtype: torch.dtype) -> Module:
        """The video autoencoder, which the makers' layout of this line keeps beside the weights."""
        beside = (layout.folder / WAN_FILE).is_file()
        return load_wan_autoencoder(layout.folder if beside else layout.autoencoder(), dtype)

    @classmethod
    def load_text_encoder(cls, folder: Path, dtype: torch.dtype) -> Module:
        """Qwen2.5-VL."""
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)

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
