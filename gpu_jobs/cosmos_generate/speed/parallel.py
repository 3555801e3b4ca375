"""Context parallelism: the tokens of one clip shared by the GPUs of one host.

Every rank holds a share of the tokens, and all of the weights. For self-attention, ranks exchange
tokens for heads and back (two all-to-alls, "Ulysses": arXiv 2309.14509), so that each attends with
a few heads to all tokens. Everything else is done token by token. It serves latency alone: for
throughput every GPU makes clips of its own.
"""

# B batch, L tokens, H heads, E width of a head, D width of a token

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from worldloop.errors import MalformedRecordError


@dataclass(frozen=True)
class Ranks:
    """The processes that share a clip's tokens.

    Attributes:
        size: How many there are; 1 does nothing.
        rank: Number of this one.
        group: Their process group; None is the default one.
    """

    size: int = 1
    rank: int = 0
    group: Any = None

    def own_tokens(self, tokens: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's share of tokens along an axis; there must be a multiple of `size`."""
        if self.size == 1:
            return tokens
        share = tokens.shape[dim] // self.size
        return tokens.narrow(dim, self.rank * share, share)

    def own_heads(self, tokens_BLHE: torch.Tensor) -> torch.Tensor:
        """This rank's heads of tokens that every rank has, e.g. of text."""
        if self.size == 1:
            return tokens_BLHE
        share = tokens_BLHE.shape[2] // self.size
        return tokens_BLHE[:, :, self.rank * share : (self.rank + 1) * share]

    def heads_for_tokens(self, own_BLHE: torch.Tensor) -> torch.Tensor:
        """All heads of own tokens for own heads of all tokens."""
        if self.size == 1:
            return own_BLHE
        parts = own_BLHE.unflatten(2, (self.size, -1)).permute(2, 1, 0, 3, 4).contiguous()
        received = self._all_to_all(parts)  # ranks, own tokens, B, own heads, E
        return received.flatten(0, 1).transpose(0, 1)

    def tokens_for_heads(self, all_BLHE: torch.Tensor) -> torch.Tensor:
        """Own heads of all tokens for all heads of own tokens."""
        if self.size == 1:
            return all_BLHE
        parts = all_BLHE.unflatten(1, (self.size, -1)).permute(1, 2, 0, 3, 4).contiguous()
        received = self._all_to_all(parts)  # ranks, own tokens, B, heads of the rank, E
        return received.permute(2, 1, 0, 3, 4).flatten(2, 3)

    def gather(self, own_BLD: torch.Tensor) -> torch.Tensor:
        """All tokens, on every rank."""
        if self.size == 1:
            return own_BLD
        own = own_BLD.transpose(0, 1).contiguous()
        everything = own.new_empty((self.size * own.shape[0], *own.shape[1:]))
        dist.all_gather_into_tensor(everything, own, group=self.group)
        return everything.transpose(0, 1)

    def _all_to_all(self, parts: torch.Tensor) -> torch.Tensor:
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=self.group)
        return received


def ranks_of(cp_size: int) -> Ranks:
    """The ranks of this process, as `torchrun` started them.

    Args:
        cp_size: What the spec asks for.

    Raises:
        MalformedRecordError: If there are more or fewer processes than that.
    """
    started = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if cp_size != started:
        raise MalformedRecordError(
            "cp_size",
            cp_size,
            f"the number of processes, {started}",
            f"Start it with torchrun --nproc_per_node={cp_size}, or set cp_size to {started}.",
        )
    return Ranks() if started == 1 else Ranks(started, dist.get_rank())


def check_heads(num_heads: int, ranks: Ranks) -> None:
    """Refuse ranks that heads cannot be shared among.

    Raises:
        MalformedRecordError: If they cannot.
    """
    if num_heads % ranks.size:
        can = [size for size in (1, 2, 4, 8) if num_heads % size == 0]
        raise MalformedRecordError(
            "cp_size", ranks.size, f"one of {can} for {num_heads} attention heads", "Change it."
        )
