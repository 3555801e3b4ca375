"""A tiny Cosmos 3: random weights in the published layout, block types and scheduler settings.

The settings are those of `backends.cosmos3_layout`, with fewer and narrower layers, so that every
mode runs on a CPU in seconds: worlds, sound, all action modes, transfer. The text tokenizer is of
the published class; its vocabulary is spelled out here, words of structured prompts whole.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.cosmos3_layout import (
    FOUR_SIGMAS,
    FOUR_STEPS,
    TRANSFORMERS,
    UNIPC,
    VAE,
)
from gpu_jobs.cosmos_generate.tiny.predict25 import livened

VOCABULARY = 2048
TRANSFORMER: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rope_axes_dim": [4, 2, 2],
    "vocab_size": VOCABULARY,
    "action_gen": True,
    "action_dim": 64,
    "sound_gen": True,
    "sound_dim": 8,
}
SOUND: dict[str, Any] = {
    "sampling_rate": 1000,
    "vocoder_input_dim": 8,
    "dec_dim": 8,
    "dec_c_mults": (1, 2),
    "dec_strides": (5, 8),
    "encoder_enabled": False,
}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = (
    "action actions aesthetics age along an and angle appearance_details are artificial artistic_style "
    "aspect_ratio at background_setting camera camera_angle camera_motion category clothing color_scheme "
    "composition conditions context continuous day depth_of_field description direction duration eye "
    "expression facial_features fingers focus forward fps framing from gender illumination_effect in "
    "inside into is it key_changes lens_focal_length level light lighting location mood_atmosphere motion "
    "none number_of_arms number_of_fingers number_of_hands number_of_legs number_of_subjects of on one "
    "orientation patterns people pose relationship relative_size resolution scene seconds segments shadows "
    "shot sign skin_tone_and_texture slow spatial state_changes steady street style_medium subjects "
    "temporal_caption text_and_signage_elements the time time_range to transitions video walk walking with"
)


def write_tiny(folder: Path, *, seed: int = 0) -> None:
    """Write a diffusers folder of a tiny model, the same for the same seed.

    Args:
        folder: Where to; made if it is not there.
        seed: Of all weights.
    """
    _write(folder, seed, TRANSFORMER)


def write_tiny_edge(folder: Path, *, seed: int = 0) -> None:
    """Write a tiny model of the blocks, prompts and schedule of Edge, which has no sound.

    Args:
        folder: Where to; made if it is not there.
        seed: Of all weights.
    """
    kinds = (
        "hidden_act",
        "qk_norm_for_text",
        "use_und_k_norm_for_gen",
        "rms_norm_eps",
        "rope_theta",
    )
    settings = {name: TRANSFORMERS["Edge"][name] for name in kinds}
    _write(
        folder,
        seed,
        {**TRANSFORMER, **settings, "sound_gen": False, "sound_dim": None},
        default_use_system_prompt=False,
        use_native_flow_schedule=True,
    )


def write_tiny_four_steps(folder: Path, *, seed: int = 0) -> None:
    """Write a tiny model as those that are distilled to four steps.

    Args:
        folder: Where to; made if it is not there.
        seed: Of all weights.
    """
    diffusers = import_diffusers()
    settings = {name: value for name, value in FOUR_STEPS.items() if name != "_class_name"}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    _write(folder, seed, TRANSFORMER, scheduler=scheduler)
    index = {
        "_class_name": "Cosmos3DistilledModularPipeline",
        "is_distilled": True,
        "distilled_sigmas": list(FOUR_SIGMAS),
    }
    (folder / "modular_model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def tiny_tokenizer() -> Any:
    """A byte-level tokenizer of Qwen's class in which common words are one token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    names, merges = sorted(ByteLevel.alphabet()), []
    for word in _WORDS.split():
        for spelling in (word, f"Ġ{word}"):
            for end in range(1, len(spelling)):
                if spelling[: end + 1] not in names:
                    names.append(spelling[: end + 1])
                    merges.append((spelling[:end], spelling[end]))
    names += SPECIAL_TOKENS
    tokenizer = Qwen2Tokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=merges,
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_vae() -> Any:
    """An autoencoder of the published kind, strides and channels, from the current seed."""
    diffusers = import_diffusers()
    channels = VAE["z_dim"]
    settings = {
        name: list(value) if isinstance(value, tuple) else value for name, value in VAE.items()
    }
    return diffusers.AutoencoderKLWan(
        **{
            **settings,
            "base_dim": 4,
            "decoder_base_dim": 4,
            "dim_mult": [1, 1, 2, 2],
            "num_res_blocks": 1,
            "latents_mean": (0.2 * torch.randn(channels)).tolist(),
            "latents_std": (0.5 + torch.rand(channels)).tolist(),
        }
    )


def tiny_sound_tokenizer() -> Any:
    """A decoder of stereo sound of the published kind, at 1000 samples a second."""
    diffusers = import_diffusers()
    with warnings.catch_warnings():
        # diffusers 0.42.1 builds it with a function that torch calls deprecated
        warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)
        return diffusers.Cosmos3AVAEAudioTokenizer(**SOUND)


def _write(
    folder: Path, seed: int, transformer: dict[str, Any], *, scheduler: Any = None, **flags: bool
) -> None:
    diffusers = import_diffusers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = diffusers.Cosmos3OmniPipeline(
            transformer=livened(diffusers.Cosmos3OmniTransformer(**transformer)),
            text_tokenizer=tiny_tokenizer(),
            vae=tiny_vae(),
            scheduler=scheduler or diffusers.UniPCMultistepScheduler(**UNIPC),
            sound_tokenizer=tiny_sound_tokenizer() if transformer["sound_gen"] else None,
            enable_safety_checker=False,
            **flags,
        )
    pipeline.save_pretrained(folder)
