"""Lance tables in a site's store: how lancedb opens them, and its errors as ours.

lancedb has a store client of its own. It understands obstore's option names, so that a site is
described once, in sites.toml.
"""

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from resources.credentials import resolved
from worldloop.errors import AccessError, StoreError, UnreachableError

_PATIENCE = {"connect_timeout": "5s", "timeout": "60s", "client_max_retries": "4"}
_NO_OAUTH = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
_REFUSED = re.compile(
    r"status(?: code)?:? 40[13]\b|AccessDenied|Forbidden|InvalidAccessKey|ExpiredToken|"
    r"SignatureDoesNotMatch|Unauthenticated|"
    r"AuthenticationFailed|AuthorizationFailure|[Cc]redential|privileges"
)
_SHOWN = 400  # letters of a message
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_SIGNED = re.compile(r"\?[^\s)'\"]+")  # what follows an address may be its signature
_SILENT = re.compile(
    r"RetryError|Connect|timed out|[Tt]imeout|SlowDown|\b(?:429|5\d\d)\b|dns error"
)
_DAMAGED = re.compile(r"Not found: |sufficient data|[Cc]orrupt|magic number|[Ii]nvalid protobuf")


class DamagedTableError(StoreError):
    """A Lance table whose files are gone or cannot be read; it is made again from the logs."""


def lance_options(
    url: str, options: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[str, str]:
    """Storage options of lancedb for a store, secrets included: keep them nowhere.

    Args:
        url: Of the store; a folder needs none.
        options: Of obstore's client, by its names.
        secrets: Secret options, each with where it is kept (`resources.credentials`).

    Raises:
        MalformedRecordError: If a secret's place is none that is known.
        StoreError: If there is no such secret.
    """
    if "://" not in url:
        return {}
    config = {**_PATIENCE, **options, **resolved(secrets)}
    base = config.get("google_base_url", "")
    if base and config.pop("google_skip_signature", "") == "true":
        # Lance asks the machine's metadata service for a token on every put, skip_signature or not
        config["google_service_account_key"] = json.dumps({"gcs_base_url": base, **_NO_OAUTH})
    return config


def connect(url: str, options: Mapping[str, str], secrets: Mapping[str, str]) -> Any:
    """A connection that is shared in this process, so that indices stay in memory.

    A table that is opened through it is at its newest commit and stays there: who looks again opens
    it again, instead of every question asking the store for newer commits.
    """
    with lance_errors(url):
        return _connect(url, tuple(sorted(options.items())), tuple(sorted(secrets.items())))


def forget_connections() -> None:
    """Open anew at the next question: secrets are fetched again, nothing cached is trusted."""
    _connect.cache_clear()


@functools.cache
def _connect(
    url: str, options: tuple[tuple[str, str], ...], secrets: tuple[tuple[str, str], ...]
) -> Any:
    os.environ.setdefault("LANCE_LOG", "error")  # a search would log a paragraph otherwise
    import lancedb

    return lancedb.connect(
        url,
        storage_options=lance_options(url, dict(options), dict(secrets)) or None,
    )


@contextlib.contextmanager
def lance_errors(url: str) -> Iterator[None]:
    """Lance's errors as ours.

    Raises:
        AccessError: If the store refuses these credentials.
        UnreachableError: If it does not answer, or asks to come back later.
        DamagedTableError: If files of a table are gone or cannot be read.
        StoreError: For anything else that the store says.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        said = _SIGNED.sub("", " ".join(str(error).split()))
        raise _translated(url, said) from None  # the cause would quote whole addresses


def _translated(url: str, said: str) -> StoreError:
    """The error for what Lance said; all of it counts, as the status stands far behind."""
    words = said if len(said) <= _SHOWN else f"{said[: _SHOWN // 2]} ... {said[-_SHOWN // 2 :]}"
    if _REFUSED.search(said):
        return AccessError(
            f"{url!r} refused these credentials: {words}. Expected an identity that may read and "
            "write there. Check the site's options and secrets in sites.toml."
        )
    if _NO_BUCKET.search(said):
        return StoreError(
            f"{url!r} has no such bucket: {words}. Expected one that stands already. Make it with "
            "the site's infrastructure module, or correct sites.toml."
        )
    if _SILENT.search(said):
        return UnreachableError(
            f"{url!r} does not answer: {words}. Expected it within a minute. It is tried again by "
            "the next run; check the network and the provider's status if this lasts."
        )
    if _DAMAGED.search(said):
        return DamagedTableError(
            f"The Lance table in {url!r} cannot be read: {words}. Expected all of its files. "
            "The projection makes it again from the logs."
        )
    return StoreError(
        f"Lance cannot work in {url!r}: {words}. Expected a folder or bucket that this process may "
        "read and write. Check its address and permissions, then run again."
    )
