"""One table of a site's Iceberg catalog: found, made, read and written in commits that say how far it is.

Each snapshot that we write has the position of the logs in its summary, so a table knows by itself
what it holds, and a commit that was killed has either happened with its position or not at all.
A table of somebody else under the same name is never touched.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from resources.failpoints import reached
from resources.iceberg_catalog import Warehouse, pointer, warehouse_of
from resources.lease import Lease
from resources.site_store import StoredObject
from resources.site_view import SiteView
from worldloop.catalog_tables import VERSION, CatalogTable, Place, decode_position, encode_position
from worldloop.errors import MalformedRecordError
from worldloop.seeds import canonical_json

OURS, SITE, MEANING = "worldloop.table", "worldloop.site", "worldloop.version"
_POSITION, _BATCHES, _COLUMNS = "worldloop.position", "worldloop.batches", "worldloop.columns"
_NAMED_BATCHES = 50  # hashes of one commit that stand in its summary; more are counted only
_SETTINGS = {
    "format-version": "2",
    "commit.retry.num-retries": "0",  # pyiceberg would append the same rows to what another appended
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
    "write.target-file-size-bytes": str(128 * 1024 * 1024),
}
_TYPES: Mapping[Any, tuple[str, pa.DataType, str]] = {  # Iceberg's name, Arrow's type, Hive's name
    pl.String: ("string", pa.string(), "string"),
    pl.Int32: ("int", pa.int32(), "int"),
    pl.Int64: ("long", pa.int64(), "bigint"),
    pl.Float64: ("double", pa.float64(), "double"),
    pl.Boolean: ("boolean", pa.bool_(), "boolean"),
    pl.Datetime("us", "UTC"): ("timestamptz", pa.timestamp("us", "UTC"), "timestamp"),
}
_DAMAGE = (FileNotFoundError, ValueError, EOFError, LookupError, TypeError, AssertionError)
_BROKEN = ("deserialize", "corrupt", "decompress", "end of stream", "magic", "unexpected end")


class DamagedTableError(Exception):
    """A table of ours of which a file is missing or unreadable, or that others have written to."""


@dataclass(frozen=True)
class Standing:
    """A table as it stands.

    Attributes:
        num_rows: Its rows.
        size_bytes: Its data files.
        position: How far it is in each log.
    """

    num_rows: int
    size_bytes: int
    position: Mapping[str, Mapping[str, Place]]


class LakeTable:
    """One of our tables; everything is asked of the metadata that was loaded when it was opened.

    Args:
        table: What it holds.
        iceberg: The table, as pyiceberg has it.
    """

    def __init__(self, table: CatalogTable, iceberg: Any):
        self.table, self.iceberg = table, iceberg

    @property
    def standing(self) -> Standing:
        """Rows, bytes and position.

        Raises:
            DamagedTableError: If somebody else has changed its rows since our last commit.
        """
        newest = self.iceberg.current_snapshot()
        if newest is None:
            return Standing(0, 0, {})
        told, snapshot = dict(newest.summary.additional_properties), newest
        while _POSITION not in snapshot.summary.additional_properties:
            parent = self.iceberg.snapshot_by_id(snapshot.parent_snapshot_id or 0)
            if snapshot.summary.operation.value != "replace" or parent is None:
                raise DamagedTableError(f"{self.table.name}: another writer has changed its rows")
            snapshot = parent
        summary = snapshot.summary.additional_properties
        if summary.get(_COLUMNS) != str(len(self.table.columns)):
            raise DamagedTableError(f"{self.table.name}: its rows lack a column")
        return Standing(
            int(told.get("total-records", 0)),
            int(told.get("total-files-size", 0)),
            decode_position(summary[_POSITION]),
        )

    @property
    def tags(self) -> set[str]:
        """Names of the snapshots that are kept."""
        refs = self.iceberg.metadata.refs.items()
        return {name for name, ref in refs if ref.snapshot_ref_type.value == "tag"}

    def files(self, waves: Iterable[str] | None = None) -> list[Any]:
        """Its data files; of a table that is partitioned also those of some waves only.

        Raises:
            DamagedTableError: If a file that lists them is gone or unreadable.
        """
        from pyiceberg.expressions import AlwaysTrue, BooleanExpression, In, Reference

        wanted = None if waves is None else sorted(waves)
        if wanted == []:
            return []
        rows: BooleanExpression = AlwaysTrue()
        if wanted is not None:
            literals: Any = wanted  # typed as pyiceberg's own literals, made of plain values
            rows = In(term=Reference("wave"), values=literals)
        with _reading(self.table):
            return [task.file for task in self.iceberg.scan(row_filter=rows).plan_files()]

    def read(
        self, files: Sequence[Any] | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Rows of some data files, or of all.

        Raises:
            DamagedTableError: If a file is gone or unreadable.
        """
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan
        from pyiceberg.table import FileScanTask

        names = list(columns or self.table.columns)
        found = self.files() if files is None else files
        if not found:
            return self.table.empty().select(names)
        with _reading(self.table):
            scan = ArrowScan(
                self.iceberg.metadata,
                self.iceberg.io,
                self.iceberg.schema().select(*names),
                AlwaysTrue(),
            )
            arrow = scan.to_table([FileScanTask(file) for file in found])
        rows = pl.DataFrame(pl.from_arrow(arrow))
        return rows.select(pl.col(name).cast(self.table.columns[name]) for name in names)

    def write(self, rows: pl.DataFrame) -> list[Any]:
        """Data files with these rows, which belong to no snapshot yet."""
        from pyiceberg.io.pyarrow import _dataframe_to_data_files

        if rows.is_empty():
            return []
        schema = arrow_schema(self.table)
        arrow = rows.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        metadata, io = self.iceberg.metadata, self.iceberg.io
        files = list(_dataframe_to_data_files(metadata, arrow.cast(schema), io))
        for file in files:
            file.spec_id = metadata.default_spec_id  # pyiceberg says it only of files in a snapshot
        return files

    def commit(
        self,
        lease: Lease,
        *,
        position: Mapping[str, Mapping[str, Place]],
        added: Sequence[Any] = (),
        removed: Sequence[Any] = (),
        batches: Sequence[str] = (),
        tags: Iterable[str] = (),
        untags: Iterable[str] = (),
    ) -> None:
        """Put files in and take others out, with the new position, as one snapshot.

        Args:
            lease: Must still be held.
            position: How far the table is then.
            added: From `write`.
            removed: From `files`.
            batches: Hashes of the log batches that are in it now and were not before.
            tags: Names under which the new snapshot is kept.
            untags: Names that are given up.

        Raises:
            CommitFailedException: If another committer was faster; nothing was committed.
            LeaseHeldError: If the lease was lost.
            DamagedTableError: If a file that lists the others is gone or unreadable.
        """
        from pyiceberg.table.update.snapshot import ManageSnapshots

        told = {
            _POSITION: encode_position(position),
            _BATCHES: canonical_json([*batches[:_NAMED_BATCHES]]).decode(),
            _COLUMNS: str(len(self.table.columns)),
        }
        transaction = self.iceberg.transaction()
        update = transaction.update_snapshot(snapshot_properties=told)
        producer = update.overwrite() if removed else update.merge_append()
        for file in added:
            producer.append_data_file(file)
        for file in removed:
            producer.delete_data_file(file)
        with _reading(self.table):
            producer.commit()
        names = ManageSnapshots(transaction)
        for tag in untags:
            names.remove_tag(tag)
        for tag in tags:
            names.create_tag(producer.snapshot_id, tag)
        names.commit()
        lease.confirm()
        reached("iceberg.before_commit")
        transaction.commit_transaction()
        reached("iceberg.after_commit")


