"""The right to delete: takes clips back at every site, and erases what is theirs.

What goes: their rows in the logs of all kinds (by `retract`, which reaches every replica and
projection with the logs), their bytes in packs, their rows in the tables of their partitions, their
captions in releases and their pictures in the gallery, and the backup's copies of all these. With `purge`
also what private log batches still held of them: captions, scenes, vectors.

What stays: ids, hashes and scores in shared logs, receipts of what they cost, the audit row that
says who took them back and why, and the other clips of the same packs, which read as before. Versions
that a bucket keeps of replaced objects go by its own lifecycle rule. Copies outside the federation,
such as shards that somebody downloaded or weights that were trained, are out of reach.

Every step can be repeated: a run that was killed is run again.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import polars as pl

from resources.backup import kept_key
from resources.federation import Federation
from resources.log_replicas import copy_log, read_if_there
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.store_refusals import MissingObjectError
from resources.tables import publish, read, read_record
from worldloop import layout, records
from worldloop.errors import AccessError, StoreError, UnknownKeyError, UnreachableError
from worldloop.logs import KINDS
from worldloop.packs import PackMember, erase_clips
from worldloop.records import AUDITS, DEDUP, MANIFEST, Table, table_bytes
from worldloop.releases import leaf_hashes, redact
from worldloop.seeds import canonical_json, content_id

_RECIPE = "recipe_id"
_OF_CLIPS = tuple(kind for kind in KINDS.values() if _RECIPE in kind.table.columns)
_TABLES: Mapping[Callable[[str, str], str], Table] = MappingProxyType(
    {
        layout.prompts_key: records.PROMPTS,
        layout.clips_key: records.CLIPS,
        layout.cosmos_clips_key: records.CLIPS,
        layout.generations_key: records.GENERATIONS,
        layout.blocked_key: records.BLOCKED,
        layout.signals_key: records.SIGNALS,
        layout.vectors_key: records.VECTORS,
    }
)  # a partition's tables that hold more of a clip than what it cost
_PURGED = frozenset(
    {"scenes", "clips", "captions", "generations", "blocked", "signals", "vectors", "failures"}
)  # private kinds whose rows hold more than ids and costs


@dataclass(frozen=True)
class TakenBack:
    """What was done at one site.

    Attributes:
        site: Which.
        num_rows: Log rows that were retracted now.
        num_packs: Packs in which bytes were erased now.
        num_tables: Tables and manifests that were written anew.
        num_purged: Log batches that were written anew.
    """

    site: str
    num_rows: int
    num_packs: int
    num_tables: int
    num_purged: int

    def __str__(self) -> str:
        return (
            f"{self.site}: {self.num_rows} log rows taken back, bytes erased in {self.num_packs} packs, "
            f"{self.num_tables} tables and {self.num_purged} log batches written anew"
        )


def take_back(
    federation: Federation,
    recipe_ids: Iterable[str],
    *,
    reason: str,
    actor: str,
    purge: bool = False,
) -> list[TakenBack]:
    """Take clips back for good.

    Args:
        federation: All sites; those that cities are at home at must answer.
        recipe_ids: Which clips.
        reason: Why, for the audit.
        actor: Who asks for it.
        purge: Also empty the rows in old private batches, which `retract` alone only hides.
            Projections that were made from them are rebuilt. No other run may work on these logs.

    Returns:
        One entry a site, the coordinator first.

    Raises:
        UnknownKeyError: If no log has ever had one of the clips; nothing is done then.
        StoreError: If a site cannot be reached; run it again then.
    """
    wanted = frozenset(recipe_ids)
    found = {name: _Found(federation.log(name), wanted) for name in federation.members}
    known = {each for here in found.values() for each in here.recipe_ids}
    for missing in sorted(wanted - known):
        raise UnknownKeyError("clip", missing, known)
    waves = sorted({wave for here in found.values() for wave, _ in here.shards})
    done = []
    for name, here in found.items():
        at_coordinator = name == federation.coordinator
        if not here.ids and not at_coordinator:
            continue
        site = _Erasure(federation.store(name), federation.backup(name), here, wanted)
        here.log.append("audits", _audits(name, here.recipe_ids or wanted, reason, actor))
        num_rows = sum(here.log.retract(kind, ids, reason=reason) for kind, ids in here.ids.items())
        num_packs, num_tables = site.erase_packs(), site.rewrite_tables()
        for pack in here.packs:
            (federation.media_copies(name) / pack).unlink(missing_ok=True)
        if at_coordinator:
            num_tables += site.redact_releases(waves)
            site.clear_gallery()
        num_purged = site.purge() if purge else 0
        site.clean_backup()
        done.append(TakenBack(name, num_rows, num_packs, num_tables, num_purged))
    return done


class _Found:
    """What a site's log has of some clips, taken back before or not.

    Attributes:
        ids: Ids of log rows by kind, scenes that only these clips show included.
        recipe_ids: Which of the clips it has.
        shards: Waves and cities of their tables.
        packs: Members of these clips by pack.
    """

    def __init__(self, log: SiteLog, wanted: Collection[str]):
        self.log = log
        mine = pl.col(_RECIPE).is_in(sorted(wanted))
        rows = {kind.name: log.history(kind.name).filter(mine) for kind in _OF_CLIPS}
        self.recipe_ids = {each for found in rows.values() for each in found[_RECIPE]}
        others = set(log.read("clips").filter(~mine)["scene_id"])
        ids = {"scenes": sorted(set(rows["clips"]["scene_id"].drop_nulls()) - others)}
        ids |= {kind: found["id"].to_list() for kind, found in rows.items()}
        self.ids = {kind: some for kind, some in ids.items() if some}
        sharded = [found for found in rows.values() if {"wave", "city"} <= set(found.columns)]
        named = pl.concat(found.select("wave", "city") for found in sharded).drop_nulls()
        self.shards = sorted(set(named.rows()))
        self.packs: dict[str, list[PackMember]] = {}
        for pack, members in rows["clips"].select("pack_key", "members").drop_nulls().iter_rows():
            self.packs.setdefault(pack, []).extend(PackMember(**member) for member in members)


class _Erasure:
    """Erases clips at one site; each step can be repeated."""

    def __init__(
        self, store: SiteStore, backup: SiteStore | None, found: _Found, wanted: Collection[str]
    ):
        self.store, self.backup, self.found, self.wanted = store, backup, found, wanted
        self.touched = set(found.packs)  # keys whose earlier content must not survive in a backup

    def erase_packs(self) -> int:
        """Erase the clips' bytes; first it is written down that they go, so that nobody repairs it."""
        num_changed = 0
        for key, members in self.found.packs.items():
            try:
                before = self.store.get(key)
            except MissingObjectError:  # retired or lost: nothing is left to erase
                continue
            after = erase_clips(before, members)
            self._note_erased(key, members, after)
            if after != before:
                self.store.put(key, after)
                num_changed += 1
        return num_changed

    def rewrite_tables(self) -> int:
        """Leave the clips out of their partitions' tables."""
        num_changed = 0
        for wave, city in self.found.shards:
            for make_key, table in _TABLES.items():
                num_changed += self._leave_out(table, make_key(wave, city))
        return num_changed

    def redact_releases(self, waves: Iterable[str]) -> int:
        """Take the captions out of manifests, and keep what proves the root hash; dedup tables too."""
        num_changed = 0
        for wave in waves:
            num_changed += self._leave_out(DEDUP, layout.dedup_key(wave))
            key, proof = layout.manifest_key(wave), layout.redactions_key(wave)
            if not self.store.exists(key):
                continue
            manifest = read(self.store, MANIFEST, key)
            mine = set(manifest[_RECIPE]) & set(self.wanted)
            leaves = read_redactions(self.store, wave)
            hashes = leaf_hashes(manifest)
            leaves |= {each: hashes[each] for each in sorted(mine) if each not in leaves}
            if mine:
                self.store.put(proof, canonical_json({"version": 1, "leaves": leaves}))
                self.store.put(key, table_bytes(MANIFEST, redact(manifest, mine)))
                self.touched.add(key)
                num_changed += 1
        return num_changed

    def clear_gallery(self) -> None:
        """Remove the clips' pictures, and the page if it shows them; the next release writes it again."""
        for key, _ in self.store.list(layout.GALLERY):
            named = any(each in key for each in self.wanted)
            if named or (key.endswith(".html") and self._is_shown(key)):
                self.store.delete(key)

    def purge(self) -> int:
        """Empty the rows in old private batches, of the backup first: a killed run finds them again."""
        ids = {kind: some for kind, some in self.found.ids.items() if kind in _PURGED}
        if self.backup is not None:
            try:
                copy_log(self.store, self.backup, logs=("private", "shared"))
            except (UnreachableError, AccessError):
                raise
            except StoreError:  # a purge that was killed: the backup is ahead of its site
                pass
            for kind, some in ids.items():
                SiteLog(store=self.backup).purge(kind, some)
        return sum(self.found.log.purge(kind, some) for kind, some in ids.items())

    def clean_backup(self) -> None:
        """Delete what the backup keeps of the earlier contents of all these objects.

        A mark says so first: manifests go on naming these contents, and a restore must not call
        them lost. What the site holds now stays.
        """
        if self.backup is None:
            return
        held = {key for key, _ in self.backup.list()}
        for key in sorted(self.touched):
            doomed = {one for one in held if f"/{one}".endswith(f"/{key}")}
            doomed -= {one for one in doomed if one.startswith(f"{layout.GONE}/")}
            content = read_if_there(self.store, key) if doomed else None
            if content is not None:
                doomed.discard(kept_key(key, hashlib.sha256(content).hexdigest()))
            for one in sorted(doomed):
                self.backup.create(layout.gone_key(one), b"{}")
            self.backup.delete_many(sorted(doomed))

    def _leave_out(self, table: Table, key: str) -> bool:
        """Write a table without the clips; whether it had any."""
        self.touched.add(key)
        if not self.store.exists(key):
            return False
        rows = read(self.store, table, key)
        kept = rows.filter(~pl.col(_RECIPE).is_in(sorted(self.wanted)))
        return publish(self.store, table, key, kept).changed

    def _note_erased(self, pack: str, members: Iterable[PackMember], content: bytes) -> None:
        key = layout.erased_key(pack)
        before = read_record(self.store, key)["recipe_ids"] if self.store.exists(key) else []
        record = {
            "version": 1,
            "pack_key": pack,
            "recipe_ids": sorted({*before, *(member.clip_id for member in members)}),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        self.store.put(key, canonical_json(record))

    def _is_shown(self, page: str) -> bool:
        text = self.store.get(page).decode(errors="replace")
        return any(each in text for each in self.wanted)


def read_redactions(store: SiteStore, wave: str) -> dict[str, str]:
    """Leaf hashes of a release's clips whose captions were taken back, by recipe id."""
    key = layout.redactions_key(wave)
    return dict(read_record(store, key)["leaves"]) if store.exists(key) else {}


def _audits(site: str, recipe_ids: Iterable[str], reason: str, actor: str) -> pl.DataFrame:
    """Who took which clips back, and why; rows of `records.AUDITS`."""
    said = {"site": site, "actor": actor, "action": "retract", "of_kind": "clips", "reason": reason}
    rows = [
        {
            **said,
            "of_id": each,
            "audit_id": content_id({**said, "of_id": each}),
            "done_at": datetime.now(UTC),
        }
        for each in sorted(recipe_ids)
    ]
    return pl.DataFrame(rows, schema=dict(AUDITS.columns))
