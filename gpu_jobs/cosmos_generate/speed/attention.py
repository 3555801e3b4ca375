"""Self-attention of the blocks as one operator that compiled blocks do not look into.

A step may be dense and the next one sparse; a prompt may be longer than another. Neither must
compile a block again, so that what decides this is kept in an `Attending`, which the operator looks
up by its number when it runs.
"""

# B batch, L tokens, S keys, P places of text, H heads, E width of a head

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_jobs.cosmos_generate.speed.parallel import Ranks
from gpu_jobs.cosmos_generate.speed.policy import Density
from gpu_jobs.cosmos_generate.speed.sparse import TokenOrder, sparse_attention
from worldloop.cosmos.profiles import Attention

Dense = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Attending:
    """How the self-attention of one transformer is computed at present.

    Attributes:
        dense: Attention of every token to every other, on (B, H, L, E).
        density: Whether the current step is dense.
        ranks: Processes that share the tokens.
        order: Order of the tokens in the current pass.
        num_prefix: Tokens of text before the video's in the current pass.
        number: By which the operator finds it.
    """

    dense: Dense
    density: Density
    ranks: Ranks
    order: TokenOrder | None = None
    num_prefix: int = 0
    number: int = field(default_factory=itertools.count().__next__)

    def __post_init__(self) -> None:
        _ATTENDING[self.number] = self

    @property
    def is_sparse(self) -> bool:
        """Whether tiles are left out in the current step."""
        return not self.density.dense and self.order is not None and self.order.window is not None

    def attend(
        self,
        q_BLHE: torch.Tensor,
        k_BLHE: torch.Tensor,
        v_BLHE: torch.Tensor,
        prefix_k_BPHE: torch.Tensor | None,
        prefix_v_BPHE: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention of the tokens of this rank to all tokens and to the text."""
        q, k, v = (self.ranks.heads_for_tokens(one) for one in (q_BLHE, k_BLHE, v_BLHE))
        prefix = None
        if prefix_k_BPHE is not None and prefix_v_BPHE is not None:
            prefix = (self.ranks.own_heads(prefix_k_BPHE), self.ranks.own_heads(prefix_v_BPHE))
        num_all = q.shape[1]
        if self.order is not None:
            q, k, v = (one[:, : self.order.num_places] for one in (q, k, v))
        out = self._sparse(q, k, v, prefix) if self.is_sparse else self._full(q, k, v, prefix)
        if out.shape[1] < num_all:
            out = functional.pad(out, (0, 0, 0, 0, 0, num_all - out.shape[1]))
        return self.ranks.tokens_for_heads(out)

    def _full(self, q: Any, k: Any, v: Any, prefix: Any) -> torch.Tensor:
        if self.order is not None and self.order.kept is not None:
            k, v = k[:, self.order.kept], v[:, self.order.kept]
        if prefix is not None:
            k = torch.cat([prefix[0][:, : self.num_prefix], k], 1)
            v = torch.cat([prefix[1][:, : self.num_prefix], v], 1)
        return self.dense(*(one.transpose(1, 2) for one in (q, k, v))).transpose(1, 2)

    def _sparse(self, q: Any, k: Any, v: Any, prefix: Any) -> torch.Tensor:
        assert self.order is not None
        places = 0
        if prefix is not None:
            places = prefix[0].shape[1]
            k, v = torch.cat([prefix[0], k], 1), torch.cat([prefix[1], v], 1)
        mask = self.order.mask_of(self.num_prefix if places else 0, places)
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        return sparse_attention(q, k, v, mask).transpose(1, 2)


_ATTENDING: dict[int, Attending] = {}


@torch.library.custom_op("worldloop::self_attention", mutates_args=())
def self_attention(
    q_BLHE: torch.Tensor,
    k_BLHE: torch.Tensor,
    v_BLHE: torch.Tensor,
    prefix_k_BPHE: torch.Tensor | None,
    prefix_v_BPHE: torch.Tensor | None,
    number: int,
) -> torch.Tensor:
    """`Attending.attend` of the one with a number; contiguous (B, L, H, E)."""
    attending = _ATTENDING[number]
    out = attending.attend(q_BLHE, k_BLHE, v_BLHE, prefix_k_BPHE, prefix_v_BPHE)
    return out.contiguous()


@self_attention.register_fake
def _self_attention_shape(
    q_BLHE: torch.Tensor, k: Any, v: Any, prefix_k: Any, prefix_v: Any, number: int
) -> torch.Tensor:
    return q_BLHE.new_empty(q_BLHE.shape)


@torch.library.custom_op("worldloop::cross_attention", mutates_args=())
def cross_attention(
    q_BLHE: torch.Tensor, k_BSHE: torch.Tensor, v_BSHE: torch.Tensor
) -> torch.Tensor:
    """Attention to text, contiguous (B, L, H, E); cuDNN on a GPU."""
    dense = dense_attention("cudnn", q_BLHE.device)
    out_BHLE = dense(*(one.transpose(1, 2) for one in (q_BLHE, k_BSHE, v_BSHE)))
    return out_BHLE.transpose(1, 2).contiguous()


@cross_attention.register_fake
def _cross_attention_shape(q_BLHE: torch.Tensor, k: Any, v: Any) -> torch.Tensor:
    return q_BLHE.new_empty(q_BLHE.shape)


def _suits_cudnn(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Whether cuDNN is sure to take these heads."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    return half and q.shape[1] == k.shape[1] and q.shape[-1] in (64, 128)


def dense_attention(kind: Attention, device: torch.device) -> Dense:
    """Dense attention of a profile; on a CPU it is always torch's own.

    Raises:
        MissingExtraError: If FP8 is asked for and transformer_engine is not installed.
    """
    if kind == "fp8":
        from gpu_jobs.cosmos_generate.speed.te import fp8_attention

        in_fp8: Dense = fp8_attention(device)
        return in_fp8
    on_cudnn = kind == "cudnn" and device.type == "cuda"

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if on_cudnn and _suits_cudnn(q, k):
            # by name: torch's choice of kernels is one for all threads, and another thread decodes
            return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0]
        # cuDNN first; the others take over what it cannot do, e.g. an odd width of a head
        kernels = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        choice = sdpa_kernel(kernels, set_priority=True) if on_cudnn else contextlib.nullcontext()
        with choice:
            return functional.scaled_dot_product_attention(
                q, k, v, enable_gqa=k.shape[1] != q.shape[1]
            )

    return attend
