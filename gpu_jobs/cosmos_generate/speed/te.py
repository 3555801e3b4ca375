"""FP8 through Transformer Engine, where it is installed: linear layers, and attention.

In both a tensor is scaled by its largest value. Linear layers have Transformer Engine's current
scaling for it. Its FP8 attention on Hopper knows delayed scaling alone, which learns its scales in
training steps; without gradients they would stay at 1, so that they are set here before each call. The
layers and the attention are operators that compiled blocks do not look into.
"""

# L tokens, H heads, S keys, E width of a head

import functools
import importlib
import importlib.util
import itertools
from typing import Any

import torch
from torch import nn

from worldloop.errors import MalformedRecordError, MissingExtraError

_LAYERS: dict[int, "TELinear"] = {}
_ATTENTIONS: dict[tuple[int, int, int], Any] = {}
_numbers = itertools.count()
_E4M3_MAX = 448.0
_PROBABILITY_SCALE = 256.0
"""Of softmax's numerators, which lie in 0 to 1, before they are rounded to E4M3 (at most 448): a
clip's tokens are many, and at 1 the smaller numerators round to nothing."""


def import_te() -> Any:
    """`transformer_engine.pytorch`.

    Raises:
        MissingExtraError: If it is not installed.
    """
    if importlib.util.find_spec("transformer_engine") is None:
        raise MissingExtraError("transformer_engine", "te")
    return importlib.import_module("transformer_engine.pytorch")


def check_gpu(device: torch.device) -> None:
    """Refuse a device that Transformer Engine has no FP8 for.

    Raises:
        MissingExtraError: If it is not installed.
        MalformedRecordError: If the device has no FP8.
    """
    import_te()
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        found = device.type if device.type != "cuda" else torch.cuda.get_device_name(device)
        raise MalformedRecordError(
            "device for transformer_engine",
            found,
            "a CUDA GPU of the Ada or Hopper generation or later",
            "Choose the profile 'fast' or 'exact'.",
        )


@functools.cache
def _linear_recipe() -> Any:
    """Current scaling: E4M3 forward, E5M2 for gradients, which only training has."""
    recipes = importlib.import_module("transformer_engine.common.recipe")
    return recipes.Float8CurrentScaling(fp8_format=recipes.Format.HYBRID)


@functools.cache
def _attention_recipe() -> Any:
    """Delayed scaling; `_rescale` does what its history would do."""
    recipes = importlib.import_module("transformer_engine.common.recipe")
    return recipes.DelayedScaling(fp8_format=recipes.Format.HYBRID, fp8_dpa=True)


def _autocast(recipe: Any) -> Any:
    te = import_te()
    if hasattr(te, "autocast"):
        return te.autocast(enabled=True, recipe=recipe)
    return te.fp8_autocast(enabled=True, fp8_recipe=recipe)


def linears_in_fp8() -> Any:
    """The context in which `te.Linear` computes in FP8; its backward pass remembers it."""
    return _autocast(_linear_recipe())


class TELinear(nn.Module):
    """Linear layers that read the same input, as one `te.Linear` in FP8.

    Attributes:
        linear: Of Transformer Engine.
        in_features: Width in.
        out_features: Width out.
    """

    def __init__(self, linears: list[nn.Linear], device: Any):
        """Copy the weights of linear layers, one under the other.

        Args:
            linears: With or without bias, all alike.
            device: Where it will compute.
        """
        super().__init__()
        weight = torch.cat([linear.weight.detach() for linear in linears])
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self.in_features, self.out_features = linears[0].in_features, len(weight)
        self.linear = import_te().Linear(
            self.in_features,
            self.out_features,
            bias=bool(biases),
            params_dtype=weight.dtype,
            device=device,
        )
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            if biases:
                self.linear.bias.copy_(torch.cat(biases))
        self.requires_grad_(False)
        self._quantised = False
        self._number = next(_numbers)
        _LAYERS[self._number] = self

    @property
    def weight(self) -> torch.Tensor:
        """The weights, for code that asks a linear layer for its device."""
        weight: torch.Tensor = self.linear.weight
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, (..., O)."""
        out: torch.Tensor = _te_linear(x, self._number, self.out_features)
        return out

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The product, outside of compiled code; weights are quantised in the first one."""
        with linears_in_fp8():
            out: torch.Tensor = self.linear(x, is_first_microbatch=not self._quantised)
        self._quantised = True
        return out


@torch.library.custom_op("worldloop::te_linear", mutates_args=())
def _te_linear(x: torch.Tensor, number: int, out_features: int) -> torch.Tensor:
    return _LAYERS[number].product(x.contiguous())


@_te_linear.register_fake
def _te_linear_shape(x: torch.Tensor, number: int, out_features: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def fp8_attention(device: torch.device) -> Any:
    """Dense attention in FP8 on (B, H, L, E), through Transformer Engine's cuDNN kernels.

    Raises:
        MissingExtraError: If transformer_engine is not installed.
        MalformedRecordError: If the device has no FP8.
    """
    check_gpu(device)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        shape = (q.shape[1], k.shape[1], q.shape[3])
        if shape not in _ATTENTIONS:
            _ATTENTIONS[shape] = _attention(*shape)
        q, k, v = (one.transpose(1, 2).contiguous() for one in (q, k, v))
        _rescale(_ATTENTIONS[shape], q, k, v)
        with _autocast(_attention_recipe()):
            out_BLD: torch.Tensor = _ATTENTIONS[shape](q, k, v)
        return out_BLD.unflatten(2, (shape[0], shape[2])).transpose(1, 2)

    return attend


def _attention(num_heads: int, num_kv_heads: int, head_dim: int) -> Any:
    attention = (
        import_te()
        .DotProductAttention(
            num_heads,
            head_dim,
            num_gqa_groups=num_kv_heads,
            attn_mask_type="no_mask",
            qkv_format="bshd",
            attention_dropout=0.0,
        )
        .eval()
    )
    with _autocast(_attention_recipe()):
        attention.init_fp8_metadata(num_gemms=3)
    return attention


def _rescale(attention: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Set the scales of one call, on the GPU.

    An output is a mean of values, and can be far smaller than they are: where a clip's tokens are
    looked at alike, by the root of their number. At a scale of 1 it would be rounded in steps.
    """
    slots = importlib.import_module("transformer_engine.pytorch.cpp_extensions.fused_attn")
    scales = attention.quantizers["scaling_fwd"]
    largest = torch.stack([one.abs().amax() for one in (q, k, v)]).float().clamp_min(1e-12)
    scales[slots.META_QKV].scale.fill_(1).mul_(_E4M3_MAX / largest.amax())
    scales[slots.META_O].scale.fill_(1).mul_(_E4M3_MAX / largest[2])
    scales[slots.META_S].scale.fill_(_PROBABILITY_SCALE)
