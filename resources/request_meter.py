"""Counts what stores are asked and how many bytes move, for the ledger and for what a site costs.

Counted is what `SiteStore` asks of obstore, in this process. Requests that obstore repeats after a
503, a 429 or a cut connection are invisible here, and a listing counts as many pages as its length
needs; so a bill can be higher, never lower.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from worldloop.sites import Prices

_GB = 1e9
_meters: list["Meter"] = []
_lock = threading.Lock()


@dataclass
class Usage:
    """What was asked of a store.

    Attributes:
        reads: Gets and heads.
        writes: Puts, creates and parts of large objects.
        lists: Pages of listings.
        deletes: Deletions.
        bytes_in: Bytes written to the store.
        bytes_out: Bytes read from it.
    """

    reads: int = 0
    writes: int = 0
    lists: int = 0
    deletes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def requests(self) -> int:
        """All requests."""
        return self.reads + self.writes + self.lists + self.deletes

    def add(self, other: "Usage") -> None:
        """Add what another one has."""
        for name in (f.name for f in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def usd(self, prices: Prices) -> float:
        """What these requests cost; deletions are free, storage is not in it.

        Example:
            >>> round(Usage(reads=2000, writes=500, lists=500).usd(Prices(0.005, 0.0004)), 6)
            0.0058
        """
        written = (self.writes + self.lists) / 1000 * prices.usd_per_1000_writes
        read = self.reads / 1000 * prices.usd_per_1000_reads
        return written + read + self.bytes_out / _GB * prices.usd_per_gb_out


@dataclass
class Meter:
    """Usage by the URL of the store that was asked."""

    by_url: dict[str, Usage] = field(default_factory=dict)

    def of(self, url: str) -> Usage:
        """Usage of a store and of the stores within it."""
        inside = f"{url.rstrip('/')}/"
        total = Usage()
        for asked, usage in self.by_url.items():
            if asked == url or asked.startswith(inside):
                total.add(usage)
        return total

    @property
    def total(self) -> Usage:
        """Usage of all stores."""
        total = Usage()
        for usage in self.by_url.values():
            total.add(usage)
        return total


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """Count everything that any thread of this process asks of stores until the block ends.

    Meters may stand in one another; each counts all.

    Example:
        >>> with metered() as meter:
        ...     count("memory:///", Usage(writes=1, bytes_in=5))
        >>> meter.total.requests, meter.of("memory:///").bytes_in
        (1, 5)
    """
    meter = Meter()
    with _lock:
        _meters.append(meter)
    try:
        yield meter
    finally:
        with _lock:
            _meters[:] = [other for other in _meters if other is not meter]


def count(url: str, usage: Usage) -> None:
    """Note what a store was asked."""
    if not _meters:
        return
    with _lock:
        for meter in _meters:
            meter.by_url.setdefault(url, Usage()).add(usage)
