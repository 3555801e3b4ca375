"""The Lance tables of a site, one for each embedding model: which there are, and what they say of themselves.

What is in their rows, and how clips are searched, is in resources/clip_index.py.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import polars as pl
import pyarrow as pa
from pydantic import Field

from resources.lance_store import (
    DamagedTableError,
    connect,
    forget_connections,
    lance_errors,
    lance_options,
)
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.index_advisor import VectorIndex
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.layout import LANCE

TABLE_ID, MODEL_ID, OURS = "worldloop.table", "worldloop.model_id", "worldloop.committer"
NEVER = timedelta(days=36_500)  # lancedb prunes after 7 days otherwise, and stumbles over tags
_ASKED = "worldloop.vector_index"
_WITHOUT_ADVICE = VectorIndex("unknown", 32, 40)
_UNREADABLE = ("Schema error", "Error parsing statement", "sql parser", "type_coercion", "coerce")
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


class ModelTables(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One Lance table per embedding model, because vectors of two models have nothing in common.

    Attributes:
        uri: Folder or URL of the tables.
        options: Of the store's client, by obstore's names; nothing secret.
        secrets: Secret options, each with where it is kept (`resources.credentials`).
    """

    uri: str
    options: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)

    def count(self, where: str | None = None, *, model_id: str | None = None) -> int:
        """How many rows there are, or fulfil an SQL condition; of one model or of all."""
        names = [table_name(model_id)] if model_id is not None else self._names()
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
        state = self._state_of(table_name(model_id))
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
        except TypeError:  # pylance 14.0.2 cannot build a compaction that rewrote an index
            return False
        return all(t is not None and OURS in (t.transaction_properties or {}) for t in made)

    def lance_table(self, model_id: str) -> Any:
        """The table as lancedb opens it, for indices; at its newest commit.

        Raises:
            StoreError: If there is none.
        """
        with lance_errors(self.uri):
            return self._connection().open_table(table_name(model_id))

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
        known = asked_of(table.schema)
        return replace(_WITHOUT_ADVICE if known.kind != kind else known, kind=kind)

    def asked_like(self, model_id: str) -> VectorIndex:
        """How searches ask the index; after a kill it may be another than the table has."""
        return asked_of(self.lance_table(model_id).schema)

    def ask_like(self, model_id: str, index: VectorIndex) -> None:
        """Let every search from now on ask the index like this; it is written into the table."""
        with lance_errors(self.uri):
            record = {"kind": index.kind, "num_probes": index.num_probes, "refine": index.refine}
            dataset = self._dataset(model_id)
            dataset.update_schema_metadata({_ASKED: json.dumps(record)})

    def folder(self, model_id: str) -> str:
        """Where the files of a model's table lie, as a key of the site's store."""
        return f"{LANCE}/{table_name(model_id)}.lance"

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
        name = table_name(model_id)
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

    def _count(self, name: str, where: str | None) -> int:
        return int(self._answer(name, lambda table: table.count_rows(where), where) or 0)

    def _answer(self, name: str, ask: Callable[[Any], Any], where: str | None) -> Any:
        """What a table answers, as lancedb opens it; None if there is no table."""
        with lance_errors(self.uri):
            try:
                return ask(self._connection().open_table(name))
            except (ValueError, RuntimeError) as error:
                if any(words in str(error) for words in _NO_TABLE):
                    return None
                if where and any(words in str(error) for words in _UNREADABLE):
                    raise _unreadable(where, error) from error
                raise

    def _state_of(self, name: str) -> TableState | None:
        """What a table says of itself; None if there is none, or it cannot be opened."""
        try:
            with lance_errors(self.uri):
                table = self._open(name)
        except DamagedTableError:
            return None
        if table is None:
            return None
        return state_of(table)

    def _dataset(self, model_id: str, *, or_none: bool = False) -> Any:
        with lance_errors(self.uri):
            table = self._open(table_name(model_id))
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
        return f"{self.uri}/{table_name(model_id)}.lance"

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


def state_of(dataset: Any) -> TableState:
    """What a table says of itself, as pylance opened it."""
    facts = {k.decode(): v.decode() for k, v in (dataset.schema.metadata or {}).items()}
    return TableState(facts.get(MODEL_ID, ""), facts.get(TABLE_ID, ""), int(dataset.version))


def asked_of(schema: pa.Schema) -> VectorIndex:
    """How the advisor wants the index asked; something sensible where it never looked."""
    record = (schema.metadata or {}).get(_ASKED.encode())
    return VectorIndex(**json.loads(record)) if record else _WITHOUT_ADVICE


def table_name(model_id: str) -> str:
    """A table name that every file system takes; the id itself stands in every row."""
    return "clips-" + "".join(c if c.isalnum() or c in "-_." else "_" for c in model_id)


def _unreadable(where: str | None, error: Exception) -> MalformedRecordError:
    return MalformedRecordError(
        f"filter {where!r}",
        str(error).split("\n")[0][:160],
        f"an SQL condition on {', '.join(INDEX_COLUMNS[:-1])}",
        "Write it like: city = 'tokyo' AND daypart = 'night'.",
    )
