"""The Iceberg tables of a site, made of its logs: one table for each kind of rows, and the wide `clips`.

Every table is brought up to date by one commit of its own, which holds its new rows, what was taken
back, and how far it is in the logs. So a run that is killed anywhere is healed by the next: a table
is either at its old position or at its new one. Which tables there are is in
worldloop/catalog_tables.py, their upkeep in resources/iceberg_upkeep.py.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import polars as pl

from resources.failpoints import reached
from resources.iceberg_catalog import connected
from resources.iceberg_news import LogNews
from resources.iceberg_settled import is_settled, settle
from resources.iceberg_tables import DamagedTableError, Lake, LakeTable, hive_columns
from resources.iceberg_upkeep import Upkeep
from resources.lease import Lease
from resources.projection import Applied, Standing
from resources.site_view import SiteView
from worldloop import registrations
from worldloop.catalog_tables import (
    CLIPS,
    TABLES,
    WIDE,
    CatalogTable,
    Position,
    is_release_tag,
    rows_hash,
)
from worldloop.errors import MalformedRecordError, UnknownKeyError

_ATTEMPTS = 3  # when another committer was faster


@dataclass(frozen=True)
class IcebergProjection:
    """Scalars only; vectors, captions and scenes never come here.

    Attributes:
        name: `iceberg`.
        keep: Snapshots are kept for this long, and those of releases for ever.
        spare: A file that no snapshot names is left alone for this long, by the store's clock.
        many_files: So many small files of a table, or of a wave of `clips`, are merged.
        holder: Who works, for others that find the lease taken.
        lease_s: Seconds after which the lease of a killed committer ends.
    """

    name: str = "iceberg"
    keep: timedelta = timedelta(days=5)
    spare: timedelta = timedelta(hours=24)
    many_files: int = 8
    holder: str = "projector"
    lease_s: float = 60.0

    def catch_up(self, view: SiteView) -> Applied:
        """Bring every table up to date; a table that is gone or damaged is made anew.

        When nothing came since it was last found complete, no table is opened and no lease taken.

        Raises:
            LeaseHeldError: If another committer is at work, and there is something to do.
            MalformedRecordError: If a table under one of our names is not ours, or somebody has
                changed its columns; it is left as it is.
            StoreError: If the store or the catalog cannot be used.
        """
        begun = time.monotonic()
        with connected(view) as catalog:
            if is_settled(Lake(view, catalog), self.name, LogNews(view).heads):
                return Applied(0, 0, took_s=time.monotonic() - begun)
        with self._committing(view) as work:
            opened = work.follow()
            if not work.has_done_something:
                settle(work.lake, self.name, work.news.heads, opened)
            return work.applied()

    def rebuild(self, view: SiteView) -> Applied:
        """Make the rows of every table anew from the logs alone; readers see the old until then.

        A table of ours whose columns somebody has changed is dropped first.

        Raises:
            LeaseHeldError: As `catch_up` does.
            MalformedRecordError: If a table under one of our names is not ours.
            StoreError: As `catch_up` does.
        """
        with self._committing(view) as work:
            work.remake()
            return work.applied(rebuilt=True)

    def maintain(self, view: SiteView) -> dict[str, int]:
        """Merge small files, expire snapshots, sweep files that nothing names, mend what is damaged.

        Returns:
            `rebuilt` tables, `compacted` files, `expired` snapshots, `swept` files, `swept_bytes`.

        Raises:
            LeaseHeldError: As `catch_up` does.
            MalformedRecordError: As `catch_up` does.
            StoreError: As `catch_up` does.
        """
        with self._committing(view) as work:
            work.check_places()
            work.follow(with_upkeep=True)
            upkeep = Upkeep(work.lake, work.lease, self.keep, self.spare, self.many_files)
            counts = dict.fromkeys(("compacted", "expired", "swept", "swept_bytes"), 0)
            for table in TABLES.values():
                opened = work.sound(table, upkeep)
                for what, count in upkeep.look_after(opened).items():
                    counts[what] += count
            return {"rebuilt": len(work.remade), **counts}

    def standing(self, view: SiteView) -> Standing:
        """How the tables stand against the logs; only reads.

        Raises:
            MalformedRecordError: If a table under one of our names is not ours.
            StoreError: If the store or the catalog cannot be reached.
        """
        news = LogNews(view)
        with connected(view) as catalog:
            lake = Lake(view, catalog)
            opened = {name: _opened_or_none(lake, table) for name, table in TABLES.items()}
        found = {name: table.standing if table else None for name, table in opened.items()}
        waiting = news.waiting({name: at.position if at else {} for name, at in found.items()})
        clips = found[CLIPS]
        return Standing(
            name=self.name,
            num_rows=clips.num_rows if clips else 0,
            size_bytes=sum(stands.size_bytes for stands in found.values() if stands),
            num_behind=len(waiting),
            oldest_behind_at=min((batch.claimed_at for batch in waiting.values()), default=None),
            recall=None,
            index="",
            location=lake.warehouse.url,
        )

    def tables(self, view: SiteView) -> Mapping[str, registrations.LakeTable]:
        """The tables that stand, as other catalogs register them.

        Raises:
            MalformedRecordError: As `standing` does.
            StoreError: As `standing` does.
        """
        with connected(view) as catalog:
            lake = Lake(view, catalog)
            opened = {name: _opened_or_none(lake, table) for name, table in TABLES.items()}
            return {
                name: registrations.LakeTable(
                    name=name,
                    location=found.iceberg.location(),
                    metadata_location=found.iceberg.metadata_location,
                    columns=hive_columns(found.table),
                    num_rows=found.standing.num_rows,
                )
                for name, found in opened.items()
                if found
            }

    def read(self, view: SiteView, name: str = CLIPS) -> pl.DataFrame:
        """The rows of a table, in its order.

        Raises:
            UnknownKeyError: If there is no such table.
            MalformedRecordError: As `standing` does.
            StoreError: If it cannot be read.
        """
        if name not in TABLES:
            raise UnknownKeyError("Iceberg table", name, TABLES)
        table = TABLES[name]
        with connected(view) as catalog:
            found = _opened_or_none(Lake(view, catalog), table)
            rows = found.read() if found else table.empty()
        return rows.sort(table.order, nulls_last=True)

    def content_hash(self, view: SiteView) -> str:
        """Hash of the rows of `clips`; equal at all sites whose copies of the logs are level."""
        return rows_hash(WIDE, self.read(view))

    def disagreements(self, view: SiteView) -> dict[str, int]:
        """Rows by table that it lacks, has too many or has otherwise than the logs say; only reads.

        Everything is read, so this is for a check that runs once a day. Tables that agree are left
        out; one that is gone or damaged counts all rows that it should have.
        """
        news = LogNews(view)
        with connected(view) as catalog:
            lake, found = Lake(view, catalog), {}
            for name, table in TABLES.items():
                expected = news.all_rows(table)
                num_odd = _num_odd(table, _rows_or_none(lake, table), expected)
                if num_odd:
                    found[name] = num_odd
        return found

    @contextmanager
    def _committing(self, view: SiteView) -> Iterator["_Work"]:
        with (
            Lease(view.store, f"projection-{self.name}", self.holder, ttl_s=self.lease_s) as lease,
            connected(view) as catalog,
        ):
            yield _Work(Lake(view, catalog), lease, LogNews(view))


@dataclass
class _Work:
    """One run of the committer.

    Attributes:
        lake: The tables.
        lease: Held.
        news: What the logs have.
        remade: Tables that were made anew.
    """

    lake: Lake
    lease: Lease
    news: LogNews
    remade: set[str] = field(default_factory=set)
    _batches: set[tuple[str, str, int]] = field(default_factory=set)
    _num_rows: int = 0
    _begun: float = field(default_factory=time.monotonic)

    def applied(self, *, rebuilt: bool = False) -> Applied:
        """What this run did."""
        took_s = time.monotonic() - self._begun
        return Applied(len(self._batches), self._num_rows, rebuilt or bool(self.remade), took_s)

    @property
    def has_done_something(self) -> bool:
        """Whether this run changed any table."""
        return bool(self._batches or self._num_rows or self.remade)

    def follow(self, *, with_upkeep: bool = False) -> dict[str, LakeTable]:
        """Apply what is new; rows about the catalogs themselves are taken along, never a reason.

        Returns:
            The tables as they were found.
        """
        opened = {name: self._ensured(table) for name, table in TABLES.items()}
        places = {name: found.standing.position for name, found in opened.items()}
        if not (with_upkeep or self.news.waiting(places)):
            return opened
        for name, found in opened.items():
            if self.news.pending(TABLES[name], places[name]):
                self._mended(TABLES[name], found, self._apply)
        return opened

    def remake(self) -> None:
        """Make the rows of every table anew."""
        for table in TABLES.values():
            try:
                found = self._ensured(table)
            except MalformedRecordError:
                if not self.lake.is_ours(table):
                    raise
                self.lake.drop(table)
                found = self.lake.ensure(table)
            self._mended(table, found, self._replace)

    def check_places(self) -> None:
        """Make anew the tables that hold batches which the logs do not have under these numbers."""
        for table in TABLES.values():
            found = self._ensured(table)
            if not self.news.continues(found.standing.position):
                self._mended(table, found, self._replace)
                self.remade.add(table.name)

    def sound(self, table: CatalogTable, upkeep: Upkeep) -> LakeTable:
        """A table all of whose files stand; made anew if they did not."""
        found = self._ensured(table)
        try:
            whole = not upkeep.missing(found)
        except DamagedTableError:
            whole = False
        if whole:
            return found
        self._from_nothing(table)
        return self.lake.ensure(table)

    def _ensured(self, table: CatalogTable) -> LakeTable:
        """A table that can be read and knows how far it is."""
        try:
            found = self.lake.ensure(table)
        except DamagedTableError:
            return self._from_nothing(table)
        try:
            _ = found.standing
        except (
            DamagedTableError
        ):  # others wrote to it, or a column is new: its files can be replaced
            self._mended(table, found, self._replace)
            self.remade.add(table.name)
            return self.lake.ensure(table)
        return found

    def _mended(
        self, table: CatalogTable, found: LakeTable, step: Callable[[LakeTable], None]
    ) -> None:
        """Do a step with a table; from nothing if it is damaged, again if another was faster."""
        from pyiceberg.exceptions import CommitFailedException, ValidationException

        for left in reversed(range(_ATTEMPTS)):
            try:
                step(found)
            except DamagedTableError:
                self._from_nothing(table)
            except (CommitFailedException, ValidationException):
                if not left:
                    raise
                found = self.lake.ensure(table)
                continue
            return

    def _from_nothing(self, table: CatalogTable) -> LakeTable:
        self.remade.add(table.name)
        self.lake.drop(table)
        self._apply(self.lake.ensure(table))
        return self.lake.ensure(table)

    def _apply(self, found: LakeTable) -> None:
        """Commit what is new for a table."""
        place = found.standing.position
        if not self.news.continues(place, table=found.table):
            self._replace(found)
            self.remade.add(found.table.name)
        elif not place:
            self._replace(found)
        elif found.table is WIDE:
            self._apply_wide(found, place)
        else:
            self._apply_kind(found, place)

    def _apply_kind(self, found: LakeTable, place: Position) -> None:
        table, new = found.table, [found.table.empty()]
        gone: dict[str, pl.Series] = {}
        for origin in self.news.origins(table):
            new.append(table.rows(origin, self.news.rows(origin, table.kind, place)))
            if ids := self.news.retracted(origin, table, place):
                gone[origin] = ids[table.kind]
        removed, kept = _without(found, gone)
        self._commit(found, pl.concat([kept, *new]), removed, place)

    def _apply_wide(self, found: LakeTable, place: Position) -> None:
        waves, taken = self.news.touched(place)
        made, gone = self.news.release_tags(place)
        made -= found.tags
        if taken.len():  # a snapshot that is kept for a release must not keep what was taken back
            made |= {tag for tag in found.tags if is_release_tag(tag)} - gone
            known = found.read(columns=["recipe_id", "wave"])
            waves |= set(known.filter(pl.col("recipe_id").is_in(taken.implode()))["wave"])
        self._commit(
            found,
            self.news.wide_rows(waves),
            found.files(waves),
            place,
            tags=made,
            untags=gone & found.tags,
        )

    def _replace(self, found: LakeTable) -> None:
        """Put all rows that the logs give in place of all that the table has."""
        rows = self.news.all_rows(found.table)
        tags = self.news.release_tags({})[0] - found.tags if found.table is WIDE else set[str]()
        self._commit(found, rows, found.files(), {}, tags=tags)

    def _commit(
        self,
        found: LakeTable,
        rows: pl.DataFrame,
        removed: list[Any],
        place: Position,
        *,
        tags: Iterable[str] = (),
        untags: Iterable[str] = (),
    ) -> None:
        batches = self.news.batches(found.table, place)
        added = found.write(rows)
        reached("iceberg.data_written")
        found.commit(
            self.lease,
            position=self.news.position(found.table, place),
            added=added,
            removed=removed,
            batches=[batch.sha256 for of_kind in batches.values() for batch in of_kind],
            tags=sorted(tags),
            untags=sorted(untags),
        )
        self._num_rows += rows.height
        self._batches |= {(*of, batch.seq) for of, many in batches.items() for batch in many}


def _without(found: LakeTable, gone: Mapping[str, pl.Series]) -> tuple[list[Any], pl.DataFrame]:
    """Files with rows that were taken back, and the other rows of these files."""
    table = found.table
    removed, kept = [], [table.empty()]
    is_gone = pl.lit(value=False)
    for origin, ids in gone.items():
        is_gone |= (pl.col(table.writer) == origin) & table.ids.is_in(ids.implode())
    for file in found.files() if gone else []:
        keys = found.read([file], columns=[*dict.fromkeys((*table.key, table.writer))])
        if keys.select(is_gone.any()).item():
            removed.append(file)
            kept.append(found.read([file]).filter(~is_gone))
    return removed, pl.concat(kept)


def _opened_or_none(lake: Lake, table: CatalogTable) -> LakeTable | None:
    """A table that can be read and knows how far it is."""
    try:
        found = lake.open(table)
        if found:
            _ = found.standing
    except DamagedTableError:
        return None
    return found


def _rows_or_none(lake: Lake, table: CatalogTable) -> pl.DataFrame | None:
    try:
        found = _opened_or_none(lake, table)
        return found.read() if found else None
    except DamagedTableError:
        return None


def _num_odd(table: CatalogTable, rows: pl.DataFrame | None, expected: pl.DataFrame) -> int:
    """Rows that stand on one side only."""
    if rows is None:
        return expected.height
    if rows_hash(table, rows) == rows_hash(table, expected):
        return 0
    columns = list(table.columns)
    sides = ((rows, expected), (expected, rows))
    odd = [a.join(b, on=columns, how="anti", nulls_equal=True).height for a, b in sides]
    return sum(odd) or abs(rows.height - expected.height)
