"""Random numbers by counter: one hash of a seed and a purpose, for whole arrays at once.

A number depends on nothing but its seed and its purpose, so scenes do not depend on the batch they
are cast in, and a new purpose does not move the others. All arithmetic is on integers: numpy and
plain Python agree to the last bit, on any machine.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloop.seeds import canonical_json

Choice = TypeVar("Choice")
Words = NDArray[np.uint64]
_MASK = (1 << 64) - 1
# Finalizer of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
# generators", doi:10.1145/2660193.2660195), with the constants of its Variant 13 by David Stafford.
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


@lru_cache(maxsize=1024)
def purpose_key(*names: str | int) -> int:
    """64 bits that stand for a purpose, e.g. `purpose_key("weather")`."""
    digest = hashlib.blake2b(canonical_json(list(names)), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def draw(seeds: Words, purpose: int | Words) -> Words:
    """64 random bits for each seed.

    Args:
        seeds: uint64, any shape.
        purpose: What they are for, by `purpose_key`: one for all seeds, or one for each.

    Returns:
        uint64, the shape of `seeds`.

    Example:
        >>> int(draw(np.array([7], np.uint64), purpose_key("cars"))[0]) == draw_one(7, purpose_key("cars"))
        True
    """
    keys = np.uint64(purpose) if isinstance(purpose, int) else purpose
    mixed = _mix(seeds) ^ keys
    return _mix(mixed)


def draw_one(seed: int, purpose: int) -> int:
    """The same 64 bits for one seed, in plain Python."""
    return _mix_one(_mix_one(seed & _MASK) ^ purpose)


def below(bits: Words, limit: ArrayLike) -> NDArray[np.int64]:
    """Whole numbers from 0 up to a limit, evenly to one part in 2**32 / limit.

    Args:
        bits: uint64 of `draw`.
        limit: At least 1 and below 2**31; one for all or one for each.
    """
    high = bits >> np.uint64(32)
    return ((high * np.asarray(limit, np.uint64)) >> np.uint64(32)).astype(np.int64)


def pick_true(bits: Words, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The index of one true cell of each row, evenly; 0 in a row that has none.

    Args:
        bits: uint64 of `draw`, shape (n,).
        allowed: bool, shape (n, k).
    """
    return pick_weighted(bits, allowed.astype(np.uint16))


def pick_weighted(bits: Words, weights: NDArray[np.integer]) -> NDArray[np.int64]:
    """An index of each row with a chance proportional to its weight.

    Args:
        bits: uint64 of `draw`, shape (n,).
        weights: Whole numbers, shape (n, k); a row's sum stays below 2**16.
    """
    sums = np.cumsum(weights, axis=1, dtype=np.uint16)
    chosen = below(bits, np.maximum(sums[:, -1], 1)).astype(np.uint16)
    return np.asarray((sums > chosen[:, None]).argmax(axis=1), np.int64)


def _mix(bits: Words) -> Words:
    first, second = (np.uint64(number) for number in _MULTIPLIERS)
    bits = (bits ^ (bits >> np.uint64(_SHIFTS[0]))) * first
    bits = (bits ^ (bits >> np.uint64(_SHIFTS[1]))) * second
    return bits ^ (bits >> np.uint64(_SHIFTS[2]))


def _mix_one(bits: int) -> int:
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        bits = ((bits ^ (bits >> shift)) * multiplier) & _MASK
    return bits ^ (bits >> _SHIFTS[2])


def pick(number: int, choices: Sequence[Choice]) -> Choice:
    """One choice, evenly, by a number below 2**32."""
    return choices[(number * len(choices)) >> 32]


def span(number: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return low + ((number * (high - low + 1)) >> 32)


def spans(
    numbers: NDArray[np.unsignedinteger], low: ArrayLike, high: ArrayLike
) -> NDArray[np.int64]:
    """`span` of whole arrays."""
    lowest = np.asarray(low)
    sizes = np.asarray(high) - lowest + 1
    return np.asarray(lowest + ((numbers.astype(np.int64) * sizes) >> 32))


def chance(number: int, percent: int) -> bool:
    """True for some per cent of all numbers."""
    return number * 100 < percent << 32


def sample(number: int, choices: Sequence[Choice], count: int) -> list[Choice]:
    """Some choices without repetition, in random order; `len(choices)**count` stays below 2**32."""
    left = list(choices)
    chosen = []
    for _ in range(min(count, len(left))):
        number, index = divmod(number, len(left))
        chosen.append(left.pop(index))
    return chosen
