"""Intervals over repetitions: 90 % bootstrap, the same for the same values."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RESAMPLES, _PERCENTILES = 2000, (5, 95)

Numbers = NDArray[np.float64]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of independent values, one a seed.

    Example:
        >>> interval([2.0, 2.0])
        (2.0, 2.0)
    """
    given = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(given), (_RESAMPLES, len(given)))
    low, high = np.percentile(given[drawn].mean(axis=1), _PERCENTILES)
    return float(low), float(high)


def crossed_interval(values_SP: Numbers) -> tuple[float, float]:
    """Of the mean over seeds and prompts, both drawn anew: every seed saw every prompt.

    A bootstrap over all values as if they were independent would be too narrow, because one seed's clips share
    an adapter and one prompt's clips share a scene (the pigeonhole bootstrap, Owen 2007, doi 10.1214/07-AOAS122).

    Args:
        values_SP: One row a seed, one column a prompt.

    Example:
        >>> crossed_interval(np.zeros((2, 3)))
        (0.0, 0.0)
    """
    rng = np.random.default_rng(0)
    num_seeds, num_prompts = values_SP.shape
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), _RESAMPLES) / num_seeds
    prompts = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), _RESAMPLES)
    means = np.einsum("rs,sp,rp->r", seeds, values_SP, prompts / num_prompts)
    low, high = np.percentile(means, _PERCENTILES)
    return float(low), float(high)
