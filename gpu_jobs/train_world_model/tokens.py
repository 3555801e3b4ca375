"""The text tokenizer of a model that is trained from nothing: the words of its captions, in T5's layout."""

import re
from collections.abc import Iterable
from typing import Any

from gpu_jobs.common.torch_ops import import_diffusers

_WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")
_SPACE = "\u2581"  # how T5's tokenizer writes the blank before a word
_WORD_SCORE, _LETTER_SCORE = -1.0, -10.0


def build_tokenizer(texts: Iterable[str], *, max_length: int) -> Any:
    """A `T5TokenizerFast` that knows every word of some texts and spells all others.

    Pad is 0, end of text 1 and unknown 2, as in T5; there are no sentinels. The same texts in any
    order give the same tokenizer.

    Args:
        texts: Captions, and the negative prompt if the model shall know it.
        max_length: Tokens of the longest input.
    """
    import_diffusers()
    from transformers import T5TokenizerFast

    words = sorted({word for text in texts for word in _WORD.findall(text)})
    letters = sorted(
        {letter for word in words for letter in word} | {chr(c) for c in range(33, 127)}
    )
    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    scores |= {_SPACE + word: _WORD_SCORE for word in words}
    scores |= {_SPACE: _LETTER_SCORE} | dict.fromkeys(letters, _LETTER_SCORE)
    return T5TokenizerFast(vocab=list(scores.items()), extra_ids=0, model_max_length=max_length)
