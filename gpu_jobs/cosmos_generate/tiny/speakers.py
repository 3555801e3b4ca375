"""Tiny language models: tokenizers built from nothing, and networks that always say the same words.

A network whose layers add nothing is a table from one token to the next. That is enough for real
classes, real files and a known answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WIDTH = 16
_CONTEXT = 16_384


def byte_tokenizer(
    words: Sequence[str] = (), *, special: Sequence[str] = (), chat_template: str = CHAT_TEMPLATE
) -> Any:
    """A tokenizer of bytes, with some words that are one token each.

    Args:
        words: Tokens of more than a byte.
        special: Special tokens besides start, end and unknown.
        chat_template: Jinja template of conversations; empty for none.
    """
    import_diffusers()
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=EOS,
        additional_special_tokens=list(special),
    )
    if chat_template:
        fast.chat_template = chat_template
    return fast


def write_speaker(folder: Path, *, says: str, architecture: str, chat: bool = True) -> None:
    """Write a transformers folder with a network that answers everything alike.

    Args:
        folder: Where to.
        says: Its answer.
        architecture: `llama` or `qwen3`.
        chat: Whether its tokenizer has a chat template.
    """
    tokenizer = byte_tokenizer([says], chat_template=CHAT_TEMPLATE if chat else "")
    import transformers

    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }[architecture]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=WIDTH // 2,
        max_position_embeddings=_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    model = model_class(config).eval()
    _always_say(model, tokenizer.convert_tokens_to_ids(says), tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _always_say(model: Any, answer: int, end: int) -> None:
    """Make every token lead to `answer`, and that one to `end`."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        table, head = model.model.embed_tokens.weight, model.lm_head.weight
        table.zero_()
        table[:, 0] = 1.0
        table[answer, 0], table[answer, 1] = 0.0, 1.0
        head.zero_()
        head[answer, 0] = head[end, 1] = 1.0
