"""What the generator reads of the text, worked out once for all steps.

Every layer of `Cosmos3OmniTransformer` has two towers. The reasoner's tokens (text) attend to text
before them; the generator's tokens (video, sound, actions) attend to all text and to each other.
No noise level reaches the text and it never sees the video, so its keys and values in a layer are
the same in every step. The first pass of a prompt keeps them; later passes leave the text out and
put what was kept in front of the generator's keys and values: the same numbers, bit for bit, without
the reasoner's matrix products.

A faster layer may take the place of a `Cosmos3VLTextMoTDecoderLayer`. It is called with
(und_LD, gen_LD, rotary) where `und_LD` has no rows in later passes, and finds its text by
`layer.self_attn.processor`: `reader.recall(layer)` gives (k_LGE, v_LGE), after norm and rotation.
"""

# L tokens, D width of a token, H heads, G heads of keys and values, E width of a head

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu_jobs.cosmos_generate.protocol import Module

KeysValues = tuple[torch.Tensor, torch.Tensor]
Rotary = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class ReadText:
    """Keys and values of one text in every layer.

    Attributes:
        layers: Of each layer, (L, G, E).
        num_layers: How many there will be.
    """

    num_layers: int
    layers: list[KeysValues] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether a pass has gone through all layers."""
        return len(self.layers) == self.num_layers


@dataclass
class TextReader:
    """Which text the transformer reads at present; shared by all of its layers.

    Attributes:
        text: What is kept or recalled; None leaves the transformer as diffusers has it.
    """

    text: ReadText | None = None

    @contextlib.contextmanager
    def reading(self, text: ReadText) -> Iterator[None]:
        """Keep or recall a text within a pass; a pass that fails leaves nothing behind."""
        if not text.complete:
            text.layers.clear()
        self.text = text
        try:
            yield
        finally:
            self.text = None

    def keep(self, layer: int, keys_LGE: torch.Tensor, values_LGE: torch.Tensor) -> None:
        """Note the text of a layer; layers come in order."""
        if self.text is not None and len(self.text.layers) == layer:
            self.text.layers.append((keys_LGE, values_LGE))

    def recall(self, layer: int) -> KeysValues:
        """Keys and values of the text in a layer."""
        assert self.text is not None, "a pass without text needs TextReader.reading"
        return self.text.layers[layer]


class RememberingAttention:
    """Attention processor of a layer that keeps the text's keys and values, and recalls them.

    With text in the pass it computes what `Cosmos3AttnProcessor` of diffusers 0.42.1 does.

    Attributes:
        layer: Index of the layer.
        reader: Shared by all layers.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, reader: TextReader):
        self.layer, self.reader = layer, reader

    def __call__(
        self, attn: Any, und_seq: torch.Tensor, gen_seq: torch.Tensor, rotary_emb: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of the two towers for their tokens, (L, D) each."""
        cos_und, sin_und, cos_gen, sin_gen = rotary_emb
        und_LD = und_seq
        if und_seq.shape[0]:
            und_LD, text_k, text_v = self._read(attn, und_seq, cos_und, sin_und)
            self.reader.keep(self.layer, text_k, text_v)
        else:
            text_k, text_v = self.reader.recall(self.layer)
        q_LHE = rotated(attn.norm_added_q(_heads(attn.add_q_proj, gen_seq, attn)), cos_gen, sin_gen)
        k_LGE = rotated(attn.norm_added_k(_heads(attn.add_k_proj, gen_seq, attn)), cos_gen, sin_gen)
        v_LGE = _heads(attn.add_v_proj, gen_seq, attn)
        seen = self._attend(
            q_LHE, torch.cat([text_k, k_LGE]), torch.cat([text_v, v_LGE]), causal=False
        )
        return und_LD, attn.to_add_out(seen)

    def _read(
        self, attn: Any, und_LD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The reasoner's output, and keys and values of the text as the generator sees them."""
        normed_LGE = attn.norm_k(_heads(attn.to_k, und_LD, attn))
        q_LHE = rotated(attn.norm_q(_heads(attn.to_q, und_LD, attn)), cos, sin)
        k_LGE, v_LGE = rotated(normed_LGE, cos, sin), _heads(attn.to_v, und_LD, attn)
        out_LD = attn.to_out(self._attend(q_LHE, k_LGE, v_LGE, causal=True))
        if attn.k_norm_und_for_gen is None:
            return out_LD, k_LGE, v_LGE
        return out_LD, rotated(attn.k_norm_und_for_gen(normed_LGE), cos, sin), v_LGE

    def _attend(
        self, q_LHE: torch.Tensor, k_LGE: torch.Tensor, v_LGE: torch.Tensor, *, causal: bool
    ) -> torch.Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        out_BLHE = dispatch_attention_fn(
            q_LHE[None],
            k_LGE[None],
            v_LGE[None],
            is_causal=causal,
            enable_gqa=True,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return out_BLHE[0].flatten(-2)


def rotated(x_LHE: torch.Tensor, cos_LE: torch.Tensor, sin_LE: torch.Tensor) -> torch.Tensor:
    """Rotary positions, in the precision of the tokens; the two halves of a head turn together."""
    first, second = x_LHE.chunk(2, dim=-1)
    return x_LHE * cos_LE[:, None] + torch.cat((-second, first), dim=-1) * sin_LE[:, None]


def install_reader(transformer: Module) -> TextReader:
    """Give every layer of a transformer a processor that remembers its text.

    Args:
        transformer: A `Cosmos3OmniTransformer`; changed.

    Returns:
        What the passes of a clip are read with.
    """
    reader = TextReader()
    for index, layer in enumerate(transformer.layers):
        layer.self_attn.processor = RememberingAttention(index, reader)
    return reader


def _heads(projection: Module, tokens_LD: torch.Tensor, attn: Any) -> torch.Tensor:
    heads_LHE: torch.Tensor = projection(tokens_LD).unflatten(-1, (-1, attn.head_dim))
    return heads_LHE
