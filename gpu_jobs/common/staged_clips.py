"""Finished clips in a staging folder: whole or not there, so that a killed job goes on without loss.

A finished clip stands in `<staging>/<clip id>/`, complete with the hashes of its files; one that is
being made stands in `<clip id>.partial/`, and only whole clips are renamed.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worldloop.errors import StoreError
from worldloop.packs import (
    PackMember,
    clip_files,
    content_sha256,
    hash_file,
    sync_folder,
)

SUMS_NAME = ".sums.json"

log = logging.getLogger(__name__)


@contextmanager
def new_clip(folder: Path) -> Iterator[Path]:
    """A folder to make a clip in; it takes its place, sealed, when the block ends well.

    Args:
        folder: Where the finished clip shall stand.

    Yields:
        `<folder>.partial`, empty. It is gone after an error.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _seal(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether a staged clip has all its files with the bytes that it was sealed with."""
    try:
        sums = json.loads((folder / SUMS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(sums) and sums == {f.name: hash_file(f) for f in clip_files(folder)}


def clip_rows(
    facts: Sequence[Mapping[str, Any]], members: Sequence[PackMember]
) -> list[dict[str, Any]]:
    """One row per clip in a pack: what is known of it, with its hash, size and members.

    Args:
        facts: At least `recipe_id` of each clip; clips that the pack lacks are left out.
        members: Of the pack.
    """
    by_clip: dict[str, list[PackMember]] = {}
    for member in members:
        by_clip.setdefault(member.clip_id, []).append(member)
    return [
        {
            **clip,
            "content_sha256": content_sha256({m.file_name: m.sha256 for m in files}),
            "size_bytes": sum(m.size_bytes for m in files),
            "members": [asdict(m) for m in files],
        }
        for clip in facts
        if (files := by_clip.get(clip["recipe_id"]))
    ]


@contextmanager
def only_job_in(staging: Path) -> Iterator[None]:
    """Hold the lock of a staging folder; a second job waits and then finds everything done."""
    staging.mkdir(parents=True, exist_ok=True)
    with (staging / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(json.dumps({"event": "waiting_for_lock", "staging_dir": str(staging)}))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def no_space_is_a_store_error(staging: Path, *, clip_mb: float = 4.0) -> Iterator[None]:
    """Turn a full disk into one clear error.

    Args:
        staging: Where the job writes.
        clip_mb: What a clip needs, for the message.

    Raises:
        StoreError: If a write in the block found no room.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        free_mb = shutil.disk_usage(staging).free // 1_000_000
        raise StoreError(
            f"No room left to write in {str(staging)!r}: {free_mb} MB free, a clip "
            f"needs about {clip_mb:g} MB. Free some space (`worldloop gc --dry-run` shows what would "
            "go) and run the job again: finished clips are kept."
        ) from error


def is_full_disk(error: Exception) -> bool:
    """Whether a write found no room; FFmpeg's errors carry the number without being OSErrors."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def _seal(folder: Path) -> None:
    """Note the hashes of all files and bring everything to disk."""
    files = clip_files(folder)
    sums = folder / SUMS_NAME
    sums.write_text(json.dumps({f.name: hash_file(f) for f in files}), encoding="utf-8")
    for file in (*files, sums):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(folder)
