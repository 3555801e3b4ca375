"""The site's store: bytes under keys, in a folder today and in a bucket of any cloud by its URL."""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import dagster as dg
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from pydantic import Field, field_validator

from resources.request_meter import Usage, count
from resources.store_client import Client, check_open_options, folder_of, opened
from resources.store_refusals import MissingObjectError, refusals, was_retried
from worldloop.errors import StoreError

_CONTENT_ADDRESSED = re.compile(r"[0-9a-f]{64}")
_PART_BYTES = 8 << 20  # a part of a large object; S3 takes 10,000 parts
_CONCURRENCY = 16
_PAGE_SIZES = {"s3": 1000, "gs": 1000, "az": 5000, "abfs": 5000, "abfss": 5000}
_PER_DELETION = {"s3": 1000}  # keys of one request; the other clouds take one each
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

    What a cloud refuses because it is busy (429, 503) or because a connection broke is asked again
    with growing pauses before it is an error. Every method raises an `UnreachableError` when that
    does not help, an `AccessError` when credentials or the clock are refused, and a `StoreError`
    for a bucket that is not there.

    Attributes:
        url: A folder, or a URL that obstore knows (`s3://bucket/prefix`).
        options: Of obstore's client, by its names; nothing secret. Retries are set by
            `client_max_retries` and `client_retry_timeout` (seconds).
        secrets: Secret options, each with where it is kept (`resources.credentials`); resolved at
            the moment of use, so that they stand in no configuration, log or event. Without any
            the cloud's own client looks for credentials.
    """

    url: str = Field(min_length=1)
    options: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _are_open(cls, options: dict[str, str]) -> dict[str, str]:
        check_open_options(options)
        return options

    def get(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            StoreError: If there is none.
        """
        with self._asking(key) as backend:
            content = bytes(obstore.get(backend, key).bytes())
        self._count(reads=1, bytes_out=len(content))
        return content

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Keys with their bytes, in the order asked for, several fetched at once.

        Raises:
            StoreError: If there is no object under one of the keys.
        """
        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            rest = iter(keys)
            ahead = [
                (key, pool.submit(self.get, key)) for key in itertools.islice(rest, _CONCURRENCY)
            ]
            try:
                while ahead:
                    key, content = ahead.pop(0)
                    ahead += [(k, pool.submit(self.get, k)) for k in itertools.islice(rest, 1)]
                    yield key, content.result()
            finally:
                for _, waiting in ahead:
                    waiting.cancel()

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """`size_bytes` bytes of an object from `offset` on.

        Raises:
            StoreError: If there is no such object, or it ends earlier.
        """
        with self._asking(key) as backend:
            try:
                found = obstore.get_range(backend, key, start=offset, length=size_bytes)
            except BaseError as error:
                if "range" not in str(error).lower():
                    raise
                found = b""
        content = bytes(found)
        self._count(reads=1, bytes_out=len(content))
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
        with self._asking(key, size_bytes=len(content)) as backend:
            obstore.put(backend, key, content, chunk_size=_PART_BYTES)
        self._count(writes=self._num_writes(len(content)), bytes_in=len(content))

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one; of many callers at once exactly one succeeds.

        An answer that is lost on its way is asked for again, and the store then says that the object
        is there. So after a repeated request the object is read: with these bytes it is ours.
        Callers whose bytes are equal can in that one case both be told that they wrote it.

        Returns:
            Whether this call wrote it.

        Raises:
            StoreError: If there is no room.
            UnreachableError: If the store does not answer; it may have been written or not.
        """
        with self._asking(key, size_bytes=len(content)) as backend:
            try:
                obstore.put(backend, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                self._count(writes=1)
                return was_retried(error) and self.get(key) == content
        self._count(writes=1, bytes_in=len(content))
        return True

    def put_file(self, key: str, path: Path) -> int:
        """Write a local file, streamed; skipped if the key names its content and stands already.

        Returns:
            Bytes that were written: 0 if skipped.

        Raises:
            StoreError: If there is no room; nothing is left half-written.
        """
        size_bytes = path.stat().st_size
        if self._stands_whole(key, size_bytes):
            return 0
        with self._asking(key, size_bytes=size_bytes) as backend:
            obstore.put(backend, key, path, chunk_size=_PART_BYTES)
        self._count(writes=self._num_writes(size_bytes), bytes_in=size_bytes)
        return size_bytes

    def copy_from(self, other: "SiteStore", key: str, *, to: str = "") -> bool:
        """Copy an object of another store unless there is one; its bytes pass through this process.

        One that is larger than a part and whose key names its content goes through a temporary file,
        and is written though another copier may have done so meanwhile: the bytes are equal.

        Args:
            other: Where it is.
            key: Its key there.
            to: Its key here; the same when empty.

        Returns:
            Whether this call wrote it.

        Raises:
            StoreError: If there is none.
        """
        to = to or key
        size_bytes = other.size(key)
        if size_bytes <= _PART_BYTES or not _CONTENT_ADDRESSED.search(to):
            return self.create(to, other.get(key))
        if self._stands_whole(to, size_bytes):
            return False
        with tempfile.NamedTemporaryFile() as file:
            for offset in range(0, size_bytes, _PART_BYTES):
                file.write(other.get_range(key, offset, min(_PART_BYTES, size_bytes - offset)))
            file.flush()
            self.put_file(to, Path(file.name))
        return True

    def head(self, key: str) -> StoredObject:
        """Size and time of an object.

        Raises:
            StoreError: If there is none.
        """
        with self._asking(key) as backend:
            self._count(reads=1)
            meta = obstore.head(backend, key)
        return StoredObject(key, int(meta["size"]), meta["last_modified"])

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        try:
            self.head(key)
        except MissingObjectError:
            return False
        return True

    def size(self, key: str) -> int:
        """Size of an object in bytes.

        Raises:
            StoreError: If there is none.
        """
        return self.head(key).size_bytes

    def modified_at(self, key: str) -> datetime:
        """When an object was written, UTC, by the store's clock.

        Raises:
            StoreError: If there is none.
        """
        return self.head(key).modified_at

    def list(self, prefix: str = "") -> _Listing:
        """Key and size of every object in a folder and beneath, in key order."""
        return [(found.key, found.size_bytes) for found in self.scan(prefix)]

    def scan(self, prefix: str = "", *, after: str | None = None) -> _Objects:
        """Every object in a folder and beneath, in key order.

        Args:
            prefix: The folder, e.g. `clips/w0001`; all of the store when empty.
            after: Only keys that sort behind this one.
        """
        return sorted(itertools.chain.from_iterable(self._listed(prefix, after)))

    def pages(
        self, prefix: str = "", *, after: str | None = None, page_size: int = 1000
    ) -> Iterator[_Objects]:
        """What `scan` gives, a page at a time; of a bucket only one page is held at once.

        Args:
            prefix: As of `scan`.
            after: As of `scan`.
            page_size: Objects of a page; the last one may have fewer.
        """
        if folder_of(self.url) is None:
            found: Iterator[StoredObject] = itertools.chain.from_iterable(
                self._listed(prefix, after)
            )
        else:  # a folder is listed in no order
            found = iter(self.scan(prefix, after=after))
        while page := list(itertools.islice(found, page_size)):
            yield page

    def delete(self, key: str) -> None:
        """Remove an object; fine if there is none."""
        with contextlib.suppress(MissingObjectError), self._asking(key) as backend:
            self._count(deletes=1)
            obstore.delete(backend, key)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove objects; fine if some are not there."""
        wanted = list(dict.fromkeys(keys))
        most = _PER_DELETION.get(urlparse(self.url).scheme)
        if most is None:
            with ThreadPoolExecutor(_CONCURRENCY) as pool:
                list(pool.map(self.delete, wanted))
            return
        for start in range(0, len(wanted), most):
            some = wanted[start : start + most]
            with self._asking(some[0]) as backend:
                self._count(deletes=1)
                obstore.delete(backend, some)

    def local_path(self, key: str = "") -> Path:
        """Where an object lies on this machine.

        Raises:
            StoreError: If the store is not a folder.
        """
        root = folder_of(self.url)
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
        root = folder_of(self.url)
        if root is None:
            return None
        return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free

    def probe(self) -> None:
        """Refuse a store that cannot carry the log.

        Raises:
            StoreError: If the store lets a second create-if-absent replace the first, or does not
                show at once what was written.
        """
        asked = f"{os.getpid()} {time.time_ns()}".encode()
        key = f"probe/{hashlib.sha256(asked).hexdigest()[:16]}"
        content = _PROBE + asked
        self.create(key, content)
        second = self.create(key, b"overwritten")
        kept = self.get(key)
        if second or kept != content:
            with contextlib.suppress(StoreError):
                self.delete(key)
            raise StoreError(
                f"{self.url!r} let a second writer create {key!r} although it stood already; "
                "expected create-if-absent (If-None-Match: *) to be refused. Two writers would "
                "lose log rows here: use a store that honours preconditions."
            )
        listed = [found for found, _ in self.list("probe")]
        self.delete(key)
        if key not in listed or self.exists(key):
            raise StoreError(
                f"{self.url!r} does not show at once what was written or deleted ({key!r}); "
                "expected reads and listings that are never behind. Readers would miss log rows "
                "here: use a store that is strongly consistent, without a cache before it."
            )

    def within(self, prefix: str) -> "SiteStore":
        """The same store, seen from one of its folders."""
        return self.model_copy(update={"url": f"{self.url.rstrip('/')}/{prefix.strip('/')}"})

    def _listed(self, prefix: str, after: str | None) -> Iterator[_Objects]:
        """Pages as the store gives them."""
        num_listed = 0
        with self._asking(prefix) as backend:
            for page in obstore.list(backend, prefix=prefix or None, offset=after):
                num_listed += len(page)
                found = (StoredObject(m["path"], m["size"], m["last_modified"]) for m in page)
                # Azurite, and Azure before 2025, list from the beginning all the same.
                yield [item for item in found if after is None or item.key > after]
        self._count(lists=1 + num_listed // _PAGE_SIZES.get(urlparse(self.url).scheme, 1000))

    def _stands_whole(self, key: str, size_bytes: int) -> bool:
        if not _CONTENT_ADDRESSED.search(key):
            return False
        try:
            return self.size(key) == size_bytes
        except MissingObjectError:
            return False

    def _num_writes(self, size_bytes: int) -> int:
        """Requests that a put takes: one, or opening, parts and closing."""
        parts = -(-size_bytes // _PART_BYTES)
        return 1 if parts <= 1 or folder_of(self.url) else 2 + parts

    def _count(self, **asked: int) -> None:
        count(self.url, Usage(**asked))

    @contextlib.contextmanager
    def _asking(self, key: str, *, size_bytes: int = 0) -> Iterator[Any]:
        """Obstore's client, whose errors become ours."""
        client = self._client
        with refusals(
            self.url, key, size_bytes=size_bytes, places=self.secrets, secrets=client.secrets
        ):
            yield client.backend

    @property
    def _client(self) -> Client:
        return opened(self.url, self.options, self.secrets)

    @property
    def _backend(self) -> Any:
        return self._client.backend
