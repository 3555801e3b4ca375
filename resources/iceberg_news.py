"""What the logs of a site have for its Iceberg tables: all of it, or only what came behind a position.

The newest numbers are looked up once, so all tables that one run writes are of the same moment.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from resources.site_log import Batch
from resources.site_view import SiteView
from worldloop.catalog_tables import (
    TABLES,
    WIDE,
    WIDE_KINDS,
    CatalogTable,
    Place,
    Position,
    clip_rows,
    decisions_about,
    release_tag,
    retracted_recipes,
    shared_rows,
    touched_waves,
    waves_of_decisions,
)
from worldloop.layout import LogName
from worldloop.logs import UPKEEP_KINDS, batched_kind, encode_position

_RETRACTIONS = "retractions"
_Batches = dict[tuple[str, str], list[Batch]]  # by the site that writes the log, and kind


@dataclass
class LogNews:
    """The logs of a site at one moment.

    Attributes:
        view: The site.
    """

    view: SiteView
    _rows: dict[tuple[str, str, int], pl.DataFrame] = field(default_factory=dict)
    _whole: dict[tuple[str, str], pl.DataFrame] = field(default_factory=dict)
    _hashes: dict[tuple[str, str, int], list[Batch]] = field(default_factory=dict)

    @functools.cached_property
    def heads(self) -> dict[str, dict[str, int]]:
        """The newest number of each kind by the site that writes the log."""
        return {origin: log.heads() for origin, log in self.view.logs.items()}

    def origins(self, table: CatalogTable) -> list[str]:
        """The sites whose rows stand in a table."""
        return list(self.view.logs) if table.is_shared else [self.view.site.name]

    def rows(self, origin: str, kind: str, place: Position) -> pl.DataFrame:
        """Log rows of a kind that came behind a position, without those taken back by now."""
        seq = _seq(place, origin, kind)
        asked = (origin, kind, seq)
        if asked not in self._rows:
            head = self.heads[origin].get(kind, 0)
            if head > seq:
                self._rows[asked] = self.view.logs[origin].read_after(kind, seq, until=head)[0]
            else:
                self._rows[asked] = batched_kind(kind).format.empty()
        return self._rows[asked]

    def retracted(self, origin: str, table: CatalogTable, place: Position) -> dict[str, pl.Series]:
        """Ids that a log took back behind a position, by kind; only of the kinds of a table."""
        kind = next(name for name in table.kinds if name.endswith(_RETRACTIONS))
        rows = self.rows(origin, kind, place)
        mine = rows.filter(pl.col("of_kind").is_in(list(table.kinds)))
        return {str(of): part["of_id"] for (of,), part in mine.group_by("of_kind")}

    def pending(self, table: CatalogTable, place: Position) -> _Batches:
        """Batches behind a position that change a table; other kinds' retractions do not."""
        found: _Batches = {}
        for (origin, kind), batches in self.batches(table, place).items():
            if kind.endswith(_RETRACTIONS) and not self.retracted(origin, table, place):
                continue
            found[origin, kind] = batches
        return found

    def waiting(self, places: Mapping[str, Position]) -> dict[tuple[str, str, int], Batch]:
        """Batches that some table lacks; rows about the catalogs themselves are no matter."""
        return {
            (*of, batch.seq): batch
            for name, place in places.items()
            if TABLES[name].kind not in UPKEEP_KINDS
            for of, batches in self.pending(TABLES[name], place).items()
            for batch in batches
        }

    def batches(self, table: CatalogTable, place: Position) -> _Batches:
        """All batches behind a position of the kinds of a table."""
        found: _Batches = {}
        for origin in self.origins(table):
            for kind in table.kinds:
                seq, head = _seq(place, origin, kind), self.heads[origin].get(kind, 0)
                if head > seq:
                    found[origin, kind] = [b for b in self._from(origin, kind, seq) if b.seq > seq]
        return found

    def position(self, table: CatalogTable, place: Position) -> dict[str, dict[str, Place]]:
        """How far a table is when it has all batches behind a position."""
        reached = {origin: dict(kinds) for origin, kinds in place.items()}
        for (origin, kind), batches in self.batches(table, place).items():
            newest = batches[-1]
            reached.setdefault(origin, {})[kind] = Place(newest.seq, newest.sha256)
        return reached

    def continues(self, place: Position, *, table: CatalogTable | None = None) -> bool:
        """Whether the logs have the batches that a position names; a log that is shorter is no matter.

        Args:
            place: What a table says of itself.
            table: Look only where the table has something to apply, which costs no further request.
        """
        for origin, kinds in place.items():
            for kind, at in kinds.items():
                head = self.heads.get(origin, {}).get(kind, 0)
                if head < at.seq or (table is not None and head == at.seq):
                    continue
                if [b.sha256 for b in self._from(origin, kind, at.seq)[:1]] != [at.sha256]:
                    return False
        return True

    def all_rows(self, table: CatalogTable) -> pl.DataFrame:
        """Every row that a table should have, in its order."""
        if table is WIDE:
            return self.wide_rows(None)
        parts = [table.rows(o, self._read(o, table.kind, None)) for o in self.origins(table)]
        return pl.concat([table.empty(), *parts]).sort(table.order, nulls_last=True)

    def wide_rows(self, waves: Iterable[str] | None) -> pl.DataFrame:
        """Rows of `clips`, of some waves or of all."""
        wanted = None if waves is None else sorted(waves)
        if wanted == []:
            return WIDE.empty()
        duplicates, superseded = self._all("duplicates"), self._all("superseded")
        if wanted is not None:
            duplicates, superseded = decisions_about(
                wanted, duplicates=duplicates, superseded=superseded
            )
        return clip_rows(
            lineage=self._all("lineage", wanted),
            scores=self._all("scores", wanted),
            duplicates=duplicates,
            superseded=superseded,
            release_clips=self._all("release_clips", wanted),
        )

    def touched(self, place: Position) -> tuple[set[str], pl.Series]:
        """What of `clips` reads otherwise now than at a position.

        Returns:
            Waves; and recipes of which something was taken back, whose waves are not among them.
        """
        news = {
            kind: shared_rows(kind, {o: self.rows(o, kind, place) for o in self.view.logs})
            for kind in WIDE_KINDS
        }
        taken = [self.retracted(origin, WIDE, place) for origin in self.view.logs]
        recipes = _concat(retracted_recipes(kind, ids) for of in taken for kind, ids in of.items())
        decided = _concat(of["duplicates"] for of in taken if "duplicates" in of)
        rests = news["duplicates"].height or news["superseded"].height or recipes.len()
        empty = {kind: TABLES[kind].empty() for kind in ("duplicates", "superseded")}
        known = {kind: self._all(kind) for kind in empty} if rests else empty
        waves = touched_waves(news, **known) | waves_of_decisions(recipes, decided, **known)
        return waves, recipes

    def release_tags(self, place: Position) -> tuple[set[str], set[str]]:
        """Tags for the releases behind a position, and tags of releases that were taken back."""
        made, gone = set[str](), set[str]()
        for origin in self.view.logs:
            made |= {release_tag(wave) for wave in self.rows(origin, "releases", place)["wave"]}
            taken = self.retracted(origin, WIDE, place).get("releases")
            gone |= set() if taken is None else {release_tag(wave) for wave in taken}
        return made, gone - made

    def _all(self, kind: str, waves: list[str] | None = None) -> pl.DataFrame:
        return shared_rows(kind, {o: self._read(o, kind, waves) for o in self.view.logs})

    def _read(self, origin: str, kind: str, waves: list[str] | None) -> pl.DataFrame:
        if not self.heads[origin].get(kind):
            return batched_kind(kind).format.empty()
        if waves is not None:
            return self.view.logs[origin].read(kind, at=self._moment(origin), waves=waves)
        if (origin, kind) not in self._whole:
            self._whole[origin, kind] = self.view.logs[origin].read(kind, at=self._moment(origin))
        return self._whole[origin, kind]

    def _moment(self, origin: str) -> str:
        heads: dict[LogName, dict[str, int]] = {"private": {}, "shared": {}}
        for name, head in self.heads[origin].items():
            kind = batched_kind(name)
            heads[kind.log][kind.name] = head
        return encode_position(heads)

    def _from(self, origin: str, kind: str, seq: int) -> list[Batch]:
        """The batch of a number and those behind it, as far as this moment reaches."""
        asked = (origin, kind, seq)
        if asked not in self._hashes:
            listed = self.view.logs[origin].batch_hashes(kind, after=max(seq - 1, 0))
            self._hashes[asked] = [b for b in listed if b.seq <= self.heads[origin].get(kind, 0)]
        return self._hashes[asked]


def _seq(place: Position, origin: str, kind: str) -> int:
    at = place.get(origin, {}).get(kind)
    return at.seq if at else 0


def _concat(parts: Iterable[pl.Series]) -> pl.Series:
    return pl.concat(
        [pl.Series("recipe_id", [], pl.String), *(p.rename("recipe_id") for p in parts)]
    )
