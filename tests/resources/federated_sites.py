"""A small federation in folders or buckets: logs, packs, replicas and backups, made up from rows."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from resources.backup import back_up
from resources.log_replicas import replicate
from resources.reconciler import Projected, Reconciliation, reconcile
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from tests import rows
from worldloop.errors import StoreError
from worldloop.layout import pack_key
from worldloop.sites import Site

_BLOCK = 512


@dataclass
class Member:
    """One site with everything that it touches."""

    name: str
    store: SiteStore
    backup: SiteStore
    scratch: Path
    checkpoint_every: int = 3

    @property
    def log(self) -> SiteLog:
        return SiteLog(store=self.store, checkpoint_every=self.checkpoint_every)

    @property
    def view(self) -> SiteView:
        site = Site(self.name, (), self.store.url)
        return SiteView(site, self.store, self.log, {}, self.scratch)

    def film(self, wave: str, city: str, num_clips: int = 2) -> pl.DataFrame:
        """A wave's clips with a pack of their own, in the store and in both logs."""
        clips, content = footage(wave, city, num_clips)
        self.store.put(clips["pack_key"][0], content)
        which = {"wave": wave, "city": city}
        self.log.append("clips", clips)
        self.log.append("vectors", rows.vectors(range(num_clips), **which))
        lineage = rows.lineage(range(num_clips), **which)
        self.log.append("lineage", lineage.with_columns(pack_key=pl.lit(clips["pack_key"][0])))
        self.log.append("duplicates", rows.dedup(range(num_clips), **which))
        return clips


def member(name: str, root: Path, store: SiteStore | None = None) -> Member:
    """A site in a folder, or in the store that is given; its backup is a folder."""
    at_home = store or SiteStore(url=str(root / name))
    return Member(name, at_home, SiteStore(url=str(root / f"{name}-backup")), root / "scratch")


def footage(wave: str, city: str, num_clips: int) -> tuple[pl.DataFrame, bytes]:
    """Rows of clips and the pack that they name: as long as a tar file of their members is."""
    clips = rows.clips(range(num_clips), wave=wave, city=city)
    end = max(m["offset"] + m["size_bytes"] for row in clips["members"] for m in row)
    size = -(-end // _BLOCK) * _BLOCK + 2 * _BLOCK
    content = (f"{wave} {city} ".encode() * size)[:size]
    key = pack_key(wave, city, hashlib.sha256(content).hexdigest())
    return clips.with_columns(pack_key=pl.lit(key)), content


def share(source: Member, *others: Member) -> None:
    """Replicate a site's shared log, and bring its backup up to date."""
    for other in others:
        replicate(source.store, other.store, source.name)
    assert back_up(source.view, source.backup).problems == ()


def look_over(source: Member, *others: Member, deep: float = 1.0, **how) -> Reconciliation:
    """Reconcile a site with its replicas and its backup."""
    stores = {other.name: other.store for other in others}
    return reconcile(source.view, others=stores, backup=source.backup, deep=deep, **how)


def files(store: SiteStore, *folders: str) -> dict[str, bytes]:
    """Every object of some folders."""
    return {key: store.get(key) for folder in folders or ("",) for key, _ in store.list(folder)}


@dataclass
class TableFiles:
    """A projection that is one parquet file a kind in a folder of the store: rows in, ids out."""

    member: Member
    name: str = "lance"
    kinds: tuple[str, ...] = ("clips", "vectors")

    def project(self, waves: Collection[str] | None = None) -> None:
        for kind in self.kinds:
            path = self.member.store.local_path(self._key(kind))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.member.log.read(kind).write_parquet(path)

    @property
    def shown(self) -> Projected:
        files = dict.fromkeys(map(self._key, self.kinds), True)
        return Projected(self.name, self.kinds, self._ids, self.project, files=lambda: files)

    def _key(self, kind: str) -> str:
        return (
            f"{self.name}/{kind}.lance" if self.name == "lance" else f"{self.name}/{kind}.parquet"
        )

    def _ids(self, kind: str) -> list[str]:
        try:
            return pl.read_parquet(self.member.store.get(self._key(kind)))["id"].to_list()
        except pl.exceptions.PolarsError as error:
            raise StoreError(f"{kind} cannot be read: {error}") from error
