"""The clip index of a site: Lance tables that find clips by vector, by words and by facts.

It is a projection: everything in it comes from the site's logs, and `clear` costs nothing but work.
Rows are written through pylance, whose commits can be prepared and then made in one step; lancedb
builds the indices and asks them, so that its users read what its own release wrote.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from resources.failpoints import reached
from resources.lance_store import (
    DamagedTableError,
    connect,
    forget_connections,
    lance_errors,
    lance_options,
)
from resources.site_store import SiteStore
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.index_advisor import VectorIndex, refined, with_filter
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.layout import LANCE
from worldloop.seeds import content_id

_INTS = {"index": pa.int32()} | {
    f"{member}_{what}": pa.int64()
    for member in ("rgb", "poster")
    for what in ("offset", "size_bytes")
}
_TYPES = {**_INTS, "duration_s": pa.float64()}  # everything else is text
_KEY = ["recipe_id"]  # a table has one model
_TABLE_ID, _MODEL_ID, _ASKED = "worldloop.table", "worldloop.model_id", "worldloop.vector_index"
_OURS = "worldloop.committer"
_WITHOUT_ADVICE = VectorIndex("unknown", 32, 40)
_UNREADABLE = ("Schema error", "Error parsing statement", "sql parser", "type_coercion", "coerce")
NEVER = timedelta(days=36_500)  # lancedb prunes after 7 days otherwise, and stumbles over tags
_NO_TABLE = ("was not found", "does not exist")


class TableState(NamedTuple):
    """What a table says of itself.

    Attributes:
        model_id: Of its vectors; empty if the table is not one of ours.
        table_id: Another table of the same name has another one.
        version: Number of its newest commit.
    """

    model_id: str
    table_id: str
    version: int


_Ask = Callable[[Any], Any]  # a table of lancedb to a query of it


class ClipIndex(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One Lance table per embedding model, because vectors of two models have nothing in common.

    Attributes:
        uri: Folder or URL of the tables.
        options: Of the store's client, by obstore's names; nothing secret.
        secrets: Secret options, each with where it is kept (`resources.credentials`).
    """

    uri: str
    options: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of_store(cls, store: SiteStore) -> "ClipIndex":
        """The index that lies in a site's store."""
        uri = f"{store.url.rstrip('/')}/{LANCE}"
        return cls(uri=uri, options=dict(store.options), secrets=dict(store.secrets))

    def upsert(self, rows: pl.DataFrame) -> int:
        """Put rows in, replacing those with the same recipe and model. Twice is as good as once.

        Args:
            rows: `index_rows.INDEX_COLUMNS`.

        Returns:
            How many rows were merged, new or not.

        Raises:
            MalformedRecordError: If columns are missing, a key repeats or vectors differ in length.
            StoreError: If the table counts fewer rows than were given.
        """
        _check(rows)
        for (model_id,), part in rows.group_by("model_id", maintain_order=True):
            self.change(str(model_id), part)
        return rows.height

    def change(
        self,
        model_id: str,
        rows: pl.DataFrame,
        *,
        gone: Iterable[str] = (),
        confirm: Callable[[], object] | None = None,
    ) -> int:
        """Put rows of one model in and take others out, in one commit: a search sees all or nothing.

        Args:
            model_id: The model of all rows.
            rows: `index_rows.INDEX_COLUMNS`; may be empty.
            gone: Recipes whose rows leave; fine if there are none.
            confirm: Called right before the commit; what it raises leaves the table as it was.

        Returns:
            The version of the table from now on.

        Raises:
            MalformedRecordError: If columns are missing, a key repeats or vectors differ in length.
            StoreError: If the table counts fewer rows than were given, or cannot be reached.
        """
        _check(rows)
        table = self._writable(model_id)
        if table is None:
            return self.overwrite(model_id, [rows], confirm=confirm) if rows.height else 0
        width = table.schema.field("vector").type.list_size
        if rows.height and len(rows["vector"][0]) != width:
            raise MalformedRecordError(
                f"vectors of {model_id}",
                f"{len(rows['vector'][0])} numbers",
                f"{width}",
                "Embed the clips again.",
            )
        batch = _arrow(rows, width).select(table.schema.names)
        merge = table.merge_insert(_KEY).when_matched_update_all().when_not_matched_insert_all()
        if leaving := sorted(set(gone)):
            merge = merge.when_not_matched_by_source_delete(_any_of("recipe_id", leaving))
        with lance_errors(self.uri):
            transaction, done = merge.execute_uncommitted(batch)
            merged = done["num_inserted_rows"] + done["num_updated_rows"]
            if merged != rows.height:
                raise StoreError(
                    f"The index {self.uri!r} merged {merged} rows of {rows.height}; every row counts "
                    "once. Rebuild it from the logs with `worldloop rebuild`."
                )
            return self._commit(table, transaction, confirm)

    def overwrite(
        self,
        model_id: str,
        parts: Iterable[pl.DataFrame],
        *,
        confirm: Callable[[], object] | None = None,
    ) -> int:
        """Make a table of these rows alone, in one commit; searches see the old one until then.

        Args:
            model_id: The model of all rows.
            parts: Rows in pieces that fit into memory; the first one must not be empty.
            confirm: Called right before the commit; what it raises leaves the table as it was.

        Returns:
            The version of the table from now on.
        """
        import lance

        pieces = iter(parts)
        first = next(pieces)
        _check(first)
        width = len(first["vector"][0])
        schema = _schema(width, model_id, _table_id(self.uri))
        batches = _batches(first, pieces, width)
        target: Any = self._dataset(model_id, or_none=True) or self._address(model_id)
        options = {} if not isinstance(target, str) else {"storage_options": self._options()}
        with lance_errors(self.uri):
            transaction = lance.fragment.write_fragments(
                pa.RecordBatchReader.from_batches(schema, batches),
                target,
                schema=schema,
                mode="overwrite",
                return_transaction=True,
                **options,
            )
            return self._commit(target, transaction, confirm)

    def search(
        self,
        vector: Sequence[float] | NDArray[np.float32],
        *,
        limit: int,
        model_id: str,
        where: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """The nearest clips.

        Args:
            vector: Of the same model.
            limit: Rows at most.
            model_id: What made `vector`; only its clips are compared.
            where: SQL condition on the other columns, e.g. `city = 'tokyo' AND daypart = 'night'`.
            columns: Columns to return; all but the vector when not given.

        Returns:
            The columns, and `score`, cosine similarity, best first; ties by recipe.

        Raises:
            MalformedRecordError: If the condition cannot be read.
            StoreError: If the store cannot be reached, or files of the table are gone.
        """
        wanted = [name for name in columns or INDEX_COLUMNS if name != "vector"]

        def ask(table: Any) -> Any:
            return nearest(table, vector, _asked(table.schema), limit=limit, where=where)

        rows = self._ask(ask, wanted, model_id, where, "_distance")
        return rows.with_columns(score=1 - pl.col("score"))

    def find_words(
        self, words: str, *, limit: int, model_id: str, where: str | None = None
    ) -> pl.DataFrame:
        """The clips whose captions fit some words best.

        Args:
            words: Free words; stems count, the rare ones most (BM25).
            limit: Rows at most.
            model_id: Whose table is asked; captions are the same in each.
            where: SQL condition on the other columns.

        Returns:
            The columns but the vector, and `score`, best first; ties by recipe.

        Raises:
            MalformedRecordError: If the condition cannot be read.
            StoreError: If the store cannot be reached.
        """
        wanted = [name for name in INDEX_COLUMNS if name != "vector"]

        def ask(table: Any) -> Any:
            query = table.search(words, query_type="fts").limit(limit)
            return query.where(where, prefilter=True) if where else query

        return self._ask(ask, wanted, model_id, where, "_score").sort(
            "score", "recipe_id", descending=[True, False]
        )

    def count(self, where: str | None = None, *, model_id: str | None = None) -> int:
        """How many rows there are, or fulfil an SQL condition; of one model or of all."""
        names = [_table_name(model_id)] if model_id is not None else self._names()
        return sum(self._count(name, where) for name in names)

    def rows(self, model_id: str, *, columns: Sequence[str], where: str = "") -> pl.DataFrame:
        """Some columns of all rows of a model, or of those that fulfil a condition."""
        table = self._dataset(model_id, or_none=True)
        if table is None:
            return pl.DataFrame(schema=list(columns))
        with lance_errors(self.uri):
            found = table.to_table(columns=list(columns), filter=where or None)
        return pl.DataFrame(pl.from_arrow(found))

    def tables(self) -> dict[str, TableState]:
        """Every table that can be opened and says whose it is, by model, in order."""
        found = [self._state_of(name) for name in self._names()]
        return {state.model_id: state for state in found if state is not None and state.model_id}

    def models(self) -> list[str]:
        """Models that have a table which can be opened and says whose it is, in order."""
        return list(self.tables())

    def table_id(self, model_id: str) -> str | None:
        """Who the table is: another one of the same name has another id. None if it is not ours."""
        state = self._state_of(_table_name(model_id))
        return state.table_id if state is not None and state.table_id else None

    def version(self, model_id: str) -> int:
        """Number of the table's newest commit; 0 if there is no table."""
        table = self._dataset(model_id, or_none=True)
        return 0 if table is None else int(table.version)

    def is_ours(self, model_id: str, *, after: int) -> bool:
        """Whether every commit after a version was made by `change` or `overwrite`."""
        table = self._dataset(model_id)
        try:
            with lance_errors(self.uri):
                since = range(after + 1, table.version + 1)
                made = [table.read_transaction(version) for version in since]
        except StoreError:  # a version that was cleaned away was made by maintenance
            return False
        return all(t is not None and _OURS in (t.transaction_properties or {}) for t in made)

    def lance_table(self, model_id: str) -> Any:
        """The table as lancedb opens it, for indices; at its newest commit.

        Raises:
            StoreError: If there is none.
        """
        with lance_errors(self.uri):
            return self._connection().open_table(_table_name(model_id))

    def dataset(self, model_id: str) -> Any:
        """The table as pylance opens it, for upkeep; at its newest commit.

        Raises:
            StoreError: If there is none.
        """
        return self._dataset(model_id)

    def vector_index(self, model_id: str) -> VectorIndex:
        """The vector index that the table has, and how searches ask it."""
        with lance_errors(self.uri):
            table = self.lance_table(model_id)
            kinds = [
                found.index_type for found in table.list_indices() if "vector" in found.columns
            ]
        if not kinds:
            return VectorIndex()
        kind = {"IvfRq": "ivf_rq", "IvfPq": "ivf_pq"}.get(kinds[0], kinds[0].lower())
        known = _asked(table.schema)
        return replace(_WITHOUT_ADVICE if known.kind != kind else known, kind=kind)

    def asked_like(self, model_id: str) -> VectorIndex:
        """How searches ask the index; after a kill it may be another than the table has."""
        return _asked(self.lance_table(model_id).schema)

    def ask_like(self, model_id: str, index: VectorIndex) -> None:
        """Let every search from now on ask the index like this; it is written into the table."""
        with lance_errors(self.uri):
            record = {"kind": index.kind, "num_probes": index.num_probes, "refine": index.refine}
            dataset = self._dataset(model_id)
            dataset.update_schema_metadata({_ASKED: json.dumps(record)})

    def folder(self, model_id: str) -> str:
        """Where the files of a model's table lie, as a key of the site's store."""
        return f"{LANCE}/{_table_name(model_id)}.lance"

    def optimize(self) -> None:
        """Merge small files and bring indices up to date; no version is removed."""
        for model_id in self.models():
            with lance_errors(self.uri):
                self.lance_table(model_id).optimize(cleanup_older_than=NEVER)

    def compact(self, *, keep_s: float = 3600.0) -> None:
        """Delete versions older than `keep_s`, which no reader may still use; tagged ones stay."""
        for model_id in self.models():
            with lance_errors(self.uri):
                self.dataset(model_id).cleanup_old_versions(
                    older_than=timedelta(seconds=keep_s), error_if_tagged_old_versions=False
                )

    def drop(self, model_id: str) -> None:
        """Forget one model's table, readable or not; fine if there is none."""
        name = _table_name(model_id)
        if name not in self._names():
            return
        with lance_errors(self.uri):
            self._connection().drop_table(name)
        forget_connections()  # what is cached of its versions is not true of the next one's

    def clear(self) -> None:
        """Forget every row."""
        if "://" not in self.uri:
            shutil.rmtree(self.uri, ignore_errors=True)
            forget_connections()
            return
        for name in self._names():
            with lance_errors(self.uri):
                self._connection().drop_table(name)
        forget_connections()

    def _ask(
        self, ask: _Ask, wanted: list[str], model_id: str, where: str | None, score: str
    ) -> pl.DataFrame:
        try:
            found = self._asked_once(ask, wanted, model_id, where, score)
        except StoreError:  # a rebuilt table, new secrets: one more look, with nothing remembered
            forget_connections()
            found = self._asked_once(ask, wanted, model_id, where, score)
        if found is None:
            return pl.DataFrame(schema={**dict.fromkeys(wanted, pl.String), "score": pl.Float64})
        rows = pl.DataFrame(pl.from_arrow(found)).rename({score: "score"})
        absent = [pl.lit(None, pl.String).alias(c) for c in wanted if c not in rows.columns]
        rows = rows.with_columns(pl.col("score").cast(pl.Float64), *absent)
        return rows.select(*wanted, "score").sort("score", "recipe_id")

    def _asked_once(
        self, ask: _Ask, wanted: list[str], model_id: str, where: str | None, score: str
    ) -> pa.Table | None:
        with lance_errors(self.uri):
            try:
                table = self._connection().open_table(_table_name(model_id))
                there = [name for name in wanted if name in table.schema.names]
                return ask(table).select([*there, score]).to_arrow()
            except (ValueError, RuntimeError) as error:
                if any(words in str(error) for words in _NO_TABLE):
                    return None
                if where and any(words in str(error) for words in _UNREADABLE):
                    raise _unreadable(where, error) from error
                raise

    def _count(self, name: str, where: str | None) -> int:
        with lance_errors(self.uri):
            try:
                return int(self._connection().open_table(name).count_rows(where))
            except (ValueError, RuntimeError) as error:
                if any(words in str(error) for words in _NO_TABLE):
                    return 0
                if where and any(words in str(error) for words in _UNREADABLE):
                    raise _unreadable(where, error) from error
                raise

    def _commit(self, target: Any, transaction: Any, confirm: Callable[[], object] | None) -> int:
        import lance

        reached("lance.data_written")
        transaction.transaction_properties = {
            **(transaction.transaction_properties or {}),
            _OURS: LANCE,
        }
        options = {"storage_options": self._options()} if isinstance(target, str) else {}
        if confirm is not None:
            confirm()
        reached("lance.before_commit")
        done = lance.LanceDataset.commit(target, transaction, **options)
        reached("lance.after_commit")
        return int(done.version)

    def _writable(self, model_id: str) -> Any:
        """The table, with columns that came after it was made; None if there is none."""
        table = self._dataset(model_id, or_none=True)
        if table is None:
            return None
        lacking = [column for column in INDEX_COLUMNS if column not in table.schema.names]
        if lacking:
            with lance_errors(self.uri):
                table.add_columns(dict.fromkeys(lacking, "cast(null as string)"))
            table = self._dataset(model_id)
        return table

    def _state_of(self, name: str) -> TableState | None:
        """What a table says of itself; None if there is none, or it cannot be opened."""
        try:
            with lance_errors(self.uri):
                table = self._open(name)
        except DamagedTableError:
            return None
        if table is None:
            return None
        facts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        return TableState(facts.get(_MODEL_ID, ""), facts.get(_TABLE_ID, ""), int(table.version))

    def _dataset(self, model_id: str, *, or_none: bool = False) -> Any:
        with lance_errors(self.uri):
            table = self._open(_table_name(model_id))
        if table is None and not or_none:
            raise StoreError(f"{self.uri!r} has no table of {model_id!r}; catch up with the logs.")
        return table

    def _open(self, name: str) -> Any:
        os.environ.setdefault("LANCE_LOG", "error")
        import lance

        try:
            return lance.dataset(f"{self.uri}/{name}.lance", storage_options=self._options())
        except ValueError as error:
            if any(words in str(error) for words in _NO_TABLE):
                return None
            raise

    def _address(self, model_id: str) -> str:
        return f"{self.uri}/{_table_name(model_id)}.lance"

    def _options(self) -> dict[str, str] | None:
        return lance_options(self.uri, self.options, self.secrets) or None

    def _connection(self) -> Any:
        return connect(self.uri, self.options, self.secrets)

    def _names(self) -> list[str]:
        if "://" not in self.uri and not Path(self.uri).is_dir():
            return []
        with lance_errors(self.uri):
            names: Iterable[str] = self._connection().list_tables().tables
            return sorted(names)


def nearest(
    table: Any,
    vector: Sequence[float] | NDArray[np.float32],
    asked: VectorIndex,
    *,
    limit: int,
    where: str | None = None,
) -> Any:
    """A lancedb query for the rows nearest to a vector, asked in one of the ways there are.

    Args:
        table: As lancedb opens it.
        vector: What is searched for.
        asked: How a search without a filter asks the index.
        limit: Rows at most.
        where: SQL filter; applied before the limit.
    """
    query = table.search(np.asarray(vector, np.float32)).distance_type("cosine").limit(limit)
    if where:
        query = query.where(where, prefilter=True)
        if asked.kind != "none":
            num_rows = table.count_rows()
            asked = with_filter(asked, num_matching=table.count_rows(where), num_rows=num_rows)
    if asked.kind == "none":
        return query.bypass_vector_index()
    return query.nprobes(asked.num_probes).refine_factor(refined(asked, limit=limit))


def _check(rows: pl.DataFrame) -> None:
    missing = sorted(set(INDEX_COLUMNS) - set(rows.columns))
    if missing:
        raise MalformedRecordError("index rows", f"no {missing}", "all columns", "Fix the writer.")
    repeated = rows.filter(rows.select("recipe_id", "model_id").is_duplicated())
    if repeated.height:
        raise MalformedRecordError(
            "index rows", repeated["recipe_id"][0], "one row per clip and model", "Fix the writer."
        )


def _batches(
    first: pl.DataFrame, others: Iterator[pl.DataFrame], width: int
) -> Iterator[pa.RecordBatch]:
    for rows in (part for parts in ([first], others) for part in parts):
        _check(rows)
        yield from _arrow(rows, width).to_batches()


def _arrow(rows: pl.DataFrame, width: int) -> pa.Table:
    """Rows as Lance keeps them; vectors of equal length lie side by side."""
    schema = _schema(width)
    numbers = rows["vector"].explode(empty_as_null=False).to_numpy().astype(np.float32)
    if numbers.size != rows.height * width:
        lengths = sorted(set(rows["vector"].list.len()))
        raise MalformedRecordError(
            "index rows", f"vectors of {lengths} numbers", f"{width}", "Embed the clips again."
        )
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers, pa.float32()), width)
    table = rows.select(name for name in INDEX_COLUMNS if name != "vector").to_arrow()
    table = table.append_column(schema.field("vector"), vectors).select(schema.names)
    return table.cast(schema)


