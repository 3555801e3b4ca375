"""What one site knows: its own logs, and the shared logs of the other sites that its store holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from resources.site_log import SiteLog
from resources.site_store import SiteStore
from worldloop.sites import Site


@dataclass(frozen=True)
class SiteView:
    """Everything that a projection of a site is made from; nothing in it belongs to another store.

    Attributes:
        site: Which site.
        store: Its store.
        log: Its own logs, private and shared.
        replicas: Shared logs of the other sites by name, as copied into this store.
        scratch: Local folder for what can be made again: mirrors of remote logs, a catalog's database.
    """

    site: Site
    store: SiteStore
    log: SiteLog
    replicas: Mapping[str, SiteLog]
    scratch: Path

    @property
    def logs(self) -> dict[str, SiteLog]:
        """Every log by the site that writes it, the own one first."""
        return {self.site.name: self.log, **self.replicas}
