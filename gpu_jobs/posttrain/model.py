"""What is put into a transformer to train it: adapted layers, and tokens shared by processes.

Tokens are shared as `cosmos_generate.speed.parallel` shares them for inference, whose exchanges have
no gradient; here they have one.
"""

# B batch, L tokens, H heads, E width of a head, D width of a token, I width in, O width out, R rank

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from gpu_jobs.cosmos_generate.backends.cosmos3_text import RememberingAttention, rotated
from gpu_jobs.cosmos_generate.speed.parallel import Ranks, check_heads
from gpu_jobs.posttrain.lora import is_cosmos3
from worldloop.errors import MalformedRecordError


class AdaptedLinear(nn.Module):  # type: ignore[misc]
    """W x + scale * B A x, where W is frozen.

    Attributes:
        base_layer: The frozen layer.
        lora_A: Holds the first factor, `weight` (rank, in).
        lora_B: Holds the second factor, `weight` (out, rank).
        scale: alpha / rank.
    """

    def __init__(self, base_layer: Any, down_RI: torch.Tensor, up_OR: torch.Tensor, scale: float):
        """Put trainable factors beside a layer, which is left as it is."""
        super().__init__()
        self.base_layer, self.scale = base_layer, scale
        self.lora_A, self.lora_B = nn.Module(), nn.Module()
        self.lora_A.weight = nn.Parameter(down_RI)
        self.lora_B.weight = nn.Parameter(up_OR)

    @property
    def weight(self) -> Any:
        """Of the frozen layer, for code that asks a linear layer for its device."""
        return self.base_layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both, in the precision of the layer."""
        below = functional.linear(x, self.lora_A.weight.to(x.dtype))
        beside = functional.linear(below, self.lora_B.weight.to(x.dtype))
        whole: torch.Tensor = self.base_layer(x)
        return whole + self.scale * beside.to(whole.dtype)


class _Exchange(torch.autograd.Function):  # type: ignore[misc]
    """All-to-all; gradients go back the same way."""

    @staticmethod
    def forward(ctx: Any, parts: torch.Tensor, group: Any) -> torch.Tensor:
        """Part i of every rank to rank i."""
        ctx.group = group
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradients to where the parts came from."""
        gradient = gradient.contiguous()  # its memory is what is sent
        returned = torch.empty_like(gradient)
        dist.all_to_all_single(returned, gradient, group=ctx.group)
        return returned, None


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """All tokens on every rank, which all compute the same loss: gradients of own tokens stay."""

    @staticmethod
    def forward(ctx: Any, own_BLD: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        """Tokens of all ranks, in order."""
        ctx.ranks = ranks
        return ranks.gather(own_BLD)

    @staticmethod
    def backward(ctx: Any, gradient_BLD: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of own tokens."""
        return ctx.ranks.own_tokens(gradient_BLD, 1), None


class TrainingRanks(Ranks):
    """Ranks whose exchanges can be differentiated."""

    def _all_to_all(self, parts: torch.Tensor) -> torch.Tensor:
        received: torch.Tensor = _Exchange.apply(parts, self.group)
        return received


class SharedSelfAttention:
    """The attention processor of own tokens that attend to the tokens of all ranks.

    Args:
        ranks: That share a window's tokens.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, image_rotary_emb: Any = None, **_: Any
    ) -> torch.Tensor:
        """What diffusers' processor computes, for own tokens."""
        from diffusers.models.embeddings import apply_rotary_emb

        query, key, value = (
            layer(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            apply_rotary_emb(each, image_rotary_emb, use_real=True, use_real_unbind_dim=-2)
            for each in (attn.norm_q(query), attn.norm_k(key))
        )
        query, key, value = (
            self.ranks.heads_for_tokens(each.transpose(1, 2)).transpose(1, 2)
            for each in (query, key, value)
        )
        attended_BHLE = functional.scaled_dot_product_attention(query, key, value)
        own_BLHE = self.ranks.tokens_for_heads(attended_BHLE.transpose(1, 2))
        out: torch.Tensor = attn.to_out[0](own_BLHE.flatten(2, 3).type_as(hidden_states))
        return attn.to_out[1](out)


class _Scaled(torch.autograd.Function):  # type: ignore[misc]
    """The same tokens; their gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, factor: float) -> torch.Tensor:
        """Nothing happens."""
        ctx.factor = factor
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient times the factor."""
        return gradient * ctx.factor, None


class SharedGeneratorAttention(RememberingAttention):
    """Cosmos 3's attention for own tokens of video, which attend to the text and to the tokens of all ranks.

    Args:
        like: The processor in whose place it is.
        ranks: That share a window's tokens.
    """

    def __init__(self, like: RememberingAttention, ranks: Ranks) -> None:
        super().__init__(like.layer, like.reader)
        self.ranks = ranks

    def __call__(
        self, attn: Any, und_seq: torch.Tensor, gen_seq: torch.Tensor, rotary_emb: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of the two towers: of the whole text, and of own tokens of video."""
        cos_und, sin_und, cos_gen, sin_gen = rotary_emb
        und_LD, text_k, text_v = self._read(attn, und_seq, cos_und, sin_und)
        query, key, value = (
            layer(gen_seq).unflatten(-1, (-1, attn.head_dim))
            for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        query = rotated(attn.norm_added_q(query), cos_gen, sin_gen)
        key = rotated(attn.norm_added_k(key), cos_gen, sin_gen)
        copies = query.shape[1] // key.shape[1] if key.shape[1] % self.ranks.size else 1
        keys, values = (
            torch.cat([self._own_heads(text, copies), self._of_all(own, copies)])
            for text, own in ((text_k, key), (text_v, value))
        )
        seen_LD = self._attend(self._of_all(query, 1), keys, values, causal=False)
        seen_BLHE = seen_LD.unflatten(-1, (-1, attn.head_dim))[None]
        own_LHE = self.ranks.tokens_for_heads(seen_BLHE)[0]
        return und_LD, attn.to_add_out(own_LHE.flatten(1))

    def _of_all(self, own_LHE: torch.Tensor, copies: int) -> torch.Tensor:
        """Own heads of all tokens, from all heads of own tokens; heads that ranks do not divide are copied."""
        whole_LHE = own_LHE.repeat_interleave(copies, dim=1) if copies > 1 else own_LHE
        return self.ranks.heads_for_tokens(whole_LHE[None])[0]

    def _own_heads(self, text_LHE: torch.Tensor, copies: int) -> torch.Tensor:
        whole_LHE = text_LHE.repeat_interleave(copies, dim=1) if copies > 1 else text_LHE
        return self.ranks.own_heads(whole_LHE[None])[0]


@dataclass
class _Seams:
    """Where diffusers' Cosmos 3 lets tokens be shared, between the first and the last layer."""

    transformer: Any
    ranks: Ranks

    def put(self) -> None:
        self.transformer._cp_shard_fn = self._shard
        self.transformer._cp_gather_fn = self._gather

    def remove(self) -> None:
        del self.transformer._cp_shard_fn, self.transformer._cp_gather_fn

    def _shard(self, und_LD: torch.Tensor, gen_LD: torch.Tensor, rotary: Any) -> Any:
        _check_tokens(gen_LD.shape[0], self.ranks)
        cos_und, sin_und, *of_gen = rotary
        own = (self.ranks.own_tokens(each, 0) for each in of_gen)
        return und_LD, self.ranks.own_tokens(gen_LD, 0), (cos_und, sin_und, *own)

    def _gather(self, und_LD: torch.Tensor, gen_LD: torch.Tensor) -> Any:
        # the last layer sees all tokens on every rank: its own gradient, which is whole there, is divided
        # behind it (see `_share_cosmos3`), and what goes on to the blocks is made up for here
        whole_LD = _Gather.apply(gen_LD[None], self.ranks)[0]
        return und_LD, _Scaled.apply(whole_LD, float(self.ranks.size))


def _share_cosmos3(transformer: Any, ranks: Ranks) -> list[Any]:
    """See `share_tokens`."""
    done: list[Any] = []
    for layer in transformer.layers:
        attention = layer.self_attn
        done.append((attention, attention.processor))
        attention.processor = SharedGeneratorAttention(attention.processor, ranks)
    seams = _Seams(transformer, ranks)
    seams.put()
    last = transformer.proj_out.register_forward_hook(
        lambda _, given, out: _Scaled.apply(out, 1.0 / ranks.size)
    )
    return [*done, seams, last]


def share_tokens(transformer: Any, ranks: Ranks) -> list[Any]:
    """Let ranks share the tokens of every window from the first block to the last layer.

    Args:
        transformer: `CosmosTransformer3DModel`, or that of Cosmos 3, whose text every rank reads whole; takes and
            answers whole latents as before.
        ranks: Of this process.

    Returns:
        What `unshare_tokens` takes.

    Raises:
        MalformedRecordError: If heads cannot be shared so.
    """
    check_heads(transformer.config.num_attention_heads, ranks)
    if is_cosmos3(transformer):
        return _share_cosmos3(transformer, ranks)
    done: list[Any] = []
    for block in transformer.transformer_blocks:
        done.append((block.attn1, block.attn1.processor))
        block.attn1.set_processor(SharedSelfAttention(ranks))
        done.append(block.register_forward_pre_hook(lambda _, given: _own_inputs(given, ranks)))
    done.append(
        transformer.norm_out.register_forward_pre_hook(
            lambda _, given: (given[0], *_own_steps(given[1:], given[0].shape[1], ranks))
        )
    )
    done.append(
        transformer.proj_out.register_forward_hook(lambda _, given, out: _Gather.apply(out, ranks))
    )
    return done


def unshare_tokens(done: list[Any]) -> None:
    """Take back what `share_tokens` did."""
    for one in done:
        if isinstance(one, tuple):
            attention, processor = one
            attention.processor = processor
        else:
            one.remove()


def _own_inputs(given: tuple[Any, ...], ranks: Ranks) -> tuple[Any, ...]:
    """Arguments of a block for own tokens; only the first block gets all tokens."""
    hidden, context, embedded, temb, rotary, positions, *rest = given
    total = rotary[0].shape[0]
    _check_tokens(total, ranks)
    if hidden.shape[1] == total:
        hidden = ranks.own_tokens(hidden, 1)
    own = hidden.shape[1]
    embedded, temb, positions = _own_steps((embedded, temb, positions), own, ranks)
    rotary = tuple(ranks.own_tokens(each, 0) for each in rotary)
    return (hidden, context, embedded, temb, rotary, positions, *rest)


def _check_tokens(total: int, ranks: Ranks) -> None:
    if total % ranks.size:
        raise MalformedRecordError(
            "tokens of a window",
            total,
            f"a multiple of the {ranks.size} processes that share them",
            "Train on another shape, with more windows a step, or with fewer processes.",
        )


def _own_steps(each: tuple[Any, ...], own: int, ranks: Ranks) -> tuple[Any, ...]:
    """Own rows of what is told token by token; the rest as it is."""
    return tuple(
        ranks.own_tokens(one, 1)
        if isinstance(one, torch.Tensor) and one.ndim == 3 and one.shape[1] == own * ranks.size
        else one
        for one in each
    )
