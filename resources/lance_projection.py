"""The Lance projection of a site: its own clips, searchable by vector, by words and by facts.

Rows come from the site's own private log; of the shared logs, those of the other sites included,
it takes which clips are duplicates. How far it has come stands in `projections/lance.json`,
together with the id and the version of each table: so a table that was dropped, put there by
somebody else or rolled back is noticed and made again.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import polars as pl

from resources import index_advisor, lance_upkeep
from resources.clip_index import ClipIndex
from resources.lance_store import DamagedTableError
from resources.lance_tables import state_of
from resources.lease import Lease
from resources.log_changes import Changes, changes_since, heads_of, own_waves
from resources.projection import Applied, Standing
from resources.query_log import QueryLog
from resources.site_catalog import wave_index_rows
from resources.site_store import SiteStore
from resources.site_view import SiteView
from resources.store_refusals import MissingObjectError
from worldloop.errors import StoreError
from worldloop.index_advisor import Targets
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.layout import LANCE, projection_key
from worldloop.logs import log_kind, payload
from worldloop.seeds import canonical_json

_LEASE = "projection-lance"
_ROWS_AT_ONCE = 50_000  # of one commit, and of what a rebuild holds in memory
_KEYS_AT_ONCE = 2_000  # of one condition
_FORMAT = 1
_NO_ROWS = pl.DataFrame(
    schema={**dict.fromkeys(INDEX_COLUMNS, pl.String), "vector": pl.List(pl.Float32)}
)


@dataclass(frozen=True)
class _Table:
    """What the record says of one table."""

    table_id: str
    version: int


@dataclass(frozen=True)
class _Record:
    """How far the projection has come.

    Attributes:
        heads: Number of the last batch that was applied, by site and kind.
        tables: By model.
        advice: What was measured of each model's vector index, and when a change was tried.
        erased: By model, the version at which rows that were taken back left the table.
    """

    heads: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tables: Mapping[str, _Table] = field(default_factory=dict)
    advice: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    erased: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LanceProjection:
    """Brings a site's Lance tables up to date with its logs, and keeps them in order.

    Attributes:
        query_log: Where searches wait to be logged; the advisor measures with them.
        targets: What a search must reach.
        keep_s: Versions younger than this stay, for searches that are under way.
        orphan_s: Files that no version names go when they are older than this.
        lease_s: Seconds after which the lease of a killed committer ends.
    """

    query_log: QueryLog | None = None
    targets: Targets = field(default_factory=Targets)
    keep_s: float = 3600.0
    orphan_s: float = 86_400.0
    lease_s: float = 60.0
    name: str = LANCE

    def catch_up(self, view: SiteView) -> Applied:
        """Apply what the logs have and the tables have not; each wave shows at once or not at all.

        Doing it again, or after a kill, changes nothing; when there is nothing to do, no lease is
        taken. A table that is gone, foreign or damaged
        is made again from the logs; one that somebody else wrote to is compared with them.

        Raises:
            LeaseHeldError: If another committer is at work, and there is something to do.
            StoreError: If the store cannot be reached.
        """
        started = time.monotonic()
        index, record = ClipIndex.of_store(view.store), _read(view.store)
        if record is not None and _is_level(view, index, record):
            return Applied(0, 0, took_s=time.monotonic() - started)
        with self._lease(view) as lease:
            record = _read(view.store)
            if record is None:
                return _remade(view, index, _Record(), lease, started)
            if not all(_is_whole(view, index, m, t) for m, t in record.tables.items()):
                return _remade(view, index, record, lease, started)
            changes = changes_since(view, record.heads)
            is_known = all(_is_known(index, m, t) for m, t in record.tables.items())
            if is_known and changes.heads == record.heads:  # done by another one meanwhile
                return Applied(0, 0, took_s=time.monotonic() - started)
            try:
                if not is_known:
                    changes = _with_differences(view, index, changes)
                num_rows, erased = _apply(view, index, changes, lease)
            except DamagedTableError:
                return _remade(view, index, record, lease, started)
            _write(view.store, index, replace(record, heads=changes.heads), erased)
        return Applied(changes.num_batches, num_rows, took_s=time.monotonic() - started)

    def rebuild(self, view: SiteView) -> Applied:
        """Make every table anew from the logs alone; searches see the old one until the new stands.

        Raises:
            LeaseHeldError: If another committer is at work.
            StoreError: If the store cannot be reached.
        """
        started = time.monotonic()
        with self._lease(view) as lease:
            record = _read(view.store) or _Record()
            return _remade(view, ClipIndex.of_store(view.store), record, lease, started)

    def maintain(self, view: SiteView) -> dict[str, int]:
        """Compact, keep indices up to date, tag releases, expire versions, sweep files, take advice.

        A kill at any moment leaves tables that can be read, and the next run goes on.

        Returns:
            Counts of what was done, see `lance_upkeep.Tidied`; `indices_changed`, and `queries`:
            sampled searches that went into the log.

        Raises:
            LeaseHeldError: If another committer is at work.
            StoreError: If the store cannot be reached.
        """
        counts: dict[str, int] = {"indices_changed": 0, "queries": 0}
        if self.query_log is not None:
            counts["queries"] = self.query_log.flush(view.site.name, view.log)
        with self._lease(view):
            index, record = ClipIndex.of_store(view.store), _read(view.store)
            if record is None:
                return counts
            trusted = [m for m, t in record.tables.items() if _is_known(index, m, t)]
            advice = dict(record.advice)
            for model_id in trusted:  # what nobody vouches for is looked at by catch_up first
                tidied = lance_upkeep.tidy(
                    view,
                    index,
                    model_id,
                    keep_s=self.keep_s,
                    orphan_s=self.orphan_s,
                    erased_at=record.erased.get(model_id, 0),
                )
                for what, number in asdict(tidied).items():
                    counts[what] = counts.get(what, 0) + number
                found = index_advisor.advise(
                    view, index, model_id, past=_past(advice, model_id), targets=self.targets
                )
                counts["indices_changed"] += found.changed
                advice[model_id] = found.record()
            _write(view.store, index, replace(record, advice=advice), {})
        return counts

    def standing(self, view: SiteView) -> Standing:
        """How it stands; only reads."""
        record = _read(view.store) or _Record()
        index = ClipIndex.of_store(view.store)
        now = heads_of(view)
        behind = [
            (site, kind, seq)
            for site, kinds in now.items()
            for kind, head in kinds.items()
            for seq in range(record.heads.get(site, {}).get(kind, 0) + 1, head + 1)
        ]
        measured = [_past(record.advice, model).present for model in record.tables]
        known = [found for found in measured if found is not None]
        kinds = sorted({found.index.kind for found in known}) or ["none"]
        try:
            num_rows = index.count()
        except DamagedTableError:  # catch_up makes it again
            num_rows = 0
        return Standing(
            name=self.name,
            num_rows=num_rows,
            size_bytes=sum(size for _, size in view.store.list(LANCE)),
            num_behind=len(behind),
            oldest_behind_at=_oldest(view, behind),
            recall=min((found.recall for found in known), default=None),
            index=", ".join(kinds),
            location=index.uri,
        )

    def _lease(self, view: SiteView) -> Lease:
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        return Lease(view.store, _LEASE, holder, ttl_s=self.lease_s)


def _remade(
    view: SiteView, index: ClipIndex, record: _Record, lease: Lease, started: float
) -> Applied:
    """Every table from the logs alone, and the indices that the advisor last wanted."""
    heads = heads_of(view)
    waves = _wave_sizes(view)
    models = _models_of(view, waves)
    for model_id in {*record.tables, *index.models()} - set(models):
        index.drop(model_id)
    num_rows = 0
    for model_id in models:
        num_rows += _overwrite(view, index, model_id, waves, lease)
        lance_upkeep.ensure_word_index(index, model_id)
        wanted = _past(record.advice, model_id).present
        if wanted is not None and wanted.index.kind != "none":
            index_advisor.build(index, model_id, wanted.index)
    fresh = replace(record, heads=heads, tables={}, erased={})
    _write(view.store, index, fresh, {})
    num_batches = sum(head for kinds in heads.values() for head in kinds.values())
    return Applied(num_batches, num_rows, rebuilt=True, took_s=time.monotonic() - started)


def _apply(
    view: SiteView, index: ClipIndex, changes: Changes, lease: Lease
) -> tuple[int, dict[str, int]]:
    """Bring the touched clips' rows up to date; rows written, and where erased rows left."""
    num_rows = 0
    seen: dict[str, set[str]] = {}
    for some in _portions(changes.waves):
        rows = _rows_of(view, some)
        rows = rows.filter(pl.col("recipe_id").is_in(sorted(changes.recipes)))
        for (model_id,), part in rows.group_by("model_id", maintain_order=True):
            seen.setdefault(str(model_id), set()).update(part["recipe_id"])
            num_rows += _put(index, str(model_id), part, lease)
    erased = {}
    for model_id in index.models():
        gone = _stored(index, model_id, sorted(changes.taken - seen.get(model_id, set())))
        if gone:
            erased[model_id] = index.change(model_id, _NO_ROWS, gone=gone, confirm=lease.confirm)
    return num_rows, erased


