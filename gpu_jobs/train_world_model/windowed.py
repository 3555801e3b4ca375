"""Tile-sparse self-attention that gradients pass through, for adapting a transformer to it.

Tiles, windows and masks are those of the speed layer (`gpu_jobs.cosmos_generate.speed.sparse`), so
that weights are adapted to what a speed profile computes later. On a GPU it is FlexAttention inside
the compiled block; elsewhere masked attention.
"""

# B batch, L tokens, H heads, E width of a head

from typing import Any

from worldloop.cosmos.tiles import Grid, Window, tiling, window


class WindowedAttention:
    """Processor of the self-attention of all blocks of a `CosmosTransformer3DModel`.

    Attributes:
        window: Which tiles attend to each other.
        sparse: Whether the present pass leaves tiles out; otherwise every token attends to every other.
    """

    def __init__(self, grid: Grid, *, density: float, device: Any):
        """Work out the order of tokens and the mask.

        Args:
            grid: Tokens along (frames, rows, columns).
            density: Share of tiles to attend to.
            device: Where to compute.
        """
        from gpu_jobs.cosmos_generate.speed.sparse import order_of

        self.window: Window = window(tiling(grid), density)
        self.sparse = False
        order = order_of(
            num_tokens=self.window.tiling.num_tokens, window=self.window, ranks=1, device=device
        )
        mask = order.mask_of(0, 0)
        self._token, self._place = order.token, order.place
        self._blocks = mask.blocks
        self._visible = mask.dense_mask() if order.token.device.type == "cpu" else None

    def install(self, transformer: Any) -> None:
        """Let all blocks attend like this."""
        for block in transformer.transformer_blocks:
            block.attn1.set_processor(self)

    def __call__(
        self,
        attn: Any,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        """As diffusers 0.42.1, `CosmosAttnProcessor2_0`, for self-attention without a mask."""
        from diffusers.models.embeddings import apply_rotary_emb
        from torch.nn import functional

        q, k, v = (
            layer(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = (
            apply_rotary_emb(one, image_rotary_emb, use_real=True, use_real_unbind_dim=-2).to(v)
            for one in (attn.norm_q(q), attn.norm_k(k))
        )
        out_BHLE = (
            self._by_tiles(q, k, v)
            if self.sparse
            else functional.scaled_dot_product_attention(q, k, v)
        )
        return attn.to_out[0](out_BHLE.transpose(1, 2).flatten(2))

    def _by_tiles(self, q_BHLE: Any, k_BHLE: Any, v_BHLE: Any) -> Any:
        from torch.nn import functional
        from torch.nn.attention.flex_attention import flex_attention

        q, k, v = (one.index_select(2, self._token) for one in (q_BHLE, k_BHLE, v_BHLE))
        if self._visible is None:
            out = flex_attention(q, k, v, block_mask=self._blocks)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=self._visible)
        return out.index_select(2, self._place)
