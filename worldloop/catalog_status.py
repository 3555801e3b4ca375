"""How the catalogs of every site stand: one row a site, the same in the UI, the table and as JSON."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any

COLUMNS = (
    "site",
    "lag_s",
    "num_rows",
    "size_bytes",
    "index",
    "recall",
    "last_repair",
    "num_requests",
    "cost_usd",
    "took_s",
    "location",
    "problem",
)


@dataclass(frozen=True)
class ProjectionStatus:
    """How one projection of a site stands.

    Attributes:
        name: `lance`, `iceberg` or the registration's kind.
        num_rows: Its rows.
        size_bytes: Its files.
        num_behind: Log batches that it has not applied.
        lag_s: Age of the oldest of them, seconds; 0 if there is none.
        index: Kind of its vector index; empty where there is none.
        recall: Measured recall of that index, 0 to 1; None where it is not known.
        location: Where it is.
    """

    name: str
    num_rows: int
    size_bytes: int
    num_behind: int
    lag_s: float
    index: str = ""
    recall: float | None = None
    location: str = ""


@dataclass(frozen=True)
class SiteStatus:
    """How the catalogs of one site stand.

    Attributes:
        site: Its name.
        cloud: Whose store it is.
        projections: Each of its projections; empty if the site cannot be reached.
        max_lag_s: Further behind is late.
        last_repair: When something that was missing was last put back; None if never.
        num_requests: Requests to its store today, UTC.
        cost_usd: Their cost and that of their traffic today.
        took_s: Wall seconds of the work, or of the look, that this row tells of.
        location: Address of its store.
        problem: Why the site, or one of its projections, cannot be reached; empty if all can.
    """

    site: str
    cloud: str
    projections: tuple[ProjectionStatus, ...] = ()
    max_lag_s: float = 900.0
    last_repair: datetime | None = None
    num_requests: int = 0
    cost_usd: float = 0.0
    took_s: float = 0.0
    location: str = ""
    problem: str = ""

    @property
    def reachable(self) -> bool:
        """Whether its projections could be looked at."""
        return bool(self.projections)

    @property
    def lag_s(self) -> float:
        """Lag of the projection that is furthest behind, seconds."""
        return max((one.lag_s for one in self.projections), default=0.0)

    @property
    def num_behind(self) -> int:
        """Log batches that the projection furthest behind has not applied."""
        return max((one.num_behind for one in self.projections), default=0)

    @property
    def num_rows(self) -> int:
        """Rows of the widest projection: the clips of all sites where there is an Iceberg table."""
        return max((one.num_rows for one in self.projections), default=0)

    @property
    def size_bytes(self) -> int:
        """Bytes of all projections."""
        return sum(one.size_bytes for one in self.projections)

    @property
    def index(self) -> str:
        """Kind of the vector index."""
        return next((one.index for one in self.projections if one.index), "")

    @property
    def recall(self) -> float | None:
        """Measured recall of the vector index."""
        return next((one.recall for one in self.projections if one.recall is not None), None)

    @property
    def late(self) -> bool:
        """Whether it is further behind than the site allows."""
        return self.lag_s > self.max_lag_s

    def facts(self) -> dict[str, Any]:
        """The columns of `COLUMNS` by name; metadata, table and JSON are made of these."""
        return {name: getattr(self, name) for name in COLUMNS}

    def record(self) -> dict[str, Any]:
        """Everything that JSON can say, projections included."""
        facts = {**self.facts(), "cloud": self.cloud, "num_behind": self.num_behind}
        facts["last_repair"] = self.last_repair.isoformat() if self.last_repair else None
        projections = [
            {f.name: getattr(one, f.name) for f in fields(one)} for one in self.projections
        ]
        return {**facts, "reachable": self.reachable, "projections": projections}


def table_rows(statuses: Iterable[SiteStatus]) -> list[tuple[str, ...]]:
    """One row of words a site, in the order of `COLUMNS`.

    Example:
        >>> table_rows([SiteStatus("aws", "aws", problem="does not answer")])[0][:3]
        ('aws', 'unreachable', '-')
    """
    return [tuple(_words(status, name) for name in COLUMNS) for status in statuses]


def disagreement(mine: str, others: Mapping[str, str]) -> tuple[str, ...]:
    """Sites whose table has another content than the own one.

    Args:
        mine: Content hash of the own table.
        others: Content hash by site; only of sites that can be reached and are not behind.

    Example:
        >>> disagreement("a1", {"gcp": "a1", "azure": "b2"})
        ('azure',)
    """
    return tuple(sorted(site for site, content in others.items() if content != mine))


def _words(status: SiteStatus, column: str) -> str:
    value = getattr(status, column)
    if not status.reachable and column not in _KNOWN_OF_THE_SILENT:
        return "unreachable" if column == "lag_s" else "-"
    if value is None or value == "":
        return "-"
    return _AS_WORDS.get(column, str)(value)


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


_KNOWN_OF_THE_SILENT = frozenset({"site", "problem", "num_requests", "cost_usd", "location"})
_AS_WORDS: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "lag_s": _seconds,
        "num_rows": "{:,}".format,
        "size_bytes": lambda value: f"{value / 1e6:.1f} MB",
        "recall": "{:.3f}".format,
        "last_repair": lambda value: f"{value:%Y-%m-%d %H:%M}",
        "num_requests": "{:,}".format,
        "cost_usd": "{:.4f}".format,
        "took_s": _seconds,
    }
)
