"""Keeps the clouds' own tools pointed at a site's Iceberg tables: Glue, BigQuery, OneLake.

The Iceberg table is what counts; a registration only says where it is, so it can be thrown away.
BigQuery and OneLake are tested by recorded requests, as no emulator of either runs here.
"""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from resources.credentials import resolved
from resources.lease import Lease
from resources.projection import Applied, Standing
from resources.site_view import SiteView
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError
from worldloop.registrations import (
    LakeTable,
    bigquery_dataset,
    bigquery_table,
    fabric_shortcut,
    glue_table,
)
from worldloop.sites import Registration, Site

_FABRIC = "https://api.fabric.microsoft.com/v1"
_FABRIC_SCOPE = "https://api.fabric.microsoft.com/.default"
_ATTEMPTS, _PATIENCE_S = 4, 30.0
_BUSY = ("429", "500", "502", "503", "504")
_REFUSED = ("AccessDenied", "Token", "Signature", "UnrecognizedClient", "Credential")  # 400 too

Tables = Callable[[SiteView], Mapping[str, LakeTable]]


class NativeCatalog(Protocol):
    """A cloud's own list of tables."""

    def pointers(self, names: list[str]) -> dict[str, str]:
        """What the tables that it knows point at: a metadata file, or a folder."""

    def pointer_of(self, table: LakeTable) -> str:
        """What a table should point at."""

    def point(self, table: LakeTable) -> None:
        """Make a table known, or point it at its newest metadata."""


class GlueCatalog:
    """Glue's data catalog, which Athena and Redshift read. dagster-aws has no resource for it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._database = site.registration.dataset

    def pointers(self, names: list[str]) -> dict[str, str]:
        """The metadata files that Glue knows."""
        found = {}
        for name in names:
            table = self._table(name)
            if table is not None:
                found[name] = table.get("Parameters", {}).get("metadata_location", "")
        return found

    def pointer_of(self, table: LakeTable) -> str:
        """The newest metadata file."""
        return table.metadata_location

    def point(self, table: LakeTable) -> None:
        """Create or update the table.

        Raises:
            StoreError: If a table of this name is there that is no Iceberg table.
        """
        known = self._table(table.name)
        with self._glue() as client:
            if known is None:
                self._make_database(client)
                client.create_table(DatabaseName=self._database, TableInput=glue_table(table))
                return
            parameters = known.get("Parameters", {})
            if parameters.get("table_type", "").upper() != "ICEBERG":
                raise _foreign(f"{self._database}.{table.name}", "Glue")
            entry = glue_table(table, previous=parameters.get("metadata_location", ""))
            client.update_table(DatabaseName=self._database, TableInput=entry)

    def _table(self, name: str) -> dict[str, Any] | None:
        with self._glue() as client:
            try:
                found: dict[str, Any] = client.get_table(DatabaseName=self._database, Name=name)
                return dict(found["Table"])
            except client.exceptions.EntityNotFoundException:
                return None

    def _make_database(self, client: Any) -> None:
        """Create the database if there is none: most writers may not, and need not."""
        try:
            client.get_database(Name=self._database)
        except client.exceptions.EntityNotFoundException:
            with contextlib.suppress(client.exceptions.AlreadyExistsException):  # just now
                client.create_database(DatabaseInput={"Name": self._database})

    @contextlib.contextmanager
    def _glue(self) -> Iterator[Any]:
        """A client, whose errors become ours."""
        import boto3
        from botocore.config import Config

        options = {**self._site.options, **resolved(self._site.secrets)}
        client = boto3.client(
            "glue",
            region_name=self._site.registration.location or options.get("aws_region"),
            endpoint_url=self._site.registration.endpoint or None,
            aws_access_key_id=options.get("aws_access_key_id"),
            aws_secret_access_key=options.get("aws_secret_access_key"),
            aws_session_token=options.get("aws_session_token"),
            config=Config(
                connect_timeout=_PATIENCE_S,
                retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            ),
        )
        try:
            with _cloud_errors(f"Glue's database {self._database!r}"):
                yield client
        finally:
            client.close()


class BigQueryCatalog:
    """External tables of a BigQuery data set."""

    def __init__(self, site: Site) -> None:
        self._registration: Registration = site.registration
        self._secrets = dict(site.secrets)

    def pointers(self, names: list[str]) -> dict[str, str]:
        """The metadata files that BigQuery knows."""
        from google.api_core.exceptions import NotFound

        at = self._registration
        found = {}
        with self._client() as client:
            for name in names:
                try:
                    table = client.get_table(f"{at.project}.{at.dataset}.{name}")
                except NotFound:
                    continue
                external = table.external_data_configuration
                if external is None or external.source_format != "ICEBERG":
                    raise _foreign(f"{at.dataset}.{name}", "BigQuery")
                found[name] = next(iter(external.source_uris), "")
        return found

    def pointer_of(self, table: LakeTable) -> str:
        """The newest metadata file."""
        return table.metadata_location

    def point(self, table: LakeTable) -> None:
        """Replace the external table by one that points at the newest metadata."""
        at = self._registration
        with self._client() as client:
            self._make_dataset(client)
            client.query(bigquery_table(at.project, at.dataset, at.connection, table)).result()

    def _make_dataset(self, client: Any) -> None:
        """Create the data set if there is none: most writers may not, and need not."""
        from google.api_core.exceptions import NotFound

        at = self._registration
        try:
            client.get_dataset(f"{at.project}.{at.dataset}")
        except NotFound:
            client.query(bigquery_dataset(at.project, at.dataset, at.location)).result()

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        where = f"BigQuery's data set {self._registration.dataset!r}"
        with (
            _cloud_errors(where),
            self._resource().get_client() as client,
            contextlib.closing(client),
        ):
            yield client

    def _resource(self) -> Any:
        from dagster_gcp import BigQueryResource

        place = {k: v for k, v in self._secrets.items() if k == "google_service_account_key"}
        key = resolved(place).get("google_service_account_key")
        return BigQueryResource(
            project=self._registration.project,
            location=self._registration.location or None,
            gcp_credentials=_base64(key) if key else None,
        )


class FabricCatalog:
    """Shortcuts of a Fabric lakehouse: OneLake shows an Iceberg folder as a table of its own."""

    def __init__(self, site: Site, *, token: Callable[[], str] | None = None) -> None:
        self._registration = site.registration
        self._token = token or _entra_token

    def pointers(self, names: list[str]) -> dict[str, str]:
        """The folders that the shortcuts show."""
        found = {}
        for name in names:
            shortcut = self._ask("GET", f"/Tables/{name}", missing_is_fine=True)
            if shortcut is not None:
                found[name] = _folder_of(shortcut)
        return found

    def pointer_of(self, table: LakeTable) -> str:
        """The table's folder."""
        return _folder_of(fabric_shortcut(self._registration.connection, table))

    def point(self, table: LakeTable) -> None:
        """Create the shortcut, or overwrite it."""
        shortcut = fabric_shortcut(self._registration.connection, table)
        self._ask("POST", "?shortcutConflictPolicy=CreateOrOverwrite", shortcut)

    def _ask(
        self, verb: str, path: str, body: Any = None, *, missing_is_fine: bool = False
    ) -> dict[str, Any] | None:
        at = self._registration
        base = at.endpoint or _FABRIC
        url = f"{base}/workspaces/{at.project}/items/{at.dataset}/shortcuts{path}"
        request = urllib.request.Request(
            url, data=None if body is None else json.dumps(body).encode(), method=verb
        )
        request.add_header("Authorization", f"Bearer {self._token()}")
        request.add_header("Content-Type", "application/json")
        return _answer(request, missing_is_fine=missing_is_fine)


