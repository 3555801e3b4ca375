"""FP8 linear layers: weights quantised once, one scale a row; inputs as they come, one scale a token.

Weights are quantised in plain torch, inputs by the operators of `fused.py`. The matrix product is `torch._scaled_mm` (CUTLASS, row-wise scales). The scale of a token is its
largest absolute value over the largest of float8_e4m3fn, 448. On a CPU the same rounding is done
and the product is computed in float32, so that what the layers change can be seen without a GPU.
"""

# L tokens, I width in, O width out

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from gpu_jobs.cosmos_generate.speed.fused import FP8, Rows8, quantise, quantise_rows
from worldloop.errors import MalformedRecordError

FIRST_CAPABILITY = (8, 9)  # Ada; Hopper is 9.0
_MULTIPLE = 16  # sides of the matrices that the kernel takes


class FP8Linear(nn.Module):
    """A linear layer whose weights are float8.

    Attributes:
        weight8_OI: Quantised weights.
        weight_scale_1O: Their scales, float32.
        bias: As it was, or None.
        in_features: Width in.
        out_features: Width out.
    """

    def __init__(self, linears: list[nn.Linear], device: Any):
        """Quantise the weights of linear layers that read the same input, one under the other.

        Args:
            linears: With or without bias, all alike.
            device: Where quantisation is computed; weights stay where they were.
        """
        super().__init__()
        home = linears[0].weight.device
        quantised = [quantise(linear.weight.detach().to(device)) for linear in linears]
        weight8 = torch.cat([part.view(torch.uint8) for part, _ in quantised]).view(FP8)
        self.register_buffer("weight8_OI", weight8.to(home))
        scale_1O = torch.cat([scale for _, scale in quantised]).t().contiguous()
        self.register_buffer("weight_scale_1O", scale_1O.to(home))
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.register_buffer("bias", torch.cat(biases).detach() if biases else None)
        self.in_features = linears[0].in_features
        self.out_features = sum(linear.out_features for linear in linears)
        self.dtype = linears[0].weight.dtype

    @property
    def weight(self) -> torch.Tensor:
        """The quantised weights, for code that asks a linear layer for its device."""
        return self.weight8_OI

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product in the precision that the layer had, (..., O)."""
        return self.product(quantise_rows(x), x)

    def product(self, rows: Rows8, like: torch.Tensor) -> torch.Tensor:
        """The product of rows that are quantised already.

        Args:
            rows: As `speed.fused` makes them.
            like: Has the shape, but for the last axis, and the precision of what is wanted.
        """
        x8_LI, scale_L1 = rows
        if x8_LI.is_cuda:
            out_LO = torch._scaled_mm(
                x8_LI,
                self.weight8_OI.t(),
                scale_a=scale_L1,
                scale_b=self.weight_scale_1O,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        else:
            weight_OI = self.weight8_OI.float() * self.weight_scale_1O.t()
            out_LO = (x8_LI.float() * scale_L1) @ weight_OI.t()
        if self.bias is not None:
            out_LO = out_LO + self.bias
        return out_LO.to(like.dtype).view(*like.shape[:-1], self.out_features)


def check_gpu(device: torch.device) -> None:
    """Refuse a GPU without FP8 units.

    Raises:
        MalformedRecordError: If it has none.
    """
    if device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < FIRST_CAPABILITY:
        raise MalformedRecordError(
            "compute capability of the GPU",
            found,
            f"at least {FIRST_CAPABILITY} for a profile with FP8 linear layers",
            "Choose the profile 'exact', or a GPU of the Ada or Hopper generation or later.",
        )


Swap = Any  # takes a list of linear layers, returns the module that computes all of them


def swap_block(block: Any, swap: Swap) -> None:
    """Swap the large linear layers of a `CosmosTransformerBlock`.

    Q, K and V of self-attention become one layer. K and V of the text stay: they are small.
    """
    attn = block.attn1
    if all(_plain(attn, name) for name in ("to_q", "to_k", "to_v")):
        attn.to_qkv = swap([attn.to_q, attn.to_k, attn.to_v])
        for name in ("to_q", "to_k", "to_v"):
            setattr(attn, name, None)
    else:
        _swap_all(attn, ("to_q", "to_k", "to_v"), swap)
    _swap_all(attn.to_out, ("0",), swap)
    _swap_all(block.attn2, ("to_q",), swap)
    _swap_all(block.attn2.to_out, ("0",), swap)
    _swap_all(block.ff.net[0], ("proj",), swap)
    _swap_all(block.ff.net, ("2",), swap)


def swap_layer(layer: Any, swap: Swap) -> None:
    """Swap the large linear layers of the generator tower of a Cosmos 3 layer."""
    attn, mlp = layer.self_attn, layer.mlp_moe_gen
    joint = ("add_q_proj", "add_k_proj", "add_v_proj")
    if all(_plain(attn, name) for name in joint):
        attn.add_qkv_proj = swap([getattr(attn, name) for name in joint])
        for name in joint:
            setattr(attn, name, None)
    else:
        _swap_all(attn, joint, swap)
    _swap_all(attn, ("to_add_out",), swap)
    if hasattr(mlp, "gate_proj") and _plain(mlp, "gate_proj") and _plain(mlp, "up_proj"):
        mlp.gate_up_proj = swap([mlp.gate_proj, mlp.up_proj])
        mlp.gate_proj = mlp.up_proj = None
    else:
        _swap_all(mlp, [name for name in ("gate_proj", "up_proj") if hasattr(mlp, name)], swap)
    _swap_all(mlp, ("down_proj",), swap)


def _swap_all(owner: Any, names: Iterable[str], swap: Swap) -> None:
    """Swap layers by name; of an adapted layer the one beneath the adapter."""
    for owner_of, name in _linears(owner, names):
        setattr(owner_of, name, swap([getattr(owner_of, name)]))


def _linears(owner: Any, names: Iterable[str]) -> Iterator[tuple[Any, str]]:
    for name in names:
        layer = getattr(owner, name)
        target = (layer, "base_layer") if hasattr(layer, "base_layer") else (owner, name)
        if _fits(getattr(*target)):
            yield target


def _plain(owner: Any, name: str) -> bool:
    layer = getattr(owner, name)
    return isinstance(layer, nn.Linear) and not hasattr(layer, "base_layer") and _fits(layer)


def _fits(linear: Any) -> bool:
    """Whether the kernel takes a layer's sides."""
    return bool(linear.in_features % _MULTIPLE == 0 and linear.out_features % _MULTIPLE == 0)
