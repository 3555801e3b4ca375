"""The clip index of a site: a Lance table that finds clips by vector and by facts.

It is a projection: everything in it comes from the site's logs, and `clear` costs nothing but work.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError, StoreError
from worldloop.index_rows import INDEX_COLUMNS

_INTS = {"index": pa.int32()} | {
    f"{member}_{what}": pa.int64()
    for member in ("rgb", "poster")
    for what in ("offset", "size_bytes")
}
_TYPES = {**_INTS, "duration_s": pa.float64()}  # everything else is text
_KEY = ["recipe_id", "model_id"]
_FACETS = ("city", "institution", "status")
_MANY_ROWS = 50_000  # below it, comparing with every vector takes milliseconds


class ClipIndex(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One Lance table per embedding model, because vectors of two models have nothing in common.

    Attributes:
        uri: Folder or bucket of the tables.
    """

    uri: str

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
        return sum(
            self._merge(str(model_id), part)
            for (model_id,), part in rows.group_by("model_id", maintain_order=True)
        )

    def search(
        self,
        vector: Sequence[float] | NDArray[np.float32],
        *,
        limit: int,
        model_id: str,
        where: str | None = None,
    ) -> pl.DataFrame:
        """The nearest clips.

        Args:
            vector: Of the same model.
            limit: Rows at most.
            model_id: What made `vector`; only its clips are compared.
            where: SQL condition on the other columns, e.g. `city = 'tokyo' AND daypart = 'night'`.

        Returns:
            The index columns without the vector, and `score`, cosine similarity, best first.

        Raises:
            MalformedRecordError: If the condition cannot be read.
        """
        columns = [name for name in INDEX_COLUMNS if name != "vector"]
        table = self._open(model_id)
        if table is None:
            return pl.DataFrame(schema=[*columns, "score"])
        query = table.search(np.asarray(vector, np.float32)).distance_type("cosine")
        if where:
            query = query.where(where, prefilter=True)
        try:
            found = query.limit(limit).select([*columns, "_distance"]).to_arrow()
        except (ValueError, RuntimeError) as error:
            raise _unreadable(where, error) from error
        rows = pl.DataFrame(pl.from_arrow(found))
        return (
            rows.with_columns(score=1 - pl.col("_distance"))
            .drop("_distance")
            .sort("score", "recipe_id", descending=[True, False])
        )

    def count(self, where: str | None = None, *, model_id: str | None = None) -> int:
        """How many rows there are, or fulfil an SQL condition; of one model or of all."""
        tables = self._tables() if model_id is None else [self._open(model_id)]
        try:
            return sum(table.count_rows(where) for table in tables if table is not None)
        except (ValueError, RuntimeError) as error:
            raise _unreadable(where, error) from error

    def optimize(self) -> None:
        """Merge small files and bring indexes up to date; builds them once a table is large."""
        from lancedb.index import Bitmap, BTree, IvfRq

        for table in self._tables():
            indexed = {column for index in table.list_indices() for column in index.columns}
            if table.count_rows() >= _MANY_ROWS and "vector" not in indexed:
                table.create_index("recipe_id", config=BTree())
                for column in _FACETS:
                    table.create_index(column, config=Bitmap())
                table.create_index("vector", config=IvfRq(distance_type="cosine"))
            table.optimize()

    def compact(self, *, keep_s: float = 3600.0) -> None:
        """Merge small files and delete versions older than `keep_s`, which no reader may still use."""
        from datetime import timedelta

        for table in self._tables():
            table.optimize(cleanup_older_than=timedelta(seconds=keep_s))

    def clear(self) -> None:
        """Forget every row."""
        if "://" not in self.uri:
            shutil.rmtree(self.uri, ignore_errors=True)
            return
        for table in self._tables():
            self._connect().drop_table(table.name)

    def _merge(self, model_id: str, rows: pl.DataFrame) -> int:
        width = len(rows["vector"][0])
        batch = rows.select(INDEX_COLUMNS).to_arrow().cast(_schema(width))
        table = self._open(model_id)
        if table is None:
            table = self._connect().create_table(_table_name(model_id), schema=_schema(width))
        batch = batch.select(table.schema.names)
        known = table.schema.field("vector").type.list_size
        if known != width:
            raise MalformedRecordError(
                f"vectors of {model_id}", f"{width} numbers", f"{known}", "Embed the clips again."
            )
        before = table.count_rows()
        merge = table.merge_insert(_KEY).when_matched_update_all().when_not_matched_insert_all()
        done = merge.execute(batch)
        merged = done.num_inserted_rows + done.num_updated_rows
        if merged != rows.height or table.count_rows() != before + done.num_inserted_rows:
            raise StoreError(
                f"The index {self.uri!r} merged {merged} rows of {rows.height}; every row counts once. "
                "Rebuild it from the logs with `worldloop rebuild`."
            )
        return rows.height

    def _connect(self) -> Any:
        os.environ.setdefault("LANCE_LOG", "error")  # a search would log a paragraph otherwise
        import lancedb

        return lancedb.connect(self.uri)

    def _open(self, model_id: str) -> Any:
        name = _table_name(model_id)
        if name not in self._names():
            return None
        table = self._connect().open_table(name)
        lacking = [column for column in INDEX_COLUMNS if column not in table.schema.names]
        if lacking:  # written before the column was there
            table.add_columns(dict.fromkeys(lacking, "cast(null as string)"))
        return table

    def _tables(self) -> list[Any]:
        database = self._connect() if self._names() else None
        return [database.open_table(name) for name in self._names()] if database else []

    def _names(self) -> list[str]:
        if "://" not in self.uri and not Path(self.uri).is_dir():
            return []
        names: Iterable[str] = self._connect().list_tables().tables
        return sorted(names)


def _check(rows: pl.DataFrame) -> None:
    missing = sorted(set(INDEX_COLUMNS) - set(rows.columns))
    if missing:
        raise MalformedRecordError("index rows", f"no {missing}", "all columns", "Fix the writer.")
    repeated = rows.filter(rows.select(_KEY).is_duplicated())
    if repeated.height:
        raise MalformedRecordError(
            "index rows", repeated["recipe_id"][0], "one row per clip and model", "Fix the writer."
        )


def _schema(width: int) -> pa.Schema:
    types = {name: _TYPES.get(name, pa.string()) for name in INDEX_COLUMNS}
    return pa.schema([*{**types, "vector": pa.list_(pa.float32(), width)}.items()])


def _table_name(model_id: str) -> str:
    """A table name that every file system takes; the id itself stands in every row."""
    return "clips-" + "".join(c if c.isalnum() or c in "-_." else "_" for c in model_id)


def _unreadable(where: str | None, error: Exception) -> MalformedRecordError:
    return MalformedRecordError(
        f"filter {where!r}",
        str(error).split("\n")[0][:160],
        f"an SQL condition on {', '.join(INDEX_COLUMNS[:-1])}",
        "Write it like: city = 'tokyo' AND daypart = 'night'.",
    )
