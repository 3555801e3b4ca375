"""The adapted layer: a frozen linear layer with two small factors beside it."""

# I width in, O width out, R rank

from typing import Any

import torch
from torch import nn
from torch.nn import functional


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
