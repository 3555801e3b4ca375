"""What a site may throw away: leftovers of killed runs, and packs of retired waves when disk is short.

Only decisions are here. Tables, logs and releases are never removed: lineage outlives footage.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from worldloop.layout import PACKS


class Listed(Protocol):
    """One object of a store, as it lists them."""

    @property
    def key(self) -> str:
        """Its key."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def modified_at(self) -> datetime:
        """When it was written."""


@dataclass(frozen=True)
class Removal:
    """Something that may go.

    Attributes:
        key: Key in the store, or path of a scratch folder.
        size_bytes: What it frees.
        reason: Why nothing needs it.
        site: Whose store the key is of; empty for the store that was swept, or a path.
    """

    key: str
    size_bytes: int
    reason: str
    site: str = ""


def orphans(
    listed: Iterable[Listed],
    *,
    referenced: Collection[str],
    now: datetime,
    keep: timedelta,
    reason: str,
) -> list[Removal]:
    """Objects that nothing refers to, unless they are so young that their table may be on its way."""
    return [
        Removal(found.key, found.size_bytes, reason)
        for found in listed
        if found.key not in referenced and now - found.modified_at > keep
    ]


def retired_packs(
    listed: Iterable[Listed],
    *,
    released: Sequence[str],
    used_bytes: int,
    max_bytes: float,
    keep_waves: int,
) -> list[Removal]:
    """Packs of the oldest released waves, wave by wave until the store is within its limit.

    Args:
        listed: The packs of the store.
        released: Waves that have a release, oldest first.
        used_bytes: What the store holds.
        max_bytes: What it may hold.
        keep_waves: The newest released waves that stay in any case.
    """
    packs = list(listed)
    removals: list[Removal] = []
    for wave in released[: max(len(released) - keep_waves, 0)]:
        freed = sum(removal.size_bytes for removal in removals)
        if used_bytes - freed <= max_bytes:
            break
        removals += [
            Removal(pack.key, pack.size_bytes, f"wave {wave} is released and disk is short")
            for pack in packs
            if pack.key.startswith(f"{PACKS}/{wave}/")
        ]
    return removals
