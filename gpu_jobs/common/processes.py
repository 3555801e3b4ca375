"""The processes that `torchrun` started for one job; without it there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes of a job.

    Attributes:
        size: How many there are.
        rank: Number of this one; the first one leads.
    """

    size: int = 1
    rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process reads, decides and writes for all."""
        return self.rank == 0

    def share(self, value: Value | None) -> Value:
        """What the first process has, on every process; the others pass None."""
        if self.size > 1:
            import torch.distributed as dist

            box = [value]
            dist.broadcast_object_list(box, src=0)
            value = box[0]
        assert value is not None, "the first process shares something"
        return value


def this_rank() -> int:
    """Number of this process under `torchrun`; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, over NCCL on GPUs and gloo on CPUs.

    Args:
        device: Of this process, `cpu` or `cuda:<n>`.
    """
    size = num_processes()
    if size == 1:
        yield Processes()
        return
    import torch
    import torch.distributed as dist

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Processes(size, dist.get_rank())
    finally:
        dist.destroy_process_group()
