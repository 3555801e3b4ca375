"""The catalogs of every site: brought up to date, looked after, looked at; each step paid from the ledger.

What a projection is and how it writes is its own matter (`resources.projection`); here stands in
which order a site's catalogs are worked on, what that may cost, and how they are told of.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import dagster as dg
import polars as pl
from pydantic import Field

from resources.federation import Federation
from resources.ledger import Ledger
from resources.log_replicas import Replicated, replicate
from resources.projection import Applied, Projection, Standing
from resources.query_log import QueryLog
from resources.read_only_store import refuse_to_write
from resources.reconciler import Projected
from resources.request_meter import metered
from resources.site_log import SiteLog
from resources.site_view import SiteView
from worldloop.budgets import BudgetLine, refusal
from worldloop.catalog_status import ProjectionStatus, SiteStatus
from worldloop.catalog_tables import KIND_TABLES
from worldloop.costs import estimate_upkeep
from worldloop.errors import (
    BudgetExceededError,
    LogDamageError,
    StoreError,
    UnknownKeyError,
    UnreachableError,
    WorldloopError,
)
from worldloop.index_advisor import Targets
from worldloop.layout import replica_prefix
from worldloop.logs import UPKEEP_KINDS, batched_kind, log_kind, payload
from worldloop.records import AUDITS, PROJECTIONS, RECONCILIATIONS
from worldloop.seeds import content_id
from worldloop.sites import Site

T = TypeVar("T")
_PAID = "catalog/"  # what the ledger's keys of this work begin with


@dataclass(frozen=True)
class Followed:
    """What one run of a site's catalogs did.

    Attributes:
        status: How the site stands now.
        searchable_after_s: From the claim of the oldest batch that was waiting to its being in
            every projection; 0 if none was waiting.
        copied: Log batches that came from the other sites.
        refilled: Claims of batches that had come before, were lost here, and came again.
        applied: What each projection did.
        num_requests: What each projection asked of the site's store meanwhile.
        unheard: Sites whose logs could not be fetched, each with why.
    """

    status: SiteStatus
    searchable_after_s: float = 0.0
    copied: int = 0
    refilled: tuple[str, ...] = ()
    applied: Mapping[str, Applied] = field(default_factory=dict)
    num_requests: Mapping[str, int] = field(default_factory=dict)
    unheard: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether a projection has other rows than before."""
        return any(done.num_batches or done.rebuilt for done in self.applied.values())


class Fetched(NamedTuple):
    """What came from the other sites.

    Attributes:
        copied: Log batches.
        refilled: Claims of those among them that had come before and were lost here.
        unheard: Sites that did not answer, each with why.
    """

    copied: int
    refilled: tuple[str, ...]
    unheard: dict[str, str]


