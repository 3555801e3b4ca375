"""Fixed point: real numbers as integers of a ring, so that masks cancel in sums exactly."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.federation.rounds import RoundPlan

Ring = NDArray[np.unsignedinteger[Any]]
CHUNK = 1 << 20  # numbers that are worked on at once: few enough for a cache
_ADAM_MARGIN = 2.0
_DEVIATIONS = 6


@dataclass(frozen=True)
class FixedPoint:
    """How real numbers become integers of a ring, so that sums are exact.

    A site's numbers are limited to `bound` and multiplied by its weight, as a share of
    `max_weight`; its weight goes behind them. All of it is agreed in the plan, none of it tells of a site.

    Attributes:
        bound: Largest size of a number; what is beyond is cut off. A delta that is clipped to a length
            cannot have a longer number than that.
        num_sites: Sites that may be summed.
        max_weight: A larger weight (clips of a site) counts as this.
        bits: Of the ring, 32 or 16.
    """

    bound: float
    num_sites: int
    max_weight: int = 10_000
    bits: int = 32

    def __post_init__(self) -> None:
        """Refuse what overflows.

        Raises:
            MalformedRecordError: Naming what is odd.
        """
        if self.bits not in (16, 32) or not self.bound > 0 or self.max_weight < 1:
            raise MalformedRecordError(
                "fixed point",
                (self.bits, self.bound, self.max_weight),
                "16 or 32 bits, a bound above 0 and a weight of at least 1",
                "Correct the plan.",
            )
        if self.num_sites * self.max_weight >= 1 << self.bits:
            raise MalformedRecordError(
                "fixed point",
                f"{self.num_sites} sites of weight {self.max_weight}",
                f"less than {1 << self.bits} in sum",
                "Lower max_weight, or use 32 bits.",
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ring."""
        return np.dtype(f"u{self.bits // 8}")

    @property
    def step(self) -> float:
        """What one unit of the ring stands for, in a number times its site's share of `max_weight`."""
        return self.bound * self.num_sites / ((1 << (self.bits - 1)) - self.num_sites)

    def quantised(self, values: NDArray[np.float32], weight: int) -> Ring:
        """A site's numbers in the ring, its weight behind them.

        Args:
            values: Float32, shape (N,).
            weight: Of the site, at least 1.

        Returns:
            Shape (N + 1,).

        Raises:
            MalformedRecordError: If a number is not finite, or the weight is none.
        """
        if weight < 1 or not np.isfinite(values).all():
            raise MalformedRecordError(
                "delta to be masked",
                f"weight {weight}, numbers that are not finite"
                if weight >= 1
                else f"weight {weight}",
                "finite numbers and a weight of at least 1",
                "Train again; a site without footage takes no part.",
            )
        counted = min(weight, self.max_weight)
        ring = np.empty(values.size + 1, self.dtype)
        factor = counted / self.max_weight / self.step
        for span in spans(values.size):
            limited = np.clip(values[span].astype(np.float64), -self.bound, self.bound)
            ring[span] = np.rint(limited * factor).astype(np.int64).astype(self.dtype)
        ring[-1] = counted
        return ring

    def mean(self, total: Ring) -> tuple[NDArray[np.float32], int]:
        """The weighted mean of what was summed, shape (N,), and the sum of the weights.

        Raises:
            MalformedRecordError: If the weights sum to nothing, or they or a number to more than sites can have.
        """
        weight = int(total[-1])
        if not 1 <= weight <= self.num_sites * self.max_weight:
            raise MalformedRecordError(
                "sum of masked deltas",
                f"weights that sum to {weight}",
                f"1 to {self.num_sites * self.max_weight}",
                "A mask is left in it: a site followed another roster. Open a new round.",
            )
        signed = self._signed(total)
        most = weight / self.max_weight * self.bound / self.step + self.num_sites  # and rounding
        if max(int(signed.max(initial=0)), -int(signed.min(initial=0))) > most:
            raise MalformedRecordError(
                "sum of masked deltas",
                f"a number beyond {most:.0f} units of the ring",
                "none, as each site limits its own",
                "A site sent noise, or a mask is left in it; which site cannot be told. Open a new round, and leave "
                "out one site at a time if it ends so again.",
            )
        return self._numbers(total, weight), weight

    def lost(self, values: NDArray[np.float32], weight: int) -> NDArray[np.float32]:
        """What a site's numbers lose on their way, shape (N,): the residual of error feedback."""
        sent = self._numbers(self.quantised(values, weight), min(weight, self.max_weight))
        return (values - sent).astype(np.float32)

    def _numbers(self, ring: Ring, weight: int) -> NDArray[np.float32]:
        """What signed integers of the ring stand for, divided by a weight."""
        signed = self._signed(ring)
        numbers = np.empty(signed.size, np.float32)
        factor = np.float64(self.step * self.max_weight / weight)
        for span in spans(signed.size):
            numbers[span] = signed[span] * factor
        return numbers

    def _signed(self, ring: Ring) -> NDArray[Any]:
        """The numbers of a ring as signed integers, without the weight behind them."""
        return ring[:-1].view(np.int16 if self.bits == 16 else np.int32)


def fixed_point(plan: RoundPlan, keys: Mapping[str, Mapping[str, Any]]) -> FixedPoint:
    """The fixed point that the sites of a round agree on without telling more.

    A number of a delta is no larger than the length that it is clipped to, with six deviations of noise.
    Without clipping it is no larger than Adam can walk: its steps are about the learning rate, and a few
    times that at the most. Codec `float32` takes 32 bits, the others 16.

    Args:
        plan: Of the round.
        keys: What each site of the first roster published.
    """
    aggregation, training = plan.aggregation, plan.training
    bound = _ADAM_MARGIN * training.learning_rate * training.num_steps
    if aggregation.noise_multiplier > 0:
        bound = aggregation.clip_norm * (1 + _DEVIATIONS * aggregation.noise_multiplier)
    elif aggregation.clip_norm > 0:
        bound = min(bound, aggregation.clip_norm)
    bits = 32 if aggregation.codec == "float32" else 16
    longest = max(int(each["weight_bits"]) for each in keys.values())
    most = ((1 << bits) - 1) // len(plan.sites)
    return FixedPoint(bound, len(plan.sites), max(1, min((1 << longest) - 1, most)), bits)


def spans(size: int) -> Iterator[slice]:
    """Consecutive pieces of an array."""
    return (slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))
