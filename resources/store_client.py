"""Opens obstore's clients: options of a site, secrets fetched now, retries, and default credentials."""

import functools
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from resources.credentials import resolved
from resources.store_refusals import refusals
from worldloop.errors import AccessError, MalformedRecordError

_CLIENT_OPTIONS = {
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_url",
    "read_timeout",
    "timeout",
    "user_agent",
}
_TRUTHS = {"true": True, "false": False}
_TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "300s"}
_MAX_RETRIES, _RETRY_FOR_S = 8, 60.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = timedelta(seconds=0.1), timedelta(seconds=5)
_CREDENTIAL = re.compile(
    r"access_key|secret|token|sas|account_key|service_account|credentials|skip_signature"
    r"|client_id|use_emulator|use_azure_cli|bearer"
)
_SECRET = re.compile(r"secret|password|sas_(key|token)|(account|master|client|private)_key|token$")
_KEY_FILE = re.compile(r"service_account_key|application_credentials_json")


class Client(NamedTuple):
    """An open client.

    Attributes:
        backend: Obstore's store.
        secrets: What it was opened with, to strike out of messages.
    """

    backend: Any
    secrets: Mapping[str, str]


def opened(url: str, options: Mapping[str, str], places: Mapping[str, str]) -> Client:
    """The client of a store; opened again when a secret has changed.

    Args:
        url: A folder, or a URL that obstore knows.
        options: By obstore's names, those of its HTTP client too (`timeout = "60s"`), and
            `client_max_retries` and `client_retry_timeout` (seconds) as Lance spells them.
        places: Secret options, each with where it is kept.

    Raises:
        MalformedRecordError: If an option is unknown, or a place.
        AccessError: If there are no credentials at all.
        StoreError: If a secret cannot be fetched.
    """
    secrets = resolved(places)
    return Client(_open(url, _pairs(options), _pairs(secrets)), secrets)


def folder_of(url: str) -> Path | None:
    """The folder that a store is, or None if it is a bucket."""
    parsed = urlparse(url)
    if parsed.scheme in ("", "file"):
        return Path(parsed.path).absolute()
    return None


def check_open_options(options: Mapping[str, str]) -> None:
    """Refuse secrets among the options, which stand in configuration, logs and events.

    Raises:
        MalformedRecordError: Naming the option, not its value.
    """
    for option in options:
        if _SECRET.search(option) or _KEY_FILE.search(option):
            raise MalformedRecordError(
                "store options",
                option,
                "only what anybody may read",
                f'Move it to secrets, with where it is kept: {option} = "env:NAME".',
            )


def _pairs(mapping: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(mapping.items()))


@functools.lru_cache(maxsize=64)
def _open(
    url: str, options: tuple[tuple[str, str], ...], secrets: tuple[tuple[str, str], ...]
) -> Any:
    root = folder_of(url)
    if root is not None:
        with refusals(url, ""):
            return LocalStore(root, mkdir=True)
    if urlparse(url).scheme == "memory":
        return from_url(url)
    given = dict(options)
    retry_config = _retry_config(url, given)
    client = {**_TIMEOUTS, **{k: given.pop(k) for k in _CLIENT_OPTIONS & set(given)}}
    config = {**given, **dict(secrets)}
    provider = None if any(map(_CREDENTIAL.search, config)) else _default_credentials(url)
    try:
        return from_url(
            url,
            config=config,
            client_options={name: _TRUTHS.get(value, value) for name, value in client.items()},
            retry_config=retry_config,
            credential_provider=provider,
        )
    except (BaseError, ValueError, TypeError) as error:
        found = type(error).__name__  # its words may quote a secret
        raise MalformedRecordError(
            f"store {url!r}",
            f"{found} with options {sorted(config)}",
            "options by obstore's names",
            "Correct `options` and `secrets` of the site in sites.toml.",
        ) from None


def _retry_config(url: str, options: dict[str, str]) -> dict[str, Any]:
    """Exponential backoff with jitter; takes its own options out of the others."""
    asked = {
        name: options.pop(name, str(default))
        for name, default in (
            ("client_max_retries", _MAX_RETRIES),
            ("client_retry_timeout", _RETRY_FOR_S),
        )
    }
    try:
        most, seconds = int(asked["client_max_retries"]), float(asked["client_retry_timeout"])
    except ValueError:
        raise MalformedRecordError(
            f"store {url!r}", asked, "numbers", "Correct the site's options in sites.toml."
        ) from None
    backoff = {"init_backoff": _FIRST_BACKOFF, "max_backoff": _LONGEST_BACKOFF, "base": 2}
    return {
        "max_retries": most,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": backoff,
    }


def _default_credentials(url: str) -> Any:
    """Those that the cloud's own client finds: variables, profiles, the machine's identity."""
    scheme = urlparse(url).scheme
    try:
        if scheme == "s3":
            from obstore.auth.boto3 import Boto3CredentialProvider

            return Boto3CredentialProvider()
        if scheme == "gs":
            from obstore.auth.google import GoogleCredentialProvider

            return GoogleCredentialProvider()
        from obstore.auth.azure import AzureCredentialProvider

        return AzureCredentialProvider()
    except Exception as error:  # noqa: BLE001 - three clients, each with its own errors
        raise AccessError(
            f"No credentials for {url!r}: found {type(error).__name__} from the cloud's client; "
            "expected `secrets` of the site in sites.toml, or credentials of this machine (a role, "
            "a profile, a login). Give it one of these."
        ) from None
