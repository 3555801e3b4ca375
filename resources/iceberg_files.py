"""How Iceberg's files are read and written; named to pyiceberg by `py-io-impl`, which alone imports this.

It is pyiceberg's own access through pyarrow, but for what it cannot be told by properties.
"""

from datetime import timedelta
from typing import Any
from urllib.parse import urlparse

from pyiceberg.io import (  # noqa: TID253 - loaded by pyiceberg, never by us
    GCS_SERVICE_HOST,
    GCS_TOKEN,
    GCS_TOKEN_EXPIRES_AT_MS,
)
from pyiceberg.io.pyarrow import PyArrowFileIO  # noqa: TID253 - likewise
from pyiceberg.utils.datetime import millis_to_datetime  # noqa: TID253 - likewise

_PATIENCE = timedelta(seconds=10)  # of the GCS client; left alone it tries for a quarter of an hour
_S3 = {
    "s3.endpoint": "endpoint_override",
    "s3.region": "region",
    "s3.access-key-id": "access_key",
    "s3.secret-access-key": "secret_key",
    "s3.session-token": "session_token",
}


class SiteFileIO(PyArrowFileIO):  # type: ignore[misc] # pyarrow has no types
    """Small files go to S3 in one request, a GCS that is away is given up, Azure's long URLs are read."""

    @staticmethod
    def parse_location(location: str, properties: Any = None) -> tuple[str, str, str]:
        """Scheme, container and path; pyarrow knows the account from elsewhere."""
        scheme, netloc, path = PyArrowFileIO.parse_location(location, properties or {})
        if scheme not in ("abfs", "abfss") or "@" not in netloc:
            return scheme, netloc, path
        container = netloc.split("@")[0]
        return scheme, container, f"{container}{urlparse(location).path}"

    def _initialize_s3_fs(self, netloc: str | None) -> Any:
        """With one put for a small file, where an upload in parts takes three requests."""
        from pyarrow.fs import S3FileSystem

        told = {name: value for name, value in self.properties.items() if name.startswith("s3.")}
        plain = {ours: told[theirs] for theirs, ours in _S3.items() if theirs in told}
        if "region" not in plain or len(plain) < len(told):  # what only pyiceberg knows to say
            return super()._initialize_s3_fs(netloc)
        return S3FileSystem(**plain, allow_delayed_open=True)

    def _initialize_gcs_fs(self) -> Any:
        from pyarrow.fs import GcsFileSystem

        told: dict[str, Any] = {"retry_time_limit": _PATIENCE}
        if token := self.properties.get(GCS_TOKEN):
            ends = millis_to_datetime(int(self.properties[GCS_TOKEN_EXPIRES_AT_MS]))
            told |= {"access_token": token, "credential_token_expiration": ends}
        if host := self.properties.get(GCS_SERVICE_HOST):
            at = urlparse(host)
            told |= {"scheme": at.scheme, "endpoint_override": at.netloc}
        return GcsFileSystem(**told)
