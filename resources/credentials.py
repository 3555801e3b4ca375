"""Secrets, fetched at the moment of use; configuration holds only where each is kept.

    env:NAME                                  a variable of this process
    aws:NAME                                  AWS Secrets Manager
    gcp:projects/P/secrets/S[/versions/V]     Google Secret Manager
    azure:https://V.vault.azure.net/secrets/S Azure Key Vault

A vault's secret that is a JSON object gives one of its fields with `#FIELD` behind the place. What
came from a vault is used for five minutes at most, so that keys rotate without a restart. So no
secret can reach a run's configuration, a log line, metadata or the event store. This is the one
place besides `orchestration/deployments.py` that reads the environment.
"""

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError

KEEP_S = 300.0
_PLACES = (
    "env:NAME, aws:NAME, gcp:projects/P/secrets/S or azure:https://V.vault.azure.net/secrets/S"
)
_TIMEOUT_S = 20.0
_SECRET_MANAGER = "https://secretmanager.googleapis.com"
_GCP_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_KEY_VAULT_SCOPE = "https://vault.azure.net/.default"
_KEY_VAULT_VERSION = "7.4"  # learn.microsoft.com/rest/api/keyvault/secrets/get-secret
_KEY_VAULTS = (".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net")
_LOOPBACK = "127.0.0.1"
_NO_SUCH_SECRET = ("ResourceNotFoundException", "ValidationException", "InvalidRequestException")
_REFUSED = ("AccessDenied", "UnrecognizedClient", "InvalidClientTokenId", "ExpiredToken")

_kept: dict[str, tuple[float, str]] = {}
_lock = threading.Lock()


def resolved(secrets: Mapping[str, str]) -> dict[str, str]:
    """The secrets themselves.

    Args:
        secrets: Option to where its value is kept, e.g. `{"aws_secret_access_key": "env:AWS_KEY"}`.

    Raises:
        MalformedRecordError: If a place is none that is known.
        AccessError: If a vault refuses this process.
        UnreachableError: If a vault does not answer.
        StoreError: If there is no such secret; the message names the place and never a value.
    """
    return {option: _fetch(place) for option, place in secrets.items()}


def forget() -> None:
    """Fetch every secret anew from now on."""
    with _lock:
        _kept.clear()


def _fetch(place: str) -> str:
    scheme, _, name = place.partition(":")
    if scheme == "env" and name:
        return _of_environment(place, name)
    vaults = {"aws": _of_aws, "gcp": _of_gcp, "azure": _of_azure}
    if scheme not in vaults or not name:
        raise MalformedRecordError(
            "secret", place, _PLACES, "Say in sites.toml where the secret is kept."
        )
    with _lock:
        fetched_at, value = _kept.get(place, (-KEEP_S, ""))
    if time.monotonic() - fetched_at < KEEP_S:
        return value
    name, _, field = name.partition("#")
    value = _field(place, vaults[scheme](place, name), field)
    with _lock:
        _kept[place] = (time.monotonic(), value)
    return value


def _of_environment(place: str, name: str) -> str:
    if name not in os.environ:
        raise StoreError(
            f"The secret {place!r} is not there; expected the variable {name} in this process's "
            "environment. Set it where Dagster's daemon and its runs are started."
        )
    return os.environ[name]


def _of_aws(place: str, name: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError
    from dagster_aws.secretsmanager import SecretsManagerResource

    try:
        client = SecretsManagerResource().get_client()
        return str(client.get_secret_value(SecretId=name)["SecretString"])
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _NO_SUCH_SECRET:
            raise _missing(place) from None
        if code.startswith(_REFUSED):
            raise _refused(place, code) from None
        raise _silent(place, code) from None
    except KeyError:
        raise _missing(place) from None
    except BotoCoreError as error:
        kind = type(error).__name__
        raise (_refused if "Credential" in kind or "Region" in kind else _silent)(
            place, kind
        ) from None


def _of_gcp(place: str, name: str) -> str:
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    if not name.startswith("projects/") or "/secrets/" not in name:
        raise MalformedRecordError("secret", place, _PLACES, "Write the secret's full name.")
    version = name if "/versions/" in name else f"{name}/versions/latest"
    try:
        credentials, _ = google.auth.default(scopes=[_GCP_SCOPE])
        credentials.refresh(Request())
    except GoogleAuthError as error:
        raise _refused(place, type(error).__name__) from None
    found = _asked(place, f"{_SECRET_MANAGER}/v1/{version}:access", str(credentials.token))
    return base64.b64decode(found["payload"]["data"]).decode()


def _of_azure(place: str, name: str) -> str:
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential

    address = urlparse(name)
    host = address.hostname or ""
    ours = address.scheme == "https" and host.endswith(_KEY_VAULTS)
    if not (ours or host == _LOOPBACK) or not address.path.startswith("/secrets/"):
        raise MalformedRecordError("secret", place, _PLACES, "Write the secret's identifier.")
    try:
        with DefaultAzureCredential() as credential:
            token = credential.get_token(_KEY_VAULT_SCOPE).token
    except AzureError as error:
        raise _refused(place, type(error).__name__) from None
    return str(_asked(place, f"{name}?api-version={_KEY_VAULT_VERSION}", token)["value"])


def _asked(place: str, url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404:
            raise _missing(place) from None
        if error.code in (401, 403):
            raise _refused(place, f"status {error.code}") from None
        raise _silent(place, f"status {error.code}") from None
    except OSError as error:
        raise _silent(place, type(error).__name__) from None


def _field(place: str, value: str, field: str) -> str:
    if not field:
        return value
    try:
        return str(json.loads(value)[field])
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"The secret {place!r} has no field {field!r}; expected a JSON object that has it. "
            "Correct the place in sites.toml, or the secret in its vault."
        ) from None


def _missing(place: str) -> StoreError:
    return StoreError(
        f"The secret {place!r} is not there; expected one with a text as its value. Create it in "
        "its vault, or correct the place in sites.toml."
    )


def _refused(place: str, found: str) -> AccessError:
    return AccessError(
        f"The vault of {place!r} refused this process ({found}); expected an identity that may "
        "read this secret. Log in, or give the machine's role that right."
    )


def _silent(place: str, found: str) -> UnreachableError:
    return UnreachableError(
        f"The vault of {place!r} gave no answer ({found}); expected the secret. Run it again later."
    )
