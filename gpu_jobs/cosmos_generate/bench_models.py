"""Models for the benchmark: the real architectures with random weights, and random inputs."""

# B batch, C channels, T frames, H height, W width

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Embedding, Media
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.flops import token_grid
from worldloop.cosmos.models import Model, model
from worldloop.cosmos.requests import ClipRequest

TEXT_WIDTH = 1024  # of T5-11B
TEXT_TOKENS = 512
STD = 0.02  # of random weights


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        key: As it is called on the command line.
        model: Name in `MODELS`.
        shape: Of a clip.
        num_steps: Denoising steps.
        batch_size: Clips denoised together.
    """

    key: str
    model: str
    shape: ClipShape
    num_steps: int = 35
    batch_size: int = 1

    @property
    def record(self) -> Model:
        """The model."""
        return model(self.model)


CASES = {
    case.key: case
    for case in (
        Case("cosmos1-7b", "Cosmos-1.0-Diffusion-7B-Text2World", ClipShape(121, 1280, 704, 24)),
        Case("cosmos1-14b", "Cosmos-1.0-Diffusion-14B-Text2World", ClipShape(121, 1280, 704, 24)),
        Case("v2w-7b", "Cosmos-1.0-Diffusion-7B-Video2World", ClipShape(121, 1280, 704, 24)),
        Case("v2w-14b", "Cosmos-1.0-Diffusion-14B-Video2World", ClipShape(121, 1280, 704, 24)),
        Case("predict2-2b", "Cosmos-Predict2-2B-Video2World", ClipShape(93, 1280, 704, 16)),
        Case("standard", "Cosmos-Predict2-2B-Video2World", ClipShape(93, 768, 432, 16)),
        Case("draft", "Cosmos-Predict2-2B-Video2World", ClipShape(61, 320, 192, 16), 35, 8),
        Case("cosmos3-nano", "Cosmos3-Nano", ClipShape(189, 1280, 720, 24)),
    )
}


@contextlib.contextmanager
def made_on(device: Any, dtype: Any) -> Iterator[None]:
    """Modules are made on a device in a precision, without their slow initialisation."""
    import torch

    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def random_weights(module: Any) -> Any:
    """Fill a module's matrices with noise; norms stay as they are."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, STD)
    return module.eval().requires_grad_(False)


def transformer_of(record: Model, device: Any, *, layers: int = 0) -> Any:
    """A model's transformer with random weights.

    Args:
        record: Its dimensions.
        device: Where it is made.
        layers: Fewer layers than it has; 0 is all of them.
    """
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers

    diffusers = import_diffusers()
    layers = layers or record.num_layers
    with made_on(device, torch.bfloat16):
        if record.family == "cosmos3":
            made = diffusers.Cosmos3OmniTransformer(
                hidden_size=record.token_width,
                head_dim=record.head_dim,
                intermediate_size=record.mlp_width,
                num_attention_heads=record.num_heads,
                num_key_value_heads=record.num_kv_heads,
                num_hidden_layers=layers,
            )
        else:
            made = diffusers.CosmosTransformer3DModel(
                in_channels=16 + ("video2world" in record.all_tasks),
                num_attention_heads=record.num_heads,
                attention_head_dim=record.head_dim,
                num_layers=layers,
                text_embed_dim=TEXT_WIDTH,
                **_positions(record),
            )
    made = random_weights(made)
    for name in made._keep_in_fp32_modules:
        kept = getattr(made, name, None)
        if kept is not None:
            kept.float()
    return made


def _positions(record: Model) -> dict[str, Any]:
    """How positions are embedded, as scripts/convert_cosmos_to_diffusers.py of diffusers has it."""
    if record.family in ("cosmos1", "predict1"):
        scale = (2.0, 2.0, 2.0) if record.size == "14B" else (2.0, 1.0, 1.0)
        return {"rope_scale": scale, "extra_pos_embed_type": "learnable"}
    scale = (20 / 24, 2.0, 2.0) if record.size == "14B" else (1.0, 3.0, 3.0)
    return {"rope_scale": scale, "extra_pos_embed_type": None}


