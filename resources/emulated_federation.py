"""The sites of a federation at emulators: the same file, other addresses."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from resources.federation import Federation
from worldloop.sites import Site, Sites

_REGION = "us-east-1"


class EmulatedFederation(Federation):
    """Sites named `aws`, `gcp` and `azure` at emulators; a site whose emulator is not named stays as it is.

    Attributes:
        addresses: URL of an emulator by `s3`, `gcs` and `blob` (with its account).
        bucket: Bucket or container in each.
    """

    addresses: dict[str, str] = Field(default_factory=dict)
    bucket: str = "worldloop"

    @property
    def sites(self) -> Sites:
        """The sites file as it stands now, with the emulators' addresses."""
        return Sites(tuple(self._emulated(site) for site in super().sites.all))

    def _emulated(self, site: Site) -> Site:
        reach = {"aws": self._s3, "gcp": self._gcs, "azure": self._blob}.get(site.name)
        changes = reach() if reach is not None else {}
        return replace(site, **changes) if changes else site

    def _s3(self) -> dict[str, Any]:
        if "s3" not in self.addresses:
            return {}
        options = {
            "aws_endpoint": self.addresses["s3"],
            "aws_region": _REGION,
            "allow_http": "true",
        }
        names = ("aws_access_key_id", "aws_secret_access_key")
        return {"store": f"s3://{self.bucket}/aws", "options": options, "secrets": _kept(*names)}

    def _gcs(self) -> dict[str, Any]:
        if "gcs" not in self.addresses:
            return {}
        return {
            "store": f"gs://{self.bucket}/gcp",
            "options": {"allow_http": "true"},
            "secrets": _kept("google_service_account_key"),
        }

    def _blob(self) -> dict[str, Any]:
        if "blob" not in self.addresses:
            return {}
        address = self.addresses["blob"].rstrip("/")
        options = {
            "azure_storage_account_name": address.rsplit("/", 1)[-1],
            "azure_endpoint": address,
            "allow_http": "true",
        }
        secrets = _kept("azure_storage_account_key")
        return {"store": f"az://{self.bucket}/azure", "options": options, "secrets": secrets}


def emulator_credentials(addresses: Mapping[str, str]) -> dict[str, str]:
    """What S3 and GCS emulators want to be told although they take anything, by variable.

    Azurite checks its key, so that one has to be given.
    """
    told: dict[str, str] = {}
    if "s3" in addresses:
        told |= {
            _variable(name): "emulated" for name in ("aws_access_key_id", "aws_secret_access_key")
        }
    if "gcs" in addresses:
        # Only a service account's key lets the client write to another address than Google's.
        reach = {"gcs_base_url": addresses["gcs"], "disable_oauth": True, "client_email": ""}
        account = json.dumps({**reach, "private_key": "", "private_key_id": ""})
        told[_variable("google_service_account_key")] = account
    return told


def _kept(*options: str) -> dict[str, str]:
    return {option: f"env:{_variable(option)}" for option in options}


def _variable(option: str) -> str:
    return f"WORLDLOOP_EMULATED_{option.upper()}"
