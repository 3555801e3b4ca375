"""What every projection of a site's logs can do, whatever it writes: Lance, Iceberg, a registration."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from resources.site_view import SiteView


@dataclass(frozen=True)
class Applied:
    """What one run of a projector did.

    Attributes:
        num_batches: Log batches that it applied; 0 if it was up to date.
        num_rows: Rows that it wrote.
        rebuilt: Whether it began from nothing, because the table was gone, foreign or damaged.
        took_s: Wall seconds.
    """

    num_batches: int
    num_rows: int
    rebuilt: bool = False
    took_s: float = 0.0


@dataclass(frozen=True)
class Standing:
    """How a projection stands against the logs.

    Attributes:
        name: `lance`, `iceberg` or the registration's kind.
        num_rows: Its rows; of Iceberg those of the table `clips`.
        size_bytes: Its files.
        num_behind: Log batches that it has not applied.
        oldest_behind_at: When the oldest of them was claimed; None if there is none.
        recall: Measured recall of its vector index; None where there is none.
        index: Kind of its vector index, e.g. `none`, `ivf_rq`.
        location: Where it is, for people.
    """

    name: str
    num_rows: int
    size_bytes: int
    num_behind: int
    oldest_behind_at: datetime | None
    recall: float | None
    index: str
    location: str


class Projection(Protocol):
    """One committer writes it, under the lease `projection-<name>`; anybody reads it."""

    @property
    def name(self) -> str:
        """`lance`, `iceberg` or the registration's kind."""

    def catch_up(self, view: SiteView) -> Applied:
        """Apply what the logs have and it has not. Doing it again, or after a kill, changes nothing.

        A table that is gone or not ours to read is made again from the logs.

        Raises:
            LeaseHeldError: If another committer is at work.
            StoreError: If the store cannot be reached.
        """

    def rebuild(self, view: SiteView) -> Applied:
        """Make it anew from the logs alone."""

    def maintain(self, view: SiteView) -> dict[str, int]:
        """Compact, optimise indices, expire versions, sweep orphans; counts of what was done."""

    def standing(self, view: SiteView) -> Standing:
        """How it stands; only reads."""
