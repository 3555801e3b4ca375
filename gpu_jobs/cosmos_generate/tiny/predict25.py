"""A tiny Predict2.5: random weights in the published layout, block types and scheduler settings.

The settings are those of scripts/convert_cosmos_to_diffusers.py of diffusers (commit 0a88230), with
fewer and narrower layers; the text encoder is a real Qwen2.5-VL, also small, with a byte-level
tokenizer that needs no download.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.tiny.transformer import NARROW
from worldloop.cosmos.families import FAMILIES

HIDDEN_TEXT, TEXT_LAYERS = 16, 2
TRANSFORMER: dict[str, Any] = {
    **NARROW,
    "in_channels": 17,
    "text_embed_dim": 16,
    "rope_scale": (1.0, 3.0, 3.0),
    "extra_pos_embed_type": None,
    "use_crossattn_projection": True,
    "crossattn_proj_in_channels": HIDDEN_TEXT * TEXT_LAYERS,
    "encoder_hidden_states_channels": 16,
}
SCHEDULER: dict[str, Any] = {
    "use_karras_sigmas": True,
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "sigma_max": 200.0,
    "sigma_min": 0.01,
}
VOCABULARY = 1024  # at most: 256 bytes and what was merged
ENGLISH = (
    "A person walks along a quiet street past shops, signs and parked cars while the camera moves "
    "slowly forward. Sunlight falls through the windows of the hall onto the floor, where visitors "
    "stand in front of the paintings. People wait in a line at the counter of the station. It is a "
    "clear morning in spring, and the trees beside the road are green. The robot in the kitchen "
    "takes a cup from the table and turns to the left. In the afternoon a keeper in an olive uniform "
    "and a cap stands beside a bench. Few people are about, and the air is dry. Two visitors wearing "
    "coats talk to each other before a painting. The boards say “Exit” and “Museum”. Everything is "
    "seen from the height of the eyes in a slow walk. Several chairs, tables, shelves and lamps "
    "belong to the room, with clouds, rain, fog and snow outside. The view shows bright walls, stone "
    "buildings, grey weather and shadows during summer, autumn and winter, on a Monday evening at "
    "half past six."
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
)


def write_tiny(folder: Path, *, seed: int = 0) -> None:
    """Write a diffusers folder of a tiny model, the same for the same seed.

    Args:
        folder: Where to; made if it is not there.
        seed: Of all weights.
    """
    diffusers = import_diffusers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = diffusers.Cosmos2_5_PredictBasePipeline(**pipeline_parts(TRANSFORMER))
    pipeline.save_pretrained(folder)


def pipeline_parts(transformer: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipelines of this line are made of, from the current seed.

    Args:
        transformer: Configuration of the transformer.
    """
    diffusers = import_diffusers()
    return {
        "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(),
        "transformer": livened(diffusers.CosmosTransformer3DModel(**transformer)),
        "vae": tiny_vae(),
        "scheduler": diffusers.UniPCMultistepScheduler(**SCHEDULER),
        "safety_checker": PassAll(),
    }


class PassAll(torch.nn.Module):  # type: ignore[misc]
    """Stands where a pipeline wants a guard; the job's own guards look before and after it."""

    device, dtype = torch.device("cpu"), torch.float32  # pipelines ask every part for both

    def check_text_safety(self, prompt: str) -> bool:
        """Every prompt."""
        return True

    def check_video_safety(self, frames: Any) -> Any:
        """Every clip, as it is."""
        return frames


def tiny_vae() -> Any:
    """A Wan autoencoder of the published strides and latent statistics, from the current seed."""
    diffusers = import_diffusers()
    return diffusers.AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def tiny_tokenizer() -> Any:
    """Qwen's byte-level tokenizer with a few hundred merges, and a chat template of the published shape."""
    from transformers import Qwen2Tokenizer

    vocab, merges = _byte_pairs()
    tokenizer = Qwen2Tokenizer(
        vocab={**vocab, **{name: len(vocab) + i for i, name in enumerate(SPECIAL_TOKENS)}},
        merges=merges,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_text_encoder() -> Any:
    """A Qwen2.5-VL of two layers, from the current seed."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vocab_size = len(_byte_pairs()[0]) + len(SPECIAL_TOKENS)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": HIDDEN_TEXT,
            "intermediate_size": 32,
            "num_hidden_layers": TEXT_LAYERS,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [1, 1, 2],
                "rope_theta": 1e6,
            },
            "pad_token_id": vocab_size - 3,
            "bos_token_id": vocab_size - 3,
            "eos_token_id": vocab_size - 1,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": HIDDEN_TEXT,
        },
        image_token_id=vocab_size - 3,
        video_token_id=vocab_size - 3,
        vision_start_token_id=vocab_size - 3,
        vision_end_token_id=vocab_size - 3,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def livened(module: Any) -> Any:
    """A module whose zero-initialised weights are random, so that every path shows in the output."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.05)
    return module


@functools.cache
def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges, learned from a little English, so that prompts of usual length fit."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from gpu_jobs.cosmos_generate.backends.reason1 import SYSTEM_PROMPT

    negative = FAMILIES["predict2.5"].negative_prompt
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator([negative, SYSTEM_PROMPT, ENGLISH], trainer)
    learned = json.loads(learner.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]
