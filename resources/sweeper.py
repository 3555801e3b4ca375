"""Sweeps a site: finds what may go, and removes it if asked to."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from resources.clip_tables import generated_packs, read_every_clip
from resources.federated_store import site_of, sites_of
from resources.round_leftovers import (
    RoundsNow,
    is_held,
    is_of_a_round,
    local_leftovers,
    scratch_leftovers,
    size_of,
    stored_leftovers,
)
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import StoreError
from worldloop.retention import Removal, orphans, retired_packs

_HALF_WRITTEN = "*#[0-9]*"  # what a killed writer leaves in a folder; listings do not show it


def sweep(
    store: SiteStore,
    *,
    scratch: Path | None = None,
    home: Path | None = None,
    max_disk_gb: float | None = None,
    keep_waves: int = 3,
    keep_hours: float = 24.0,
    apply: bool = False,
    now: datetime | None = None,
) -> list[Removal]:
    """What may go, and with `apply` goes; of a federated store, at every site that cities are at home at.

    A claim that was lost makes its batch look like a leftover, so reconcile before (`heal`).

    Always: packs that no table names, log batches that no claim names, files that a killed writer
    left half-written, scratch of shards that no job holds; all only if older than `keep_hours`. Of rounds
    that are over for so long also what `round_leftovers` finds.

    Args:
        store: The site, or the store of all.
        scratch: Root of the jobs' scratch (`Staging.root`).
        home: Folder of all local data, with the footage and the trainers of rounds.
        max_disk_gb: If given and exceeded, procedural packs of the oldest released waves go too. Their
            rows stay, and they can be rendered again, bit for bit, on the kind of device that drew them;
            packs of world models cannot, and stay.
        keep_waves: The newest released waves keep their packs in any case; so many of the newest rounds
            keep their samples, residuals and optimizers' states.
        keep_hours: Younger things stay: what refers to them may still be on its way.
        apply: Remove what was found; otherwise only say it.
        now: The moment; the clock's when not given.
    """
    moment, keep = now or datetime.now(UTC), timedelta(hours=keep_hours)
    rounds = RoundsNow.of(store, keep_rounds=keep_waves)
    removals = _orphans(store, moment, keep)
    removals += stored_leftovers(store, rounds, now=moment, keep=keep, keep_rounds=keep_waves)
    retired = []
    if max_disk_gb is not None:
        retired = _retired(store, removals, max_disk_gb, keep_waves)
        removals += retired
    files = [*_half_written(store, moment, keep), *_scratch(scratch, rounds, moment, keep)]
    if home is not None:
        files += local_leftovers(home, rounds, now=moment, keep=keep)
    if apply:
        _mark_retired(store, retired)  # before: a missing pack is no loss then
        at_sites = sites_of(store)
        for removal in removals:
            at_sites.get(removal.site, store).delete(removal.key)
        for removal in files:
            _remove(Path(removal.key))
    return removals + files


def disk_usage(store: SiteStore) -> dict[str, int]:
    """Bytes by top folder of the store, the largest first."""
    usage: dict[str, int] = {}
    for key, size_bytes in store.list():
        folder = key.split("/", 1)[0]
        usage[folder] = usage.get(folder, 0) + size_bytes
    return dict(sorted(usage.items(), key=lambda item: -item[1]))


def released_waves(store: SiteStore) -> list[str]:
    """Waves that have a release, oldest first."""
    keys = [key for key, _ in store.list(layout.RELEASES) if key.endswith("/release.json")]
    return sorted(key.split("/")[1] for key in keys)


def _mark_retired(store: SiteStore, retired: list[Removal]) -> None:
    """Write down where the packs lie that their waves are retired: the reconciliation looks there."""
    at_sites = sites_of(store)
    gone = {(site_of(store, removal.key), removal.key.split("/")[1]) for removal in retired}
    for site, wave in sorted(gone):
        at_sites.get(site, store).create(layout.retired_key(wave), b"{}")


def _orphans(store: SiteStore, now: datetime, keep: timedelta) -> list[Removal]:
    packs = store.scan(layout.PACKS)  # before the tables: a pack stands before its table
    named = set(read_every_clip(store)["pack_key"])
    going = []
    for name, home in sites_of(store).items():
        log = SiteLog(store=home)
        named |= set(log.read("lineage")["pack_key"])  # a released clip keeps its pack
        unclaimed = set(log.unclaimed())
        batches = [found for found in home.scan(layout.LOGS) if found.key in unclaimed]
        why = "no claim names this batch"
        found = orphans(batches, referenced=(), now=now, keep=keep, reason=why)
        going += [replace(removal, site=name) for removal in found]
    why = "no clip is in this pack"
    return [*orphans(packs, referenced=named, now=now, keep=keep, reason=why), *going]


def _retired(
    store: SiteStore, going: list[Removal], max_disk_gb: float, keep_waves: int
) -> list[Removal]:
    kept = {removal.key for removal in going} | generated_packs(store)
    return retired_packs(
        [found for found in store.scan(layout.PACKS) if found.key not in kept],
        released=released_waves(store),
        used_bytes=store.used_bytes() - sum(removal.size_bytes for removal in going),
        max_bytes=max_disk_gb * 1e9,
        keep_waves=keep_waves,
    )


def _half_written(store: SiteStore, now: datetime, keep: timedelta) -> Iterator[Removal]:
    try:
        root = store.local_path()
    except StoreError:  # a bucket drops unfinished uploads by its own rules
        return
    for path in sorted(root.rglob(_HALF_WRITTEN)):
        if path.is_file() and now - _modified_at(path) > keep:
            yield Removal(str(path), path.stat().st_size, "a killed writer left it half-written")


def _scratch(
    root: Path | None, rounds: RoundsNow, now: datetime, keep: timedelta
) -> Iterator[Removal]:
    """Scratch of shards whose newest file is old and whose locks nobody holds, and of rounds that are over."""
    if root is None:
        return
    locks = root / "locks"
    of_rounds = []
    for folder in sorted((root / layout.STAGING).glob("*/*")):
        if is_of_a_round(folder):
            of_rounds.append(folder)
            continue
        newest = max(_modified_at(path) for path in (folder, *folder.rglob("*")) if path.exists())
        held = is_held(locks.glob(f"{folder.parent.name}.{folder.name}.*"))
        if now - newest > keep and not held:
            yield Removal(str(folder), size_of(folder), "no job has worked here lately")
    yield from scratch_leftovers(of_rounds, locks, rounds, now=now, keep=keep)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _modified_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
