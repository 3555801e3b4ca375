"""A site's own backup: logs, packs and tables copied into a second store, and a site made of it again.

Every run copies what is new and writes a manifest, `backups/<number>.json`: what was added, and a
root hash over all that the backup holds since the first run. Batches, claims, packs, plans and
releases keep their keys; an object may be replaced at the site (a table that was made again), and
then each of its contents is kept, under `kept/<sha256>/`. Nothing is deleted and nothing is
overwritten but what was taken back (`resources.retractions`), which marks say; other bytes that do not have the hash that their key names are left out and reported, so that
a damaged site cannot spoil a good backup.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from resources.failpoints import reached
from resources.log_replicas import copy_log, list_log, read_if_there
from resources.site_store import SiteStore, StoredObject
from resources.site_view import SiteView
from worldloop import layout
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError
from worldloop.reconciliation import read_listing
from worldloop.releases import merkle_root
from worldloop.seeds import canonical_json

BACKUPS = "backups"
FORMAT, VERSION = "worldloop-backup", 1
_FOLDERS = (
    "plans",
    "atlas",
    "prompts",
    "clips",
    layout.COSMOS_CLIPS,
    "generations",
    "blocked",
    "failures",
    "receipts",
    "signals",
    "vectors",
    "dedup",
    "superseded",
    layout.ERASED,
    layout.PACKS,
    layout.RELEASES,
    layout.ROUNDS,
    layout.REGISTRY,
    layout.FEDERATION,
)  # a shard's tables too: de-duplication of later waves reads them
_KEPT = "kept"
_PURGED = re.compile(r"logs/(private|shared)/([^/]+)/claims/purged-")
_NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{64}(?=\.tar$)")
_AT_ONCE = 4  # objects that are copied, and in memory, together


class Saved(NamedTuple):
    """One object of a backup.

    Attributes:
        key: Its key at the site.
        size_bytes: Its size.
        sha256: Of its bytes.
        modified_at: When it was written at the site, ISO 8601, UTC; to see that it has not changed.
    """

    key: str
    size_bytes: int
    sha256: str
    modified_at: str

    @property
    def kept_key(self) -> str:
        """Where it lies in the backup."""
        return kept_key(self.key, self.sha256)


@dataclass(frozen=True)
class Backup:
    """What a backup holds after a run.

    Attributes:
        number: Of the run, counting up from 1.
        site: Whose backup it is.
        made_at: When.
        root_hash: SHA-256 Merkle root over key and hash of every object, in key order.
        num_objects: Objects that a restore writes.
        size_bytes: Their bytes.
        num_added: Objects that this run added or found changed.
        problems: What was left out, each with why; empty if all is well.
    """

    number: int
    site: str
    made_at: datetime
    root_hash: str
    num_objects: int
    size_bytes: int
    num_added: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        backup: Which state was restored.
        num_written: Objects that were written; the others stood already.
        size_bytes: Their bytes.
        num_gone: Objects of that state which were taken back since, and are left out or came
            without what was in them.
    """

    backup: Backup
    num_written: int
    size_bytes: int
    num_gone: int = 0


def kept_key(key: str, sha256: str) -> str:
    """Where a backup keeps an object with a certain content.

    Example:
        >>> kept_key("plans/w0001.json", "ab12")
        'kept/ab12/plans/w0001.json'
    """
    if key.startswith(f"{layout.LOGS}/") or sha256 in key:
        return key
    return f"{_KEPT}/{sha256}/{key}"


def back_up(view: SiteView, backup: SiteStore, *, now: datetime | None = None) -> Backup:
    """Copy what is new of a site into its backup.

    Packs and log batches are verified by their hashes on the way. A run that was killed leaves
    objects that no manifest names; the next run finds them and goes on.

    Args:
        view: The site.
        backup: Its backup's store; it belongs to this site alone.
        now: The moment; the clock's when not given.

    Raises:
        UnreachableError: If a store does not answer; what was copied stands.
        StoreError: If the backup is another site's, or two runs work at once.
    """
    name, history = view.site.name, _manifests(backup)
    if history and history[-1].state.site != name:
        raise StoreError(
            f"{backup.url!r} is the backup of {history[-1].state.site!r}; expected one of {name!r}. "
            "Give every site a backup of its own in sites.toml."
        )
    known = _union(history)
    logs, problems = _save_logs(view.store, backup)
    files, refused = _save_files(view.store, backup, known)
    added = {saved.key: saved for saved in (*logs, *files) if known.get(saved.key) != saved}
    gone = _gone(backup)
    backup.delete_many(  # contents that came again by right, e.g. a table without the clip
        layout.gone_key(saved.kept_key) for saved in added.values() if saved.kept_key in gone
    )
    erased = {key for key, saved in known.items() if key not in added and saved.kept_key in gone}
    removed = _purged(known, added) | erased
    held = {key: saved for key, saved in {**known, **added}.items() if key not in removed}
    state = Backup(
        number=history[-1].state.number + 1 if history else 1,
        site=name,
        made_at=now or datetime.now(UTC),
        root_hash=_root(held.values()),
        num_objects=len(held),
        size_bytes=sum(saved.size_bytes for saved in held.values()),
        num_added=len(added),
        problems=(*problems, *refused),
    )
    _publish(backup, _Manifest(state, added, removed))
    return state


