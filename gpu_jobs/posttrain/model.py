"""What is put into a transformer to train it: adapted layers, and tokens shared by processes.

Tokens are shared as `cosmos_generate.speed.parallel` shares them for inference, whose exchanges have
no gradient; here they have one.
"""

# B batch, L tokens, H heads, E width of a head, D width of a token, I width in, O width out, R rank

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from gpu_jobs.cosmos_generate.speed.parallel import Ranks, check_heads
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


def share_tokens(transformer: Any, ranks: Ranks) -> list[Any]:
    """Let ranks share the tokens of every window from the first block to the last layer.

    Args:
        transformer: `CosmosTransformer3DModel`; takes and answers whole latents as before.
        ranks: Of this process.

    Returns:
        What `unshare_tokens` takes.

    Raises:
        MalformedRecordError: If heads cannot be shared so.
    """
    check_heads(transformer.config.num_attention_heads, ranks)
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
            attention.set_processor(processor)
        else:
            one.remove()


def _own_inputs(given: tuple[Any, ...], ranks: Ranks) -> tuple[Any, ...]:
    """Arguments of a block for own tokens; only the first block gets all tokens."""
    hidden, context, embedded, temb, rotary, positions, *rest = given
    total = rotary[0].shape[0]
    if total % ranks.size:
        raise MalformedRecordError(
            "tokens of a window",
            total,
            f"a multiple of the {ranks.size} processes that share them",
            "Train on another shape, with more windows a step, or with fewer processes.",
        )
    if hidden.shape[1] == total:
        hidden = ranks.own_tokens(hidden, 1)
    own = hidden.shape[1]
    embedded, temb, positions = _own_steps((embedded, temb, positions), own, ranks)
    rotary = tuple(ranks.own_tokens(each, 0) for each in rotary)
    return (hidden, context, embedded, temb, rotary, positions, *rest)


def _own_steps(each: tuple[Any, ...], own: int, ranks: Ranks) -> tuple[Any, ...]:
    """Own rows of what is told token by token; the rest as it is."""
    return tuple(
        ranks.own_tokens(one, 1)
        if isinstance(one, torch.Tensor) and one.ndim == 3 and one.shape[1] == own * ranks.size
        else one
        for one in each
    )
