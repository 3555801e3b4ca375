"""Upkeep of one Lance table: small files merged, indices current, versions and orphans removed.

Every step leaves a table that can be read, so a kill between two costs nothing but the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from resources.clip_index import ClipIndex
from resources.failpoints import reached
from resources.lance_store import lance_errors
from resources.lance_tables import NEVER
from resources.site_store import SiteStore
from resources.site_view import SiteView

TRIAL = "index-trial"  # branch on which the advisor tries an index
_KEPT_TAGS = 5  # each holds back the files of its version
_SWEPT = ("data", "_deletions", "_indices")


@dataclass(frozen=True)
class Tidied:
    """What was done to one table.

    Attributes:
        files_merged: Data files that became fewer.
        versions_removed: Versions that no reader may still use.
        orphans_removed: Files that no version names.
        tags_added: Releases whose version is kept from now on.
        tags_removed: Releases whose version is not kept any more.
    """

    files_merged: int = 0
    versions_removed: int = 0
    orphans_removed: int = 0
    tags_added: int = 0
    tags_removed: int = 0


def tidy(
    view: SiteView,
    index: ClipIndex,
    model_id: str,
    *,
    keep_s: float,
    orphan_s: float,
    erased_at: int = 0,
    now: datetime | None = None,
) -> Tidied:
    """Put a table in order.

    Args:
        view: Its site.
        index: Its tables.
        model_id: Which of them.
        keep_s: Younger versions stay.
        orphan_s: Younger files stay: a writer may be about to name them.
        erased_at: Version at which rows that were taken back left; no older one is kept for a
            release, and their bytes leave the data files.
        now: The moment; the clock's when not given.
    """
    _drop_trial(index, model_id)
    merged = _compact(index, model_id, drop_deleted=erased_at > 0)
    reached("lance.compacting")
    with lance_errors(index.uri):
        index.lance_table(model_id).optimize(cleanup_older_than=NEVER)
    added, removed = _tag_releases(view, index, model_id, erased_at)
    with lance_errors(index.uri):
        cleaned = index.dataset(model_id).cleanup_old_versions(
            older_than=timedelta(seconds=keep_s), error_if_tagged_old_versions=False
        )
    swept = _sweep(view.store, index, model_id, (now or datetime.now(UTC)), orphan_s)
    return Tidied(merged, int(cleaned.old_versions), swept, added, removed)


def ensure_word_index(index: ClipIndex, model_id: str) -> None:
    """Build the full-text index over captions, without which no words can be searched."""
    from lancedb.index import FTS

    with lance_errors(index.uri):
        table = index.lance_table(model_id)
        if not any(found.columns == ["caption"] for found in table.list_indices()):
            table.create_index("caption", config=FTS())


def missing_files(
    store: SiteStore, index: ClipIndex, model_id: str, *, dataset: Any = None
) -> list[str]:
    """Files that the newest version of a table names and the store has not.

    Args:
        store: Of the site.
        index: Its tables.
        model_id: Which of them.
        dataset: The table, if it is open already.

    Raises:
        DamagedTableError: If not even the version can be read.
    """
    folder = index.folder(model_id)
    there = {key.removeprefix(f"{folder}/") for key, _ in store.list(folder)}
    indices = {key.split("/")[1] for key in there if key.startswith("_indices/")}
    with lance_errors(index.uri):
        files, uuids = _named(index.dataset(model_id) if dataset is None else dataset)
    return sorted(files - there) + sorted(f"_indices/{uuid}" for uuid in uuids - indices)


def _compact(index: ClipIndex, model_id: str, *, drop_deleted: bool) -> int:
    """Merge small files; returns how many were replaced."""
    from lance.optimize import Compaction

    with lance_errors(index.uri):
        dataset = index.dataset(model_id)
        deletions: dict[str, Any] = {"materialize_deletions": True}
        if drop_deleted:
            deletions["materialize_deletions_threshold"] = 0.0
        plan = Compaction.plan(dataset, deletions)
        done = [task.execute(dataset) for task in plan.tasks]
        reached("lance.compacting")
        if not done:
            return 0
        return int(Compaction.commit(dataset, done).files_removed)


def _drop_trial(index: ClipIndex, model_id: str) -> None:
    """Remove what an advisor that was killed left."""
    with lance_errors(index.uri):
        branches = index.lance_table(model_id).branches
        if TRIAL in branches.list():
            branches.delete(TRIAL)


def _tag_releases(
    view: SiteView, index: ClipIndex, model_id: str, erased_at: int
) -> tuple[int, int]:
    """Keep a version for each of the newest releases; added and removed tags."""
    waves = {wave for log in view.logs.values() for wave in log.read("releases")["wave"]}
    newest = sorted(waves, key=lambda wave: (len(wave), wave))[-_KEPT_TAGS:]
    with lance_errors(index.uri):
        dataset = index.dataset(model_id)
        tags = dataset.tags.list()
        going = [t for t, at in tags.items() if t not in newest or at["version"] < erased_at]
        for tag in going:
            dataset.tags.delete(tag)
        coming = [wave for wave in newest if wave not in tags]
        for wave in coming:
            dataset.tags.create(wave, dataset.version)
    return len(coming), len(going)


def _sweep(
    store: SiteStore, index: ClipIndex, model_id: str, now: datetime, orphan_s: float
) -> int:
    """Remove old files that no version names: a killed writer left them."""
    folder = index.folder(model_id)
    listed = [found for part in _SWEPT for found in store.scan(f"{folder}/{part}")]
    old = [found for found in listed if now - found.modified_at > timedelta(seconds=orphan_s)]
    if not old:
        return 0
    files: set[str] = set()
    uuids: set[str] = set()
    for version in _versions(index, model_id):
        some_files, some_uuids = _named(version)
        files |= some_files
        uuids |= some_uuids
    swept = 0
    for found in old:
        name = found.key.removeprefix(f"{folder}/")
        if name not in files and name.split("/")[1] not in uuids:
            store.delete(found.key)
            swept += 1
    return swept


def _versions(index: ClipIndex, model_id: str) -> Iterator[Any]:
    with lance_errors(index.uri):
        dataset = index.dataset(model_id)
        for version in dataset.versions():
            yield dataset.checkout_version(version["version"])


def _named(dataset: Any) -> tuple[set[str], set[str]]:
    """Data and deletion files that a version names, and its indices."""
    files: set[str] = set()
    for fragment in dataset.get_fragments():
        files |= {f"data/{file.path}" for file in fragment.data_files()}
        deleted = fragment.deletion_file()
        if deleted is not None:
            files.add(deleted if deleted.startswith("_deletions/") else f"_deletions/{deleted}")
    segments = (s for found in dataset.describe_indices() for s in found.segments)
    return files, {str(segment.uuid) for segment in segments}