@dataclass(frozen=True)
class RegistrationProjection:
    """A registration as a projection of the logs, by way of the Iceberg tables.

    Attributes:
        native: The cloud's list of tables.
        tables: Gives the site's Iceberg tables by name.
        name: Kind of the registration.
        holder: Who works, for others that find the lease taken.
    """

    native: NativeCatalog
    tables: Tables
    name: str
    holder: str = "projector"

    def catch_up(self, view: SiteView) -> Applied:
        """Point at the newest metadata wherever the cloud knows an older one, or none."""
        begun = time.monotonic()
        with Lease(view.store, f"projection-{self.name}", self.holder):
            stale = self._stale(view)
            for table in stale:
                self.native.point(table)
        return Applied(len(stale), len(stale), took_s=time.monotonic() - begun)

    def rebuild(self, view: SiteView) -> Applied:
        """Point every table anew."""
        begun = time.monotonic()
        with Lease(view.store, f"projection-{self.name}", self.holder):
            tables = list(self.tables(view).values())
            for table in tables:
                self.native.point(table)
        return Applied(len(tables), len(tables), rebuilt=True, took_s=time.monotonic() - begun)

    def maintain(self, view: SiteView) -> dict[str, int]:
        """Nothing ages here."""
        return {}

    def standing(self, view: SiteView) -> Standing:
        """How many tables point at what is newest; `num_behind` counts tables."""
        tables = self.tables(view)
        return Standing(
            name=self.name,
            num_rows=tables["clips"].num_rows if "clips" in tables else 0,
            size_bytes=0,
            num_behind=len(self._stale(view)),
            oldest_behind_at=None,
            recall=None,
            index="",
            location=f"{self.name}:{view.site.registration.project or view.site.registration.dataset}",
        )

    def _stale(self, view: SiteView) -> list[LakeTable]:
        tables = self.tables(view)
        known = self.native.pointers(list(tables))
        return [t for n, t in tables.items() if known.get(n) != self.native.pointer_of(t)]


