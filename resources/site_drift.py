"""How far the footage of each site has moved from what was trained on: one number a site, at the coordinator.

The vectors stay at their site. What is published is overwritten whenever it is measured anew, and says
which round it was measured against, so that a number of an older base counts for nothing.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import polars as pl

from resources.federation import Federation
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import MalformedRecordError
from worldloop.federation.drift import MIN_CLIPS, Moments, drift
from worldloop.federation.outbox import DRIFT, check_outgoing
from worldloop.seeds import canonical_json

DRIFT_VERSION = 1


@dataclass(frozen=True)
class SiteDrift:
    """What one site says of its drift.

    Attributes:
        site: Who.
        base: Round whose footage it was measured against.
        wave: Newest wave that it was measured on.
        drift: Distance of new vectors from those of the base's round; 0: none.
        num_clips: New clips that it rests on.
    """

    site: str
    base: str
    wave: str
    drift: float
    num_clips: int
    drift_version: int = DRIFT_VERSION

    def __post_init__(self) -> None:
        """Refuse a number that no measurement gives.

        Raises:
            MalformedRecordError: Naming the site.
        """
        if not math.isfinite(self.drift) or self.drift < 0 or self.drift_version != DRIFT_VERSION:
            raise MalformedRecordError(
                f"drift of site {self.site}",
                (self.drift, self.drift_version),
                f"a finite number of zero or more, at version {DRIFT_VERSION}",
                "Run the asset `site_drift` of this site again.",
            )

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is missing or unknown.
        """
        try:
            return cls(**json.loads(content))
        except (TypeError, ValueError) as error:
            raise MalformedRecordError(
                "drift of a site",
                str(error)[:80],
                "the fields of docs/formats.md#drift",
                "Measure it again.",
            ) from error


@dataclass(frozen=True)
class DriftTask:
    """Which footage of a site is compared.

    Attributes:
        site: Whose.
        base: Round whose footage the newer is compared with.
        before: Waves that the promoted rounds were trained on.
        since: Released waves since, oldest first.
    """

    site: str
    base: str
    before: tuple[str, ...]
    since: tuple[str, ...]


def measure_drift(federation: Federation, task: DriftTask) -> SiteDrift | None:
    """Compare a site's released footage before and since, by vectors of the newest embedding model.

    Returns:
        One number; None if the site has too few clips on either side.
    """
    if not task.since:
        return None
    vectors = _vectors(federation, task.site, (*task.before, *task.since))
    is_since = pl.col("wave").is_in(task.since)
    newest = vectors.filter(is_since)["model_id"]
    if newest.is_empty():
        return None
    alike = vectors.filter(pl.col("model_id") == newest[-1])
    parts = (alike.filter(~is_since), alike.filter(is_since))
    if min(part.height for part in parts) < MIN_CLIPS:
        return None
    before, since = (Moments.of(np.stack(part["vector"].to_list())) for part in parts)
    return SiteDrift(
        site=task.site,
        base=task.base,
        wave=task.since[-1],
        drift=round(drift(before, since), 9),
        num_clips=since.count,
    )


def _vectors(federation: Federation, site: str, waves: tuple[str, ...]) -> pl.DataFrame:
    """Wave, model and vector of a site's released clips, in the order of the log."""
    released = federation.log(federation.coordinator).read("release_clips", waves=waves)
    rows = federation.log(site).read("vectors", waves=waves)
    mine = rows.join(released, on="recipe_id", how="semi", maintain_order="left")
    return mine.select("wave", "model_id", "vector")


def publish_drift(coordinator: SiteStore, measured: SiteDrift) -> None:
    """Write what a site measured, in the place of what it said before."""
    content = canonical_json(asdict(measured))
    check_outgoing(DRIFT, content, site=measured.site)
    coordinator.put(layout.drift_key(measured.site), content)


def read_drift(coordinator: SiteStore, site: str) -> SiteDrift | None:
    """What a site said last; None if it never said anything."""
    key = layout.drift_key(site)
    return SiteDrift.from_json(coordinator.get(key)) if coordinator.exists(key) else None


def newest_drift(coordinator: SiteStore, sites: Iterable[str], *, base: str) -> float | None:
    """The farthest that any site has moved from a round's footage; None if none has said."""
    found = [read_drift(coordinator, site) for site in sites]
    return max((one.drift for one in found if one is not None and one.base == base), default=None)