def backups(backup: SiteStore) -> list[Backup]:
    """Every run's state, oldest first.

    Raises:
        MalformedRecordError: If a manifest is damaged.
    """
    return [manifest.state for manifest in _manifests(backup)]


def restore(backup: SiteStore, target: SiteStore, *, number: int | None = None) -> Restored:
    """Make a site's store from its backup; what is rebuilt from the logs is not in it.

    What was taken back since that run does not come again: such an object comes as it is now, or
    is left out if nothing else of it was saved. A restore that was killed goes on when it is called again.

    Args:
        backup: The backup's store.
        target: An empty store, or one that an earlier call began to fill.
        number: The state after this run; the newest when not given.

    Raises:
        StoreError: If there is no such backup, the target holds something else, an object of the
            backup is gone or damaged, or what was written reads otherwise afterwards.
    """
    every = _manifests(backup)
    history = [m for m in every if number is None or m.state.number <= number]
    if not history or (number is not None and history[-1].state.number != number):
        wanted = "any backup" if number is None else f"backup {number}"
        raise StoreError(
            f"{backup.url!r} does not hold {wanted}; expected `{BACKUPS}/<number>.json`. Check the "
            "site's `backup` in sites.toml, or choose one that `backups` lists."
        )
    state, held = history[-1].state, _union(history)
    _check_root(backup, state, held.values(), what="the manifests", root_hash=state.root_hash)
    due = _without_gone(backup, held, newest=_union(every))
    _check_empty(target, due)
    claims = {key: saved for key, saved in due.items() if _is_claim(key)}
    others = [saved for key, saved in due.items() if key not in claims]
    put_back = partial(_put_back, backup, target)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sizes = [*pool.map(put_back, others)]
        sizes += [put_back(claims[key]) for key in sorted(claims)]  # after every batch, in order
        found = [*pool.map(partial(_read_back, target), due.values())]
    _check_root(target, state, found, what="what was restored", root_hash=_root(due.values()))
    num_gone = sum(due.get(key) != saved for key, saved in held.items())
    num_written = sum(size >= 0 for size in sizes)
    return Restored(state, num_written, sum(max(size, 0) for size in sizes), num_gone)


@dataclass(frozen=True)
class _Manifest:
    """One run: the state after it, what it added, and keys whose contents were taken back."""

    state: Backup
    added: Mapping[str, Saved]
    removed: frozenset[str]


def _save_logs(source: SiteStore, backup: SiteStore) -> tuple[list[Saved], list[str]]:
    """Copy what is new of both logs; everything of them that the backup holds whole, and problems."""
    problems = []
    try:
        copy_log(source, backup, logs=("private", "shared"))
    except (UnreachableError, AccessError):
        raise
    except StoreError as error:
        problems.append(str(error))
    listing = list_log(backup, ("private", "shared"))
    saved = []
    for number in (number for number in listing.claims if listing.is_whole(number)):
        named = listing.batches[number]
        claimed = {_text(backup, number.claim_key)} if len(named) > 1 else set(named)
        for sha256 in claimed & named.keys():
            size_bytes, claim = listing.batches[number][sha256], sha256.encode()
            saved.append(Saved(number.batch_key(sha256), size_bytes, sha256, ""))
            saved.append(Saved(number.claim_key, len(claim), _sha256(claim), ""))
    return saved, problems


def _purged(known: Mapping[str, Saved], added: Mapping[str, Saved]) -> frozenset[str]:
    """Batches whose number has another batch now: a purge wrote them anew, here as at the site."""
    numbers = {key.rpartition("-")[0] for key in added if _is_batch(key)}
    return frozenset(
        key for key in known.keys() - added if _is_batch(key) and key.rpartition("-")[0] in numbers
    )


