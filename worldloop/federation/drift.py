"""Drift: how far the embeddings of a site's newer footage have moved from those of its older.

What leaves a site is one number a feature space. A mean or a covariance would not do: the mean of a
city with one clip is that clip's vector, and a covariance of few clips has them as its directions.
So means and covariances are made, kept and compared at the site, and the outbox lets the number alone
pass. They are kept as sums, so that a wave is added without reading the older ones again.

The number is the Frechet distance of two normal distributions, with covariances shrunk towards their
diagonal: thousands of clips are there, and the shrinking keeps hundreds from looking like drift.
"""

# D numbers of a vector, N vectors

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError

Floats = NDArray[np.float64]
MIN_CLIPS = 32


@dataclass(frozen=True)
class Moments:
    """Sums over vectors; they stay at the site.

    Attributes:
        count: Vectors.
        total: Their sum, float64 (D,).
        squares: The sum of their outer products, float64 (D, D).
    """

    count: int
    total: Floats
    squares: Floats

    @classmethod
    def of(cls, vectors_ND: NDArray[np.floating]) -> Self:
        """The sums over vectors, (N, D).

        Raises:
            MalformedRecordError: If a number is not finite.
        """
        given = np.asarray(vectors_ND, np.float64)
        if given.ndim != 2 or not np.isfinite(given).all():
            raise MalformedRecordError(
                "vectors of a site", given.shape, "finite numbers of shape (N, D)", "Embed again."
            )
        return cls(len(given), given.sum(axis=0), given.T @ given)

    def __add__(self, other: "Moments") -> "Moments":
        """The sums over both."""
        if self.total.shape != other.total.shape:
            raise MalformedRecordError(
                "vectors of a site",
                (self.total.shape, other.total.shape),
                "one width",
                "Compare vectors of one embedding model.",
            )
        return Moments(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    @property
    def mean(self) -> Floats:
        """(D,)."""
        return np.asarray(self.total / self.count, np.float64)

    def covariance(self) -> Floats:
        """Shrunk towards its diagonal by the share D / (D + N), (D, D)."""
        width = len(self.total)
        centred = self.squares / self.count - np.outer(self.mean, self.mean)
        unbiased = centred * self.count / max(self.count - 1, 1)
        share = width / (width + self.count)
        diagonal = np.diag(np.diag(unbiased))
        return np.asarray((1 - share) * unbiased + share * diagonal, np.float64)


def drift(before: Moments, after: Moments) -> float:
    """Frechet distance of newer footage to older, as a share of the older one's spread; 0: none.

    The square root of the squared distance over the trace of the covariance before, so that 1 is as far
    as footage lies from its own mean.

    Args:
        before: Of the footage that the base was trained with.
        after: Of the footage since.

    Raises:
        MalformedRecordError: If either has fewer than `MIN_CLIPS` clips, or their widths differ.
    """
    least = min(before.count, after.count)
    if least < MIN_CLIPS:
        raise MalformedRecordError(
            "footage to measure drift on",
            f"{least} clips",
            f"at least {MIN_CLIPS} before and after",
            "Wait for more footage.",
        )
    if before.total.shape != after.total.shape:
        raise MalformedRecordError(
            "vectors of a site",
            (before.total.shape, after.total.shape),
            "one width",
            "Compare vectors of one embedding model.",
        )
    spread = float(np.trace(before.covariance()))
    squared = frechet_squared(before.mean, before.covariance(), after.mean, after.covariance())
    return float(np.sqrt(max(squared, 0.0) / max(spread, 1e-12)))


def frechet_squared(
    mean_1: Floats, covariance_1: Floats, mean_2: Floats, covariance_2: Floats
) -> float:
    """Squared Frechet distance of two normal distributions (arXiv 1706.08500).

    Example:
        >>> frechet_squared(np.zeros(2), np.eye(2), np.ones(2), np.eye(2))
        2.0
    """
    root = _root(covariance_1)
    between = np.trace(_root(root @ covariance_2 @ root))
    apart = float(np.square(mean_1 - mean_2).sum())
    return float(apart + np.trace(covariance_1) + np.trace(covariance_2) - 2 * between)


def _root(matrix: Floats) -> Floats:
    """Of a symmetric matrix without negative directions."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T, np.float64)