def vae_of(record: Model, device: Any) -> Any:
    """A model's video autoencoder with random weights."""
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers

    diffusers = import_diffusers()
    if record.family in ("cosmos1", "predict1"):
        made = diffusers.AutoencoderKLCosmos()
    elif record.family == "cosmos3":
        made = diffusers.AutoencoderKLWan(**WAN22)
    else:
        made = diffusers.AutoencoderKLWan()
    return made.to(device, torch.bfloat16).eval().requires_grad_(False)


# The autoencoder of Wan 2.2 TI2V 5B, scripts/convert_wan_to_diffusers.py of diffusers 0.42.1
WAN22: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}


# config.json of each: d_model, layers and so on of google-t5/t5-11b, Mistral-NeMo-12B-Instruct and
# the Llama-Guard of 8 B that Cosmos 1.0's guardrail reads prompts with.
T5_11B = {"d_model": 1024, "d_ff": 65536, "d_kv": 128, "num_heads": 128, "num_layers": 24}
MISTRAL_NEMO = {
    "hidden_size": 5120,
    "intermediate_size": 14336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
}
LLAMA_GUARD = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def companions() -> dict[str, Any]:
    """Parts beside transformer and autoencoder, in host memory, in their sizes and without weights."""
    import torch
    import transformers

    from gpu_jobs.common.torch_ops import import_diffusers

    import_diffusers()
    with made_on("meta", torch.bfloat16):
        made = {
            "prompt_upsampler": transformers.MistralForCausalLM(
                transformers.MistralConfig(**MISTRAL_NEMO)
            ),
            "guardrail": transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA_GUARD)),
            "text_encoder": transformers.T5EncoderModel(transformers.T5Config(**T5_11B)),
        }
    return {name: part.to_empty(device="cpu").eval() for name, part in made.items()}


def forward_of(transformer: Any, case: Case, device: Any) -> Callable[[], Any]:
    """One pass of a transformer over random inputs of a case."""
    if case.record.family == "cosmos3":
        inputs = cosmos3_inputs(case, device)
    else:
        inputs = cosmos_inputs(case, device)
    return lambda: transformer(**inputs)


def cosmos_inputs(case: Case, device: Any) -> dict[str, Any]:
    """Arguments of `CosmosTransformer3DModel.forward`."""
    import torch

    size, shape = case.record.latent_size(case.shape), case.shape
    bf16 = {"device": device, "dtype": torch.bfloat16}
    batch = case.batch_size
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(batch, 16, *size, **bf16),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, TEXT_WIDTH, **bf16),
        "padding_mask": torch.zeros(1, 1, shape.height_px, shape.width_px, **bf16),
        "timestep": torch.full((batch,), 0.5, **bf16),
        "fps": shape.rate_fps,
        "return_dict": False,
    }
    if "video2world" in case.record.all_tasks:
        inputs["condition_mask"] = torch.zeros(batch, 1, *size, **bf16)
        inputs["timestep"] = torch.rand(batch, 1, size[0], 1, 1, **bf16)
    return inputs


def cosmos3_inputs(case: Case, device: Any, *, text_tokens: int = 300) -> dict[str, Any]:
    """Arguments of `Cosmos3OmniTransformer.forward` for text to video."""
    import torch

    grid = token_grid(case.record, case.shape)
    count = grid[0] * grid[1] * grid[2]
    text = torch.arange(text_tokens, device=device)
    places = torch.arange(text_tokens, text_tokens + count, device=device)
    axes = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    video = torch.stack([axis.flatten() for axis in axes]) + text_tokens
    size = case.record.latent_size(case.shape)
    return {
        "input_ids": torch.randint(0, 1000, (text_tokens,), device=device),
        "text_indexes": text,
        "position_ids": torch.cat([text.expand(3, -1), video], 1),
        "und_len": text_tokens,
        "sequence_length": text_tokens + count,
        "vision_tokens": [torch.randn(1, 48, *size, device=device, dtype=torch.bfloat16)],
        "vision_token_shapes": [grid],
        "vision_sequence_indexes": places,
        "vision_mse_loss_indexes": places,
        "vision_timesteps": torch.full((count,), 500.0, device=device),
        "vision_noisy_frame_indexes": [torch.arange(grid[0], device=device)],
        "return_dict": False,
    }


