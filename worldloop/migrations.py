"""Brings the files of a site to today's formats, and says what stands there.

Readers take every released version anyway; migrating makes old files current, so that a later
release may forget how to read them. Log batches are never rewritten, as their names are their hashes.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from worldloop.errors import MalformedRecordError, WorldloopError
from worldloop.layout import COSMOS_CLIPS, LOGS, PROJECTIONS, RELEASES, ROUNDS
from worldloop.logs import KINDS, RETRACTIONS, Kind, read_batch
from worldloop.records import TABLES, read_table, table_bytes, table_label
from worldloop.releases import RELEASE_VERSION, read_release
from worldloop.waves import PLAN_VERSION, WavePlan

_PLANS = "plans"

Action = Literal["current", "upgraded", "to upgrade", "kept", "damaged"]


class Files(Protocol):
    """What migrating needs of a store."""

    def list(self, prefix: str = "") -> Any:
        """Key and size of every object in a folder."""

    def get(self, key: str) -> bytes:
        """The bytes of an object."""

    def put(self, key: str, content: bytes) -> None:
        """Replace an object atomically."""


@dataclass(frozen=True)
class FileReport:
    """What was found under a key.

    Attributes:
        key: The file.
        name: Its table or record; empty if the file could not be read.
        version: The version that it was written in; 0 if unknown.
        action: `current`, `upgraded` (or `to upgrade` in a dry run), `kept` (an older log batch or
            plan, which readers lift as they read it) or `damaged`.
        detail: What is wrong with a damaged file.
    """

    key: str
    name: str
    version: int
    action: Action
    detail: str = ""


def migrate(store: Files, *, dry_run: bool = False) -> list[FileReport]:
    """Check every table, record and log batch of a site, and lift older tables to today's version.

    Each file is replaced atomically, and reading it twice is harmless: a killed migration goes on.

    Args:
        store: The site's store.
        dry_run: Only say what would be done.
    """
    keys = [key for key, _ in store.list()]
    return [
        _report(store, key, dry_run=dry_run)
        for key in keys
        if key.endswith((".parquet", ".json")) and _is_ours(key)
    ]


def _is_ours(key: str) -> bool:
    """Whether a file is a table, a batch, a plan or a release; folders may share a name with a kind of rows."""
    folder, name = key.split("/", 1)[0], key.rsplit("/", 1)[-1]
    if key.endswith(".json"):
        return folder == _PLANS or (folder == RELEASES and name == "release.json")
    return folder in {LOGS, RELEASES, COSMOS_CLIPS, *TABLES} - {PROJECTIONS, ROUNDS}


def _report(store: Files, key: str, *, dry_run: bool) -> FileReport:
    try:
        content = store.get(key)
        if key.endswith(".json"):
            return _record(key, content)
        if key.startswith(f"{LOGS}/"):
            return _batch(key, content)
        return _table(store, key, content, dry_run=dry_run)
    except WorldloopError as error:
        return FileReport(key, "", 0, "damaged", str(error))


def _table(store: Files, key: str, content: bytes, *, dry_run: bool) -> FileReport:
    name, version = table_label(content)
    if name not in TABLES:
        raise MalformedRecordError(key, name, f"one of {', '.join(TABLES)}", "Delete it.")
    table = TABLES[name]
    rows = read_table(table, content)
    if version == table.version:
        return FileReport(key, name, version, "current")
    if not dry_run:
        store.put(key, table_bytes(table, rows))
    return FileReport(key, name, version, "to upgrade" if dry_run else "upgraded")


def _batch(key: str, content: bytes) -> FileReport:
    kind = _kind_of(key)
    _, version = table_label(content)
    read_batch(kind, content)
    named = key.rsplit("-", 1)[-1].removesuffix(".parquet")
    found = hashlib.sha256(content).hexdigest()
    if "/checkpoints/" not in key and named != found:
        raise MalformedRecordError(
            key,
            f"content with SHA-256 {found}",
            "the hash in its name",
            "Restore it from a backup.",
        )
    return FileReport(
        key, kind.name, version, "current" if version == kind.table.version else "kept"
    )


def _kind_of(key: str) -> Kind:
    _, log, name, *_ = key.split("/")
    kinds = {(kind.log, kind.name): kind for kind in (*KINDS.values(), *RETRACTIONS.values())}
    for (of_log, of_name), kind in kinds.items():
        if (of_log, of_name) == (log, name):
            return kind
    raise MalformedRecordError(key, name, f"one of {', '.join(KINDS)}", "Delete it.")


def _record(key: str, content: bytes) -> FileReport:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise MalformedRecordError(key, str(error), "a JSON record", "Restore it.") from error
    if key.startswith(f"{_PLANS}/"):
        WavePlan.from_record(record)
        version = int(record["plan_version"])
        return FileReport(key, "plan", version, "current" if version == PLAN_VERSION else "kept")
    read_release(record)
    return FileReport(key, "release", RELEASE_VERSION, "current")