def _schema(width: int, model_id: str = "", table_id: str = "") -> pa.Schema:
    types = {name: _TYPES.get(name, pa.string()) for name in INDEX_COLUMNS}
    metadata = {_TABLE_ID: table_id, _MODEL_ID: model_id} if table_id else None
    fields = {**types, "vector": pa.list_(pa.float32(), width)}
    return pa.schema([*fields.items()], metadata=metadata)


def _table_id(uri: str) -> str:
    """A name that no other table has had: where and when it was made."""
    return content_id({"uri": uri, "made_at": datetime.now(UTC).isoformat()})


def _asked(schema: pa.Schema) -> VectorIndex:
    """How the advisor wants the index asked; something sensible where it never looked."""
    record = (schema.metadata or {}).get(_ASKED.encode())
    return VectorIndex(**json.loads(record)) if record else _WITHOUT_ADVICE


def _table_name(model_id: str) -> str:
    """A table name that every file system takes; the id itself stands in every row."""
    return "clips-" + "".join(c if c.isalnum() or c in "-_." else "_" for c in model_id)


def _any_of(column: str, values: Iterable[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def _unreadable(where: str | None, error: Exception) -> MalformedRecordError:
    return MalformedRecordError(
        f"filter {where!r}",
        str(error).split("\n")[0][:160],
        f"an SQL condition on {', '.join(INDEX_COLUMNS[:-1])}",
        "Write it like: city = 'tokyo' AND daypart = 'night'.",
    )
