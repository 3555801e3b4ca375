"""The clip index of a site: Lance tables that find clips by vector, by words and by facts.

It is a projection: everything in it comes from the site's logs, and `clear` costs nothing but work.
Rows are written through pylance, whose commits can be prepared and then made in one step; lancedb
builds the indices and asks them, so that its users read what its own release wrote.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from resources.failpoints import reached
from resources.index_arrow import arrow_batches, arrow_rows, arrow_schema, check_rows
from resources.lance_store import forget_connections, lance_errors
from resources.lance_tables import MODEL_ID, OURS, TABLE_ID, ModelTables, asked_of, table_name
from resources.site_store import SiteStore
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.index_advisor import VectorIndex, refined, with_filter
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.layout import LANCE
from worldloop.seeds import content_id

_KEY = ["recipe_id"]  # a table has one model
_Ask = Callable[[Any], Any]  # a table of lancedb to a query of it


class ClipIndex(ModelTables):
    """Clips by model: put in and taken out in whole commits, and searched."""

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
        check_rows(rows)
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
        check_rows(rows)
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
        batch = arrow_rows(rows, width).select(table.schema.names)
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
        check_rows(first)
        width = len(first["vector"][0])
        schema = arrow_schema(width, {TABLE_ID: _table_id(self.uri), MODEL_ID: model_id})
        batches = arrow_batches(first, pieces, width)
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
            return nearest(table, vector, asked_of(table.schema), limit=limit, where=where)

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
        def answer(table: Any) -> Any:
            there = [name for name in wanted if name in table.schema.names]
            return ask(table).select([*there, score]).to_arrow()

        return self._answer(table_name(model_id), answer, where)

    def _commit(self, target: Any, transaction: Any, confirm: Callable[[], object] | None) -> int:
        import lance

        reached("lance.data_written")
        transaction.transaction_properties = {
            **(transaction.transaction_properties or {}),
            OURS: LANCE,
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


def _table_id(uri: str) -> str:
    """A name that no other table has had: where and when it was made."""
    return content_id({"uri": uri, "made_at": datetime.now(UTC).isoformat()})


def _any_of(column: str, values: Iterable[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"
