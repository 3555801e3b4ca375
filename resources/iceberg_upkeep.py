"""Upkeep of Iceberg tables, which pyiceberg leaves to others: merge small files, expire, sweep.

Each step is one commit or deletes only what no snapshot names, so it may be killed and done again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from resources.failpoints import reached
from resources.iceberg_tables import DamagedTableError, Lake, LakeTable
from resources.lease import Lease
from resources.site_store import StoredObject
from worldloop.catalog_tables import CatalogTable, rows_hash
from worldloop.errors import StoreError

_SMALL_BYTES = 16 * 1024 * 1024  # a file that is worth merging
_MANY_IDLE = 8  # manifests that a commit may drop
_CLOCK = "clock/now"  # an object that tells the store's time


@dataclass
class Upkeep:
    """The upkeep of a site's tables.

    Attributes:
        lake: The tables.
        lease: Held by the caller.
        keep: Snapshots are kept for this long, and those with a tag for ever.
        spare: Files that nothing names are left alone for this long, by the store's clock.
        many_files: So many small files of a table are merged into one.
    """

    lake: Lake
    lease: Lease
    keep: timedelta
    spare: timedelta
    many_files: int

    def missing(self, found: LakeTable) -> list[str]:
        """Data files of the newest snapshot that the store does not have as they were written.

        Raises:
            DamagedTableError: If a file that lists them is gone or unreadable.
        """
        sizes = {file.key: file.size_bytes for file in self.lake.listed(found.table)}
        return self.lake.missing_files(found, sizes)

    def look_after(self, found: LakeTable) -> dict[str, int]:
        """Compact, expire and sweep one table.

        Returns:
            `compacted` files, `expired` snapshots, `swept` files and `swept_bytes`.

        Raises:
            StoreError: If merged files do not hold the same rows; nothing is changed then.
            LeaseHeldError: If the lease was lost.
        """
        compacted = self.compact(found)
        expired = self.expire(found)
        swept = self.sweep(found)
        return {
            "compacted": compacted,
            "expired": expired,
            "swept": len(swept),
            "swept_bytes": sum(file.size_bytes for file in swept),
        }

    def compact(self, found: LakeTable) -> int:
        """Merge small files into sorted ones, in one commit.

        Returns:
            Files that were merged.

        Raises:
            StoreError: If what was written does not read as what was there.
        """
        small = [group for group in self._small(found) if len(group) >= self.many_files]
        if not small and not _has_idle_manifests(found):
            return 0
        removed, added = [file for group in small for file in group], []
        for group in small:
            rows = found.read(group).sort(found.table.order, nulls_last=True)
            written = found.write(rows)
            self._compare(found.table, rows_hash(found.table, rows), found.read(written))
            added += written
        reached("iceberg.compacting")
        position = found.standing.position
        if removed:
            found.commit(self.lease, position=position, added=added, removed=removed)
        if _has_idle_manifests(found):
            found.commit(self.lease, position=position)  # an append leaves the idle ones out
        return len(removed)

    def expire(self, found: LakeTable) -> int:
        """Forget snapshots that are old, but the newest and those with a tag.

        Returns:
            Snapshots that were forgotten.
        """
        before = datetime.now(UTC) - self.keep
        had = len(found.iceberg.snapshots())
        kept = {ref.snapshot_id for ref in found.iceberg.metadata.refs.values()}
        is_old = [s.timestamp_ms < before.timestamp() * 1000 for s in found.iceberg.snapshots()]
        old = [s for s, o in zip(found.iceberg.snapshots(), is_old, strict=True) if o]
        if all(snapshot.snapshot_id in kept for snapshot in old):
            return 0
        self.lease.confirm()
        found.iceberg.maintenance.expire_snapshots().older_than(before).commit()
        found.iceberg.refresh()
        return had - len(found.iceberg.snapshots())

    def sweep(self, found: LakeTable) -> list[StoredObject]:
        """Delete files in the table's folder that nothing names and that are not young.

        Returns:
            What was deleted.
        """
        listed = self.lake.listed(found.table)
        before = self._store_time() - self.spare
        old = [file for file in listed if file.modified_at < before]
        if not old:
            return []
        named = {self.lake.warehouse.key(url) for url in _named(found)}
        orphans = [file for file in old if file.key not in named]
        if orphans:
            self.lease.confirm()
        for file in orphans:
            self.lake.warehouse.store.delete(file.key)
        return orphans

    def _small(self, found: LakeTable) -> list[list[Any]]:
        """Small files, by wave where the table is kept by waves."""
        groups: dict[str, list[Any]] = {}
        for file in found.files():
            if file.file_size_in_bytes < _SMALL_BYTES:
                groups.setdefault(str(file.partition), []).append(file)
        return list(groups.values())

    def _compare(self, table: CatalogTable, expected: str, written: Any) -> None:
        if rows_hash(table, written) != expected:
            raise StoreError(
                f"Merging the files of the Iceberg table {table.name!r} gave other rows than it had; "
                "expected the same. Nothing was changed. Rebuild it from the logs with `worldloop "
                "catalog rebuild`, and look at the disk or the memory of this machine."
            )

    def _store_time(self) -> datetime:
        """Now, as the store tells the age of its files."""
        store = self.lake.warehouse.store
        store.put(_CLOCK, b"the store's time\n")
        return store.scan(_CLOCK.split("/")[0])[0].modified_at


def _has_idle_manifests(found: LakeTable) -> bool:
    """Whether manifests stand in the newest snapshot that list nothing but files taken out long ago."""
    newest = found.iceberg.current_snapshot()
    if newest is None:
        return False
    manifests = newest.manifests(found.iceberg.io)
    idle = [m for m in manifests if not (m.has_added_files() or m.has_existing_files())]
    return len(idle) >= _MANY_IDLE


def _named(found: LakeTable) -> Iterable[str]:
    """Every file that some snapshot of a table needs, and its metadata files.

    Raises:
        DamagedTableError: If a file that lists others is gone, so that nobody can say.
    """
    table = found.iceberg
    yield table.metadata_location
    yield from (entry.metadata_file for entry in table.metadata.metadata_log)
    seen = set()
    for snapshot in table.snapshots():
        yield snapshot.manifest_list
        try:
            for manifest in snapshot.manifests(table.io):
                if manifest.manifest_path in seen:
                    continue
                seen.add(manifest.manifest_path)
                yield manifest.manifest_path
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=False)
                yield from (entry.data_file.file_path for entry in entries)
        except (OSError, ValueError, EOFError) as error:
            raise DamagedTableError(f"{found.table.name}: {error}") from error
