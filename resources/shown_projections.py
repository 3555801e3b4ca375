"""What the Lance and Iceberg projections of a site show to a reconciliation: rows, files, the way back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from resources.clip_index import ClipIndex
from resources.iceberg_catalog import connected, lake_errors, warehouse_of
from resources.iceberg_projection import IcebergProjection
from resources.iceberg_tables import DamagedTableError, Lake, LakeTable
from resources.lance_projection import LanceProjection
from resources.lance_store import lance_errors
from resources.projection_holes import Projected
from resources.site_view import SiteView
from worldloop.catalog_tables import KIND_TABLES, TABLES
from worldloop.errors import StoreError

_CHANGING = (
    ".json"  # Lance's hint of its newest version is written again and again; nothing else is
)


def shown_lance(view: SiteView, lance: LanceProjection) -> Projected:
    """The Lance tables of a site: a row for every vector of its own log.

    Args:
        view: The site.
        lance: Makes them anew when something is missing.
    """
    index = ClipIndex.of_store(view.store)

    def ids(_kind: str) -> list[str]:
        columns = ["recipe_id", "model_id"]
        rows = [index.rows(model, columns=columns) for model in index.models()]
        return [f"{recipe}/{model}" for found in rows for recipe, model in found.iter_rows()]

    def files() -> dict[str, bool]:
        found: dict[str, bool] = {}
        for model in index.models():
            listed = dict(view.store.list(index.folder(model)))
            found |= {key: False for key in listed if not key.endswith(_CHANGING)}
            found |= dict.fromkeys(_lance_files(index, model, listed), True)
        return found

    return Projected(lance.name, ("vectors",), ids, lambda _: lance.rebuild(view), files=files)


def shown_iceberg(view: SiteView, iceberg: IcebergProjection) -> Projected:
    """The Iceberg tables of a site: a row for every scalar row of its own log and the replicas.

    Args:
        view: The site.
        iceberg: Makes them anew when something is missing.
    """
    by_kind = {table.kind: table for table in KIND_TABLES}
    kinds = tuple(by_kind)

    def ids(kind: str) -> list[str]:
        table = by_kind[kind]
        with _damage_told(view):
            rows = iceberg.read(view, table.name)
        return rows.select(table.ids.alias("id"))["id"].to_list()

    def files() -> dict[str, bool]:
        found: dict[str, bool] = {}
        with _damage_told(view), connected(view) as catalog:
            lake = Lake(view, catalog)
            for table in TABLES.values():
                found |= {item.key: False for item in lake.listed(table)}
                if opened := lake.open(table):
                    keys = ((lake.warehouse.key(u), now) for u, now in _iceberg_files(opened))
                    found |= {key: now or found.get(key, False) for key, now in keys if key}
        return found

    return Projected(
        iceberg.name,
        kinds,
        ids,
        lambda _: iceberg.rebuild(view),
        scope="all",
        files=files,
        store=warehouse_of(view).store,
    )


def _lance_files(index: ClipIndex, model_id: str, listed: Mapping[str, int]) -> Iterator[str]:
    """What the newest version of a table needs: data, deletions, indices."""
    folder = index.folder(model_id)
    with lance_errors(index.uri):
        dataset = index.dataset(model_id)
        for fragment in dataset.get_fragments():
            yield from (f"{folder}/data/{file.path}" for file in fragment.data_files())
            if deleted := fragment.deletion_file():
                yield f"{folder}/_deletions/{deleted.removeprefix('_deletions/')}"
        segments = [part for found in dataset.describe_indices() for part in found.segments]
    for part in segments:
        inside = f"{folder}/_indices/{part.uuid}/"
        sizes = {key: size for key, size in listed.items() if key.startswith(inside)}
        yield from sizes
        if part.size_bytes and sum(sizes.values()) < part.size_bytes:
            yield inside.rstrip("/")  # no object: Lance does not say which of its files is gone


def _iceberg_files(found: LakeTable) -> Iterator[tuple[str, bool]]:
    """URLs of metadata, manifests and data files of any snapshot, and whether the newest needs it."""
    table: Any = found.iceberg
    yield from ((entry.metadata_file, False) for entry in table.metadata.metadata_log)
    yield table.metadata_location, True
    newest = table.current_snapshot()
    for snapshot in sorted(table.snapshots(), key=lambda s: s.snapshot_id == newest.snapshot_id):
        now = snapshot.snapshot_id == newest.snapshot_id
        yield snapshot.manifest_list, now
        try:
            for manifest in snapshot.manifests(table.io):
                yield manifest.manifest_path, now
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                yield from ((entry.data_file.file_path, now) for entry in entries)
        except (OSError, ValueError, EOFError):
            if now:
                raise


@contextmanager
def _damage_told(view: SiteView) -> Iterator[None]:
    """What a broken file of Iceberg makes the libraries raise, as our error."""
    try:
        with lake_errors(view):
            yield
    except (DamagedTableError, OSError, ValueError, EOFError) as error:
        words = " ".join(str(error).split())[:160]
        raise StoreError(
            f"The Iceberg tables of {view.site.name!r} cannot be read: {words}. Expected all of "
            "their files. The projection makes them again from the logs."
        ) from error
