"""The order of tokens inside the transformer, and tile-sparse attention over it.

Tokens are put into tile order once, before the first block, and back after the last; attention
does not mind the order, so that dense steps run on it as well. A tile of 128 queries attends to a
window of tiles (`worldloop.cosmos.tiles`) and to all tokens that belong to no tile: text before
the video's tokens, and sound or actions behind them. On a GPU this is FlexAttention, which skips
the other tiles; elsewhere it is masked attention, which computes and hides them.
"""

# B batch, L tokens in tile order, S keys, H heads, E width of a head

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from worldloop.cosmos.tiles import PADDING, TILE_TOKENS, Window

KERNEL_OPTIONS: dict[str, Any] = {
    "BLOCK_M": 128,
    "BLOCK_N": 128,
    "num_warps": 8,
    "num_stages": 2,
    "USE_TMA": True,
}
"""Of the FlexAttention kernel on Hopper: 460 TFLOP/s, beside 427 with torch's own
choice (section `flex` of the benchmark, one NVIDIA H200, torch 2.11.0+cu130, 2026-11-21)."""


@dataclass(frozen=True)
class TokenOrder:
    """Places of tokens inside the transformer.

    Attributes:
        token: Token at each place; a place that is only filled up repeats token 0. Shape (L,).
        place: Place of each token.
        valid: Which places hold a token of their own, shape (L,).
        window: Tiles that attend to each other; None where the order serves another purpose.
        num_places: Places that attention sees; behind them is filling for equal parts on all ranks.
        is_natural: Whether tokens stand as they came, without filling.
    """

    token: torch.Tensor
    place: torch.Tensor
    valid: torch.Tensor
    window: Window | None
    num_places: int
    is_natural: bool
    _kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kept(self) -> torch.Tensor | None:
        """Places with a token of their own, for attention without masks; None if all have one."""
        if "places" not in self._kept:
            seen = self.valid[: self.num_places]
            self._kept["places"] = None if bool(seen.all()) else seen.nonzero().squeeze(1)
        places: torch.Tensor | None = self._kept["places"]
        return places

    def mask_of(self, num_prefix: int, prefix_places: int) -> "TileMask":
        """What each tile attends to, with so many tokens of text before the video's.

        Args:
            num_prefix: Tokens of text.
            prefix_places: Places that they are filled up to, a multiple of `TILE_TOKENS`.
        """
        key = f"mask {num_prefix} {prefix_places}"
        if key not in self._kept:
            self._kept[key] = TileMask.build(self, num_prefix, prefix_places)
        mask: TileMask = self._kept[key]
        return mask


def order_of(*, num_tokens: int, window: Window | None, ranks: int, device: Any) -> TokenOrder:
    """The order of a transformer's tokens: tiles of the grid, then tokens that are in none.

    Args:
        num_tokens: All tokens; those of the window's grid come first.
        window: The tiles; None keeps the order as it is.
        ranks: Processes that share the tokens; each gets equally many.
        device: Where the tensors lie.
    """
    if window is None:
        numbers = np.arange(num_tokens)
    else:
        loose = np.arange(window.tiling.num_tokens, num_tokens)
        filling = np.full(-len(loose) % TILE_TOKENS, PADDING)
        numbers = np.concatenate([window.tiling.order(), loose, filling])
    num_places = len(numbers)
    numbers = np.concatenate([numbers, np.full(-num_places % ranks, PADDING)])
    token = torch.from_numpy(numbers).to(device)
    valid = token >= 0
    place = torch.empty(num_tokens, dtype=torch.int64, device=device)
    place[token[valid]] = torch.arange(len(numbers), device=device)[valid]
    is_natural = window is None and len(numbers) == num_tokens
    return TokenOrder(token.clamp(min=0), place, valid, window, num_places, is_natural)


