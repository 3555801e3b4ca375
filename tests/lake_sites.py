"""Sites with Iceberg tables, for tests: logs filled with made-up rows, and the tables read by others."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlparse

import polars as pl

from resources.iceberg_catalog import connected
from resources.iceberg_projection import IcebergProjection
from resources.iceberg_tables import Lake
from resources.log_replicas import replicate
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from tests import rows
from worldloop.catalog_tables import TABLES
from worldloop.layout import replica_prefix
from worldloop.records import RELEASE_CLIPS, RELEASES, SCORES
from worldloop.sites import Iceberg, Site

ICEBERG = IcebergProjection()


@dataclass
class LakeSite:
    """One site; `others` are the sites whose shared logs it gets."""

    name: str
    store: SiteStore
    scratch: Path
    others: tuple[str, ...] = ()
    iceberg: Iceberg = field(default_factory=Iceberg)

    @property
    def log(self) -> SiteLog:
        return self._log(self.store, "mirror")

    @property
    def view(self) -> SiteView:
        site = Site(
            self.name,
            ("*",),
            self.store.url,
            options=self.store.options,
            secrets=self.store.secrets,
            iceberg=self.iceberg,
        )
        replicas = {
            name: self._log(self.store.within(replica_prefix(name)), f"mirror/{name}")
            for name in self.others
        }
        return SiteView(site, self.store, self.log, replicas, self.scratch)

    def film(self, wave: str = "w0001", num: int = 4, **judged) -> list[str]:
        """Log a wave of clips of this site; some may be `rejected` or `duplicates`."""
        where = {"wave": wave, "city": self.name}
        made = rows.wave_tables(range(num), **judged, **where)
        self.log.append("clips", made["clips"])
        self.log.append("receipts", made["receipts"])
        self.log.append("lineage", rows.lineage(range(num), **where))
        self.log.append("scores", made["signals"].select(list(SCORES.columns)))
        self.log.append("duplicates", made["dedup"])
        return made["clips"]["recipe_id"].to_list()

    def release(self, wave: str = "w0001", num: int = 2) -> None:
        """Log a release of the first clips of a wave."""
        clips = rows.lineage(range(num), wave=wave, city=self.name).with_columns(
            release=pl.lit(wave)
        )
        facts = {"wave": wave, "site": self.name, "root_hash": "ab", "num_clips": num}
        more = {"num_rejected": 0, "duration_s": 2.0, "atlas_hash": "cd", "log_position": ""}
        self.log.append("release_clips", clips.select(list(RELEASE_CLIPS.columns)))
        self.log.append(
            "releases", pl.DataFrame([{**facts, **more}], schema=dict(RELEASES.columns))
        )

    def scanned(self, table: str = "clips") -> pl.DataFrame:
        """The rows of a table as polars' own reader of Iceberg finds them."""
        order = TABLES[table].order
        os.environ["POLARS_ICEBERG_PLANNER"] = "pyiceberg"  # a plugin that it would rather have
        with connected(self.view) as catalog:
            found = pl.scan_iceberg(catalog.load_table(("worldloop", table))).collect()
        return found.sort(order, nulls_last=True)

    def opened(self, table: str = "clips"):
        """A table, as it stands now."""
        with connected(self.view) as catalog:
            return Lake(self.view, catalog).open(TABLES[table])

    def local_files(self, table: str, pattern: str) -> list[Path]:
        """Files of a table in a store that is a folder, the newest last."""
        found = self.store.local_path(f"iceberg/worldloop/{table}").glob(pattern)
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _log(self, store: SiteStore, mirror: str) -> SiteLog:
        is_remote = bool(urlparse(store.url).scheme)
        return SiteLog(store=store, mirror=str(self.scratch / mirror) if is_remote else "")


def lake_site(root: Path, name: str = "local", others: tuple[str, ...] = ()) -> LakeSite:
    """A site in a folder."""
    return LakeSite(name, SiteStore(url=str(root / name)), root / "scratch" / name, others)


def share_all(sites: list[LakeSite]) -> None:
    """Copy the shared log of every site to every other."""
    for source in sites:
        for target in sites:
            if source is not target:
                replicate(source.store, target.store, source.name)


def thrifty(**changes) -> IcebergProjection:
    """The projection with other settings."""
    return replace(ICEBERG, **changes)
