"""All sites of the federation with their stores and logs; the same code for folders and buckets."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from worldloop.layout import replica_prefix
from worldloop.sites import Site, Sites, load_sites


class Federation(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Every site by its name.

    Attributes:
        sites_path: The sites file.
        home: Folder of all local data; stores that are relative paths lie in it.
        coordinator: The site that keeps what belongs to no city: plans, releases, the gallery.
    """

    sites_path: str = Field(min_length=1)
    home: str = Field(min_length=1)
    coordinator: str = "local"

    @property
    def sites(self) -> Sites:
        """The sites file, read now."""
        return load_sites(Path(self.sites_path))

    @property
    def names(self) -> list[str]:
        """Names of all sites, in the order of the file."""
        return [site.name for site in self.sites.all]

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
        return SiteLog(store=self.store(name))

    def view(self, name: str) -> SiteView:
        """What a site knows."""
        store = self.store(name)
        others = [other for other in self.names if other != name]
        return SiteView(
            site=self.site(name),
            store=store,
            log=SiteLog(store=store),
            replicas={o: SiteLog(store=store.within(replica_prefix(o))) for o in others},
            scratch=Path(self.home) / "catalogs" / name,
        )

    def _store(self, site: Site, url: str) -> SiteStore:
        address = url if "://" in url else str(Path(self.home) / url)
        return SiteStore(url=address, options=dict(site.options), secrets=dict(site.secrets))
