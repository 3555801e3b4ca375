"""Connects to the Iceberg catalog of a site: a database, Glue or a REST service, and where its files lie.

The catalog only says which metadata file of a table is the newest; the files lie in the site's store,
so what the store's client is told (address, region, keys) is told to Iceberg's file access too.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from resources.credentials import resolved
from resources.site_store import SiteStore
from resources.site_view import SiteView
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError

_FOLDER = "iceberg"  # of the tables in a site's store, and the name of the local database
_FILE_ACCESS = "resources.iceberg_files.SiteFileIO"
_GLUE_ATTEMPTS = 3  # a number, unlike the other properties; pyiceberg's ten take half a minute
_NEVER_MS = 4_102_444_800_000  # the year 2100: the end of a token that an emulator does not look at
_GCS_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_S3 = {  # obstore's option: pyiceberg's property, of files (`s3.`) and of Glue (`glue.`)
    "endpoint": "endpoint",
    "region": "region",
    "access_key_id": "access-key-id",
    "secret_access_key": "secret-access-key",
    "session_token": "session-token",
}
_ADLS = {
    "storage_account_name": "account-name",
    "storage_account_key": "account-key",
    "storage_sas_token": "sas-token",
    "storage_client_id": "client-id",
    "storage_client_secret": "client-secret",
    "storage_tenant_id": "tenant-id",
}
# Words of pyarrow's, botocore's and requests' errors; they have no classes of their own for these.
_REFUSED = (
    "access_denied", "access denied", "accessdenied", "forbidden", "unauthorized", "invalidaccesskeyid",
    "signaturedoesnotmatch", "authenticationfailed", "expiredtoken", "unrecognizedclient", "http 403",
    "http 401", "authorizationfailure", "not authorized", "permission denied",
)  # fmt: skip
_AWAY = (
    "connect", "timed out", "timeout", "curlcode", "network", "resolve host", "slowdown", "slow down",
    "throttl", "too many requests", "service unavailable", "serviceunavailable", "http 429", "http 503",
    "internal error", "retry policy exhausted",
)  # fmt: skip


@dataclass(frozen=True)
class Warehouse:
    """Where the files of a site's tables are.

    Attributes:
        url: As Iceberg's metadata names it, e.g. `s3://bucket/worldloop/iceberg`.
        store: The same place, for listing and sweeping.
        namespace: Of the tables.
    """

    url: str
    store: SiteStore
    namespace: str

    def location(self, table: str) -> str:
        """URL of a table's folder."""
        return f"{self.url}/{self.folder(table)}"

    def folder(self, table: str) -> str:
        """The same folder, as a prefix in `store`."""
        return f"{self.namespace}/{table}"

    def key(self, url: str) -> str | None:
        """A file of Iceberg as a key in `store`; None if it lies elsewhere."""
        inside = url.startswith(f"{self.url}/")
        return url.removeprefix(f"{self.url}/") if inside else None


def warehouse_of(view: SiteView) -> Warehouse:
    """Where a site's tables are: what `sites.toml` says, else `iceberg` in its store."""
    chosen = view.site.iceberg.warehouse.rstrip("/")
    store = view.store.within(_FOLDER)
    if chosen:
        store = store.model_copy(update={"url": chosen})
    url = lake_url(store.url, view.site.options)
    return Warehouse(url, store, view.site.iceberg.namespace)


def lake_url(url: str, options: Mapping[str, str]) -> str:
    """The URL of a store as Iceberg's metadata has it, and as other engines read it.

    Args:
        url: Of the store.
        options: Of its client; Azure's URLs name the account too, unless it is at another address.

    Example:
        >>> lake_url("az://box/site", {"azure_storage_account_name": "me"})
        'abfss://box@me.dfs.core.windows.net/site'
        >>> lake_url("s3://bucket/site/", {})
        's3://bucket/site'
    """
    parsed = urlparse(url)
    if parsed.scheme in ("", "file"):
        return f"file://{Path(parsed.path).absolute()}"
    path = parsed.path.rstrip("/")
    if parsed.scheme not in ("az", "abfs", "abfss"):
        return f"{parsed.scheme}://{parsed.netloc}{path}"
    container = parsed.netloc.split("@")[0]
    account = options.get("azure_storage_account_name")
    if not account or "azure_endpoint" in options:
        return f"abfs://{container}{path}"
    return f"abfss://{container}@{account}.dfs.core.windows.net{path}"