def _put(index: ClipIndex, model_id: str, rows: pl.DataFrame, lease: Lease) -> int:
    """Rows of one model; a table of this name that is not ours is replaced."""
    if index.table_id(model_id) is None:
        index.drop(model_id)
    index.change(model_id, rows, confirm=lease.confirm)
    lance_upkeep.ensure_word_index(index, model_id)
    return rows.height


def _stored(index: ClipIndex, model_id: str, recipes: list[str]) -> list[str]:
    """Those of the recipes that the table has."""
    found: list[str] = []
    for start in range(0, len(recipes), _KEYS_AT_ONCE):
        quoted = ", ".join(f"'{recipe}'" for recipe in recipes[start : start + _KEYS_AT_ONCE])
        rows = index.rows(model_id, columns=["recipe_id"], where=f"recipe_id IN ({quoted})")
        found += rows["recipe_id"].to_list()
    return found


def _overwrite(
    view: SiteView, index: ClipIndex, model_id: str, waves: Mapping[str, int], lease: Lease
) -> int:
    num_rows = 0

    def parts() -> Iterator[pl.DataFrame]:
        nonlocal num_rows
        for some in _portions(waves):
            part = _rows_of(view, some).filter(pl.col("model_id") == model_id)
            if part.height:
                num_rows += part.height
                yield part

    if index.table_id(model_id) is None:
        index.drop(model_id)
    index.overwrite(model_id, parts(), confirm=lease.confirm)
    return num_rows