def world_of(case: Case, device: Any) -> Any:
    """A world model of a case with random weights: the backend that the job uses.

    Of Cosmos 3 only the loop is the benchmark's own, because its backend wants a text tokenizer.
    """
    import torch

    parts = {
        "transformer": transformer_of(case.record, device),
        "tokenizer": vae_of(case.record, device),
    }
    if case.record.family == "cosmos3":
        return Cosmos3World(case, parts)
    from gpu_jobs.cosmos_generate.backends.cosmos1 import Cosmos1WorldModel
    from gpu_jobs.cosmos_generate.backends.predict2 import Predict2WorldModel

    kind: Any = Predict2WorldModel if case.record.family == "predict2" else Cosmos1WorldModel
    return kind(
        model=case.record,
        checkpoint_dir=Path(),
        parts=parts,
        text_tokenizer=None,
        scheduler_config={},
        dtype=torch.bfloat16,
    )


def begin(world: Any, case: Case, options: DenoiseOptions, device: Any) -> Any:
    """Start a batch with random prompts and, where the model wants one, a random first frame."""
    import torch

    shape, many = case.shape, range(case.batch_size)
    text = torch.randn(2, TEXT_TOKENS, TEXT_WIDTH, dtype=torch.bfloat16)
    frame = np.random.default_rng(0).integers(
        0, 256, (1, shape.height_px, shape.width_px, 3), np.uint8
    )
    media = Media(frame if "video2world" in case.record.all_tasks else None)
    return world.begin(
        [ClipRequest(f"bench-{number}", seed=number) for number in many],
        [Embedding(text[0], text[1]) for _ in many],
        options,
        device=device,
        media=[media for _ in many],
    )


@dataclass
class Cosmos3World:
    """The loop of Cosmos 3 over random inputs: text read in the first pass of a branch, then recalled.

    Attributes:
        case: What is generated.
        parts: `transformer` and `tokenizer`.
    """

    case: Case
    parts: dict[str, Any]

    def __post_init__(self) -> None:
        from gpu_jobs.cosmos_generate.backends.cosmos3_text import install_reader

        self.reader = install_reader(self.parts["transformer"])

    def begin(
        self, requests: Any, embeddings: Any, options: DenoiseOptions, *, device: Any, media: Any
    ) -> "Cosmos3Loop":
        """Start a clip; texts and frames are random."""
        return Cosmos3Loop(self, options, device)

    def decode(self, latents: Any, request: Any, options: Any) -> Decoded:
        """Frames of a clip."""
        import torch

        from gpu_jobs.cosmos_generate.backends.pipeline import to_frames

        with torch.no_grad():
            video = self.parts["tokenizer"].decode(latents[None], return_dict=False)[0]
        return Decoded(to_frames(video[0]))


class Cosmos3Loop:
    """Guided Euler steps along a straight flow."""

    def __init__(self, world: Cosmos3World, options: DenoiseOptions, device: Any):
        """Draw the noise and lay out both texts."""
        from gpu_jobs.cosmos_generate.backends.cosmos3_packing import _without_text
        from gpu_jobs.cosmos_generate.backends.cosmos3_text import ReadText

        self.num_steps, self._world, self._options = options.num_steps, world, options
        transformer = world.parts["transformer"]
        lengths = {"cond": 300, "uncond": 200}
        self._full = {
            name: cosmos3_inputs(world.case, device, text_tokens=length)
            for name, length in lengths.items()
        }
        self._recalled = {name: _without_text(inputs) for name, inputs in self._full.items()}
        self._texts = {name: ReadText(len(transformer.layers)) for name in lengths}
        self._latent = self._full["cond"]["vision_tokens"][0].float()

    def step(self, index: int) -> None:
        """One step."""
        import torch

        policy = self._options.policy
        policy.start_step(index, self.num_steps)
        with torch.no_grad():
            flow = policy.run("cond", lambda: self._pass("cond")).float()
            if policy.guided():
                uncond = policy.run("uncond", lambda: self._pass("uncond")).float()
                flow = uncond + self._options.guidance * (flow - uncond)
            self._latent = self._latent - flow / self.num_steps

    def latents(self) -> Any:
        """The clip."""
        import torch

        return self._latent.to(torch.bfloat16)

    def _pass(self, branch: str) -> Any:
        import torch

        text, world = self._texts[branch], self._world
        inputs = self._recalled[branch] if text.complete else self._full[branch]
        seen = {**inputs, "vision_tokens": [self._latent.to(torch.bfloat16)]}
        with world.reader.reading(text):
            return world.parts["transformer"](**seen)[0][0]
