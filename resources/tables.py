"""Table files and JSON records in a site's store: read, and published whole or not at all."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from resources.site_store import SiteStore
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.records import MANIFEST, Table, read_table, table_bytes
from worldloop.seeds import canonical_json

_FROZEN = frozenset({MANIFEST.name})  # tables that never change once they stand


@dataclass(frozen=True)
class Published:
    """What publishing a table did.

    Attributes:
        key: Where the table is.
        num_rows: Its rows.
        size_bytes: Size of the file.
        changed: Whether bytes were written; False if the same rows stood already.
        replaced: Whether other rows stood there before.
    """

    key: str
    num_rows: int
    size_bytes: int
    changed: bool
    replaced: bool


def read(store: SiteStore, table: Table, key: str) -> pl.DataFrame:
    """The rows of a table file.

    Raises:
        StoreError: If there is no such file.
        MalformedRecordError: If it is not a file of this table.
    """
    return read_table(table, store.get(key))


def read_all(store: SiteStore, table: Table, prefix: str) -> pl.DataFrame:
    """The rows of every file of the table in a folder, in key order; none if there is no file."""
    keys = [key for key, _ in store.list(prefix) if key.endswith(".parquet")]
    return pl.concat([table.empty(), *(read(store, table, key) for key in keys)])


def publish(store: SiteStore, table: Table, key: str, rows: pl.DataFrame) -> Published:
    """Write a table file; the same rows again change nothing.

    A partition's table is replaced by newer rows. A release's manifest is frozen.

    Raises:
        StoreError: If the table is frozen and stands with other rows, or there is no room.
        MalformedRecordError: If the rows do not follow the format.
    """
    content = table_bytes(table, rows)
    standing = store.get(key) if store.exists(key) else None
    same = standing is not None and _same_rows(table, standing, content)
    if standing is not None and not same and table.name in _FROZEN:
        raise StoreError(
            f"{key!r} stands already with other rows ({len(standing)} bytes, asked for "
            f"{len(content)}); expected the same ones, as a {table.name} is frozen. Plan a new wave "
            "for the new rows."
        )
    if not same:
        store.put(key, content)
    size_bytes = len(standing) if standing is not None and same else len(content)
    return Published(key, rows.height, size_bytes, not same, standing is not None and not same)


def publish_record(store: SiteStore, key: str, record: Mapping[str, Any]) -> bool:
    """Write a JSON record that never changes, canonically.

    Returns:
        Whether this call wrote it; False if it stood already.

    Raises:
        StoreError: If another record stands there.
    """
    content = canonical_json(dict(record))
    if store.create(key, content):
        return True
    if store.get(key) != content:
        raise StoreError(
            f"{key!r} stands already with another content; expected the same record, as it is "
            "frozen. Use a new key (for a release: a new wave)."
        )
    return False


def read_record(store: SiteStore, key: str) -> dict[str, Any]:
    """A JSON record.

    Raises:
        StoreError: If there is none.
        MalformedRecordError: If it is not a JSON object.
    """
    content = store.get(key)
    try:
        record = json.loads(content)
    except ValueError as error:
        raise MalformedRecordError(
            key, str(error), "a JSON record", "Delete it and run its asset again."
        ) from error
    if not isinstance(record, dict):
        raise MalformedRecordError(
            key, record, "a JSON object", "Delete it and run its asset again."
        )
    return record


def _same_rows(table: Table, standing: bytes, content: bytes) -> bool:
    """Equal rows may differ in bytes when another release of parquet wrote them."""
    if standing == content:
        return True
    try:
        return read_table(table, standing).equals(read_table(table, content))
    except MalformedRecordError:  # damaged: to be replaced
        return False
