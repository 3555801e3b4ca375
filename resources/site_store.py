"""The site's store: bytes under keys, in a folder today and in a bucket of any cloud by its URL."""

import contextlib
import functools
import hashlib
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import dagster as dg
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, from_url
from pydantic import Field

from resources.credentials import resolved
from worldloop.errors import StoreError

_CONTENT_ADDRESSED = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = re.compile(r"os error (27|28|122)\b")  # EFBIG, ENOSPC, EDQUOT
_PROBE = b"worldloop asks whether this store honours create-if-absent\n"


class StoredObject(NamedTuple):
    """One object of a store.

    Attributes:
        key: Its key.
        size_bytes: Its size.
        modified_at: When it was written, UTC.
    """

    key: str
    size_bytes: int
    modified_at: datetime


_Listing = list[
    tuple[str, int]
]  # named here because SiteStore.list hides the type inside the class
_Objects = list[StoredObject]


class SiteStore(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Objects of one site. Every write is atomic: a reader sees the old bytes, the new, or none.

    Attributes:
        url: A folder, or a URL that obstore knows (`s3://bucket/prefix`).
        options: Of obstore's client, by its names; nothing secret.
        secrets: Secret options, each with where it is kept (`resources.credentials`); resolved at
            the moment of use, so that they stand in no configuration, log or event.
    """

    url: str = Field(min_length=1)
    options: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)

    def get(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            StoreError: If there is none.
        """
        with _errors(self.url, key):
            return bytes(obstore.get(self._backend, key).bytes())

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """`size_bytes` bytes of an object from `offset` on.

        Raises:
            StoreError: If there is no such object, or it ends earlier.
        """
        with _errors(self.url, key):
            try:
                found = obstore.get_range(self._backend, key, start=offset, length=size_bytes)
            except BaseError as error:
                if "range" not in str(error):
                    raise
                found = b""
        content = bytes(found)
        if len(content) != size_bytes:
            raise StoreError(
                f"{key!r} in {self.url!r} has {len(content)} bytes at {offset}; expected "
                f"{size_bytes}. The object was cut short: run the asset that wrote it again."
            )
        return content

    def put(self, key: str, content: bytes) -> None:
        """Write an object, replacing the one that is there.

        Raises:
            StoreError: If there is no room; nothing is left half-written.
        """
        with _errors(self.url, key, size_bytes=len(content)):
            obstore.put(self._backend, key, content)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one; of many callers at once exactly one succeeds.

        Returns:
            Whether this call wrote it.

        Raises:
            StoreError: If there is no room.
        """
        with _errors(self.url, key, size_bytes=len(content)):
            try:
                obstore.put(self._backend, key, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def put_file(self, key: str, path: Path) -> int:
        """Write a local file, streamed; skipped if the key names its content and stands already.

        Returns:
            Bytes that were written: 0 if skipped.

        Raises:
            StoreError: If there is no room; nothing is left half-written.
        """
        size_bytes = path.stat().st_size
        if _CONTENT_ADDRESSED.search(key) and self.exists(key) and self.size(key) == size_bytes:
            return 0
        with _errors(self.url, key, size_bytes=size_bytes):
            obstore.put(self._backend, key, path)
        return size_bytes

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        try:
            with _errors(self.url, key):
                obstore.head(self._backend, key)
        except _MissingObjectError:
            return False
        return True

    def size(self, key: str) -> int:
        """Size of an object in bytes.

        Raises:
            StoreError: If there is none.
        """
        with _errors(self.url, key):
            return int(obstore.head(self._backend, key)["size"])

    def list(self, prefix: str = "") -> _Listing:
        """Key and size of every object in a folder and beneath, in key order."""
        return [(found.key, found.size_bytes) for found in self.scan(prefix)]

    def scan(self, prefix: str = "", *, after: str | None = None) -> _Objects:
        """Every object in a folder and beneath, in key order.

        Args:
            prefix: The folder, e.g. `clips/w0001`; all of the store when empty.
            after: Only keys that sort behind this one.
        """
        with _errors(self.url, prefix):
            pages = obstore.list(self._backend, prefix=prefix or None, offset=after)
            found = [
                StoredObject(meta["path"], meta["size"], meta["last_modified"])
                for page in pages
                for meta in page
            ]
        return sorted(found)

    def delete(self, key: str) -> None:
        """Remove an object; fine if there is none."""
        with contextlib.suppress(_MissingObjectError), _errors(self.url, key):
            obstore.delete(self._backend, key)

    def local_path(self, key: str = "") -> Path:
        """Where an object lies on this machine.

        Raises:
            StoreError: If the store is not a folder.
        """
        root = _folder(self.url)
        if root is None:
            raise StoreError(
                f"Asked for the local path of {key!r} in {self.url!r}; expected a store that is a "
                "folder. Copy the object with get() or get_range() instead."
            )
        return root / key

    def used_bytes(self) -> int:
        """Bytes of all objects of the store, staging and indices included."""
        return sum(found.size_bytes for found in self.scan())

    def free_bytes(self) -> int | None:
        """Bytes that are free on the store's disk; None where a store has no such limit."""
        root = _folder(self.url)
        if root is None:
            return None
        return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free

    def probe(self) -> None:
        """Refuse a store that cannot carry the log.

        Raises:
            StoreError: If the store lets a second create-if-absent replace the first.
        """
        key = f"probe/{hashlib.sha256(_PROBE).hexdigest()[:16]}"
        self.create(key, _PROBE)
        second = self.create(key, b"overwritten")
        kept = self.get(key)
        self.delete(key)
        if second or kept != _PROBE:
            raise StoreError(
                f"{self.url!r} let a second writer create {key!r} although it stood already; "
                "expected create-if-absent (If-None-Match: *) to be refused. Two writers would "
                "lose log rows here: use a store that honours preconditions."
            )

    def within(self, prefix: str) -> "SiteStore":
        """The same store, seen from one of its folders."""
        return self.model_copy(update={"url": f"{self.url.rstrip('/')}/{prefix}"})

    @property
    def _backend(self) -> Any:
        return _open(
            self.url, tuple(sorted(self.options.items())), tuple(sorted(self.secrets.items()))
        )


class _MissingObjectError(StoreError):
    """No object under a key; a StoreError for callers, told apart in here."""


@contextlib.contextmanager
def _errors(url: str, key: str, size_bytes: int = 0) -> Iterator[None]:
    """Obstore's errors as ours, each with what to do."""
    try:
        yield
    except (FileNotFoundError, NotFoundError) as error:
        raise _MissingObjectError(
            f"No object {key!r} in {url!r}; expected one. Run the asset that writes it."
        ) from error
    except (BaseError, OSError) as error:
        if isinstance(error, AlreadyExistsError):
            raise
        words = str(error).split("\n", maxsplit=1)[0]
        if _NO_ROOM.search(str(error)):
            raise StoreError(
                f"No room in {url!r} for {key!r} ({size_bytes} bytes): {words}. Nothing was "
                "written. Free some space (`worldloop gc --dry-run` shows what could go) and run "
                "the partition again."
            ) from error
        raise StoreError(
            f"{url!r} refused {key!r}: {words}. Expected a folder or bucket that this process may "
            "read and write. Check its address and permissions, then run the partition again."
        ) from error


def _folder(url: str) -> Path | None:
    parsed = urlparse(url)
    if parsed.scheme in ("", "file"):
        return Path(parsed.path).absolute()
    return None


@functools.cache
def _open(
    url: str, options: tuple[tuple[str, str], ...], secrets: tuple[tuple[str, str], ...]
) -> Any:
    root = _folder(url)
    if root is not None:
        return LocalStore(root, mkdir=True)
    config = {**dict(options), **resolved(dict(secrets))}
    client = {"allow_http": True} if config.pop("allow_http", "false") == "true" else {}
    return from_url(url, config=config, client_options=client)
