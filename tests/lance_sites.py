"""A site with a log and a Lance projection, on any store, for tests."""

from dataclasses import dataclass
from pathlib import Path

from resources.clip_index import ClipIndex
from resources.site_catalog import project_wave, wave_index_rows
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from tests import rows
from worldloop.sites import Site


@dataclass
class LanceSite:
    """What tests need of a site: its view, and short ways to write to its log and read its index."""

    view: SiteView

    @property
    def index(self) -> ClipIndex:
        return ClipIndex.of_store(self.view.store)

    def log_wave(self, wave="w0001", *, num=4, **changes) -> None:
        tables = rows.wave_tables(range(num), wave=wave, **changes)
        project_wave(site_log=self.view.log, **tables)

    def stored(self):
        """Key and status of each row of the index."""
        key = ["recipe_id", "status"]
        return sorted(self.index.rows("starter", columns=key).select(key).iter_rows())

    def expected(self):
        """The same, as the logs have it."""
        waves = set(self.view.log.read("clips")["wave"])
        found = wave_index_rows(self.view.log, waves, others=self.view.replicas.values())
        return sorted(found.select("recipe_id", "status").iter_rows())


def lance_site(store: SiteStore, scratch: Path, *, replicas=()) -> LanceSite:
    """A site on a store; `replicas` names sites whose shared logs it has."""
    site = Site("here", ("*",), store.url, options=store.options, secrets=store.secrets)
    mirror = str(scratch / "mirror") if "://" in store.url else ""
    others = {name: SiteLog(store=store.within(f"replicas/{name}")) for name in replicas}
    return LanceSite(SiteView(site, store, SiteLog(store=store, mirror=mirror), others, scratch))
