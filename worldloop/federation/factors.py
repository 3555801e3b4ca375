"""Factors of an adapter: towards the mean of the sites' products, which is not the product of their means.

A site's layer changes by B A. The mean of what the sites learned is mean(B A); averaging each factor gives
mean(B) mean(A), which misses how they vary together. The mean product has more ranks than an adapter, so the nearest
one of its rank is sought from the mean factors on: one least-squares step for B, then one for A. Starting there
keeps the factors' coordinates near those of the sites, which a projection by singular values would not.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worldloop.federation.adapters import DOWN, UP, Arrays

_DAMPING = 1e-3  # of the mean squared length of a factor's rows; directions that are hardly used stay as they are

_Wide = NDArray[np.float64]


def towards_mean_product(
    delta: Arrays, deltas: Sequence[Arrays], weights: Iterable[float], start: Arrays
) -> dict[str, NDArray[np.float32]]:
    """The mean delta, moved so that the product of each layer's factors is nearer to the mean product.

    Args:
        delta: Mean of the deltas, each factor by itself.
        deltas: Of the sites.
        weights: Share of each, adding up to 1.
        start: What all deltas start from.

    Returns:
        A delta as the given one; tensors that are no factor of a layer are as they were.
    """
    shares = list(weights)
    moved = dict(delta)
    for layer in sorted(name.removesuffix(DOWN) for name in delta if name.endswith(DOWN)):
        if layer + UP not in delta:
            continue
        downs = [_factor(start, each, layer + DOWN) for each in deltas]
        ups = [_factor(start, each, layer + UP) for each in deltas]
        down, up = _factor(start, delta, layer + DOWN), _factor(start, delta, layer + UP)
        # with M the mean product: M A' for the first step and B' M for the second, never M itself
        of_down = _summed((b @ (a @ down.T) for a, b in zip(downs, ups, strict=True)), shares)
        up = up + _solved(down @ down.T, (of_down - up @ (down @ down.T)).T).T
        of_up = _summed(((up.T @ b) @ a for a, b in zip(downs, ups, strict=True)), shares)
        down = down + _solved(up.T @ up, of_up - (up.T @ up) @ down)
        for name, factor in ((layer + DOWN, down), (layer + UP, up)):
            moved[name] = (factor - start[name]).astype(np.float32)
    return moved


def _factor(start: Arrays, delta: Mapping[str, NDArray[np.float32]], name: str) -> _Wide:
    return np.add(start[name], delta[name], dtype=np.float64)


def _summed(terms: Iterable[_Wide], shares: Sequence[float]) -> _Wide:
    first, *rest = (share * term for share, term in zip(shares, terms, strict=True))
    return sum(rest, start=first)


def _solved(square: _Wide, right: _Wide) -> _Wide:
    """The damped solution; nothing where the square is zero."""
    scale = np.trace(square) / len(square)
    if scale == 0:
        return np.zeros_like(right)
    return np.linalg.solve(square + _DAMPING * scale * np.eye(len(square)), right)