@dataclass(frozen=True)
class TileMask:
    """Which tiles of keys each tile of queries attends to.

    Attributes:
        tiles: True where it does, shape (query tiles, key tiles).
        key_valid: Which keys are tokens, shape (S,).
        density: Share of the tiles of keys that are computed.
        blocks: The same as FlexAttention's kernel takes it.
    """

    tiles: torch.Tensor
    key_valid: torch.Tensor
    density: float
    blocks: BlockMask

    @classmethod
    def build(cls, order: TokenOrder, num_prefix: int, prefix_places: int) -> "TileMask":
        """Work the mask out from the window of an order."""
        assert order.window is not None
        device = order.token.device
        video = order.window.tiling.num_tiles
        loose = (order.num_places - video * TILE_TOKENS) // TILE_TOKENS
        prefix = prefix_places // TILE_TOKENS
        tiles = torch.zeros(video + loose, prefix + video + loose, dtype=torch.bool)
        tiles[:, :prefix] = True
        tiles[:, prefix + video :] = True
        tiles[video:] = True
        near = torch.from_numpy(order.window.neighbours()).long()
        tiles[:video].scatter_(1, near + prefix, True)
        text = torch.arange(prefix_places, device=device) < num_prefix
        key_valid = torch.cat([text, order.valid[: order.num_places]])
        tiles = tiles.to(device)
        density = float(tiles.float().mean())
        return cls(tiles, key_valid, density, _block_mask(tiles, key_valid))

    def dense_mask(self) -> torch.Tensor:
        """The mask key by key, shape (L, S); as large as a video's tokens squared."""
        wide = self.tiles.repeat_interleave(TILE_TOKENS, 0).repeat_interleave(TILE_TOKENS, 1)
        return wide & self.key_valid


def _block_mask(tiles: torch.Tensor, key_valid: torch.Tensor) -> BlockMask:
    """FlexAttention's lists of tiles: whole ones, and those with filling in them."""
    whole = key_valid.view(-1, TILE_TOKENS).all(1)
    some = key_valid.view(-1, TILE_TOKENS).any(1)

    def attends(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return tiles[q // TILE_TOKENS, k // TILE_TOKENS] & key_valid[k]

    def only_tokens(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return key_valid[k]

    eager = tiles.device.type == "cpu"  # without a kernel, lists of tiles are not looked at
    return BlockMask.from_kv_blocks(
        *_lists(tiles & some & ~whole),
        *_lists(tiles & whole),
        BLOCK_SIZE=TILE_TOKENS,
        mask_mod=attends if eager else only_tokens,
        seq_lengths=(len(tiles) * TILE_TOKENS, len(key_valid)),
    )


def _lists(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tiles of keys each tile of queries has, and which ones come first."""
    counts = tiles.sum(1).int()
    numbers = torch.argsort(tiles.int(), dim=1, descending=True, stable=True).int()
    return counts[None, None].contiguous(), numbers[None, None].contiguous()


def sparse_attention(
    q_BHLE: torch.Tensor, k_BHSE: torch.Tensor, v_BHSE: torch.Tensor, mask: TileMask
) -> torch.Tensor:
    """Attention of each tile to the tiles of its mask, (B, H, L, E); heads of keys may be fewer."""
    grouped = k_BHSE.shape[1] != q_BHLE.shape[1]
    if q_BHLE.device.type == "cuda":
        out_BHLE: torch.Tensor = _compiled_flex()(
            q_BHLE,
            k_BHSE,
            v_BHSE,
            block_mask=mask.blocks,
            enable_gqa=grouped,
            kernel_options=_options(q_BHLE.device),
        )
        return out_BHLE
    return functional.scaled_dot_product_attention(
        q_BHLE, k_BHSE, v_BHSE, attn_mask=mask.dense_mask(), enable_gqa=grouped
    )


def _options(device: torch.device) -> dict[str, Any] | None:
    """Options of the kernel; GPUs before Hopper have no tensor memory accelerator."""
    return KERNEL_OPTIONS or None if torch.cuda.get_device_capability(device)[0] == 9 else None


@functools.cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
