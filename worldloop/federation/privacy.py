"""Differential privacy of a site's deltas: clipping, Gaussian noise, and what is spent over rounds.

What is protected is a site's whole footage of a round: with it or without it, what the site sends is
nearly as likely. The unit is large and sites are few, so noise that gives a small epsilon drowns a delta:
see `PrivacySpent.statement`. Off by default.

The accountant composes Renyi differential privacy (Mironov 2017, arXiv 1702.07476) of the Gaussian
mechanism, subsampled by Poisson's rule (Mironov, Talwar, Zhang 2019, arXiv 1908.10530, section 3.3), and converts
it by Canonne, Kamath, Steinke 2020 (arXiv 2004.00010, proposition 12).
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays, norm

# Without subsampling any order is allowed; with it only whole ones are computed, which costs a little.
_FRACTIONAL_ORDERS = tuple(1 + step / 20 for step in range(1, 200))
_WHOLE_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)
_CHUNK = 1 << 19  # pairs of numbers that are drawn at once


@dataclass(frozen=True)
class PrivacySpent:
    """What rounds have cost a site's footage.

    Attributes:
        epsilon: Of (epsilon, delta); infinite without noise.
        delta: Of it.
        order: Renyi order that gave it; 0 without noise.
        num_rounds: Rounds that were composed.
        noise_multiplier: Noise of the sum that is seen, over the longest share of one site.
        sampling_rate: Chance that a site takes part in a round.
    """

    epsilon: float
    delta: float
    order: float
    num_rounds: int
    noise_multiplier: float
    sampling_rate: float = 1.0

    def statement(self, num_parameters: int) -> str:
        """Guarantee and price in words.

        Args:
            num_parameters: Numbers of the adapter.

        Example:
            >>> privacy_spent(1.0, 1, delta=1e-5).statement(22_480_000).split(". ")[0]
            "(4.73, 1e-05)-differentially private for a site's whole footage after 1 round"
        """
        rounds = f"{self.num_rounds} round{'' if self.num_rounds == 1 else 's'}"
        if not math.isfinite(self.epsilon):
            return f"No differential privacy: {rounds} without noise."
        times = self.noise_multiplier * math.sqrt(num_parameters)
        return (
            f"({self.epsilon:.3g}, {self.delta:g})-differentially private for a site's whole footage "
            f"after {rounds}. The price: noise {times:.0f} times as long as the longest delta is added. "
            "Losses, counts and times that are sent beside the delta are not covered."
        )


def clipped(arrays: Arrays, clip_norm: float) -> dict[str, NDArray[np.float32]]:
    """Tensors, scaled down so that their length is at most `clip_norm`; 0 is no limit.

    The length holds for the float32 numbers that come out, not only before rounding.
    """
    scaled = {name: np.asarray(arrays[name], np.float32) for name in sorted(arrays)}
    length = norm(scaled)
    if clip_norm <= 0 or length <= clip_norm:
        return scaled
    factor = np.float32(clip_norm / length)
    while True:
        found = {name: each * factor for name, each in scaled.items()}
        if norm(found) <= clip_norm:
            return found
        factor = np.nextafter(factor, np.float32(0))


def privatised(
    arrays: Arrays, *, clip_norm: float, noise_multiplier: float, seed: bytes | None = None
) -> dict[str, NDArray[np.float32]]:
    """A delta, clipped, with Gaussian noise of standard deviation `noise_multiplier * clip_norm`.

    With error feedback the residual is added before this, and a new one is what the codec loses
    afterwards: it is then made of what was protected already. What clipping cuts off is never sent later.
    The noise is drawn in double precision and added before rounding to float32; the attack on the last bits of
    floating-point noise (Mironov 2012) is met by the codec, which rounds coarser than that.

    Args:
        arrays: The delta.
        clip_norm: Above 0 if there is noise.
        noise_multiplier: Of the site's own noise; 0: only clipped.
        seed: 32 bytes, for tests alone; without it the operating system gives a new one.

    Raises:
        MalformedRecordError: If there is noise without a limit of the length, or a number is not finite.
    """
    if noise_multiplier < 0 or (noise_multiplier > 0 and not clip_norm > 0):
        raise MalformedRecordError(
            "noise_multiplier", noise_multiplier, "a clip_norm above 0 with it", "Set clip_norm."
        )
    if not math.isfinite(norm(arrays)):
        raise MalformedRecordError(
            "delta", "numbers that are not finite", "finite numbers", "Train again."
        )
    limited = clipped(arrays, clip_norm)
    if noise_multiplier == 0:
        return limited
    noise = SecureGaussian(seed)
    deviation = noise_multiplier * clip_norm
    return {
        name: (each + deviation * noise.draw(each.size).reshape(each.shape)).astype(np.float32)
        for name, each in limited.items()
    }


class SecureGaussian:
    """Standard normal numbers from a cipher's key stream (ChaCha20, Box and Muller's transform).

    Args:
        seed: 32 bytes; None takes new ones of the operating system.
    """

    def __init__(self, seed: bytes | None = None):
        key = seed if seed is not None else secrets.token_bytes(32)
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def draw(self, size: int) -> NDArray[np.float64]:
        """The next numbers, shape (size,)."""
        drawn = np.empty(size)
        for start in range(0, size, 2 * _CHUNK):
            part = drawn[start : start + 2 * _CHUNK]
            pairs = (part.size + 1) // 2
            radius = np.sqrt(-2 * np.log1p(-self._uniform(pairs)))
            angle = 2 * np.pi * self._uniform(pairs)
            both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
            part[:] = both[: part.size]
        return drawn

    def _uniform(self, size: int) -> NDArray[np.float64]:
        """Numbers of [0, 1) with 53 random bits."""
        raw = np.frombuffer(self._stream.update(bytes(8 * size)), "<u8")
        uniform: NDArray[np.float64] = (raw >> np.uint64(11)) * np.float64(2.0**-53)
        return uniform


def privacy_spent(
    noise_multiplier: float, num_rounds: int, *, delta: float, sampling_rate: float = 1.0
) -> PrivacySpent:
    """Epsilon after rounds.

    Args:
        noise_multiplier: Noise of what is seen over what one site can change in it: a site's own
            without secure aggregation, `summed_multiplier` of the weights with it.
        num_rounds: Rounds in which the same footage may have been trained on.
        delta: Of (epsilon, delta), between 0 and 1.
        sampling_rate: Chance of taking part in a round, drawn in secret; 1 is every round, also where
            who takes part is known.

    Raises:
        MalformedRecordError: If a number is out of its range.
    """
    if not (0 < delta < 1 and 0 < sampling_rate <= 1 and noise_multiplier >= 0 and num_rounds >= 0):
        raise MalformedRecordError(
            "privacy accountant",
            (noise_multiplier, num_rounds, delta, sampling_rate),
            "noise and rounds of at least 0, delta and sampling rate above 0 and at most 1",
            "Correct the plan.",
        )
    if num_rounds == 0 or noise_multiplier == 0:
        epsilon = 0.0 if num_rounds == 0 else math.inf
        return PrivacySpent(epsilon, delta, 0.0, num_rounds, noise_multiplier, sampling_rate)
    orders: Sequence[float] = _WHOLE_ORDERS
    if sampling_rate == 1:
        orders = (*_FRACTIONAL_ORDERS, *_WHOLE_ORDERS)
    epsilon, order = min(
        (_converted(num_rounds * renyi(noise_multiplier, each, sampling_rate), each, delta), each)
        for each in orders
    )
    return PrivacySpent(epsilon, delta, float(order), num_rounds, noise_multiplier, sampling_rate)


def renyi(noise_multiplier: float, order: float, sampling_rate: float = 1.0) -> float:
    """Renyi divergence of one round.

    Args:
        noise_multiplier: Standard deviation of the noise over the sensitivity.
        order: Above 1; a whole number if there is subsampling.
        sampling_rate: Chance of taking part.

    Example:
        >>> renyi(2.0, 8), round(renyi(2.0, 8, 0.01), 6)
        (1.0, 0.000116)
    """
    if sampling_rate == 1:
        return order / (2 * noise_multiplier**2)
    whole = round(order)
    rate, rest = math.log(sampling_rate), math.log1p(-sampling_rate)
    terms = [
        _log_binomial(whole, k)
        + k * rate
        + (whole - k) * rest
        + k * (k - 1) / (2 * noise_multiplier**2)
        for k in range(whole + 1)
    ]
    largest = max(terms)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return max(total, 0.0) / (whole - 1)


def summed_multiplier(noise_multiplier: float, weights: Mapping[str, float]) -> float:
    """Noise of a sum of sites that each add their own, over the largest share of one site.

    With secure aggregation the coordinator sees only the weighted sum, in which the noise of all sites stands:
    for n sites of equal weight it is sqrt(n) times a site's own. Count only sites that are trusted to add theirs.

    Args:
        noise_multiplier: Of each site.
        weights: Of the sites in the sum.

    Example:
        >>> summed_multiplier(1.0, {"aws": 1, "gcp": 1, "azure": 1, "local": 1})
        2.0
    """
    largest = max(weights.values())
    return noise_multiplier * math.sqrt(math.fsum((w / largest) ** 2 for w in weights.values()))


def _converted(divergence: float, order: float, delta: float) -> float:
    """Epsilon of one order."""
    epsilon = divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    return max(epsilon, 0.0)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
