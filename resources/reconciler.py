"""Compares what a site should hold with what stands, in every place, and puts back what is missing.

The holes are worked out in `worldloop.reconciliation`; they are looked for in `resources.log_holes`,
`pack_holes` and `projection_holes`, and mended from whoever still has the bytes: home, replicas,
backup, checkpoints. Nothing is deleted, and nothing is overwritten but bytes that are proven wrong by
bytes that are proven right.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import polars as pl

from resources.log_holes import BACKUP, LogHoles
from resources.pack_holes import PackHoles
from resources.projection_holes import Projected, ProjectionHoles
from resources.site_store import SiteStore
from resources.site_view import SiteView
from resources.survey import Survey
from worldloop.logs import decode_position
from worldloop.reconciliation import Finding, reconciliation_rows

__all__ = ["Projected", "Reconciliation", "reconcile"]


@dataclass(frozen=True)
class Reconciliation:
    """What one run found and did.

    Attributes:
        rows: `records.RECONCILIATIONS`, for the log.
        findings: Everything that was not as it should be, repaired or not.
        unreachable: Places that did not answer, with their words; nothing is known of them.
    """

    rows: pl.DataFrame
    findings: list[Finding]
    unreachable: dict[str, str]

    @property
    def unrepaired(self) -> list[Finding]:
        """What is still not as it should be."""
        return [finding for finding in self.findings if not finding.repaired]


def reconcile(
    view: SiteView,
    *,
    others: Mapping[str, SiteStore] = MappingProxyType({}),
    backup: SiteStore | None = None,
    projected: Sequence[Projected] = (),
    known: Iterable[str] = (),
    deep: float = 0.0,
    turn: int = 0,
    repair: bool = True,
    now: datetime | None = None,
) -> Reconciliation:
    """Look over the logs of one site in every place, its packs and its projections.

    Each run compares listings; nothing is read but what looks wrong, and the claimed rows of which
    packs and projections are expected. It runs beside writers: a suspicion is confirmed by reading
    before it is a finding, and everything that was repaired is read again.

    Args:
        view: The site whose logs are looked over.
        others: Stores of the other sites, by name; each holds a replica of the shared log.
        backup: Its backup, which holds both logs and the packs.
        projected: Its projections.
        known: Log positions that were seen, of this site: a newest batch that was lost with its
            claim shows by them. Positions of its releases are read here.
        deep: Share of all claims, batches, checkpoints and packs that are read in this run, 0 to 1.
        turn: Which share: counts up by one each run, e.g. the day's number.
        repair: Whether to repair; else it is only said what would be done.
        now: The moment; the clock's when not given.

    Raises:
        UnreachableError: If the site's own store does not answer.
    """
    survey = Survey(view, repair=repair, deep=deep, turn=turn)
    logs = LogHoles(survey)
    logs.visit(others, backup)
    logs.check_logs([decode_position(position) for position in known])
    logs.check_checkpoints()
    silent = f"{survey.origin}/{BACKUP}" in survey.unreachable
    PackHoles(survey, None if silent else backup).check_packs()
    for projection in projected:
        ProjectionHoles(survey).check_projection(projection)
    measured_at = now or datetime.now(UTC)
    rows = reconciliation_rows(survey.findings, survey.expected, measured_at=measured_at)
    return Reconciliation(rows, survey.findings, survey.unreachable)