def _save_files(
    source: SiteStore, backup: SiteStore, known: Mapping[str, Saved]
) -> tuple[list[Saved], list[str]]:
    """Copy what is new of everything else; what was copied, and what was refused, each with why."""
    listed = [found for folder in _FOLDERS for found in source.scan(folder)]
    erased = {found.key for found in listed if found.key.startswith(f"{layout.ERASED}/")}
    new = [found for found in listed if _is_new(found, known.get(found.key), erased)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        done = [*pool.map(partial(_save, source, backup, known, erased), new)]
    return [s for s in done if isinstance(s, Saved)], [s for s in done if isinstance(s, str)]


def _is_new(found: StoredObject, known: Saved | None, erased: set[str]) -> bool:
    if known is None or known.size_bytes != found.size_bytes:
        return True
    never_changes = _NAMED_BY_CONTENT.search(found.key) and not _is_erased(found.key, erased)
    return not never_changes and known.modified_at != found.modified_at.isoformat()


def _save(
    source: SiteStore,
    backup: SiteStore,
    known: Mapping[str, Saved],
    erased: set[str],
    found: StoredObject,
) -> Saved | str | None:
    """Copy one object; the reason if it must not be copied, None if it went since the listing."""
    content = read_if_there(source, found.key)
    if content is None:
        return None
    sha256, before = _sha256(content), known.get(found.key)
    named = _NAMED_BY_CONTENT.search(found.key)
    if named and named.group() != sha256 and not _is_erased(found.key, erased):
        return f"{found.key!r} has other bytes than its name says; it was left out"
    if before and before.sha256 != sha256 and found.key.startswith("plans/"):
        return f"{found.key!r} is written once and has changed; the backup keeps what it was"
    saved = Saved(found.key, len(content), sha256, found.modified_at.isoformat())
    if (
        not backup.create(saved.kept_key, content)
        and read_if_there(backup, saved.kept_key) != content
    ):
        backup.put(saved.kept_key, content)  # the key names the bytes: what stood was damaged
    reached("backup.object_copied")
    return saved


def _publish(backup: SiteStore, manifest: _Manifest) -> None:
    record = {
        "format": FORMAT,
        "version": VERSION,
        **asdict(manifest.state),
        "made_at": manifest.state.made_at.isoformat(),
        "added": [list(saved) for _, saved in sorted(manifest.added.items())],
        "removed": sorted(manifest.removed),
    }
    key = f"{BACKUPS}/{manifest.state.number:012d}.json"
    if not backup.create(key, canonical_json(record)):
        raise StoreError(
            f"{key!r} in {backup.url!r} was written by another run meanwhile; expected one run at "
            "a time. What this one copied stands: run it again."
        )


def _manifests(backup: SiteStore) -> list[_Manifest]:
    """Every run, oldest first."""
    keys = [key for key, _ in backup.list(BACKUPS)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [*map(_manifest, keys, pool.map(backup.get, keys))]


def _manifest(key: str, content: bytes) -> _Manifest:
    try:
        record = json.loads(content)
        label = record.pop("format"), record.pop("version")
        added = [Saved(*entry) for entry in record.pop("added")]
        removed = frozenset(record.pop("removed"))
        record["made_at"] = datetime.fromisoformat(record["made_at"])
        record["problems"] = tuple(record["problems"])
        state = Backup(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedRecordError(
            key, str(error)[:80], "a manifest of a backup", "Restore an earlier number."
        ) from error
    if label != (FORMAT, VERSION):
        raise MalformedRecordError(
            key,
            label,
            f"{FORMAT} of version 1 to {VERSION}",
            "Read it with the release of worldloop that wrote it.",
        )
    return _Manifest(state, {saved.key: saved for saved in added}, removed)


def _union(history: Iterable[_Manifest]) -> dict[str, Saved]:
    """What the backup holds after some runs, by key."""
    held: dict[str, Saved] = {}
    for manifest in history:
        held.update(manifest.added)
        for key in manifest.removed:
            held.pop(key, None)
    return held


def _gone(backup: SiteStore) -> frozenset[str]:
    """Keys in a backup whose contents were deleted on purpose."""
    marks = (key for key, _ in backup.list(layout.GONE))
    return frozenset(key.removeprefix(f"{layout.GONE}/").removesuffix(".json") for key in marks)


def _without_gone(
    backup: SiteStore, held: Mapping[str, Saved], *, newest: Mapping[str, Saved]
) -> dict[str, Saved]:
    """A state without what was taken back since: as it is now, where something is left of it.

    A missing object is excused by its mark alone, and another batch under a number by the mark of
    a purge; everything else that is missing is lost, and the restore says so.
    """
    standing, gone = {key for key, _ in backup.list()}, _gone(backup)
    due = dict(held)
    for key, saved in held.items():
        if saved.kept_key in standing or saved.kept_key not in gone:
            continue
        del due[key]
        for one in (key, *_explained_by(key)):
            now = newest.get(one)
            if now is not None and now.kept_key in standing:
                due[one] = now
    due.update(_purged_since(backup, held, standing))
    replaced = read_listing((key, 0) for key in held if key not in standing).batches
    now_there = read_listing((key, 0) for key in due if key in standing).batches
    for number in replaced.keys() & now_there.keys():
        for sha256 in replaced[number]:
            del due[number.batch_key(sha256)]
    return due


def _explained_by(key: str) -> tuple[str, ...]:
    """Records without which an object that lacks a clip would look damaged."""
    if key.startswith(f"{layout.PACKS}/"):
        return (layout.erased_key(key),)
    wave = key.split("/")[1] if key.startswith(f"{layout.RELEASES}/") else ""
    return (layout.redactions_key(wave),) if wave else ()


def _purged_since(
    backup: SiteStore, held: Mapping[str, Saved], standing: Collection[str]
) -> dict[str, Saved]:
    """The batches that a purge put in place of some of these, with their claims."""
    marks = [mark for mark in map(_PURGED.match, standing) if mark]
    purged = {(mark[1], mark[2]) for mark in marks}
    found = {}
    for number in read_listing((key, 0) for key in held if key not in standing).batches:
        claim = _text(backup, number.claim_key)
        key = number.batch_key(claim)
        if (number.log, number.kind) in purged and key in standing:
            found[key] = Saved(key, backup.size(key), claim, "")
            of_claim = _sha256(claim.encode())
            found[number.claim_key] = Saved(number.claim_key, len(claim), of_claim, "")
    return found


def _root(held: Iterable[Saved]) -> str:
    return merkle_root([canonical_json([s.key, s.sha256]) for s in sorted(held)])


def _check_root(
    store: SiteStore, state: Backup, held: Iterable[Saved], *, what: str, root_hash: str
) -> None:
    found = _root(held)
    if found != root_hash:
        raise StoreError(
            f"The root hash of {what} in {store.url!r} is {found[:16]}; expected "
            f"{root_hash[:16]} of backup {state.number}. Restore again into an empty store, or "
            "an earlier number."
        )


def _check_empty(target: SiteStore, held: Mapping[str, Saved]) -> None:
    standing = (key for folder in (layout.LOGS, *_FOLDERS) for key, _ in target.list(folder))
    foreign = next((key for key in standing if key not in held), None)
    if foreign is not None:
        raise StoreError(
            f"{target.url!r} holds {foreign!r}, which is not in the backup; expected an empty store. "
            "Choose another one: a restore never writes over a site that has something of its own."
        )


def _put_back(backup: SiteStore, target: SiteStore, saved: Saved) -> int:
    """Write one object; bytes that were written, -1 if it stood already."""
    content = read_if_there(backup, saved.kept_key)
    if content is None or _sha256(content) != saved.sha256:
        state = "is gone from" if content is None else "is damaged in"
        raise StoreError(
            f"{saved.kept_key!r} {state} {backup.url!r}; expected {saved.size_bytes} bytes with the "
            f"hash {saved.sha256[:16]}. Restore an earlier number, or bring that object back from "
            "the store's own versions."
        )
    if target.create(saved.key, content):
        return len(content)
    if read_if_there(target, saved.key) != content:
        raise StoreError(
            f"{saved.key!r} stands in {target.url!r} with other bytes; expected an empty store. "
            "Choose another one: a restore overwrites nothing."
        )
    return -1


def _read_back(target: SiteStore, saved: Saved) -> Saved:
    return saved._replace(sha256=_sha256(target.get(saved.key)))


def _is_claim(key: str) -> bool:
    return key.startswith(f"{layout.LOGS}/") and "/claims/" in key


def _is_batch(key: str) -> bool:
    return key.startswith(f"{layout.LOGS}/") and "/claims/" not in key


def _is_erased(key: str, erased: set[str]) -> bool:
    return layout.erased_key(key) in erased


def _text(store: SiteStore, key: str) -> str:
    return (read_if_there(store, key) or b"").decode(errors="replace")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
