"""Named random streams and content ids: the same names give the same numbers on any machine.

A stream is keyed by names and never by call order, so adding a tree does not move the cars.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def stream(*names: str | int) -> "np.random.Generator":  # quoted, since naming it loads 6 MB
    """A generator for one purpose, e.g. `stream(scene.seed, "street", "trees")`.

    Philox is counter based, and its output is part of numpy's stability promise.

    Args:
        names: What the numbers are for, outermost first. Order matters, length is free.

    Example:
        >>> int(stream(7, "cars").integers(1000)), int(stream(7, "cars").integers(1000))
        (214, 214)
    """
    key = hashlib.blake2b(canonical_json(list(names)), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def derive_seed(*names: str | int) -> int:
    """A 63-bit seed from names, for records that carry their seed as a number."""
    digest = hashlib.blake2b(canonical_json(list(names)), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: one byte string per value.

    Floats are written as Python's shortest round-trip form; NaN and infinities are refused.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def content_id(record: Mapping[str, Any]) -> str:
    """The id of a record: 32 hex digits of BLAKE2b over its canonical JSON."""
    return hashlib.blake2b(canonical_json(record), digest_size=16).hexdigest()
