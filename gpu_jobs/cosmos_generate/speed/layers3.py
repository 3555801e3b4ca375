"""Layers of `Cosmos3OmniTransformer`, written to be fast.

The arithmetic is that of diffusers 0.42.1, `Cosmos3VLTextMoTDecoderLayer`, with the layer's own
weights. Only the generator tower is compiled, in tile order where attention is sparse. What it reads
of the text is kept and recalled as `backends.cosmos3_text` has it.
"""

# L tokens of the video, P places of text, H heads, E width of a head, D width of a token

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gpu_jobs.cosmos_generate.backends.cosmos3_text import RememberingAttention
from gpu_jobs.cosmos_generate.speed.attention import Attending, self_attention
from gpu_jobs.cosmos_generate.speed.blocks import Compile, Stack, wrapped
from gpu_jobs.cosmos_generate.speed.fp8 import FP8Linear
from gpu_jobs.cosmos_generate.speed.fused import gated_rows, rotated_heads
from gpu_jobs.cosmos_generate.speed.parallel import Ranks

TEXT_PLACES = 512  # texts are filled up to a multiple of this, so that few lengths are compiled

Rope = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
TextKV = tuple[torch.Tensor, torch.Tensor]


class FastLayer(nn.Module):
    """A layer of the transformer that takes its place and its weights.

    Attributes:
        layer: The layer of diffusers.
    """

    def __init__(
        self, layer: nn.Module, stack: Stack, *, first: bool, last: bool, compiled: Compile
    ):
        """Wrap a layer.

        Args:
            layer: A `Cosmos3VLTextMoTDecoderLayer`.
            stack: Shared by all layers.
            first: Whether it is the first layer, which puts tokens in order.
            last: Whether it is the last layer, which puts them back.
            compiled: Compiles a function; the identity where nothing is compiled.
        """
        super().__init__()
        self.layer = layer
        self._stack, self._first, self._last = stack, first, last
        self._compute = compiled(compute)

    def forward(
        self, und_seq: torch.Tensor, gen_seq: torch.Tensor, rotary_emb: Rope
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the layer of diffusers; a pass without text recalls it from the one before."""
        stack = self._stack
        cos_und, sin_und, cos_gen, sin_gen = rotary_emb
        if self._first:
            stack.see(stack.grid, gen_seq.shape[0], gen_seq.device)
            stack.rope = (stack.ordered(cos_gen, 0), stack.ordered(sin_gen, 0))
            gen_seq = stack.ordered(gen_seq, 0)
        memory = getattr(self.layer.self_attn, "processor", None)
        if und_seq.shape[0]:
            und_seq, (key, value) = read(self.layer, und_seq, cos_und, sin_und)
            if isinstance(memory, RememberingAttention):
                memory.reader.keep(memory.layer, key, value)
        else:
            assert isinstance(memory, RememberingAttention), "a pass without text recalls it"
            key, value = memory.reader.recall(memory.layer)
        stack.attending.num_prefix = len(key)
        filling = -len(key) % TEXT_PLACES
        key, value = (functional.pad(one, (0, 0, 0, 0, 0, filling))[None] for one in (key, value))
        gen_seq = self._compute(
            self.layer, gen_seq, key, value, *stack.rope, stack.attending.number
        )
        if self._last:
            gen_seq = stack.leave(gen_seq[None])[0]
        return und_seq, gen_seq


def read(
    layer: Any, text_PD: torch.Tensor, cos_PE: torch.Tensor, sin_PE: torch.Tensor
) -> tuple[torch.Tensor, TextKV]:
    """The tower that reads, one layer: its output, and keys and values for the video's tokens."""
    attn = layer.self_attn
    y_PD = layer.input_layernorm(text_PD)
    q, k, v = (
        one.unflatten(1, (-1, attn.head_dim))
        for one in (attn.to_q(y_PD), attn.to_k(y_PD), attn.to_v(y_PD))
    )
    q, k = attn.norm_q(q), attn.norm_k(k)
    for_video = attn.k_norm_und_for_gen(k) if attn.k_norm_und_for_gen is not None else k
    q, k, for_video = (_rotated(one, cos_PE, sin_PE) for one in (q, k, for_video))
    q, k, value = (one.transpose(0, 1)[None] for one in (q, k, v))
    out_HPE = functional.scaled_dot_product_attention(q, k, value, is_causal=True, enable_gqa=True)[
        0
    ]
    text_PD = text_PD + attn.to_out(out_HPE.transpose(0, 1).flatten(1))
    text_PD = text_PD + layer.mlp(layer.post_attention_layernorm(text_PD))
    return text_PD, (for_video, v)


def compute(
    layer: Any,
    x_LD: torch.Tensor,
    text_k_1PHE: torch.Tensor,
    text_v_1PHE: torch.Tensor,
    cos_LE: torch.Tensor,
    sin_LE: torch.Tensor,
    attending: int,
) -> torch.Tensor:
    """The generator tower, one layer: attention to text and video, then the MLP."""
    attn = layer.self_attn
    y_LD = layer.input_layernorm_moe_gen(x_LD)
    if hasattr(attn, "add_qkv_proj"):
        widths = [attn.num_attention_heads, attn.num_key_value_heads, attn.num_key_value_heads]
        split = [heads * attn.head_dim for heads in widths]
        q, k, v = attn.add_qkv_proj(y_LD).split(split, dim=-1)
    else:
        q, k, v = attn.add_q_proj(y_LD), attn.add_k_proj(y_LD), attn.add_v_proj(y_LD)
    q, k, v = (one.unflatten(1, (-1, attn.head_dim)) for one in (q, k, v))
    norms = (attn.norm_added_q, attn.norm_added_k)
    q, k = (
        rotated_heads(one[None], norm.weight, cos_LE, sin_LE, norm.eps)
        for one, norm in zip((q, k), norms, strict=True)
    )
    out_1LHE = self_attention(q, k, v[None], text_k_1PHE, text_v_1PHE, attending)
    x_LD = x_LD + attn.to_add_out(out_1LHE[0].flatten(1))
    y_LD = layer.post_attention_layernorm_moe_gen(x_LD)
    return x_LD + _mlp(layer.mlp_moe_gen, y_LD)


def _mlp(mlp: Any, y_LD: torch.Tensor) -> torch.Tensor:
    if hasattr(mlp, "gate_up_proj"):
        gate_up = mlp.gate_up_proj(y_LD)
        if isinstance(mlp.down_proj, FP8Linear):
            return mlp.down_proj.product(gated_rows(gate_up), y_LD)
        gate, up = gate_up.chunk(2, dim=-1)
        out_LD: torch.Tensor = mlp.down_proj(functional.silu(gate) * up)
        return out_LD
    out_LD = mlp(y_LD)
    return out_LD


def _rotated(x_LHE: torch.Tensor, cos_LE: torch.Tensor, sin_LE: torch.Tensor) -> torch.Tensor:
    first, second = x_LHE.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x_LHE * cos_LE[:, None] + turned * sin_LE[:, None]


def install(
    transformer: Any, attending: Attending, *, density: float, ranks: Ranks, compiled: Compile
) -> Stack:
    """Put fast layers in the place of a transformer's layers.

    A pass with several pictures or videos (a control beside the clip) has no single grid, and its
    attention is dense.

    Args:
        transformer: A `Cosmos3OmniTransformer`; changed.
        attending: How the generator's attention is computed.
        density: Of sparse attention; 1 is dense.
        ranks: Processes that share the tokens.
        compiled: Compiles a function.
    """
    stack = Stack(attending, density, ranks)
    transformer.layers = wrapped(transformer.layers, FastLayer, stack, compiled=compiled)
    forward = inspect.signature(type(transformer).forward)

    def see(module: Any, args: Any, kwargs: Any) -> None:
        given = forward.bind(module, *args, **kwargs).arguments
        shapes = given["vision_token_shapes"]
        stack.density = density if len(shapes) == 1 else 1.0
        t, h, w = shapes[0]
        stack.grid = (int(t), int(h), int(w))

    transformer.register_forward_pre_hook(see, with_kwargs=True)
    transformer.time_embedder = PerFrame(transformer.time_embedder, stack)
    return stack


class PerFrame(nn.Module):
    """Embeds a noise level once per frame.

    diffusers embeds that of every token, in float32; all tokens of a frame have the same.
    """

    def __init__(self, embedder: nn.Module, stack: Stack):
        """Wrap an embedder.

        Args:
            embedder: `TimestepEmbedding` of diffusers.
            stack: Knows how many tokens a frame has.
        """
        super().__init__()
        self.embedder = embedder
        self._stack = stack

    def forward(self, rows_LD: torch.Tensor) -> torch.Tensor:
        """Embedded noise levels, a row a token; what is not whole frames is embedded as it is."""
        each = self._stack.grid[1] * self._stack.grid[2]
        if rows_LD.shape[0] % each:
            out_LD: torch.Tensor = self.embedder(rows_LD)
            return out_LD
        return torch.repeat_interleave(self.embedder(rows_LD[::each]), each, dim=0)