class Lake:
    """All tables of a site in its catalog.

    Args:
        view: The site.
        catalog: From `resources.iceberg_catalog.connected`.
    """

    def __init__(self, view: SiteView, catalog: Any):
        self.view, self.catalog = view, catalog
        self.warehouse: Warehouse = warehouse_of(view)

    def open(self, table: CatalogTable) -> LakeTable | None:
        """A table of ours; None if there is none.

        Raises:
            MalformedRecordError: If the table under this name is not ours, or has other columns.
            DamagedTableError: If its metadata is gone or unreadable.
        """
        from pyiceberg.exceptions import (
            NoSuchIcebergTableError,
            NoSuchNamespaceError,
            NoSuchPropertyException,
            NoSuchTableError,
        )

        name = self._identifier(table)
        try:
            with _reading(table):
                iceberg = self.catalog.load_table(name)
        except (NoSuchIcebergTableError, NoSuchPropertyException) as error:
            raise self._foreign(table, str(error)) from error
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        except DamagedTableError:
            at = pointer(self.catalog, name) or ""
            if not at.startswith(f"{self.warehouse.location(table.name)}/"):
                raise self._foreign(table, f"metadata at {at!r}") from None
            raise
        self._check(table, iceberg)
        return LakeTable(table, iceberg)

    def ensure(self, table: CatalogTable) -> LakeTable:
        """A table of ours: as it is, found again by its files, or new and empty.

        Raises:
            MalformedRecordError: As `open` does, or if the folder holds files of another's table.
            DamagedTableError: If it cannot be read.
        """
        found = self.open(table)
        if found is None:
            found = self._revived(table) or self._create(table)
        lacking = [
            name for name in table.columns if name not in found.iceberg.schema().column_names
        ]
        if lacking:
            self._widen(found, lacking)
        return found

    def is_ours(self, table: CatalogTable) -> bool:
        """Whether the table under this name was made by us for this site, whatever its columns."""
        properties = self.catalog.load_table(self._identifier(table)).properties
        return (properties.get(OURS), properties.get(SITE)) == (table.name, self.view.site.name)

    def drop(self, table: CatalogTable) -> None:
        """Forget a table of ours in the catalog, and its metadata files, so that it is not revived.

        Its other files belong to no table then; the sweep takes them.
        """
        from pyiceberg.exceptions import NoSuchTableError

        with suppress(NoSuchTableError):
            self.catalog.drop_table(self._identifier(table))
        for found in self._metadata_files(table):
            self.warehouse.store.delete(found.key)

    def missing_files(self, table: LakeTable, listed: Mapping[str, int]) -> list[str]:
        """Data files of the newest snapshot that a listing of the store does not have as they were.

        Args:
            table: The table.
            listed: Key to size, of the warehouse's store.
        """
        sizes = {self.warehouse.key(f.file_path): f.file_size_in_bytes for f in table.files()}
        return sorted(str(key) for key, size in sizes.items() if listed.get(str(key)) != size)

    def listed(self, table: CatalogTable) -> list[StoredObject]:
        """Every file in the folder of a table."""
        return self.warehouse.store.scan(self.warehouse.folder(table.name))

    def _identifier(self, table: CatalogTable) -> tuple[str, str]:
        return (self.warehouse.namespace, table.name)

    def _metadata_files(self, table: CatalogTable) -> list[StoredObject]:
        """The newest first."""
        folder = f"{self.warehouse.folder(table.name)}/metadata"
        found = [f for f in self.warehouse.store.scan(folder) if f.key.endswith(".metadata.json")]
        return sorted(found, key=lambda f: (f.modified_at, f.key), reverse=True)

    def _revived(self, table: CatalogTable) -> LakeTable | None:
        """The table that the newest readable metadata file describes, if all its files stand."""
        from pyiceberg.table import StaticTable

        metadata = self._metadata_files(table)
        if not metadata:
            return None
        sizes = {found.key: found.size_bytes for found in self.listed(table)}
        for found in metadata:
            url = f"{self.warehouse.url}/{found.key}"
            try:
                with _reading(table):
                    iceberg = StaticTable.from_metadata(url, self.catalog.properties)
                self._check(table, iceberg)
                whole = not self.missing_files(LakeTable(table, iceberg), sizes)
            except DamagedTableError:
                continue
            if whole:
                self.catalog.create_namespace_if_not_exists(self.warehouse.namespace)
                registered = self.catalog.register_table(self._identifier(table), url)
                return LakeTable(table, registered)
        return None

    def _create(self, table: CatalogTable) -> LakeTable:
        from pyiceberg.partitioning import (
            UNPARTITIONED_PARTITION_SPEC,
            PartitionField,
            PartitionSpec,
        )
        from pyiceberg.schema import Schema
        from pyiceberg.transforms import IdentityTransform
        from pyiceberg.types import NestedField

        fields = [
            NestedField(place, name, _TYPES[kind][0], required=False)
            for place, (name, kind) in enumerate(table.columns.items(), start=1)
        ]
        spec = UNPARTITIONED_PARTITION_SPEC
        if table.partition:
            place = list(table.columns).index(table.partition) + 1
            by = PartitionField(place, 1000, IdentityTransform(), table.partition)
            spec = PartitionSpec(by)
        self.catalog.create_namespace_if_not_exists(self.warehouse.namespace)
        made = self.catalog.create_table(
            self._identifier(table),
            Schema(*fields),
            location=self.warehouse.location(table.name),
            partition_spec=spec,
            properties={**_SETTINGS, **self._marks(table)},
        )
        return LakeTable(table, made)

    def _widen(self, found: LakeTable, lacking: list[str]) -> None:
        """Add columns that a later release has; the rows are made anew then, as they lack them."""
        from pyiceberg.types import NestedField

        kinds = found.table.columns
        with found.iceberg.update_schema() as update:
            for name in lacking:
                field = NestedField(1, name, _TYPES[kinds[name]][0], required=False)
                update.add_column(name, field.field_type)

    def _marks(self, table: CatalogTable) -> dict[str, str]:
        return {OURS: table.name, SITE: self.view.site.name, MEANING: str(VERSION)}

    def _check(self, table: CatalogTable, iceberg: Any) -> None:
        marks = {key: iceberg.properties.get(key, "") for key in (OURS, SITE, MEANING)}
        if (marks[OURS], marks[SITE]) != (table.name, self.view.site.name):
            raise self._foreign(table, str(marks))
        if marks[MEANING] != str(VERSION):
            self._check_version(table, marks[MEANING])
        expected = {name: _TYPES[kind][0] for name, kind in table.columns.items()}
        found = {f.name: str(f.field_type) for f in iceberg.schema().fields}
        odd = {name: kind for name, kind in found.items() if expected.get(name) != kind}
        if odd:
            raise MalformedRecordError(
                f"Iceberg table {'.'.join(self._identifier(table))}",
                odd,
                f"only the columns of docs/formats.md#iceberg ({', '.join(expected)})",
                "Somebody has changed its columns. Its rows are all in the logs: make it anew with "
                "`worldloop catalog rebuild`.",
            )

    def _check_version(self, table: CatalogTable, version: str) -> None:
        if version.isdigit() and int(version) < VERSION:
            raise DamagedTableError(f"{table.name}: of an older release")
        raise MalformedRecordError(
            f"Iceberg table {'.'.join(self._identifier(table))}",
            f"version {version!r}",
            f"version {VERSION}",
            "A newer release of worldloop wrote it: use that release.",
        )

    def _foreign(self, table: CatalogTable, found: str) -> MalformedRecordError:
        return MalformedRecordError(
            f"Iceberg table {'.'.join(self._identifier(table))}",
            found,
            f"no table, or one that worldloop made for the site {self.view.site.name!r}",
            "It is left as it is. Choose another namespace in sites.toml, or rename that table.",
        )


def arrow_schema(table: CatalogTable) -> pa.Schema:
    """The columns of a table in Arrow's types."""
    return pa.schema([(name, _TYPES[kind][1]) for name, kind in table.columns.items()])


def hive_columns(table: CatalogTable) -> dict[str, str]:
    """Name to Hive type of each column, as Glue and Athena want them."""
    return {name: _TYPES[kind][2] for name, kind in table.columns.items()}


@contextmanager
def _reading(table: CatalogTable) -> Iterator[None]:
    """Turns what a broken file makes the libraries raise into `DamagedTableError`."""
    try:
        yield
    except _damage() as error:
        words = " ".join(str(error).split())[:160]
        raise DamagedTableError(f"{table.name}: {words}") from error
    except OSError as error:
        words = " ".join(str(error).split())[:160]
        if not any(word in words.lower() for word in _BROKEN):
            raise
        raise DamagedTableError(f"{table.name}: {words}") from error


def _damage() -> tuple[type[Exception], ...]:
    """What is raised about a file that is gone, cut short or not what it should be."""
    from pyiceberg.exceptions import ValidationError

    return (*_DAMAGE, ValidationError)