@contextmanager
def connected(view: SiteView) -> Iterator[Any]:
    """A site's catalog, as pyiceberg has it, with its connections closed at the end.

    Raises:
        MalformedRecordError: If `sites.toml` names a catalog of an unknown kind, or a service without
            an address.
        UnreachableError: If the catalog or the store does not answer.
        AccessError: If one of them refuses these credentials.
    """
    from pyiceberg.catalog import load_catalog

    with lake_errors(view):
        catalog = load_catalog(view.site.name, **_properties(view))
        try:
            yield catalog
        finally:
            catalog.close()


@contextmanager
def lake_errors(view: SiteView) -> Iterator[None]:
    """Errors of the libraries beneath as ours, each with what to do; ours pass."""
    try:
        yield
    except _theirs() as error:
        raise _told(error, view) from error


def pointer(catalog: Any, identifier: tuple[str, str]) -> str | None:
    """The metadata file that a catalog names for a table, without opening it.

    Returns:
        Its URL; None if there is no such table, or the catalog does not tell.
    """
    if type(catalog).__name__ == "SqlCatalog":
        return _sql_pointers(catalog, identifier[0]).get(identifier[1])
    if type(catalog).__name__ == "GlueCatalog":
        try:
            found = catalog.glue.get_table(DatabaseName=identifier[0], Name=identifier[1])
        except catalog.glue.exceptions.EntityNotFoundException:
            return None
        location = found["Table"].get("Parameters", {}).get("metadata_location")
        return str(location) if location else None
    return None


def pointers(catalog: Any, namespace: str) -> dict[str, str]:
    """The metadata file of each table of a namespace, by one question to the catalog.

    Returns:
        Table to URL; nothing if the catalog does not tell.
    """
    if type(catalog).__name__ == "SqlCatalog":
        return _sql_pointers(catalog, namespace)
    if type(catalog).__name__ == "GlueCatalog":
        pages = catalog.glue.get_paginator("get_tables").paginate(DatabaseName=namespace)
        try:
            tables = [table for page in pages for table in page["TableList"]]
        except catalog.glue.exceptions.EntityNotFoundException:
            return {}
        found = {t["Name"]: t.get("Parameters", {}).get("metadata_location", "") for t in tables}
        return {name: str(location) for name, location in found.items() if location}
    return {}


def file_properties(
    options: Mapping[str, str], secrets: Mapping[str, str], *, now: Callable[[], datetime]
) -> dict[str, str]:
    """What Iceberg's file access is told, made of what the store's client is told.

    Args:
        options: Of obstore's client, by its names.
        secrets: Its secret options, already fetched.
        now: The time, for tokens that end.
    """
    said = {**options, **secrets}
    known = {"py-io-impl": _FILE_ACCESS}
    for ours, theirs in _S3.items():
        if value := said.get(f"aws_{ours}"):
            known |= {f"{service}.{theirs}": value for service in ("s3", "glue")}
    for ours, theirs in _ADLS.items():
        if value := said.get(f"azure_{ours}"):
            known[f"adls.{theirs}"] = value
    if endpoint := said.get("azure_endpoint"):
        at = urlparse(endpoint)
        for part in ("blob", "dfs"):
            known[f"adls.{part}-storage-authority"] = at.netloc
            known[f"adls.{part}-storage-scheme"] = at.scheme
    if account := said.get("google_service_account_key"):
        known |= _gcs_properties(json.loads(account), now)
    return known


