"""How each cloud's own tools are told of an Iceberg table: the statements and records, as pure text.

Glue knows a table by its newest metadata file, BigQuery too, through an external table; OneLake
follows a folder, and finds the newest metadata by itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from worldloop.errors import MalformedRecordError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_PROJECT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_CONNECTION = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class LakeTable:
    """An Iceberg table, as its catalog knows it.

    Attributes:
        name: Without the namespace, e.g. `clips`.
        location: URL of its folder.
        metadata_location: URL of its newest metadata file.
        columns: Name to Hive type, e.g. `bigint`, in order.
        num_rows: As its newest snapshot says.
    """

    name: str
    location: str
    metadata_location: str
    columns: Mapping[str, str]
    num_rows: int = 0


def bigquery_dataset(project: str, dataset: str, location: str) -> str:
    """The statement that makes the data set, if it is not there.

    Example:
        >>> bigquery_dataset("my-project", "worldloop", "EU")
        "CREATE SCHEMA IF NOT EXISTS `my-project`.`worldloop` OPTIONS (location = 'EU')"
    """
    where = f" OPTIONS (location = '{_checked(_CONNECTION, location)}')" if location else ""
    return f"CREATE SCHEMA IF NOT EXISTS `{_checked(_PROJECT, project)}`.`{_name(dataset)}`{where}"


def bigquery_table(project: str, dataset: str, connection: str, table: LakeTable) -> str:
    """The statement that points an external table at the newest metadata; it replaces at once.

    Args:
        project: GCP project.
        dataset: Data set.
        connection: Resource connection that reads the bucket, `region.name`; empty takes the caller's
            own rights.
        table: What to register.

    Raises:
        MalformedRecordError: If a name could not stand in a statement.

    Source:
        BigQuery documentation, "Create Apache Iceberg external tables", with JSON metadata files.
    """
    quoted = ".".join(f"`{part}`" for part in connection.split(".")) if connection else ""
    if connection:
        _checked(_CONNECTION, connection)
    reader = f" WITH CONNECTION `{_checked(_PROJECT, project)}`.{quoted}" if connection else ""
    uri = table.metadata_location.replace("'", "%27")
    return (
        f"CREATE OR REPLACE EXTERNAL TABLE "
        f"`{_checked(_PROJECT, project)}`.`{_name(dataset)}`.`{_name(table.name)}`{reader} "
        f"OPTIONS (format = 'ICEBERG', uris = ['{uri}'])"
    )


def glue_table(table: LakeTable, *, previous: str = "") -> dict[str, Any]:
    """Glue's `TableInput` of an Iceberg table, as Athena reads it.

    Args:
        table: What to register.
        previous: Metadata file that was registered before.
    """
    pointers = {"table_type": "ICEBERG", "metadata_location": table.metadata_location}
    if previous:
        pointers["previous_metadata_location"] = previous
    columns = [{"Name": name, "Type": kind} for name, kind in table.columns.items()]
    return {
        "Name": _name(table.name),
        "TableType": "EXTERNAL_TABLE",
        "Parameters": pointers,
        "StorageDescriptor": {"Columns": columns, "Location": table.location},
    }


def fabric_shortcut(connection: str, table: LakeTable) -> dict[str, Any]:
    """The shortcut under `Tables` that makes OneLake show the table's folder.

    Args:
        connection: Id of the Fabric connection that may read the storage account.
        table: What to register; its location is `abfss://container@account.dfs.../folder`.

    Raises:
        MalformedRecordError: If the location is no Azure folder.

    Source:
        Microsoft Fabric REST API, "OneLake Shortcuts - Create Shortcut".
    """
    parsed = urlparse(table.location)
    container, _, host = parsed.netloc.partition("@")
    if parsed.scheme not in ("abfs", "abfss") or not container or not host:
        raise MalformedRecordError(
            f"location of {table.name}",
            table.location,
            "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER",
            "Set the warehouse of this site's Iceberg tables in sites.toml so.",
        )
    target = {"location": f"https://{host}", "subpath": f"/{container}{parsed.path}"}
    return {
        "path": "Tables",
        "name": _name(table.name),
        "target": {"adlsGen2": {**target, "connectionId": connection}},
    }


def _name(name: str) -> str:
    return _checked(_NAME, name)


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise MalformedRecordError(
            "name in a registration", text, f"text like {pattern.pattern}", "Correct sites.toml."
        )
    return text
