"""Blocks of `CosmosTransformer3DModel` (Cosmos-1.0, Predict1, 2, 2.5, Transfer2.5), written to be fast.

The arithmetic is that of diffusers 0.42.1, `CosmosTransformerBlock`, with the block's own weights.
What differs: tokens may stand in tile order and be shared by ranks; modulation is worked out per
frame and looked up per token, instead of per token; and what lies between two matrix products is
written in one piece, so that the compiler makes one kernel of it.
"""

# B batch, L tokens, S text tokens, F frames or 1, H heads, E width of a head, D width of a token

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gpu_jobs.cosmos_generate.speed.attention import Attending, cross_attention, self_attention
from gpu_jobs.cosmos_generate.speed.fp8 import FP8Linear
from gpu_jobs.cosmos_generate.speed.fused import gelu_rows, modulated_rows, rotated_heads
from gpu_jobs.cosmos_generate.speed.parallel import Ranks
from gpu_jobs.cosmos_generate.speed.sparse import TokenOrder, order_of
from worldloop.cosmos.tiles import Grid, tiling, window

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Pass:
    """What all blocks of one pass of the transformer share.

    Attributes:
        frame_of: Number of each token's row of `embedded`, (L,); None if there is one row.
        embedded: Embedded noise level, (B, F, D).
        temb: Modulation that all blocks have in common, (B, F, 3 D).
        extra: Learned position of each token, (B, L, D); None if the model has none.
    """

    frame_of: torch.Tensor | None
    embedded: torch.Tensor
    temb: torch.Tensor
    extra: torch.Tensor | None