def _rows_of(view: SiteView, waves: Iterable[str]) -> pl.DataFrame:
    return wave_index_rows(view.log, waves, others=view.replicas.values())


def _portions(waves: Mapping[str, int]) -> Iterator[list[str]]:
    """Waves in order, as many at once as fit into one commit."""
    some: list[str] = []
    size = 0
    for wave in sorted(waves):
        if some and size + waves[wave] > _ROWS_AT_ONCE:
            yield some
            some, size = [], 0
        some.append(wave)
        size += waves[wave]
    if some:
        yield some


def _wave_sizes(view: SiteView) -> dict[str, int]:
    """Waves of the site's own clips, each with how many it has."""
    clips = view.log.read("clips")
    return dict(clips.group_by("wave").len().sort("wave").iter_rows())


def _models_of(view: SiteView, waves: Mapping[str, int]) -> list[str]:
    found: set[str] = set()
    for some in _portions(waves):
        vectors = payload(log_kind("vectors"), view.log.read("vectors", waves=some))
        found |= set(vectors["model_id"])
    return sorted(found)


def _with_differences(view: SiteView, index: ClipIndex, changes: Changes) -> Changes:
    """The changes, and every clip whose row is not what the logs say: somebody else wrote."""
    key = ["recipe_id", "model_id", "status"]
    waves = _wave_sizes(view)
    expected = [_rows_of(view, some).select(key) for some in _portions(waves)]
    stored = [index.rows(model, columns=[*key]).select(key) for model in index.models()]
    empty = pl.DataFrame(schema=dict.fromkeys(key, pl.String))
    left, right = pl.concat([empty, *expected]), pl.concat([empty, *stored])
    lacking = left.join(right, on=key, how="anti")["recipe_id"]
    beyond = right.join(left, on=key, how="anti")["recipe_id"]
    waves, own = own_waves(view, {*changes.recipes, *lacking, *beyond})
    return replace(changes, recipes=own, waves=waves, taken=changes.taken | set(beyond))