class Catalogs(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Every site's catalogs.

    Attributes:
        federation: The sites with their stores and logs.
        ledger_folder: Local folder of the ledgers, one sqlite file a site.
        read_only: Whether every verb that writes refuses.
        target_recall: What the index advisor aims at, 0 to 1.
    """

    federation: Federation
    ledger_folder: str = Field(min_length=1)
    read_only: bool = False
    target_recall: float = Field(default=Targets().recall, ge=0.0, le=1.0)

    @property
    def targets(self) -> Targets:
        """What a search must reach."""
        return Targets(recall=self.target_recall)

    def own_view(self) -> SiteView:
        """What the coordinator knows."""
        return self.federation.view(self.federation.coordinator)

    def projections(self, site: Site) -> list[Projection]:
        """What a site's clips are found with, in the order in which they are worked on."""
        from resources.iceberg_projection import IcebergProjection
        from resources.lance_projection import LanceProjection
        from resources.registration import registration_of

        iceberg = IcebergProjection()
        queries = QueryLog(folder=self.federation.queries_folder)
        own: list[Projection] = [LanceProjection(query_log=queries, targets=self.targets), iceberg]
        registered = registration_of(site, iceberg.tables)
        return own if registered is None else [*own, registered]

    def content_hash(self, view: SiteView) -> str:
        """Hash of the content of a site's Iceberg table `clips`."""
        from resources.iceberg_projection import IcebergProjection

        return IcebergProjection().content_hash(view)

    def shown(self, view: SiteView) -> list[Projected]:
        """What the projections show to a reconciliation that reads them."""
        from resources.iceberg_projection import IcebergProjection
        from resources.lance_projection import LanceProjection
        from resources.shown_projections import shown_iceberg, shown_lance

        return [shown_lance(view, LanceProjection()), shown_iceberg(view, IcebergProjection())]

    def differences(self, view: SiteView) -> dict[str, int]:
        """Rows of Iceberg tables that are not what the logs say, by table; reads everything.

        Rows that have not been applied yet count too. Tables of the upkeep itself are left out:
        they may be behind by right, as nothing follows the logs for their sake.
        """
        from resources.iceberg_projection import IcebergProjection

        upkeep = {table.name for table in KIND_TABLES if table.kind in UPKEEP_KINDS}
        odd = IcebergProjection().disagreements(view)
        return {name: num_rows for name, num_rows in odd.items() if name not in upkeep}

    def index_own_clips(self) -> Applied:
        """Bring the Lance table of the coordinator's own clips up to date with its log.

        Raises:
            LeaseHeldError: If another committer is at work.
            StoreError: If the store cannot be reached.
        """
        from resources.lance_projection import LanceProjection

        self.may_write("index clips")
        return LanceProjection().catch_up(self.own_view())

    def ledger(self, name: str) -> Ledger:
        """The budgets of a site."""
        own = name == self.federation.coordinator
        file = "ledger.sqlite" if own else f"ledger-{name}.sqlite"
        limits = self.federation.site(name).budgets.limits()
        return Ledger(path=str(Path(self.ledger_folder) / file), limits=limits)

    def budget(self, name: str) -> list[BudgetLine]:
        """How a site's budgets stand today."""
        return self.ledger(name).today()

    def why_not_now(self, name: str) -> str | None:
        """Why the budgets of a site allow no run now; None if they do."""
        lines = {line.kind: line for line in self.budget(name)}
        return refusal(lines, estimate_upkeep(0, self.federation.site(name).prices))

    def follow(self, name: str, *, key: str) -> Followed:
        """Bring a site's catalogs up to date: fetch the other sites' logs, then every projection.

        Doing it again, or after a kill, changes nothing. A projection that fails, such as a
        registration whose service is away, keeps no other from following; it is told at the end.

        Args:
            name: The site.
            key: Names this run in the ledger.

        Raises:
            LogDamageError: If the log has a hole.
            LeaseHeldError: If another committer is at work on a projection.
            UnreachableError: If the site's own store does not answer.
            BudgetExceededError: If its budgets do not allow the work.
            AccessError: If this process may only read.
        """
        self.may_write(f"bring the catalogs of {name!r} up to date")
        begun = time.monotonic()
        view = self.federation.view(name)
        projections = self.projections(view.site)
        missing = self.uncopied(view)
        with self.paid(view.site, key, num_batches=missing.num_behind):
            fetched = self._fetch(view)
            before, silent = _each(projections, lambda one: _status(one.standing(view)))
            if silent and not before:  # the site itself does not answer
                raise next(iter(silent.values()))
            waited_s = max(one.lag_s for one in (missing, *before.values()))
            caught_up, failed = _each(projections, lambda one: _caught_up(one, view))
            applied = {name: done for name, (done, _) in caught_up.items()}
            took_s = time.monotonic() - begun
            level = [one for one in projections if one.name in applied]
            standings, _ = _each(level, lambda one: _status(one.standing(view)))
            done = Followed(
                status=self._of(view, tuple(standings.values()), took_s),
                searchable_after_s=waited_s + took_s if waited_s else 0.0,
                copied=fetched.copied,
                refilled=fetched.refilled,
                applied=applied,
                num_requests={name: asked for name, (_, asked) in caught_up.items()},
                unheard=fetched.unheard,
            )
            if done.changed:
                self._log_facts(view, done)
            _raise_if(failed)
        return replace(done, status=self._with_costs(done.status))

    def maintain(self, name: str, *, key: str) -> dict[str, int]:
        """Compact, improve indices, expire versions, sweep orphans; counts by `projection.what`.

        A projection that fails keeps no other from it; then this fails, and names it.

        Raises:
            LogDamageError: If the log has a hole.
            LeaseHeldError: If another committer is at work on a projection.
            UnreachableError: If the site's store does not answer.
            BudgetExceededError: If its budgets do not allow the work.
            AccessError: If this process may only read.
        """
        self.may_write(f"look after the catalogs of {name!r}")
        view = self.federation.view(name)
        with self.paid(view.site, key, num_batches=0):
            done, failed = _each(self.projections(view.site), lambda one: one.maintain(view))
        _raise_if(failed)
        return {f"{name}.{what}": n for name, counts in done.items() for what, n in counts.items()}

    def rebuild(self, name: str, *, projection: str = "", actor: str) -> dict[str, Applied]:
        """Make a site's projections anew from the logs alone, and note who asked for it.

        Args:
            name: The site.
            projection: Only this one; all when empty.
            actor: Who asks.

        Raises:
            UnknownKeyError: If the site has no such projection.
        """
        self.may_write(f"rebuild the catalogs of {name!r}")
        view = self.federation.view(name)
        known = {one.name: one for one in self.projections(view.site)}
        if projection and projection not in known:
            raise UnknownKeyError(f"projection of {name!r}", projection, known)
        wanted = [projection] if projection else list(known)
        with self.paid(view.site, moment_key("rebuild"), num_batches=0):
            done, failed = _each([known[one] for one in wanted], lambda one: one.rebuild(view))
        if done:
            of_id = projection or ("all" if not failed else ", ".join(done))
            self.audit(name, "rebuild", actor=actor, of_kind="projections", of_id=of_id)
        _raise_if(failed)
        return done

    def replicate(self, name: str) -> Fetched:
        """Fetch the shared logs of all other sites into a site's store.

        Raises:
            UnreachableError: If the site's own store does not answer.
        """
        self.may_write(f"copy logs to {name!r}")
        view = self.federation.view(name)
        with self.paid(view.site, moment_key("replicate"), num_batches=0):
            return self._fetch(view)

    def look(self, name: str) -> SiteStatus:
        """How a site stands now; only reads.

        Raises:
            StoreError: If it cannot be reached.
        """
        begun = time.monotonic()
        view = self.federation.view(name)
        projections = self.projections(view.site)
        standings, failed = _each(projections, lambda one: _status(one.standing(view)))
        if failed and not standings:
            raise next(iter(failed.values()))
        missing = self.uncopied(view)
        found = (*standings.values(), *([missing] if missing.num_behind else []))
        status = self._of(view, found, time.monotonic() - begun)
        problem = "; ".join(f"{one}: {error}" for one, error in failed.items())
        return self._with_costs(replace(status, problem=problem))

    def uncopied(self, view: SiteView) -> ProjectionStatus:
        """Batches of the other sites' shared logs that a site lacks, told as one projection more.

        Another site that does not answer counts as having nothing new: nobody can know.

        Raises:
            UnreachableError: If the site's own store does not answer.
        """
        num_behind, oldest = 0, list[datetime]()
        for other, replica in view.replicas.items():
            copied = shared_heads(replica)
            try:
                log = self.federation.log(other)
                ahead = _ahead(shared_heads(log), copied)
                num_behind += sum(head - seen for seen, head in ahead.values())
                claimed = (log.claimed_at(kind, seen + 1) for kind, (seen, _) in ahead.items())
                oldest += [moment for moment in claimed if moment is not None]
            except UnreachableError:
                continue
        lag_s = _seconds_since(min(oldest)) if oldest else 0.0
        return ProjectionStatus("replicas", 0, 0, num_behind, lag_s)

    def statuses(self, names: Iterable[str] | None = None) -> list[SiteStatus]:
        """How sites stand now, asked all at once; one that cannot be reached says why."""
        wanted = list(self.federation.names if names is None else names)
        with ThreadPoolExecutor(max_workers=max(len(wanted), 1)) as pool:
            return list(pool.map(self._look_or_say, wanted))

    def audit(
        self, name: str, action: str, *, actor: str, of_kind: str, of_id: str, reason: str = ""
    ) -> None:
        """Note in a site's private log who did what.

        Args:
            name: The site.
            action: `rebuild`, `repair`, `retract`, `restore` ...
            actor: Who did it.
            of_kind: Kind of log rows, or what it was done to.
            of_id: Which of them.
            reason: Why, in their words.
        """
        row = {
            "done_at": datetime.now(UTC),
            "site": name,
            "actor": actor,
            "action": action,
            "of_kind": of_kind,
            "of_id": of_id,
            "reason": reason,
        }
        named = {**row, "done_at": row["done_at"].isoformat()}  # type: ignore[attr-defined]
        rows = pl.DataFrame([{"audit_id": content_id(named), **row}], schema=dict(AUDITS.columns))
        self.federation.log(name).append("audits", rows)

    def _fetch(self, view: SiteView) -> Fetched:
        """Copy every other site's shared log here; a site that does not answer is named."""
        copied, refilled, unheard = 0, list[str](), dict[str, str]()
        for other in view.replicas:
            try:
                done = replicate(self.federation.store(other), view.store, other)
            except StoreError as error:
                unheard[other] = str(error)
                continue
            copied += done.num_batches
            refilled += [f"{replica_prefix(other)}/{key}" for key in done.holes]
            if done.holes:
                view.log.append("reconciliations", _refilled(view.site.name, other, done))
        return Fetched(copied, tuple(refilled), unheard)

    def _look_or_say(self, name: str) -> SiteStatus:
        site = self.federation.site(name)
        try:
            return self.look(name)
        except WorldloopError as error:
            silent = SiteStatus(name, site.cloud, max_lag_s=site.max_lag_s, location=site.store)
            return self._with_costs(replace(silent, problem=str(error)))

    def _of(
        self, view: SiteView, projections: tuple[ProjectionStatus, ...], took_s: float
    ) -> SiteStatus:
        return SiteStatus(
            site=view.site.name,
            cloud=view.site.cloud,
            projections=projections,
            max_lag_s=view.site.max_lag_s,
            last_repair=_last_repair(view),
            took_s=round(took_s, 2),
            location=view.store.url,
        )

    def _with_costs(self, status: SiteStatus) -> SiteStatus:
        used = self.ledger(status.site).settled_today(_PAID)
        return replace(
            status,
            num_requests=round(used.get("requests", 0.0)),
            cost_usd=round(used.get("usd", 0.0), 6),
        )

    def _log_facts(self, view: SiteView, done: Followed) -> None:
        """One row a projection that changed, in the site's shared log."""
        now = datetime.now(UTC)
        rows = [
            {
                "site": view.site.name,
                "projection": one.name,
                "measured_at": now,
                "num_rows": one.num_rows,
                "size_bytes": one.size_bytes,
                "num_behind": one.num_behind,
                "lag_s": done.searchable_after_s,
                "recall": one.recall,
                "took_s": done.applied[one.name].took_s,
                "num_requests": done.num_requests[one.name],
                "repaired_at": done.status.last_repair,
            }
            for one in done.status.projections
            if done.applied[one.name].num_batches or done.applied[one.name].rebuilt
        ]
        view.log.append("projections", pl.DataFrame(rows, schema=dict(PROJECTIONS.columns)))

    @contextlib.contextmanager
    def paid(self, site: Site, key: str, *, num_batches: int) -> Iterator[None]:
        """Reserve what the work will probably use, and settle what it used, however it ends."""
        ledger, entry = self.ledger(site.name), f"{_PAID}{key}"
        try:
            ledger.reserve(entry, estimate_upkeep(num_batches, site.prices))
        except BudgetExceededError as error:
            raise BudgetExceededError(f"Catalogs of {site.name!r} wait. {error}") from error
        with metered() as meter:
            try:
                yield
            finally:
                used = meter.of(self.federation.store(site.name).url)
                spent = {"bytes": float(used.bytes_in), "usd": used.usd(site.prices)}
                ledger.settle(entry, {"requests": float(used.requests), **spent})

    def may_write(self, what: str) -> None:
        """Refuse to go on if this process may only read.

        Raises:
            AccessError: If so.
        """
        if self.read_only:
            refuse_to_write(what)


def _each(
    projections: Iterable[Projection], work: Callable[[Projection], T]
) -> tuple[dict[str, T], dict[str, WorldloopError]]:
    """What each projection gave, and what kept the others from it; a hole of the log stops all."""
    done, failed = dict[str, T](), dict[str, WorldloopError]()
    for one in projections:
        try:
            done[one.name] = work(one)
        except LogDamageError:
            raise
        except WorldloopError as error:
            failed[one.name] = error
    return done, failed


def _raise_if(failed: Mapping[str, WorldloopError]) -> None:
    """Raise what kept the first projection from its work, in words that name all that failed."""
    for first in failed.values():
        first.args = ("; ".join(f"{name}: {error}" for name, error in failed.items()),)
        raise first


def _caught_up(projection: Projection, view: SiteView) -> tuple[Applied, int]:
    """What a projection did, and what it asked of the site's store for that."""
    with metered() as meter:
        done = projection.catch_up(view)
    return done, meter.of(view.store.url).requests


def _status(standing: Standing) -> ProjectionStatus:
    oldest = standing.oldest_behind_at
    lag_s = 0.0 if oldest is None else _seconds_since(oldest)
    return ProjectionStatus(
        name=standing.name,
        num_rows=standing.num_rows,
        size_bytes=standing.size_bytes,
        num_behind=standing.num_behind,
        lag_s=lag_s,
        index=standing.index,
        recall=standing.recall,
        location=standing.location,
    )


def shared_heads(log: SiteLog) -> dict[str, int]:
    """Newest number of each shared kind of a log, without those about the catalogs themselves."""
    return {
        kind: head
        for kind, head in log.heads().items()
        if batched_kind(kind).log == "shared" and kind not in UPKEEP_KINDS
    }


def _ahead(theirs: Mapping[str, int], mine: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Kinds of which there is more than a copy has: what it has, and what there is."""
    return {
        kind: (mine.get(kind, 0), head) for kind, head in theirs.items() if head > mine.get(kind, 0)
    }


def _seconds_since(moment: datetime) -> float:
    return round(max((datetime.now(UTC) - moment).total_seconds(), 0.0), 2)


def _refilled(site: str, origin: str, done: Replicated) -> pl.DataFrame:
    """Rows of `records.RECONCILIATIONS` about holes in a copy that copying itself has filled."""
    kinds = Counter(key.split("/")[2] for key in done.holes)
    now = datetime.now(UTC)
    rows = [
        (site, origin, kind, now, done.num_batches + done.num_standing, count, count)
        for kind, count in kinds.items()
    ]
    return pl.DataFrame(rows, schema=dict(RECONCILIATIONS.columns), orient="row")


def _last_repair(view: SiteView) -> datetime | None:
    rows = payload(log_kind("reconciliations"), view.log.read("reconciliations"))
    moment = rows.filter(pl.col("num_repaired") > 0)["measured_at"].max()
    return moment if isinstance(moment, datetime) else None


def moment_key(what: str) -> str:
    """A key for the ledger, for work that no run of Dagster names."""
    return f"{what}/{datetime.now(UTC).isoformat()}"