class Stack:
    """Takes tokens into the order that blocks compute in, and back.

    Attributes:
        attending: Told of the order.
        density: Of sparse attention; 1 keeps tokens as they stand.
        ranks: Processes that share the tokens.
        grid: Of the video's tokens in the current pass.
        rope: Cosine and sine of each of this rank's tokens in the current pass, (L, E).
        current: What else the blocks of the current pass share.
    """

    def __init__(self, attending: Attending, density: float, ranks: Ranks):
        self.attending, self.density, self.ranks = attending, density, ranks
        self.grid: Grid = (1, 1, 1)
        self.rope: Rope = (torch.empty(0), torch.empty(0))
        self.current: Pass | None = None
        self._orders: dict[tuple[Grid, int, Any, float], TokenOrder] = {}
        self._order: TokenOrder | None = None

    def see(self, grid: Grid, num_tokens: int, device: Any) -> TokenOrder:
        """Choose the order of a pass; the same grid has the same order."""
        self.grid = grid
        key = (grid, num_tokens, device, self.density)
        if key not in self._orders:
            one = window(tiling(grid), self.density) if self.density < 1.0 else None
            self._orders[key] = order_of(
                num_tokens=num_tokens, window=one, ranks=self.ranks.size, device=device
            )
        self._order = self._orders[key]
        self.attending.order = self._order
        return self._order

    def enter(
        self,
        tokens_BLD: torch.Tensor,
        embedded: torch.Tensor,
        temb: torch.Tensor,
        rope: Rope,
        extra_BLD: torch.Tensor | None,
    ) -> torch.Tensor:
        """This rank's tokens in order; what blocks share is put in order too."""
        self.see(self.grid, tokens_BLD.shape[1], tokens_BLD.device)
        frame_L, embedded_BFD, temb_BFD = self._per_frame(embedded, temb)
        self.rope = (self.ordered(rope[0], 0), self.ordered(rope[1], 0))
        self.current = Pass(
            None if frame_L is None else self.ordered(frame_L, 0),
            embedded_BFD,
            temb_BFD,
            None if extra_BLD is None else self.ordered(extra_BLD, 1),
        )
        return self.ordered(tokens_BLD, 1)

    def leave(self, own_BLD: torch.Tensor) -> torch.Tensor:
        """All tokens, as they stood before."""
        assert self._order is not None
        self.current = None
        tokens_BLD = self.ranks.gather(own_BLD)
        if self._order.is_natural:
            return tokens_BLD
        return tokens_BLD.index_select(1, self._order.place)

    def ordered(self, tokens: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's tokens in order, out of all in theirs."""
        assert self._order is not None
        if self._order.is_natural:
            return self.ranks.own_tokens(tokens, dim)
        return tokens.index_select(dim, self.ranks.own_tokens(self._order.token, 0))

    def _per_frame(
        self, embedded: torch.Tensor, temb: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Rows of modulation: one, or one for each frame where frames have noise of their own.

        diffusers repeats a frame's row for each of its tokens; the first of them is enough.
        """
        if embedded.ndim == 2:
            return None, embedded[:, None], temb[:, None]
        per_frame = self.grid[1] * self.grid[2]
        frame_L = torch.arange(embedded.shape[1], device=embedded.device) // per_frame
        return frame_L, embedded[:, ::per_frame], temb[:, ::per_frame]


class FastBlock(nn.Module):
    """A block of the transformer that takes its place and its weights.

    Attributes:
        block: The block of diffusers.
    """

    def __init__(
        self, block: nn.Module, stack: Stack, *, first: bool, last: bool, compiled: Compile
    ):
        """Wrap a block.

        Args:
            block: A `CosmosTransformerBlock` without projections of a control network.
            stack: Shared by all blocks of the transformer.
            first: Whether it is the first block, which puts tokens in order.
            last: Whether it is the last block, which puts them back.
            compiled: Compiles a function; the identity where nothing is compiled.
        """
        super().__init__()
        self.block = block
        self._stack, self._first, self._last = stack, first, last
        self._compute = compiled(compute)

    @property
    def stack(self) -> Stack:
        """What all blocks of the transformer share; its density may change between two passes."""
        return self._stack

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Any,
        embedded_timestep: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor],
        extra_pos_emb: torch.Tensor | None = None,
        attention_mask: Any = None,
        controlnet_residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `CosmosTransformerBlock.forward`; positions and noise levels are read by the first block."""
        stack = self._stack
        if self._first:
            hidden_states = stack.enter(
                hidden_states, embedded_timestep, temb, image_rotary_emb, extra_pos_emb
            )
        assert stack.current is not None
        now = stack.current
        out: torch.Tensor = self._compute(
            self.block,
            hidden_states,
            encoder_hidden_states,
            now.embedded,
            now.temb,
            now.frame_of,
            *stack.rope,
            now.extra,
            attention_mask,
            None if controlnet_residual is None else stack.ordered(controlnet_residual, 1),
            stack.attending.number,
        )
        return stack.leave(out) if self._last else out


def compute(
    block: Any,
    x_BLD: torch.Tensor,
    text: Any,
    embedded_BFD: torch.Tensor,
    temb_BFD: torch.Tensor,
    frame_L: torch.Tensor | None,
    cos_LE: torch.Tensor,
    sin_LE: torch.Tensor,
    extra_BLD: torch.Tensor | None,
    mask: Any,
    residual_BLD: torch.Tensor | None,
    attending: int,
) -> torch.Tensor:
    """One block: self-attention, attention to text, feed-forward, each modulated by the noise level."""
    rope = (cos_LE, sin_LE)
    rows1, rows2, rows3 = (
        norm.linear_2(norm.linear_1(functional.silu(embedded_BFD))) + temb_BFD
        for norm in (block.norm1, block.norm2, block.norm3)
    )
    x_BLD, y = _modulated(block.norm1, x_BLD, extra_BLD, None, rows1, frame_L, block.attn1)
    out_BLD = _attend_to_video(block.attn1, x_BLD, y, rope, attending)
    plain = mask is None and isinstance(text, torch.Tensor)
    reader = block.attn2.to_q if plain else None
    x_BLD, y = _modulated(block.norm2, x_BLD, out_BLD, rows1, rows2, frame_L, reader)
    if plain:
        out_BLD = _attend_to_text(block.attn2, x_BLD, y, text)
    else:  # masks and pictures: as diffusers does it
        out_BLD = block.attn2(y, encoder_hidden_states=text, attention_mask=mask)
    proj = block.ff.net[0].proj
    x_BLD, y = _modulated(block.norm3, x_BLD, out_BLD, rows2, rows3, frame_L, proj)
    out_BLD = _feed_forward(block.ff, x_BLD, y)
    x_BLD = x_BLD + _row_part(rows3, 2, frame_L) * out_BLD
    return x_BLD if residual_BLD is None else x_BLD + residual_BLD


def _modulated(
    norm: Any,
    x_BLD: torch.Tensor,
    added_BLD: torch.Tensor | None,
    gates_BFD: torch.Tensor | None,
    rows_BFD: torch.Tensor,
    frame_L: torch.Tensor | None,
    reader: Any,
) -> tuple[torch.Tensor, Any]:
    """Tokens with what was made of them added, and what the next layer reads of them.

    Returns:
        The tokens, and them normalised, scaled and shifted; as float8 rows where an `FP8Linear`
        reads them.
    """
    if isinstance(getattr(reader, "to_qkv", reader), FP8Linear):
        sum_BLD, x8, scales = modulated_rows(
            x_BLD, added_BLD, gates_BFD, rows_BFD, frame_L, norm.norm.eps
        )
        return x_BLD if added_BLD is None else sum_BLD, (x8, scales)
    if added_BLD is not None and gates_BFD is not None:
        x_BLD = x_BLD + _row_part(gates_BFD, 2, frame_L) * added_BLD
    elif added_BLD is not None:
        x_BLD = x_BLD + added_BLD
    scale, shift = _row_part(rows_BFD, 1, frame_L), _row_part(rows_BFD, 0, frame_L)
    return x_BLD, norm.norm(x_BLD) * (1 + scale) + shift


def _row_part(rows_BFD: torch.Tensor, number: int, frame_L: torch.Tensor | None) -> torch.Tensor:
    """Shift, scale or gate of each token."""
    part = rows_BFD.chunk(3, dim=-1)[number]
    return part if frame_L is None else part.index_select(1, frame_L)


def _product(linear: Any, x_BLD: torch.Tensor, y: Any) -> torch.Tensor:
    """A layer's product with what `_modulated` made."""
    out: torch.Tensor = linear.product(y, x_BLD) if isinstance(y, tuple) else linear(y)
    return out


def _attend_to_video(
    attn: Any, x_BLD: torch.Tensor, y: Any, rope: Rope, attending: int
) -> torch.Tensor:
    if hasattr(attn, "to_qkv"):
        q, k, v = _product(attn.to_qkv, x_BLD, y).chunk(3, dim=-1)
    else:
        q, k, v = attn.to_q(y), attn.to_k(y), attn.to_v(y)
    q, k, v = (one.unflatten(2, (attn.heads, -1)) for one in (q, k, v))
    q = rotated_heads(q, attn.norm_q.weight, *rope, attn.norm_q.eps)
    k = rotated_heads(k, attn.norm_k.weight, *rope, attn.norm_k.eps)
    out_BLHE = self_attention(q, k, v, None, None, attending)
    out_BLD: torch.Tensor = attn.to_out[0](out_BLHE.flatten(2))
    return out_BLD


def _attend_to_text(attn: Any, x_BLD: torch.Tensor, y: Any, text_BSD: torch.Tensor) -> torch.Tensor:
    q, k, v = _product(attn.to_q, x_BLD, y), attn.to_k(text_BSD), attn.to_v(text_BSD)
    q, k, v = (one.unflatten(2, (attn.heads, -1)) for one in (q, k, v))
    out_BLHE = cross_attention(attn.norm_q(q), attn.norm_k(k), v)
    out_BLD: torch.Tensor = attn.to_out[0](out_BLHE.flatten(2))
    return out_BLD


def _feed_forward(ff: Any, x_BLD: torch.Tensor, y: Any) -> torch.Tensor:
    """The feed-forward layers; GELU is part of the quantisation where both are `FP8Linear`."""
    proj, down = ff.net[0].proj, ff.net[2]
    if isinstance(proj, FP8Linear) and isinstance(down, FP8Linear):
        return down.product(gelu_rows(_product(proj, x_BLD, y)), x_BLD)
    out_BLD: torch.Tensor = ff(y)
    return out_BLD


def wrapped(
    parts: Iterable[nn.Module], fast: Callable[..., nn.Module], stack: Stack, *, compiled: Compile
) -> nn.ModuleList:
    """Blocks or layers of a transformer, each in a fast one that shares a stack with the others.

    Args:
        parts: What the transformer runs through, in order.
        fast: `FastBlock`, or a class that is made as it is.
        stack: Shared by all.
        compiled: Compiles a function.
    """
    each = list(parts)
    last = len(each) - 1
    return nn.ModuleList(
        fast(part, stack, first=index == 0, last=index == last, compiled=compiled)
        for index, part in enumerate(each)
    )


def install(
    transformer: Any, attending: Attending, *, density: float, ranks: Ranks, compiled: Compile
) -> Stack:
    """Put fast blocks in the place of a transformer's blocks.

    Args:
        transformer: A `CosmosTransformer3DModel`; changed.
        attending: How self-attention is computed.
        density: Of sparse attention; 1 is dense.
        ranks: Processes that share the tokens.
        compiled: Compiles a function.
    """
    stack = Stack(attending, density, ranks)
    transformer.transformer_blocks = wrapped(
        transformer.transformer_blocks, FastBlock, stack, compiled=compiled
    )
    forward = inspect.signature(type(transformer).forward)

    def see_grid(module: Any, args: Any, kwargs: Any) -> None:
        latent = forward.bind(module, *args, **kwargs).arguments["hidden_states"]
        t, h, w = (
            side // step
            for side, step in zip(latent.shape[2:], module.config.patch_size, strict=True)
        )
        stack.grid = (t, h, w)

    transformer.register_forward_pre_hook(see_grid, with_kwargs=True)
    return stack
