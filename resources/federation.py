"""All sites of the federation with their stores and logs; the same code for folders and buckets."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import Field

from resources.guarded_store import GuardedStore
from resources.read_only_store import ReadOnlyStore
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from worldloop.layout import replica_prefix
from worldloop.sites import Site, Sites, load_sites

_MIRROR = "mirror"


class Federation(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Every site by its name.

    Attributes:
        sites_path: The sites file.
        home: Folder of all local data; stores that are relative paths lie in it.
        coordinator: The site that keeps what belongs to no city: plans, releases, the gallery.
        read_only: Whether every store refuses to be written to.
        only: The sites that count as members, beside the coordinator; all when empty.
    """

    sites_path: str = Field(min_length=1)
    home: str = Field(min_length=1)
    coordinator: str = "local"
    read_only: bool = False
    only: list[str] = Field(default_factory=list)

    @property
    def sites(self) -> Sites:
        """The sites file as it stands now."""
        path = Path(self.sites_path)
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            return load_sites(path)  # which says what is wrong
        return _read_once(path, stamp)

    @property
    def names(self) -> list[str]:
        """Names of all sites, in the order of the file."""
        return [site.name for site in self.sites.all]

    @property
    def members(self) -> list[str]:
        """The coordinator, then by name every other site that a city is at home at."""
        others = sorted(site.name for site in self.sites.all if site.cities)
        return [self.coordinator, *(name for name in others if self._counts(name))]

    def among(self, names: Iterable[str]) -> Self:
        """The same federation, where only these sites and the coordinator are members.

        What is asked of all members at once does not wait for the others then.
        """
        return self.model_copy(update={"only": sorted({self.coordinator, *names})})

    def homes_of(self, cities: Iterable[str]) -> list[str]:
        """The sites that cities are at home at, each once.

        Raises:
            UnknownKeyError: If a city is at home nowhere.
        """
        return sorted({self.sites.site_of(city).name for city in cities})

    def site(self, name: str) -> Site:
        """A site.

        Raises:
            UnknownKeyError: If there is none of this name.
        """
        return self.sites.site(name)

    def store(self, name: str) -> SiteStore:
        """The store of a site."""
        return self._store(self.site(name), self.site(name).store)

    def backup(self, name: str) -> SiteStore | None:
        """The store of a site's backup, if it has one."""
        site = self.site(name)
        return self._store(site, site.backup) if site.backup else None

    def log(self, name: str) -> SiteLog:
        """The logs of a site."""
        return _log(self.store(name), self._mirror(name))

    def view(self, name: str) -> SiteView:
        """What a site knows. Logs of remote stores are mirrored in its scratch folder."""
        store, scratch = self.store(name), self._scratch(name)
        others = [other for other in self.names if other != name]
        return SiteView(
            site=self.site(name),
            store=store,
            log=self.log(name),
            replicas={
                other: _log(store.within(prefix), self._mirror(name) / prefix)
                for other in others
                for prefix in [replica_prefix(other)]
            },
            scratch=scratch,
        )

    def federated_store(self) -> SiteStore:
        """One store over all sites: cities' objects at home, the rest at the coordinator."""
        from resources.federated_store import FederatedStore  # it knows this class

        own = self.store(self.coordinator)
        if self.members == [self.coordinator]:
            return own
        fields = {name: getattr(own, name) for name in SiteStore.model_fields}
        return FederatedStore(**fields, federation=self)

    def federated_log(self) -> SiteLog:
        """One log over all sites: cities' rows at home, the rest at the coordinator."""
        from resources.federated_log import FederatedLog  # it knows this class

        own = self.log(self.coordinator)
        if self.members == [self.coordinator]:
            return own
        return FederatedLog(store=own.store, mirror=own.mirror, federation=self)

    @property
    def queries_folder(self) -> str:
        """Where this machine's searches wait before they go into the sites' logs."""
        return str(Path(self.home) / "queries")

    def media_copies(self, name: str) -> Path:
        """Folder for copies of a remote site's packs, while jobs on this machine read them."""
        return self._scratch(name) / "media"

    def _counts(self, name: str) -> bool:
        return name != self.coordinator and (not self.only or name in self.only)

    def _scratch(self, name: str) -> Path:
        return Path(self.home) / "catalogs" / name

    def _mirror(self, name: str) -> Path:
        return self._scratch(name) / _MIRROR

    def _store(self, site: Site, url: str) -> SiteStore:
        is_remote = "://" in url
        address = url if is_remote else str(Path(self.home) / url)
        client = (tuple(site.options.items()), tuple(site.secrets.items()))
        if self.read_only:
            return _made_once(ReadOnlyStore, address, *client)
        if is_remote:
            return _made_once(GuardedStore, address, *client, site=site.name, root=address)
        return _made_once(SiteStore, address, *client)


def _log(store: SiteStore, mirror: Path) -> SiteLog:
    return SiteLog(store=store, mirror=str(mirror) if "://" in store.url else "")


@functools.lru_cache(maxsize=64)
def _made_once(
    kind: type[SiteStore],
    url: str,
    options: tuple[tuple[str, str], ...],
    secrets: tuple[tuple[str, str], ...],
    **more: str,
) -> SiteStore:
    """A store, made once: it takes a millisecond, and a federation asks for one with every verb."""
    return kind(url=url, options=dict(options), secrets=dict(secrets), **more)


@functools.lru_cache(maxsize=16)
def _read_once(path: Path, stamp: int) -> Sites:
    """The sites file, parsed once for each time that it was written."""
    return load_sites(path)
