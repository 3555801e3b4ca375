"""Stand-ins for the three clouds with one face: start, kill, start again, and how clients reach them.

    with running("gcp", folder) as emulator:
        site = emulator.fresh_site()
        store = site.store()

What each is: `aws` is moto's server (S3, Glue, STS, Secrets Manager), `azure` is Azurite (blobs), and
`gcp` is a server of our own (`gcs_server`). All keep their state when they are killed.
"""

import contextlib
import itertools
import json
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from tests.emulators.servers import Azurite, Gcs, Moto, Server, serving

AZURE_ACCOUNT = "devstoreaccount1"
# The development key that the emulator's documentation publishes; it opens nothing else.
# https://learn.microsoft.com/azure/storage/common/storage-use-azurite
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
REGION = "us-east-1"
# A stopped emulator is noticed within about a second; Lance knows these names too.
PLAIN = {"allow_http": "true", "client_max_retries": "4", "client_retry_timeout": "10"}
BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
BLOCKED = (
    "<PublicAccessBlockConfiguration>"
    + "".join(f"<{block}>true</{block}>" for block in BLOCKS)
    + "</PublicAccessBlockConfiguration>"
)
NEVER_MS = "4102444800000"  # the year 2100


@dataclass(frozen=True)
class Emulator(ABC):
    """A store in an emulator: one bucket, how to reach it, and the server behind it.

    Attributes:
        server: Its process; several `Emulator`s may share one.
        bucket: Bucket or container.
        endpoint: Address of the server, or of what stands before it.
    """

    server: Server
    bucket: str = "worldloop"
    endpoint: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    name = ""
    scheme = ""

    def __post_init__(self) -> None:
        if not self.endpoint:
            object.__setattr__(self, "endpoint", self.server.url)

    @property
    def url(self) -> str:
        """URL of a site's store, e.g. `s3://worldloop/site`."""
        return f"{self.scheme}://{self.bucket}/site"

    @property
    @abstractmethod
    def options(self) -> dict[str, str]:
        """Obstore's options that are not secret, as in sites.toml."""

    @property
    @abstractmethod
    def _secret_options(self) -> dict[str, str]:
        """Obstore's options that are secret."""

    @property
    def secrets(self) -> dict[str, str]:
        """Secret options, each with where it is kept, as in sites.toml."""
        return {option: f"env:{self._variable(option)}" for option in self._secret_options}

    @property
    def environ(self) -> dict[str, str]:
        """The variables that `secrets` names, for a process that is started."""
        return {self._variable(option): value for option, value in self._secret_options.items()}

    def store(self) -> Any:
        """The store as worldloop opens it."""
        from resources.site_store import SiteStore

        return SiteStore(url=self.url, options=self.options, secrets=self.secrets)

    def lance_options(self) -> dict[str, str]:
        """Storage options of Lance and LanceDB."""
        return {**self.options, **self._secret_options}

    @abstractmethod
    def pyiceberg_properties(self) -> dict[str, str]:
        """Properties of a pyiceberg catalog whose files lie here; add `type`, `uri`, `warehouse`."""

    @property
    def warehouse(self) -> str:
        """URL below which pyiceberg may write."""
        return f"{self.url}/iceberg"

    def stop(self) -> None:
        """Kill the server's process."""
        self.server.stop()

    def start(self) -> None:
        """Start it again, on the same port, with the state that it had."""
        self.server.start()

    def fresh_site(self) -> Self:
        """An empty bucket of its own on the same server."""
        site = replace(self, bucket=f"wl-{os.getpid()}-{next(self._numbers)}")
        site.make_bucket()
        return site

    def through(self, endpoint: str) -> Self:
        """The same store, reached by another address; its variables are set from now on."""
        site = replace(self, endpoint=endpoint)
        os.environ.update(site.environ)
        return site

    @abstractmethod
    def make_bucket(self) -> None:
        """Make the bucket, unless it is there."""

    def _variable(self, option: str) -> str:
        port = self.endpoint.rpartition(":")[2]
        return f"WORLDLOOP_EMULATED_{option.upper()}_{port}"


class Aws(Emulator):
    """S3, Glue, STS and Secrets Manager by moto."""

    name, scheme = "aws", "s3"

    @property
    def options(self) -> dict[str, str]:
        return {"aws_endpoint": self.endpoint, "aws_region": REGION, **PLAIN}

    @property
    def _secret_options(self) -> dict[str, str]:
        return {"aws_access_key_id": "testing", "aws_secret_access_key": "testing-secret"}

    def pyiceberg_properties(self) -> dict[str, str]:
        """Of its files (`s3.`) and of Glue (`glue.`)."""
        reach = {
            "endpoint": self.endpoint,
            "access-key-id": "testing",
            "secret-access-key": "testing-secret",
            "region": REGION,
        }
        return {f"{service}.{k}": v for service in ("s3", "glue") for k, v in reach.items()}

    def make_bucket(self) -> None:
        """With public access blocked, as it should be."""
        _ask("PUT", f"{self.server.url}/{self.bucket}")
        _ask("PUT", f"{self.server.url}/{self.bucket}?publicAccessBlock", BLOCKED)


