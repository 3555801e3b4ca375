"""Tiny prompt upsamplers with random weights, in the layouts of the real ones.

What they say is nonsense, but the same nonsense for the same prompt and picture.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.cosmos_generate.tiny.speakers import byte_tokenizer
from gpu_jobs.cosmos_generate.tiny.text import seeded
from worldloop.cosmos.upsampling import upsampler_kind

WIDTH, PATCH_PX = 32, 14
NUM_NEW_TOKENS = 12
_WORDS = (
    " tram", " street", " rain", " lamp", " crowd", " slowly", " turns", " light", " camera", " market",
    " crosses", " a", " the", " river", " bridge", " evening", " red", " quiet", " over", " waits",
)  # fmt: skip
_CONTEXT = 16_384
_LOUDER = 12.0
_PIXTRAL_TOKENS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
_QWEN_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def write_tiny_upsampler(name: str, folder: Path, *, seed: int = 0, original: bool = False) -> None:
    """Write the folder of an upsampler.

    Args:
        name: Key in `UPSAMPLERS`.
        folder: Where to; the folder itself, not the one of all models.
        seed: Of the random weights.
        original: Whether the Mistral upsampler is written as `model.pt` and `config.json`.

    Raises:
        UnknownKeyError: If there is no such upsampler.
    """
    folder.mkdir(parents=True, exist_ok=True)
    architecture = upsampler_kind(name).architecture
    if architecture == "mistral":
        _write_mistral(folder, seed, original)
    elif architecture == "pixtral":
        _write_pixtral(folder, seed)
    else:
        _write_qwen(folder, seed)


def _write_mistral(folder: Path, seed: int, original: bool) -> None:
    tokenizer = byte_tokenizer(_WORDS)
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        **_text_config(tokenizer),
        sliding_window=None,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    model = _random(seed, lambda: MistralForCausalLM(config), tokenizer)
    tokenizer.save_pretrained(folder)
    if not original:
        model.save_pretrained(folder)
        return
    weights = original_weights(model.state_dict(), head_dim=config.head_dim)
    torch.save(weights, folder / "model.pt")
    (folder / "config.json").write_text(
        f'{{"head_dim": {config.head_dim}, "max_seq_len": {_CONTEXT}}}', encoding="utf-8"
    )


def original_weights(state: dict[str, torch.Tensor], *, head_dim: int) -> dict[str, torch.Tensor]:
    """Weights of a transformers Mistral in the original layout, the inverse of `nemo_weights`."""
    names = (
        ("model.embed_tokens", "tok_embeddings"),
        ("model.norm", "norm"),
        ("lm_head", "output"),
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("model.layers", "layers"),
    )
    original = {}
    for key, value in state.items():
        if "q_proj" in key or "k_proj" in key:
            halves = value.reshape(-1, 2, head_dim // 2, value.shape[1])
            value = halves.transpose(1, 2).reshape(value.shape)
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        original[key] = value.clone()
    return original


def _write_pixtral(folder: Path, seed: int) -> None:
    tokenizer = byte_tokenizer(
        _WORDS, special=_PIXTRAL_TOKENS, chat_template=_chat_template("[IMG]")
    )
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        MistralConfig,
        PixtralImageProcessor,
        PixtralProcessor,
        PixtralVisionConfig,
    )

    config = LlavaConfig(
        text_config=MistralConfig(**_text_config(tokenizer)),
        vision_config=PixtralVisionConfig(
            **_tower_config(), head_dim=8, image_size=1024, patch_size=PATCH_PX
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    _random(seed, lambda: LlavaForConditionalGeneration(config), tokenizer).save_pretrained(folder)
    image_processor = PixtralImageProcessor(
        patch_size={"height": PATCH_PX, "width": PATCH_PX}, size={"longest_edge": 4 * PATCH_PX}
    )
    processor = PixtralProcessor(
        image_processor, tokenizer, patch_size=PATCH_PX, chat_template=tokenizer.chat_template
    )
    processor.save_pretrained(folder)


def _write_qwen(folder: Path, seed: int) -> None:
    template = _chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer = byte_tokenizer(_WORDS, special=_QWEN_TOKENS, chat_template=template)
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _QWEN_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            **_text_config(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 4,
            "out_hidden_size": WIDTH,
            "patch_size": PATCH_PX,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    build: Callable[[], Any] = lambda: Qwen2_5_VLForConditionalGeneration(config)  # noqa: E731
    _random(seed, build, tokenizer).save_pretrained(folder)
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=template
    )
    processor.save_pretrained(folder)


def _random(seed: int, build: Callable[[], Any], tokenizer: Any) -> Any:
    """A model that says a few words of the list, and which ones depends on what it reads."""
    model = seeded(seed, build).eval()
    said = [tokenizer.convert_tokens_to_ids(word) for word in _WORDS]
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" not in key:
                value.mul_(_LOUDER)  # else attention is flat and nothing depends on what is read
        head = model.get_output_embeddings().weight
        words = head[said].clone()
        head.zero_()
        head[said] = words
    model.generation_config.max_new_tokens = NUM_NEW_TOKENS
    return model


def _text_config(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": _CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }


def _tower_config() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }


def _chat_template(picture: str) -> str:
    return (
        "{% for message in messages %}<|{{ message['role'] }}|>"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + picture + ""
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
