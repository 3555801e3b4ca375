"""Plants holes in a store: deletes, cuts short or flips a bit of objects that chance picks.

It knows nothing of how holes are found or mended: it lists the store, sorts the keys into classes by
their shape, and damages at least one object of each class. What it did is written down.

    python -m tests.campaigns.holes <folder> --seed 7
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from resources.site_store import SiteStore
from worldloop.seeds import stream

CLASSES: Mapping[str, str] = {
    "batch": r"logs/[^/]+/[^/]+/\d+-[0-9a-f]+\.parquet",
    "claim": r"logs/[^/]+/[^/]+/claims/\d+",
    "checkpoint": r"logs/[^/]+/[^/]+/checkpoints/\d+\.parquet",
    "pack": r"packs/.+\.tar",
    "replica": r"replicas/.+/(?:claims/\d+|\d+-[0-9a-f]+\.parquet)",
    "lance": r"lance/.+\.lance",
    "iceberg": r"iceberg/.+\.(?:parquet|avro|metadata\.json)",
}
WAYS = ("deleted", "truncated", "flipped")


@dataclass(frozen=True)
class Hole:
    """One thing that was done to a store.

    Attributes:
        kind: Class of the object, of `CLASSES`.
        key: The object.
        how: `deleted`, `truncated` or `flipped`.
    """

    kind: str
    key: str
    how: str


def plant(
    store: SiteStore,
    *seed: str | int,
    classes: tuple[str, ...] = tuple(CLASSES),
    most: int = 2,
) -> list[Hole]:
    """Damage some objects of every class that the store has.

    Args:
        store: What is damaged.
        seed: Names of the random stream.
        classes: Which classes.
        most: Objects of a class at most; one at least.
    """
    rng = stream("holes", *seed)
    keys = [key for key, _ in store.list()]
    holes = []
    for kind in classes:
        there = [key for key in keys if re.fullmatch(CLASSES[kind], key)]
        num = min(int(rng.integers(1, most + 1)), len(there))
        for key in sorted(rng.choice(there, num, replace=False)) if there else []:
            holes.append(_damage(store, kind, str(key), rng))
    return holes


def _damage(store: SiteStore, kind: str, key: str, rng: np.random.Generator) -> Hole:
    how, content = str(rng.choice(WAYS)), bytearray(store.get(key))
    if how == "deleted" or not content:
        store.delete(key)
        return Hole(kind, key, "deleted")
    if how == "truncated":
        store.put(key, bytes(content[: int(rng.integers(0, len(content)))]))
    else:
        content[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
        store.put(key, bytes(content))
    return Hole(kind, key, how)


def main() -> None:
    """Damage a store and say what was done, one JSON line a hole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="a folder, or a bucket's URL")
    parser.add_argument("--seed", type=int, required=True)
    asked = parser.parse_args()
    for hole in plant(SiteStore(url=asked.url), asked.seed):
        sys.stdout.write(json.dumps(asdict(hole)) + "\n")


if __name__ == "__main__":
    main()
