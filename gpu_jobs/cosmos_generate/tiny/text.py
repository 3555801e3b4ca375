"""A tiny T5 encoder and a tokenizer for it that is built here, from nothing but this file.

The tokenizer is a Unigram model as T5's is. Its vocabulary is the words that scene prompts use most
and all pairs of letters, so that a prompt of 150 words stays under 512 tokens. Letters outside
ASCII are unknown to it.
"""

import itertools
import string
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers

WIDTH = 32
"""Width of an encoded token: `text_embed_dim` of the tiny transformers."""

_WORDS = """
    a an and are as at by camera city day for from frames in into is it its light low motion night
    no of on or over people poor quality scene series shot slow street that the their through to
    under video visual walks wet while with
"""
_SPACE = "▁"
_SPECIAL = ("<pad>", "</s>", "<unk>")


def write_tiny_t5(folder: Path, *, seed: int = 0) -> None:
    """Write `tokenizer/` and `text_encoder/` of a diffusers folder.

    Args:
        folder: Folder of the model.
        seed: Of the random weights.
    """
    import_diffusers()
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    tokenizer = T5TokenizerFast(vocab=vocabulary(), extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="relu",
        use_cache=False,
    )
    seeded(seed, lambda: T5EncoderModel(config)).save_pretrained(folder / "text_encoder")


def vocabulary() -> list[tuple[str, float]]:
    """Pieces and their scores; fewer pieces always score more than many.

    Example:
        >>> [piece for piece, _ in vocabulary()[:3]]
        ['<pad>', '</s>', '<unk>']
    """
    letters = [*string.ascii_lowercase, *string.ascii_uppercase]
    pairs = ["".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=2)]
    starts = ["".join(pair) for pair in itertools.product(letters, string.ascii_lowercase)]
    marks = [*string.digits, *string.punctuation]
    pieces = [
        *(_SPACE + word for word in _WORDS.split()),
        *(_SPACE + start for start in starts),
        *pairs,
        *(_SPACE + letter for letter in letters),
        *letters,
        *marks,
        _SPACE,
    ]
    scores = dict.fromkeys(pieces, -1.0)  # a word of two letters is also a start: one entry
    return [(piece, 0.0) for piece in _SPECIAL] + list(scores.items())


def seeded(seed: int, build: Any) -> Any:
    """What `build` makes with torch's own random numbers started at `seed`; they go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
