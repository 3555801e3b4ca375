"""What stores say when they refuse, as our errors: what was found, what was expected, what to do.

No message holds a secret or a signed address, and no cause is kept, as the client's own errors quote
whole addresses and Dagster would write them into its events.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlparse

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from worldloop.errors import AccessError, StoreError, UnreachableError

_NO_ROOM = re.compile(  # EFBIG, ENOSPC, EDQUOT, as the client or Python says it
    r"(?:os error|Errno) (27|28|122)\b|status code: 507|StorageFull|QuotaExceeded"
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|FilesystemNotFound")
_SKEWED = re.compile(r"RequestTimeTooSkewed|Request date header too old|date header in the request")
_THROTTLED = re.compile(r"status code: (429|503)|SlowDown|ServerBusy|TooManyRequests")
_NO_ANSWER = re.compile(r"HTTP error|status code: (408|50[02-9])|Connection|timed out|dns error")
_FORBIDDEN = re.compile(  # EPERM, EACCES, EROFS
    r"status code: (401|403)|(?:os error|Errno) (1|13|30)\b"
)
_RETRIED = re.compile(r"after [1-9]\d* retries")
_QUERY = re.compile(r"\?\S*")
_SHORTEST_SECRET = 4


class MissingObjectError(StoreError):
    """No object under a key; a StoreError for callers of a store."""


@contextlib.contextmanager
def refusals(
    url: str,
    key: str,
    *,
    size_bytes: int = 0,
    places: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Raise a store's errors as ours; that an object exists already is passed on as it is.

    Args:
        url: The store's address.
        key: What was asked for.
        size_bytes: Of what was to be written.
        places: Secret options, each with where it is kept; named when credentials are refused.
        secrets: The secrets themselves, which are struck out.

    Raises:
        MissingObjectError: If there is no such object.
        AccessError: If the credentials, or this machine's clock, are refused.
        UnreachableError: If the store throttles or does not answer, after all retries.
        StoreError: If there is no such bucket, no room, or anything else is wrong.
    """
    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        raise _as_ours(error, url, key, size_bytes, places or {}, secrets or {}) from None


def was_retried(error: BaseError) -> bool:
    """Whether the client asked more than once, so that an earlier try may have been heard."""
    return _RETRIED.search(str(error)) is not None


def _as_ours(
    error: Exception,
    url: str,
    key: str,
    size_bytes: int,
    places: Mapping[str, str],
    secrets: Mapping[str, str],
) -> StoreError:
    text = str(error).partition("\n\nDebug source")[0]
    said = _struck_out(text, secrets)
    if _NO_BUCKET.search(text):
        return _no_bucket(url, key)
    if isinstance(error, FileNotFoundError | NotFoundError):
        return MissingObjectError(
            f"No object {key!r} in {url!r}; expected one. Run the asset that writes it."
        )
    if _NO_ROOM.search(text):
        return StoreError(
            f"No room in {url!r} for {key!r} ({size_bytes} bytes): {said}. Nothing was "
            "written. Free some space (`worldloop gc --dry-run` shows what could go) and run "
            "the partition again."
        )
    if _SKEWED.search(text):
        return _skewed(url)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _FORBIDDEN.search(text):
        return _forbidden(url, key, said, places)
    if _THROTTLED.search(text):
        return UnreachableError(
            f"{url!r} throttles: {key!r} was refused again and again ({said}); expected an answer "
            "within the retries. Run it again later, with fewer runs at once."
        )
    if _NO_ANSWER.search(text):
        return UnreachableError(
            f"{url!r} did not answer for {key!r}: {said}. Expected an answer within the retries; "
            "a write may have been done or not. Run it again when the store is back."
        )
    return StoreError(
        f"{url!r} refused {key!r}: {said}. Expected a folder or bucket that this process may "
        "read and write. Check its address and permissions, then run the partition again."
    )


def _no_bucket(url: str, key: str) -> StoreError:
    bucket = urlparse(url).netloc
    return StoreError(
        f"There is no bucket {bucket!r} (asked for {key!r} in {url!r}); expected one that exists. "
        "Create it, or correct `store` of the site in sites.toml."
    )


def _skewed(url: str) -> AccessError:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return AccessError(
        f"{url!r} refused our clock: it is {now} here; expected at most 15 minutes between this "
        "machine and the store. Set the clock (NTP), then run it again."
    )


def _forbidden(url: str, key: str, said: str, places: Mapping[str, str]) -> AccessError:
    kept = ", ".join(f"{option} from {place!r}" for option, place in sorted(places.items()))
    credentials = kept or "those that the cloud's client finds by itself"
    return AccessError(
        f"{url!r} refused our credentials for {key!r}: {said}. Expected credentials that may read "
        f"and write there; used were {credentials}. Check them and the bucket's permissions."
    )


def _struck_out(text: str, secrets: Mapping[str, str]) -> str:
    """The first line without secrets, and addresses without what signs them."""
    line = " ".join(text.split("\n", maxsplit=1)[0].split())
    for secret in _spellings(secrets.values()):
        line = line.replace(secret, "***")
    return _QUERY.sub("", line).rstrip(".")


def _spellings(secrets: Iterable[str]) -> Iterator[str]:
    """Secrets as an answer may quote them: as they are, in an address, or a field of a JSON key."""
    for secret in secrets:
        fields: list[str] = []
        with contextlib.suppress(ValueError, AttributeError):
            fields = [value for value in json.loads(secret).values() if isinstance(value, str)]
        for part in (secret, *fields):
            if len(part) >= _SHORTEST_SECRET:
                yield from (part, quote(part, safe=""), " ".join(part.split()))
