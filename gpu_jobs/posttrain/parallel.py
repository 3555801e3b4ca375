"""Several processes that train one model, as `torchrun` started them.

An adapter is trained with a whole base in every process and gradients averaged over them, each with
its share of the batch (data parallelism, the guides' `ddp`). All weights are trained sharded by FSDP2
(`fully_shard`), block by block. More processes than windows share the tokens of each window (context
parallelism): a batch of 1 on 4 GPUs is one window in four parts. Noise and captions belong to
windows, so that processes together draw what one alone would.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from worldloop.errors import MalformedRecordError

Tensor = Any  # torch.Tensor; torch is imported inside functions
Item = TypeVar("Item")


@dataclass(frozen=True)
class Fleet:
    """The processes that train together.

    Attributes:
        size: How many there are.
        rank: Number of this one; the first one leads.
        sharers: Processes that share the tokens of each window; neighbours by number.
        group: Process group of this one's sharers; None where it trains windows alone.
    """

    size: int = 1
    rank: int = 0
    sharers: int = 1
    group: Any = None

    @classmethod
    def started(cls, size: int, rank: int, *, batch_size: int) -> "Fleet":
        """The processes of a job: they share the batch, or, if they outnumber it, its windows' tokens.

        Args:
            size: How many were started; they have joined.
            rank: Number of this one.
            batch_size: Windows of a step.

        Raises:
            MalformedRecordError: If neither divides the other.
        """
        if batch_size % size and size % batch_size:
            raise MalformedRecordError(
                "batch_size",
                batch_size,
                f"a multiple or a divisor of the number of processes, {size}",
                f"Train with {-(-batch_size // size) * size}, or start fewer processes.",
            )
        sharers = max(1, size // batch_size)
        if sharers == 1:
            return cls(size, rank)
        import torch.distributed as dist

        group, _ = dist.new_subgroups(sharers)
        return cls(size, rank, sharers, group)

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells for all."""
        return self.rank == 0

    def share_tokens(self, transformer: Any) -> list[Any]:
        """Let this process's sharers share the tokens of windows; what `model.unshare_tokens` takes."""
        if self.sharers == 1:
            return []
        from gpu_jobs.posttrain.model import TrainingRanks, share_tokens

        ranks = TrainingRanks(self.sharers, self.rank % self.sharers, self.group)
        return share_tokens(transformer, ranks)

    def own_share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of a batch; its sharers have the same."""
        return items[self.rank // self.sharers :: self.size // self.sharers]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def share(self, value: Item) -> Item:
        """What the first process has."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(value)
            value = value / self.size
        return value

    def shard(self, transformer: Any) -> None:
        """Share all weights out, block by block; each process keeps its part and gathers the rest in passing."""
        if self.size == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        kind = next(transformer.parameters()).device.type
        mesh = init_device_mesh(kind, (self.size,))
        from gpu_jobs.posttrain.lora import blocks_of

        for block in blocks_of(transformer):
            fully_shard(block, mesh=mesh)
        fully_shard(transformer, mesh=mesh)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average gradients over processes; FSDP2 has done so for what is sharded."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        whole = [one.grad for one in parameters if one.grad is not None and not _sharded(one)]
        if not whole:
            return
        flat = torch.cat([gradient.flatten() for gradient in whole])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(whole, flat.split([one.numel() for one in whole]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def own_part(self, tensor: Tensor) -> Tensor:
        """This process's share of a tensor, which shares its memory."""
        return tensor.to_local() if _sharded(tensor) else tensor

    def whole_of(self, own: Tensor, like: Tensor) -> Tensor:
        """The whole of what every process has a share of, on every process.

        Args:
            own: This process's share.
            like: The parameter that it is a share of.
        """
        if not _sharded(like):
            return own
        from torch.distributed.tensor import DTensor

        shared = DTensor.from_local(
            own, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )
        return shared.full_tensor()

    def own_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """An optimizer's state with this process's share of each tensor, on the CPU."""
        import torch

        moments = {
            number: {
                name: self.own_part(value).cpu() if isinstance(value, torch.Tensor) else value
                for name, value in each.items()
            }
            for number, each in state["state"].items()
        }
        return {"state": moments, "param_groups": state["param_groups"]}

    def whole_state(self, state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
        """An optimizer's state for parameters that may be sharded, from this process's share."""
        moments = {
            number: {
                name: self._shared(value, parameters[int(number)]) for name, value in each.items()
            }
            for number, each in state["state"].items()
        }
        return {"state": moments, "param_groups": state["param_groups"]}

    def _shared(self, value: Any, like: Tensor) -> Any:
        if not _sharded(like) or not hasattr(value, "dim") or value.dim() == 0:
            return value
        from torch.distributed.tensor import DTensor

        own = value.to(like.to_local().device)
        return DTensor.from_local(
            own, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")
