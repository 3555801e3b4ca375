"""Where the marts' rows come from, dbt's variables that say so, and whether two builds are equal.

The marts read the logs of all sites: the stores of sites that are folders, and of the others what
lies on this machine: the mirror of the site's logs, else the copy of its shared log in the
coordinator's store. They can be made from exported Iceberg tables as well, which shows that a
projection holds what the logs hold.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import polars as pl

from resources.federation import Federation
from worldloop.errors import JobFailedError, StoreError
from worldloop.layout import LOGS, PLACES, replica_prefix
from worldloop.sites import Site, Sites

DBT_FOLDER = Path(__file__).resolve().parent.parent / "dbt"
DBT = Path(sys.executable).with_name("dbt")  # the one beside this Python, on PATH or not
# Kinds of log rows that the marts read, models/staging/sources.yml, and what takes them back.
KINDS = (
    "lineage",
    "scores",
    "duplicates",
    "superseded",
    "failures",
    "blocked",
    "generations",
    "receipts",
    "releases",
    "release_clips",
    "projections",
    "reconciliations",
    "queries",
    "audits",
    "rounds",
    "round_waves",
    "round_deltas",
)
_RETRACTIONS = ("private/retractions", "shared/retractions")
_TAIL_CHARS = 2000


def log_folders(sites: Sites, home: Path, *, coordinator: str = "local") -> list[dict[str, str]]:
    """Where the logs of each site lie on this machine, as dbt's variable `logs`.

    Args:
        sites: All sites.
        home: Folder of all local data; stores that are relative paths lie in it.
        coordinator: The site whose store has copies of the others' shared logs.

    Returns:
        `{"site": ..., "folder": ...}` a site, in the order of the sites.
    """
    return [
        {"site": site.name, "folder": str(_log_folder(site, sites, home, coordinator))}
        for site in sites.all
    ]


def fetch_remote_logs(federation: Federation) -> dict[str, str]:
    """Bring the mirrors of remote logs up to date, as far as the sites answer.

    Args:
        federation: All sites; of those whose store is a folder nothing needs to be fetched.

    Returns:
        What went wrong by site. The marts are made of what was fetched earlier then.
    """
    failed = {}
    for name in federation.names:
        try:
            federation.log(name).sync((*KINDS, *_RETRACTIONS))
        except StoreError as error:
            failed[name] = str(error)
    return failed


def places_file(sites: Sites, home: Path, *, coordinator: str = "local") -> Path | None:
    """Where `place_atlas` writes the places of the atlas; None if that is no file of this machine.

    The marts have no places then: those over the atlas are empty, all others as always.

    Args:
        sites: All sites.
        home: Folder of all local data.
        coordinator: The site whose store has the atlas.
    """
    store = _local_store(sites.site(coordinator), home)
    return None if store is None else store / PLACES


def variables(
    *, home: Path, logs: list[dict[str, str]], places: Path | None = None
) -> dict[str, Any]:
    """Variables of dbt for marts over logs.

    Args:
        home: Where `marts.duckdb` is written.
        logs: What `log_folders` gives.
        places: What `places_file` gives; None: that of the site `local` beneath `home`.
    """
    found = {"home": str(home), "logs": logs}
    return found if places is None else {**found, "places": str(places)}


def table_variables(*, home: Path, tables: Path) -> dict[str, Any]:
    """Variables of dbt for marts over exported Iceberg tables.

    Args:
        home: Where `marts.duckdb` is written.
        tables: The folder that `export_tables` filled.
    """
    return {"home": str(home), "source": "tables", "tables": str(tables)}


def export_tables(frames: Mapping[str, pl.DataFrame], folder: Path) -> None:
    """Write the rows of a site's Iceberg tables where the marts can read them.

    Args:
        frames: Name of the table to its rows, as `worldloop.catalog_tables` has them, in any order;
            a table that is missing has no rows.
        folder: Gets `<table>.parquet` each; what was there before is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.parquet"):
        stale.unlink()
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")


def run_dbt(command: str, dbt_variables: Mapping[str, Any], *, target: Path) -> None:
    """Run dbt over the project, in a process of its own.

    Args:
        command: `run`, `build` or `compile`.
        dbt_variables: What `variables` or `table_variables` gives.
        target: Folder for what dbt writes beside the marts.

    Raises:
        JobFailedError: If dbt fails; with the end of what it said.
    """
    arguments = ["--quiet", "--no-use-colors", "--vars", json.dumps(dbt_variables)]
    folders = ["--profiles-dir", ".", "--target-path", str(target), "--log-path", str(target)]
    done = subprocess.run(
        [DBT, command, *arguments, *folders],
        cwd=DBT_FOLDER,
        env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise JobFailedError(
            f"dbt {command} ended with {done.returncode}, expected 0: "
            f"{(done.stdout + done.stderr)[-_TAIL_CHARS:].strip()}"
        )


def mart_hashes(database: Path) -> dict[str, str]:
    """SHA-256 of each mart, over its sorted rows with column names and types.

    Equal hashes mean equal marts, byte for byte, in whatever order their rows lie.

    Args:
        database: A `marts.duckdb`.

    Raises:
        duckdb.Error: If it is not there, or a process is writing it.
    """
    import duckdb

    with duckdb.connect(str(database), read_only=True) as marts:
        marts.execute("set TimeZone = 'UTC'")
        names = marts.execute(
            "select table_name from duckdb_tables() where schema_name = 'main' order by 1"
        ).fetchall()
        return {name: _table_hash(marts, name) for (name,) in names}


def _table_hash(marts: Any, name: str) -> str:
    found = marts.execute(f'select * from "{name}" order by all')
    head = [(column[0], str(column[1])) for column in found.description]
    digest = hashlib.sha256(repr(head).encode())
    for row in _rows(found):
        digest.update(repr(row).encode())  # of floats repr keeps every bit
    return digest.hexdigest()


def _rows(found: Any) -> Iterable[tuple[Any, ...]]:
    while rows := found.fetchmany(10_000):
        yield from rows


def _log_folder(site: Site, sites: Sites, home: Path, coordinator: str) -> Path:
    store = _local_store(site, home)
    if store is not None:
        return store / LOGS
    mirror = home / "catalogs" / site.name / "mirror" / LOGS
    at_coordinator = _local_store(sites.site(coordinator), home)
    if mirror.exists() or at_coordinator is None:
        return mirror
    return at_coordinator / replica_prefix(site.name) / LOGS


def _local_store(site: Site, home: Path) -> Path | None:
    """The folder of a store, if it is one."""
    if site.cloud != "local":
        return None
    if site.store.startswith("file:"):
        return Path(unquote(urlparse(site.store).path))
    return home / site.store