def _is_whole(view: SiteView, index: ClipIndex, model_id: str, known: _Table) -> bool:
    """Whether the table is the one that was recorded, and none of its files is gone."""
    if index.table_id(model_id) != known.table_id:
        return False
    try:
        return not lance_upkeep.missing_files(view.store, index, model_id)
    except DamagedTableError:
        return False


def _is_level(view: SiteView, index: ClipIndex, record: _Record) -> bool:
    """Whether the logs have nothing new, and every table is exactly as it was recorded, and whole."""
    if heads_of(view) != record.heads:
        return False
    try:
        return all(_is_untouched(view, index, m, known) for m, known in record.tables.items())
    except StoreError:  # gone, damaged or away: what to do about it is found out under the lease
        return False


def _is_untouched(view: SiteView, index: ClipIndex, model_id: str, known: _Table) -> bool:
    dataset = index.dataset(model_id)
    state = state_of(dataset)
    if (state.table_id, state.version) != (known.table_id, known.version):
        return False
    return not lance_upkeep.missing_files(view.store, index, model_id, dataset=dataset)


def _is_known(index: ClipIndex, model_id: str, known: _Table) -> bool:
    """Whether nobody but this projection committed since the record was written."""
    version = index.version(model_id)
    if version == known.version:
        return True
    return version > known.version and index.is_ours(model_id, after=known.version)


def _oldest(view: SiteView, behind: Iterable[tuple[str, str, int]]) -> datetime | None:
    first: dict[tuple[str, str], int] = {}
    for site, kind, seq in behind:
        first.setdefault((site, kind), seq)
    moments = [view.logs[site].claimed_at(kind, seq) for (site, kind), seq in first.items()]
    return min((moment for moment in moments if moment is not None), default=None)


def _past(advice: Mapping[str, Mapping[str, Any]], model_id: str) -> index_advisor.Past:
    return index_advisor.Past.from_record(advice.get(model_id, {}))


def _read(store: SiteStore) -> _Record | None:
    """The record; None if there is none, or it is not one of ours: then everything is made again."""
    try:
        found = json.loads(store.get(projection_key(LANCE)))
        if found["format"] != _FORMAT:
            return None
        tables = {model: _Table(**table) for model, table in found["tables"].items()}
        return _Record(found["heads"], tables, found["advice"], found["erased"])
    except (MissingObjectError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(
    store: SiteStore,
    index: ClipIndex,
    record: _Record,
    erased: Mapping[str, int],
) -> None:
    """Write the record with the tables as they stand now."""
    tables = {
        model: _Table(state.table_id, state.version) for model, state in index.tables().items()
    }
    content = {
        "format": _FORMAT,
        "heads": {site: dict(kinds) for site, kinds in record.heads.items()},
        "tables": {model: asdict(table) for model, table in tables.items()},
        "advice": {model: dict(facts) for model, facts in record.advice.items() if model in tables},
        "erased": {**record.erased, **erased},
    }
    store.put(projection_key(LANCE), canonical_json(content))
