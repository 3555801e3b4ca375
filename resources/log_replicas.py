"""Copies of a site's log: its shared half into every other site's store, both halves into its backup.

A batch is copied before its claim and both by create-if-absent, so a reader of the copy sees a
number whole or not at all, and a copy that was killed goes on where it stood. Nothing is ever
overwritten: a copy that differs from its source is an error, which `resources.reconciler` looks into.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from resources.failpoints import reached
from resources.site_store import SiteStore
from resources.store_refusals import MissingObjectError
from worldloop.errors import StoreError
from worldloop.layout import LOGS, LogName, replica_prefix
from worldloop.reconciliation import (
    LogListing,
    Number,
    contradictions,
    is_sha256,
    read_listing,
)

_AT_ONCE = 8  # batches that are fetched, and in memory, together


@dataclass(frozen=True)
class Replicated:
    """What one run copied to one place.

    Attributes:
        target: Name of the site, or address of the store, that it went to.
        num_batches: Batches that were missing there and stand now, with their claims.
        num_standing: Batches that stood there before.
        size_bytes: Bytes of the new batches.
        holes: Keys of claims that lay below the newest one there, so they or their batches were lost.
    """

    target: str
    num_batches: int = 0
    num_standing: int = 0
    size_bytes: int = 0
    holes: tuple[str, ...] = ()


def replicate(source: SiteStore, target: SiteStore, site: str) -> Replicated:
    """Copy a site's shared log into another site's store, under `replicas/<site>/`.

    One listing on each side, then only what is missing. Doing it again, or after a kill, is fine.

    Args:
        source: Store of the site whose log it is.
        target: Store of another site.
        site: Name of the site whose log it is.

    Raises:
        UnreachableError: If a store does not answer; what was copied until then stands.
        StoreError: If the copy has a number that its source has not, or another batch under the same
            number, or if a batch of the source is damaged. Everything else has been copied then.
    """
    return copy_log(source, target.within(replica_prefix(site)), logs=("shared",))


def copy_log(source: SiteStore, target: SiteStore, *, logs: Sequence[LogName]) -> Replicated:
    """Copy committed batches and their claims under the same keys, each verified by its hash.

    Args:
        source: A store, seen from where `logs/` lies.
        target: Another, likewise.
        logs: Which of the two logs.

    Raises:
        UnreachableError: As `replicate` does.
        StoreError: As `replicate` does.
    """
    there = list_log(target, logs)  # before the source, so that a copy never seems to be ahead
    here = list_log(source, logs)
    conflicts = contradictions(here, there)
    stuck = {(number.log, number.kind) for number in conflicts}  # what follows waits, in order
    missing = sorted(n for n in here.claims if not there.is_whole(n) and n[:2] not in stuck)
    sizes: list[int] = []
    for _, numbers in groupby(missing, key=lambda number: (number.log, number.kind)):
        try:
            sizes.extend(_copy_kind(source, target, list(numbers)))
        except _NotCopiedError as error:
            conflicts[error.number] = str(error)
    if conflicts:
        raise StoreError(_told(source, target, list(conflicts.values())))
    heads = there.heads()
    holes = tuple(n.claim_key for n in missing if n.seq <= heads.get((n.log, n.kind), 0))
    num_standing = len(here.claims) - len(sizes)
    return Replicated(target.url, len(sizes), num_standing, sum(sizes), holes=holes)


def list_log(store: SiteStore, logs: Sequence[LogName]) -> LogListing:
    """What a store holds of some logs, by one listing."""
    prefix = LOGS if len(logs) > 1 else f"{LOGS}/{logs[0]}"
    return read_listing((found.key, found.size_bytes) for found in store.scan(prefix))


def read_if_there(store: SiteStore, key: str) -> bytes | None:
    """The bytes of an object; None if there is none.

    Raises:
        StoreError: If the store cannot be asked.
    """
    try:
        return store.get(key)
    except MissingObjectError:
        return None


class _NotCopiedError(StoreError):
    """A number that cannot be copied; those after it of the same kind wait."""

    def __init__(self, number: Number, why: str):
        self.number = number
        super().__init__(why)


def _copy_kind(source: SiteStore, target: SiteStore, numbers: list[Number]) -> Iterator[int]:
    """Copy numbers of one kind in order; yields the size of each batch that stands now."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(numbers), _AT_ONCE):
            window = numbers[start : start + _AT_ONCE]
            fetched = pool.map(partial(_fetch, source), window)
            for number, (sha256, content) in zip(window, fetched, strict=True):
                _create(target, number, number.batch_key(sha256), content)
                reached("replica.batch_copied")
                _create(target, number, number.claim_key, sha256.encode())
                yield len(content)


def _fetch(source: SiteStore, number: Number) -> tuple[str, bytes]:
    """Hash and bytes of the batch that has a number; the claim, not the listing, says which."""
    sha256 = (read_if_there(source, number.claim_key) or b"").decode(errors="replace")
    key = number.batch_key(sha256) if is_sha256(sha256) else number.claim_key
    content = read_if_there(source, key) if is_sha256(sha256) else None
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        what = "is missing" if content is None and is_sha256(sha256) else "is damaged"
        raise _NotCopiedError(number, f"{key!r} of the source {what}")
    return sha256, content


def _create(target: SiteStore, number: Number, key: str, content: bytes) -> None:
    if not target.create(key, content) and read_if_there(target, key) != content:
        raise _NotCopiedError(number, f"{key!r} of the copy stands with other bytes")


def _told(source: SiteStore, target: SiteStore, conflicts: list[str]) -> str:
    more = f" and {len(conflicts) - 3} more" if len(conflicts) > 3 else ""
    return (
        f"{target.url!r} is no copy of {source.url!r}: {'; '.join(conflicts[:3])}{more}. Expected "
        "the same batch under every number. Nothing was overwritten; run the reconciliation of "
        "that site, which repairs what it can and names what it cannot."
    )
