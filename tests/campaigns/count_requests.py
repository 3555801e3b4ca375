"""Counts what keeping three sites alike asks of their stores: copies, comparisons, backups.

    python -m tests.campaigns.count_requests --clips 1000 --cities 20

Three buckets and a backup on the GCS emulator; one site appends a wave, then every step runs twice:
with something to do, and with nothing. The log has a local mirror, as in production.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from resources.backup import back_up
from resources.log_replicas import replicate
from resources.reconciler import reconcile
from resources.request_meter import metered
from resources.site_catalog import project_wave
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from tests import rows
from tests.emulators.clouds import Emulator, running
from tests.resources.federated_sites import footage
from worldloop.sites import Site


def main() -> None:
    """Print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--cities", type=int, default=20)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running("gcp", Path(folder)) as emulator,
    ):
        os.environ.update(emulator.environ)
        measure(emulator, Path(folder), asked.clips, asked.cities)


def measure(emulator: Emulator, folder: Path, num_clips: int, num_cities: int) -> None:
    """Append waves, copy, compare and save; count each."""
    home, east, west, backup = (_store(emulator) for _ in range(4))
    log = SiteLog(store=home, mirror=str(folder / "mirror"))
    view = SiteView(Site("home", (), home.url), home, log, {}, folder)
    others = {"east": east, "west": west}
    steps: dict[str, Callable[[], object]] = {
        "replicate to 2 targets": lambda: [replicate(home, o, "home") for o in others.values()],
        "back up": lambda: back_up(view, backup),
        "reconcile by listings": lambda: reconcile(view, others=others, backup=backup),
        "reconcile, all read": lambda: reconcile(view, others=others, backup=backup, deep=1.0),
    }
    for wave in ("w0001", "w0002"):
        _write(view, wave, num_clips, num_cities)
        for again in ("", ", nothing new"):
            for name, step in steps.items():
                _count(f"{wave}: {name}{again}", step)


def _count(name: str, step: Callable[[], object]) -> None:
    with metered() as meter:
        step()
    used = meter.total
    sys.stdout.write(
        f"{name:45} {used.requests:6} requests: {used.lists} lists, {used.reads} reads, "
        f"{used.writes} writes; {(used.bytes_in + used.bytes_out) / 1e6:.2f} MB\n"
    )


def _write(view: SiteView, wave: str, num_clips: int, num_cities: int) -> None:
    tables: dict[str, list[pl.DataFrame]] = {}
    for number in range(num_cities):
        city = f"city_{number:02d}"
        clips, pack = footage(wave, city, num_clips // num_cities)
        view.store.put(clips["pack_key"][0], pack)
        made = rows.wave_tables(range(num_clips // num_cities), wave=wave, city=city)
        for name, table in {**made, "clips": clips}.items():
            tables.setdefault(name, []).append(table)
    project_wave(site_log=view.log, **{name: pl.concat(parts) for name, parts in tables.items()})


def _store(emulator: Emulator) -> SiteStore:
    site = emulator.fresh_site()
    return SiteStore(url=site.url, options=site.options, secrets=site.secrets)


if __name__ == "__main__":
    main()
