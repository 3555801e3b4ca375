"""Triton kernels between two FP8 matrix products: a row is read once, worked on, and written as float8.

A program holds one row of tokens in registers, so that its largest value is known before it is
quantised. torch's compiler makes the same of several reads; these take a fifth to a half of its time.
`fused.py` says what each computes and has the same in plain torch.
"""

import triton
import triton.language as tl


@triton.jit
def store_row8(values, out8, scales, row, columns, width, inside):
    """Quantise a row by its largest absolute value and store it with its scale."""
    scale = tl.maximum(tl.max(tl.where(inside, tl.abs(values), 0.0)) / 448.0, 1e-12)
    small = tl.minimum(tl.maximum(values / scale, -448.0), 448.0)
    tl.store(out8 + row * width + columns, small.to(out8.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def quantise_rows(x, out8, scales, width: tl.constexpr, BLOCK: tl.constexpr):
    """Rows as they are."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    store_row8(values, out8, scales, row, columns, width, inside)


@triton.jit
def gelu_rows(x, out8, scales, width: tl.constexpr, BLOCK: tl.constexpr):
    """Rows through GELU."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    # The error function by formula 7.1.26 of Abramowitz and Stegun, wrong by 1.5e-7 at most: a third
    # of the instructions of the library's, which are what this kernel waits for.
    x_abs = tl.abs(values) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * x_abs)
    poly = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    erf_abs = 1.0 - poly * tl.exp(-x_abs * x_abs)
    values = 0.5 * (values + tl.abs(values) * erf_abs)
    store_row8(values, out8, scales, row, columns, width, inside)


@triton.jit
def gated_rows(x, out8, scales, width: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of gates beside values: SiLU of the one times the other."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    gates = tl.load(x + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(x + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    values = gates * tl.sigmoid(gates) * values
    store_row8(values, out8, scales, row, columns, width, inside)


@triton.jit
def modulated_rows(
    x,
    added,
    gates,
    rows,
    frames,
    out,
    out8,
    scales,
    tokens,
    num_frames,
    eps,
    width: tl.constexpr,
    has_added: tl.constexpr,
    has_gates: tl.constexpr,
    has_frames: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Residual, layer norm, shift and scale; `rows` and `gates` hold shift, scale and gate side by side."""
    place = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    number = (place // tokens) * num_frames
    if has_frames:
        number += tl.load(frames + place % tokens)
    values = tl.load(x + place * width + columns, mask=inside, other=0.0).to(tl.float32)
    if has_added:
        more = tl.load(added + place * width + columns, mask=inside, other=0.0).to(tl.float32)
        if has_gates:
            gate = gates + number * 3 * width + 2 * width + columns
            more *= tl.load(gate, mask=inside, other=0.0).to(tl.float32)
        kept = (values + more).to(out.dtype.element_ty)
        tl.store(out + place * width + columns, kept, mask=inside)
        values = kept.to(tl.float32)
    mean = tl.sum(values) / width
    far = tl.where(inside, values - mean, 0.0)
    values = far * tl.rsqrt(tl.sum(far * far) / width + eps)
    shift = rows + number * 3 * width + columns
    scale = tl.load(shift + width, mask=inside, other=0.0).to(tl.float32)
    values = values * (1.0 + scale) + tl.load(shift, mask=inside, other=0.0).to(tl.float32)
    store_row8(values, out8, scales, place, columns, width, inside)


@triton.jit
def rotated_heads(
    x,
    weight,
    cosines,
    sines,
    out,
    row_width,
    tokens,
    eps,
    heads: tl.constexpr,
    half: tl.constexpr,
    HEADS: tl.constexpr,
):
    """RMS norm of each head of a token, then rotary positions."""
    place = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, half)[None, :]
    inside = (head < heads) & (column < half)
    first = x + place * row_width + head * 2 * half + column
    a = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    square = tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)
    root = tl.rsqrt(square / (2 * half) + eps)[:, None]
    a = a * root * tl.load(weight + column).to(tl.float32)
    b = b * root * tl.load(weight + half + column).to(tl.float32)
    position = (place % tokens) * 2 * half + column
    cos_a = tl.load(cosines + position).to(tl.float32)
    sin_a = tl.load(sines + position).to(tl.float32)
    cos_b = tl.load(cosines + position + half).to(tl.float32)
    sin_b = tl.load(sines + position + half).to(tl.float32)
    target = out + (place * heads + head) * 2 * half + column
    tl.store(target, (a * cos_a - b * sin_a).to(out.dtype.element_ty), mask=inside)
    tl.store(target + half, (b * cos_b + a * sin_b).to(out.dtype.element_ty), mask=inside)