class Gcp(Emulator):
    """GCS by our own server.

    Obstore and Lance write to another address than Google's only with a service account's key that
    names it and switches OAuth off; `google_base_url` alone asks the machine's metadata service.
    """

    name, scheme = "gcp", "gs"

    @property
    def options(self) -> dict[str, str]:
        return dict(PLAIN)

    @property
    def _secret_options(self) -> dict[str, str]:
        key = {"gcs_base_url": self.endpoint, "disable_oauth": True, "private_key_id": ""}
        account = json.dumps({**key, "client_email": "", "private_key": ""})
        return {"google_service_account_key": account}

    def pyiceberg_properties(self) -> dict[str, str]:
        """Of its files, through pyarrow."""
        token = {"gcs.oauth2.token": "anonymous", "gcs.oauth2.token-expires-at": NEVER_MS}
        pyarrow = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
        return {"gcs.service.host": self.endpoint, **token, **pyarrow}

    def make_bucket(self) -> None:
        """With public access prevented, as it should be."""
        private = {"iamConfiguration": {"publicAccessPrevention": "enforced"}}
        bucket = json.dumps({"name": self.bucket, **private})
        _ask("POST", f"{self.server.url}/storage/v1/b", bucket)


class Azure(Emulator):
    """Blobs by Azurite."""

    name, scheme = "azure", "az"

    @property
    def options(self) -> dict[str, str]:
        endpoint = f"{self.endpoint}/{AZURE_ACCOUNT}"
        account = {"azure_storage_account_name": AZURE_ACCOUNT, "azure_endpoint": endpoint}
        return {**account, **PLAIN}

    @property
    def _secret_options(self) -> dict[str, str]:
        return {"azure_storage_account_key": AZURE_KEY}

    @property
    def warehouse(self) -> str:
        """Pyiceberg knows `abfs`, not `az`."""
        return f"abfs://{self.bucket}/site/iceberg"

    def pyiceberg_properties(self) -> dict[str, str]:
        """Of its files, through pyarrow."""
        authority = self.endpoint.removeprefix("http://")
        kinds = ("blob", "dfs")
        return {
            "adls.account-name": AZURE_ACCOUNT,
            "adls.account-key": AZURE_KEY,
            "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
            **{f"adls.{kind}-storage-authority": authority for kind in kinds},
            **{f"adls.{kind}-storage-scheme": "http" for kind in kinds},
        }

    def make_bucket(self) -> None:
        from azure.core.exceptions import ResourceExistsError

        with self.client() as client, contextlib.suppress(ResourceExistsError):
            client.create_container(self.bucket)

    def with_signed_address(self) -> "SignedAzure":
        """The same store for who has no key; its variables are set from now on."""
        site = SignedAzure(self.server, self.bucket, self.endpoint)
        os.environ.update(site.environ)
        return site

    def client(self) -> Any:
        """azure-storage-blob's client of the account."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(f"{self.endpoint}/{AZURE_ACCOUNT}", credential=AZURE_KEY)


class SignedAzure(Azure):
    """The same, reached by a signed address (SAS), which leaves the headers unsigned."""

    @property
    def _secret_options(self) -> dict[str, str]:
        from azure.storage.blob import generate_account_sas

        ends_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        may = {"resource_types": "sco", "permission": "rwdlac", "expiry": ends_at}
        return {"azure_storage_sas_token": generate_account_sas(AZURE_ACCOUNT, AZURE_KEY, **may)}


KINDS: Mapping[str, tuple[type[Emulator], type[Server]]] = {
    "aws": (Aws, Moto),
    "gcp": (Gcp, Gcs),
    "azure": (Azure, Azurite),
}


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Emulator]:
    """An emulator with an empty bucket, until the block ends.

    Args:
        name: `aws`, `gcp` or `azure`.
        folder: For its state; a second run with the same folder finds what the first wrote.

    Raises:
        EmulatorMissingError: If a program that it needs is not installed.
    """
    emulated, serves = KINDS[name]
    with serving(serves(folder)) as server:
        emulator = emulated(server)
        emulator.make_bucket()
        before = dict(os.environ)
        os.environ.update(emulator.environ)
        try:
            yield emulator
        finally:
            for variable in set(os.environ) - set(before):
                if variable.startswith("WORLDLOOP_EMULATED_"):
                    del os.environ[variable]


def _ask(verb: str, url: str, body: str = "") -> None:
    request = urllib.request.Request(url, body.encode() or None, method=verb)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there
            raise
        error.close()


def sites_file(emulator: Emulator, *, site: str) -> str:
    """A sites file with one site, which is the emulator and home of every city."""
    lines = [f"[sites.{site}]", 'cities = ["*"]', f'store = "{emulator.url}"']
    for name, values in (("options", emulator.options), ("secrets", emulator.secrets)):
        pairs = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        lines.append(f"{name} = {{ {pairs} }}")
    return "\n".join(lines)