def _properties(view: SiteView) -> dict[str, Any]:
    asked = view.site.iceberg
    where = f"iceberg of {view.site.name}"
    if asked.kind not in ("sql", "glue", "rest"):
        raise MalformedRecordError(where, asked.kind, "sql, glue or rest", "Correct sites.toml.")
    secrets = resolved(view.site.secrets)
    found: dict[str, Any] = {}
    found |= file_properties(view.site.options, secrets, now=lambda: datetime.now(UTC))
    found |= {"type": asked.kind, "warehouse": warehouse_of(view).url}
    found["glue.max-retries"] = _GLUE_ATTEMPTS
    if asked.uri:
        found["uri"] = asked.uri
    elif asked.kind == "sql":
        view.scratch.mkdir(parents=True, exist_ok=True)
        found["uri"] = f"sqlite:///{view.scratch.absolute() / f'{_FOLDER}.sqlite'}"
    found |= {**asked.options, **resolved(asked.secrets)}
    if asked.kind == "rest" and "uri" not in found:
        raise MalformedRecordError(where, "no uri", "the address of its service", "Add it.")
    return found


def _gcs_properties(account: Mapping[str, Any], now: Callable[[], datetime]) -> dict[str, str]:
    """A token for pyarrow, which takes no service account's key."""
    host = {"gcs.service.host": account["gcs_base_url"]} if "gcs_base_url" in account else {}
    if account.get("disable_oauth"):
        return {
            **host,
            "gcs.oauth2.token": "anonymous",
            "gcs.oauth2.token-expires-at": str(_NEVER_MS),
        }
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials

    load = Credentials.from_service_account_info
    made = load(dict(account), scopes=[_GCS_SCOPE])  # type: ignore[no-untyped-call] # it has no types
    made.refresh(Request())
    ends = made.expiry.replace(tzinfo=UTC) if made.expiry else now()
    return {
        **host,
        "gcs.oauth2.token": str(made.token),
        "gcs.oauth2.token-expires-at": str(int(ends.timestamp() * 1000)),
    }


def _sql_pointers(catalog: Any, namespace: str) -> dict[str, str]:
    from pyiceberg.catalog.sql import IcebergTables
    from sqlalchemy import select

    of_tables = select(IcebergTables.table_name, IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == catalog.name,
        IcebergTables.table_namespace == namespace,
    )
    with catalog.engine.connect() as connection:
        rows = connection.execute(of_tables).all()
    return {str(name): str(location) for name, location in rows if location}


def _theirs() -> tuple[type[Exception], ...]:
    """What the libraries beneath raise; only looked up when something was raised."""
    from botocore.exceptions import BotoCoreError, ClientError
    from google.auth.exceptions import GoogleAuthError
    from pyiceberg.exceptions import CommitFailedException, RESTError
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    of_services = (BotoCoreError, ClientError, GoogleAuthError, RequestException, SQLAlchemyError)
    return (OSError, *of_services, RESTError, CommitFailedException)


def _told(error: Exception, view: SiteView) -> StoreError:
    """The error that callers are to see."""
    words = " ".join(str(error).split())
    told = f"The Iceberg catalog of {view.site.name!r} ({view.site.iceberg.kind}): {words[:300]}."
    said = f"{type(error).__name__} {words}".lower()
    if any(word in said for word in _REFUSED):
        return AccessError(
            f"{told} Expected credentials that may read and write its tables and files. Check what "
            "sites.toml names under secrets, and the rights of that identity."
        )
    if any(word in said for word in _AWAY):
        return UnreachableError(
            f"{told} Expected an answer. Nothing was half-written; it goes on by itself when the "
            "service is back."
        )
    return StoreError(
        f"{told} Expected a catalog and a store that this process may use. Check [sites."
        f"{view.site.name}.iceberg] in sites.toml, then run it again."
    )
