"""A note that the Iceberg tables had all that the logs gave, so that the next look costs few requests.

It names the newest batches and the metadata file of every table at that moment. While all of them
are the same, no table need be opened. It can be deleted at any time: then every table is looked at.
"""

import json
from collections.abc import Mapping
from typing import Any

from resources.iceberg_catalog import pointers
from resources.iceberg_tables import Lake, LakeTable
from resources.site_store import SiteStore
from resources.store_refusals import MissingObjectError
from worldloop.catalog_tables import TABLES, VERSION
from worldloop.layout import projection_key
from worldloop.logs import UPKEEP_KINDS
from worldloop.seeds import canonical_json, content_id

_FORMAT = 1
_Heads = Mapping[str, Mapping[str, int]]


def is_settled(lake: Lake, name: str, heads: _Heads) -> bool:
    """Whether logs and tables are those of the note; asks for them, and opens no table.

    Args:
        lake: The tables.
        name: Of the projection.
        heads: The newest number of each kind by site; rows about the catalogs are no matter.
    """
    note = _read(lake.view.store, name)
    if note.get("heads") != _told(heads) or note.get("columns") != _columns_id():
        return False
    noted = note.get("metadata")
    at = pointers(lake.catalog, lake.warehouse.namespace)
    return noted == _sized(lake, {table: at.get(table, "") for table in TABLES})


def settle(lake: Lake, name: str, heads: _Heads, opened: Mapping[str, LakeTable]) -> None:
    """Note that these tables, as they were opened, lack nothing that the logs have at these heads."""
    at = {table: str(found.iceberg.metadata_location) for table, found in opened.items()}
    note = {
        "format": _FORMAT,
        "heads": _told(heads),
        "columns": _columns_id(),
        "metadata": _sized(lake, at),
    }
    lake.view.store.put(projection_key(name), canonical_json(note))


def _read(store: SiteStore, name: str) -> dict[str, Any]:
    try:
        found = json.loads(store.get(projection_key(name)))
    except (MissingObjectError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == _FORMAT else {}


def _told(heads: _Heads) -> dict[str, dict[str, int]]:
    return {
        site: {kind: head for kind, head in kinds.items() if kind not in UPKEEP_KINDS}
        for site, kinds in heads.items()
    }


def _columns_id() -> str:
    """Another one when a release has other tables or columns."""
    columns = {name: list(table.columns) for name, table in TABLES.items()}
    return content_id({"version": VERSION, "columns": columns})


def _sized(lake: Lake, at: Mapping[str, str]) -> dict[str, list[Any]]:
    """Metadata file of each table with its size, -1 if it is gone; one listing."""
    warehouse = lake.warehouse
    sizes = {found.key: found.size_bytes for found in warehouse.store.scan(warehouse.namespace)}
    return {table: [url, sizes.get(warehouse.key(url) or "", -1)] for table, url in at.items()}
