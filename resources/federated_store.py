"""The store of a federation: each city's objects at its home site, everything else at the coordinator.

Assets use it as they use the store of one site. Which site a key belongs to follows from the key
(`worldloop.layout.city_of`) and the sites file; naming another home for a city moves no objects.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from resources.federation import Federation
from resources.site_store import SiteStore, StoredObject
from worldloop.errors import UnreachableError
from worldloop.layout import PACKS, city_of, may_hold_cities
from worldloop.whole_files import write_whole

_Objects = list[StoredObject]  # named here because the verb `list` hides the type in the class
_Stores = list[SiteStore]
_MOST_COPIED_BYTES = 4_000_000_000


class FederatedStore(SiteStore):
    """Objects of all sites under one set of keys; `Federation.federated_store` makes it.

    Its own address is the coordinator's. Every verb raises an `UnreachableError` that names the site
    if a site that it needs does not answer.

    Attributes:
        federation: The sites.
    """

    federation: Federation

    def home_of(self, key: str) -> str:
        """Name of the site that an object belongs to.

        Raises:
            UnknownKeyError: If the key names a city that is at home nowhere.
        """
        city = city_of(key)
        if city is None:
            return self.federation.coordinator
        return self.federation.sites.site_of(city).name

    def residences(self) -> _Stores:
        """The stores of the sites that cities are at home at, the coordinator's first."""
        return [self.federation.store(name) for name in self.federation.members]

    def get(self, key: str) -> bytes:
        """The bytes of an object."""
        with self._at(key) as store:
            return store.get(key)

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """`size_bytes` bytes of an object from `offset` on."""
        with self._at(key) as store:
            return store.get_range(key, offset, size_bytes)

    def put(self, key: str, content: bytes) -> None:
        """Write an object at its site, replacing the one that is there."""
        with self._at(key) as store:
            store.put(key, content)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object at its site unless there is one."""
        with self._at(key) as store:
            return store.create(key, content)

    def put_file(self, key: str, path: Path) -> int:
        """Write a local file to its site, streamed."""
        with self._at(key) as store:
            return store.put_file(key, path)

    def copy_from(self, other: SiteStore, key: str, *, to: str = "") -> bool:
        """Copy an object of another store to its site, unless there is one."""
        with self._at(to or key) as store:
            return store.copy_from(other, key, to=to)

    def head(self, key: str) -> StoredObject:
        """Size and time of an object."""
        with self._at(key) as store:
            return store.head(key)

    def scan(self, prefix: str = "", *, after: str | None = None) -> _Objects:
        """Every object in a folder and beneath, in key order, over all sites that can have it.

        An object that lies at a site to which its key does not belong is left out.
        """
        if not may_hold_cities(prefix) or city_of(f"{prefix}/") is not None:
            with self._at(prefix) as store:
                return store.scan(prefix, after=after)
        found = []
        for name in self.federation.members:
            with _named(name):
                listed = self.federation.store(name).scan(prefix, after=after)
            found += [item for item in listed if self._is_home(item.key, name)]
        return sorted(found)

    def pages(
        self, prefix: str = "", *, after: str | None = None, page_size: int = 1000
    ) -> Iterator[_Objects]:
        """What `scan` gives, a page at a time; all of it is held at once."""
        found = iter(self.scan(prefix, after=after))
        while page := list(itertools.islice(found, page_size)):
            yield page

    def delete(self, key: str) -> None:
        """Remove an object from its site; fine if there is none."""
        with self._at(key) as store:
            store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove objects from their sites; fine if some are not there."""
        at_home: dict[str, list[str]] = {}
        for key in keys:
            at_home.setdefault(self.home_of(key), []).append(key)
        for name, mine in at_home.items():
            with _named(name):
                self.federation.store(name).delete_many(mine)

    def local_path(self, key: str = "") -> Path:
        """Where an object lies on this machine.

        A pack at a remote site is copied into the site's scratch folder first, for jobs that read
        files; the newest copies stay there, up to 4 GB a site.

        Raises:
            StoreError: If the store of its site is not a folder, and the object is no pack.
        """
        name = self.home_of(key)
        with _named(name):
            store = self.federation.store(name)
            if "://" not in store.url or not key.startswith(f"{PACKS}/"):
                return store.local_path(key)
            return self._copied(store, key, self.federation.media_copies(name))

    def free_bytes(self) -> int | None:
        """Bytes that are free at the coordinator."""
        return self.federation.store(self.federation.coordinator).free_bytes()

    def probe(self) -> None:
        """Refuse stores that cannot carry the log.

        Raises:
            StoreError: If the store of any site lets a second create-if-absent replace the first.
        """
        for name in self.federation.members:
            with _named(name):
                self.federation.store(name).probe()

    def within(self, prefix: str) -> SiteStore:
        """The store of the folder's site, seen from that folder."""
        with self._at(prefix) as store:
            return store.within(prefix)

    @contextlib.contextmanager
    def _asking(self, key: str, *, size_bytes: int = 0) -> Iterator[Any]:
        """The client of the object's site, for who streams out of this store."""
        with self._at(key) as store, store._asking(key, size_bytes=size_bytes) as backend:
            yield backend

    @contextlib.contextmanager
    def _at(self, key: str) -> Iterator[SiteStore]:
        name = self.home_of(key)
        with _named(name):
            yield self.federation.store(name)

    @staticmethod
    def _copied(store: SiteStore, key: str, folder: Path) -> Path:
        path = folder / key
        if not path.exists():
            write_whole(path, store.get(key))
        path.touch()
        newest = sorted(folder.rglob("*.tar"), key=lambda copy: -copy.stat().st_mtime_ns)
        sizes = itertools.accumulate(copy.stat().st_size for copy in newest)
        for copy, size_bytes in zip(newest[1:], itertools.islice(sizes, 1, None), strict=True):
            if size_bytes > _MOST_COPIED_BYTES:
                copy.unlink(missing_ok=True)
        return path

    def _is_home(self, key: str, name: str) -> bool:
        return self.home_of(key) == name


def residences(store: SiteStore) -> list[SiteStore]:
    """The stores in which cities' clips, captions and vectors lie: one a site, or the only one."""
    return store.residences() if isinstance(store, FederatedStore) else [store]


def sites_of(store: SiteStore) -> dict[str, SiteStore]:
    """The same stores by their site's name; the only one has the empty name."""
    if not isinstance(store, FederatedStore):
        return {"": store}
    return {name: store.federation.store(name) for name in store.federation.members}


def site_of(store: SiteStore, key: str) -> str:
    """Name under which `sites_of` has the store of an object."""
    return store.home_of(key) if isinstance(store, FederatedStore) else ""


def homes(store: SiteStore, keys: Iterable[str], *, alone: str) -> list[str]:
    """The site of each key; `alone` is the name of a store's only site."""
    return [store.home_of(key) if isinstance(store, FederatedStore) else alone for key in keys]


@contextlib.contextmanager
def _named(site: str) -> Iterator[None]:
    """Say which site it is that does not answer."""
    try:
        yield
    except UnreachableError as error:
        raise UnreachableError(
            f"The site {site!r} cannot be reached: {error} Its cities' objects lie there alone; run "
            "the partition again when it is back."
        ) from error
