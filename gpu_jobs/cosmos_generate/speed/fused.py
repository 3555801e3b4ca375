"""What happens between two FP8 matrix products, each as one operator: Triton on a GPU, torch elsewhere.

Every operator that ends in float8 returns rows and the scale of each row, as `FP8Linear.product`
takes them. Compiled blocks do not look into the operators.
"""

# B batch, L tokens, F frames or 1, H heads, E width of a head, D width of a token, R rows

from typing import Any

import torch
from torch.nn import functional

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0  # torch.finfo(torch.float8_e4m3fn).max
LEAST_SCALE = 1e-12  # of a row of zeros

Rows8 = tuple[torch.Tensor, torch.Tensor]


def quantise(rows: torch.Tensor) -> Rows8:
    """Rows as float8 and the scale of each, float32 (R, 1), in plain torch.

    Example:
        >>> quantise(torch.tensor([[448.0, 1.0]]))[1]
        tensor([[1.]])
    """
    wide = rows.float()
    scale = (wide.abs().amax(1, keepdim=True) / FP8_MAX).clamp(min=LEAST_SCALE)
    return (wide / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


@torch.library.custom_op("worldloop::quantise_rows", mutates_args=())
def quantise_rows(x: torch.Tensor) -> Rows8:
    """`quantise` of the rows of the last axis."""
    rows = x.reshape(-1, x.shape[-1])
    return _launched("quantise_rows", rows, rows.shape[1]) if x.is_cuda else quantise(rows)


@torch.library.custom_op("worldloop::gelu_rows", mutates_args=())
def gelu_rows(x: torch.Tensor) -> Rows8:
    """GELU (with the error function), quantised."""
    rows = x.reshape(-1, x.shape[-1])
    return (
        _launched("gelu_rows", rows, rows.shape[1])
        if x.is_cuda
        else quantise(functional.gelu(rows))
    )


@torch.library.custom_op("worldloop::gated_rows", mutates_args=())
def gated_rows(x: torch.Tensor) -> Rows8:
    """SiLU of the first half of each row times its second half, quantised."""
    rows = x.reshape(-1, x.shape[-1])
    if x.is_cuda:
        return _launched("gated_rows", rows, rows.shape[1] // 2)
    gate, value = rows.chunk(2, dim=-1)
    return quantise(functional.silu(gate) * value)


@quantise_rows.register_fake
@gelu_rows.register_fake
def _same_width(x: torch.Tensor) -> Rows8:
    return _like_rows(x, x.shape[-1])


@gated_rows.register_fake
def _half_width(x: torch.Tensor) -> Rows8:
    return _like_rows(x, x.shape[-1] // 2)


@torch.library.custom_op("worldloop::modulated_rows", mutates_args=())
def modulated_rows(
    x_BLD: torch.Tensor,
    added_BLD: torch.Tensor | None,
    gates: torch.Tensor | None,
    rows: torch.Tensor,
    frame_L: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A residual, and then what the next product reads: normalised, scaled, shifted, quantised.

    Args:
        x_BLD: Tokens.
        added_BLD: What is added to them, if anything.
        gates: Shift, scale and gate, (B, F, 3 D), whose gate `added_BLD` is multiplied with.
        rows: Shift, scale and gate of the norm.
        frame_L: Number of each token's row in both; None if there is one.
        eps: Of the norm.

    Returns:
        The tokens after the addition (empty without one), the rows and their scales.
    """
    if x_BLD.is_cuda:
        return _modulated_on_gpu(x_BLD, added_BLD, gates, rows, frame_L, eps)
    if added_BLD is not None:
        x_BLD = x_BLD + (added_BLD if gates is None else added_BLD * _part(gates, 2, frame_L))
    y_BLD = functional.layer_norm(x_BLD, x_BLD.shape[-1:], eps=eps)
    y_BLD = y_BLD * (1 + _part(rows, 1, frame_L)) + _part(rows, 0, frame_L)
    kept = x_BLD.new_empty(0) if added_BLD is None else x_BLD
    return (kept, *quantise(y_BLD.flatten(0, 1)))


@modulated_rows.register_fake
def _modulated_shapes(
    x: torch.Tensor, added: Any, gates: Any, rows: Any, frames: Any, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (x.new_empty(0 if added is None else x.shape), *_like_rows(x, x.shape[-1]))


@torch.library.custom_op("worldloop::rotated_heads", mutates_args=())
def rotated_heads(
    x_BLHE: torch.Tensor,
    weight: torch.Tensor,
    cos_LE: torch.Tensor,
    sin_LE: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """RMS norm of each head, then rotary positions; contiguous (B, L, H, E).

    Heads of a token must lie side by side, as in a slice of the product for Q, K and V.
    """
    if not x_BLHE.is_cuda:
        normed = functional.rms_norm(x_BLHE.float(), x_BLHE.shape[-1:], weight.float(), eps)
        return rotated(normed, cos_LE, sin_LE).to(x_BLHE.dtype).contiguous()
    from gpu_jobs.cosmos_generate.speed import kernels

    batch, tokens, heads, width = x_BLHE.shape
    if x_BLHE.stride()[2:] != (width, 1) or x_BLHE.stride(0) != tokens * x_BLHE.stride(1):
        x_BLHE = x_BLHE.contiguous()
    out = torch.empty(x_BLHE.shape, dtype=x_BLHE.dtype, device=x_BLHE.device)
    kernels.rotated_heads[(batch * tokens,)](
        x_BLHE,
        weight,
        cos_LE.contiguous(),
        sin_LE.contiguous(),
        out,
        x_BLHE.stride(1),
        tokens,
        eps,
        heads=heads,
        half=width // 2,
        HEADS=_power_of_two(heads),
        num_warps=4,
    )
    return out


@rotated_heads.register_fake
def _rotated_shape(x: torch.Tensor, weight: Any, cos: Any, sin: Any, eps: float) -> torch.Tensor:
    return x.new_empty(x.shape)


def rotated(x_BLHE: torch.Tensor, cos_LE: torch.Tensor, sin_LE: torch.Tensor) -> torch.Tensor:
    """Rotary positions in float32; the two halves of a head turn together."""
    first, second = x_BLHE.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x_BLHE.float() * cos_LE[:, None] + turned * sin_LE[:, None]).to(x_BLHE.dtype)


def _modulated_on_gpu(
    x: torch.Tensor, added: Any, gates: Any, rows: Any, frames: Any, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from gpu_jobs.cosmos_generate.speed import kernels

    x, rows = x.contiguous(), rows.contiguous()
    added = None if added is None else added.contiguous()
    gates = None if gates is None else gates.contiguous()
    width = x.shape[-1]
    out = x.new_empty(0 if added is None else x.shape)
    out8, scales = _like_rows(x, width)
    kernels.modulated_rows[(len(scales),)](
        x,
        x if added is None else added,
        rows if gates is None else gates,
        rows,
        rows if frames is None else frames,
        out,
        out8,
        scales,
        x.shape[1],
        rows.shape[1],
        eps,
        width=width,
        has_added=added is not None,
        has_gates=gates is not None,
        has_frames=frames is not None,
        BLOCK=_power_of_two(width),
        num_warps=_warps(width),
    )
    return out, out8, scales


def _launched(name: str, rows: torch.Tensor, width: int) -> Rows8:
    from gpu_jobs.cosmos_generate.speed import kernels

    rows = rows.contiguous()
    out8, scales = _like_rows(rows, width)
    getattr(kernels, name)[(len(rows),)](
        rows, out8, scales, width=width, BLOCK=_power_of_two(width), num_warps=_warps(width)
    )
    return out8, scales


def _like_rows(x: torch.Tensor, width: int) -> Rows8:
    rows = x.numel() // x.shape[-1]
    return (
        x.new_empty((rows, width), dtype=FP8),
        x.new_empty((rows, 1), dtype=torch.float32),
    )


def _part(rows_BFD: torch.Tensor, number: int, frame_L: torch.Tensor | None) -> torch.Tensor:
    """Shift, scale or gate of each token."""
    part = rows_BFD.chunk(3, dim=-1)[number]
    return part if frame_L is None else part.index_select(1, frame_L)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _warps(width: int) -> int:
    """A thread holds at most 32 values of a row, as far as a block has warps."""
    return min(max(_power_of_two(width) // 1024, 1), 16)