def registration_of(site: Site, tables: Tables) -> RegistrationProjection | None:
    """The registration that a site asks for in sites.toml; None if it asks for none.

    Raises:
        MalformedRecordError: If there is no such kind.
    """
    kind = site.registration.kind
    if not kind:
        return None
    known: dict[str, Callable[[Site], NativeCatalog]] = {
        "glue": GlueCatalog,
        "bigquery": BigQueryCatalog,
        "fabric": FabricCatalog,
    }
    if kind not in known:
        raise MalformedRecordError(
            f"registration of {site.name}", kind, ", ".join(known), "Correct sites.toml."
        )
    return RegistrationProjection(known[kind](site), tables, kind)


def _answer(request: urllib.request.Request, *, missing_is_fine: bool) -> dict[str, Any] | None:
    """The JSON answer; asks again when the service says that it is busy."""
    last = ""
    for attempt in range(_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
                content = answer.read()
                return dict(json.loads(content)) if content else {}
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404 and missing_is_fine:
                return None
            if error.code in (401, 403):
                raise AccessError(
                    f"{request.full_url} answered {error.code}; expected to be let in. Give this "
                    "identity the rights that docs/DEPLOY.md lists."
                ) from error
            if str(error.code) not in _BUSY:
                raise StoreError(
                    f"{request.full_url} answered {error.code} ({error.reason}); expected success. "
                    "Check workspace, lakehouse and connection in sites.toml."
                ) from error
            last = str(error.code)
            time.sleep(
                min(float(error.headers.get("Retry-After") or 0.5 * 2**attempt), _PATIENCE_S)
            )
        except OSError as error:
            last = type(error).__name__
            time.sleep(0.5 * 2**attempt)
    raise UnreachableError(
        f"{request.full_url} did not answer {_ATTEMPTS} times, last with {last}; expected an answer. "
        "The next run of the catalog tries again."
    )


@contextlib.contextmanager
def _cloud_errors(where: str) -> Iterator[None]:
    """What the clients of AWS and Google raise, as ours; no address, as it may be signed.

    Raises:
        AccessError: If these credentials, or none, are refused.
        UnreachableError: If the service does not answer, or asks to come back later.
        StoreError: For anything else that it says.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests import RequestException

    try:
        yield
    except (ClientError, GoogleAPICallError) as error:
        code, words = _said(error)
        raise _refusal(where, code, words) from None
    except (NoCredentialsError, GoogleAuthError) as error:
        if isinstance(error, TransportError):
            raise _no_answer(where, type(error).__name__) from None
        raise _refusal(where, "403", type(error).__name__) from None
    except (BotoCoreError, RetryError, RequestException) as error:
        raise _no_answer(where, type(error).__name__) from None


def _said(error: Any) -> tuple[str, str]:
    """Code and words of a service's refusal."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        told, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
        status = str(meta.get("HTTPStatusCode", ""))
        refused = any(word in told.get("Code", "") for word in _REFUSED)
        return "403" if refused else status, f"{told.get('Code', '')}: {told.get('Message', '')}"
    return str(getattr(error, "code", "")), str(getattr(error, "message", error))


def _refusal(where: str, code: str, words: str) -> StoreError:
    words = " ".join(words.split())[:200]
    if code in ("401", "403"):
        return AccessError(
            f"{where} refused these credentials: {words}. Expected an identity that may make and "
            "change its tables. Give it the rights that docs/DEPLOY.md lists."
        )
    if code in _BUSY:
        return _no_answer(where, words)
    return StoreError(
        f"{where} refused a table: {words}. Expected it to be made or changed. Check "
        "`registration` of the site in sites.toml."
    )


def _no_answer(where: str, words: str) -> UnreachableError:
    return UnreachableError(
        f"{where} did not answer: {words}. Expected an answer. The next run of the catalog tries "
        "again; the tables themselves are up to date."
    )


def _folder_of(shortcut: Mapping[str, Any]) -> str:
    target = shortcut.get("target", {}).get("adlsGen2", {})
    return f"{target.get('location', '')}{target.get('subpath', '')}"


def _entra_token() -> str:
    from azure.identity import DefaultAzureCredential

    return str(DefaultAzureCredential().get_token(_FABRIC_SCOPE).token)


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def _foreign(table: str, owner: str) -> StoreError:
    return StoreError(
        f"{owner} has a table {table!r} that is no Iceberg table; expected none, or ours. Rename it, "
        "or choose another data set in sites.toml."
    )
