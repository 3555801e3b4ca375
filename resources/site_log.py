"""The truth of a site: append-only batches of log rows in its store, numbered without gaps.

A batch is written under `<seq>-<sha256>` and then committed by creating the claim of its number,
which only one writer can. A process killed between the two leaves a file that no claim names:
readers ignore it, the next append takes the number, and `worldloop gc` removes it. Because a number
is claimed only by a writer that has read all earlier ones, no row is written twice and none is lost.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import polars as pl
from pydantic import Field

from resources.failpoints import reached
from resources.log_mirror import LogMirror
from resources.site_store import SiteStore, StoredObject
from worldloop.layout import (
    LOGS,
    LogName,
    batch_key,
    checkpoint_key,
    claim_key,
    log_prefix,
    purge_key,
)
from worldloop.logs import (
    BATCHED_KINDS,
    LOG_COLUMNS,
    RETRACTIONS,
    Kind,
    batch_bytes,
    batched_kind,
    decode_position,
    encode_position,
    log_kind,
    log_rows,
    read_batch,
    read_batch_ids,
    read_batches,
    winners,
)

_MANY_BATCHES = 20  # to fetch one by one; for more it pays to ask for a checkpoint first
_KEYS_PER_PAGE = 1000  # of a listing, as S3 and GCS have it
_MANY_IDS = 200_000  # of a kind, 10 MB; more are read from the files again rather than kept
_Remembered = tuple[int, datetime | None, pl.Series]
_NOTHING: _Remembered = (0, None, pl.Series("id", [], pl.String))
# Ids never change, not even by a purge: (store, log, kind) to a number, when it was claimed, all ids.
_remembered: dict[tuple[str, str, str], _Remembered] = {}


class Batch(NamedTuple):
    """One committed batch of a kind.

    Attributes:
        seq: Its number.
        sha256: Of its bytes, as its claim names it.
        size_bytes: Its size; 0 if its bytes are gone from the store.
        claimed_at: When it was committed, by the store's clock.
    """

    seq: int
    sha256: str
    size_bytes: int
    claimed_at: datetime

    def key(self, kind: str) -> str:
        """Where it is in the store."""
        of_kind = batched_kind(kind)
        return batch_key(of_kind.log, of_kind.name, self.seq, self.sha256)


class SiteLog(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Both logs of a site; any number of processes may append and read at once.

    Methods that take the name of a kind and speak of batches know the retractions too, as
    `private/retractions` and `shared/retractions`.

    Attributes:
        store: Where the batches lie; it must honour create-if-absent (`SiteStore.probe`).
        checkpoint_every: Batches of a kind after which its rows are gathered into one file.
        mirror: Local folder that keeps what was read of a remote store, under the same keys; empty
            for none, as is right for a store that is a folder. It can be thrown away.
    """

    store: SiteStore
    checkpoint_every: int = Field(default=1000, gt=0)
    mirror: str = ""

    def append(self, kind: str, rows: pl.DataFrame) -> int:
        """Append rows that the log does not have yet; appending twice is appending once.

        Args:
            kind: Name of the kind, e.g. `clips`.
            rows: Rows of the kind's table. Ids that the log has already are dropped.

        Returns:
            Rows that were new; a batch is written only if there are any.

        Raises:
            UnknownKeyError: If there is no such kind.
            MalformedRecordError: If the rows do not follow the table's format.
            LogDamageError: If a batch that is needed to know the ids is gone or has changed.
        """
        return self._append(log_kind(kind), rows)

    def retract(self, kind: str, ids: Iterable[str], *, reason: str) -> int:
        """Take rows back, for good: later appends of the same ids are dropped too.

        Returns:
            Ids that were not taken back before.
        """
        of_kind = log_kind(kind)
        taken = pl.DataFrame({"of_id": sorted(set(ids))}, schema={"of_id": pl.String})
        rows = taken.select(
            pl.lit(of_kind.name).alias("of_kind"), "of_id", pl.lit(reason).alias("reason")
        )
        return self._append(RETRACTIONS[of_kind.log], rows)

    def read(
        self, kind: str, *, at: str | None = None, waves: Iterable[str] | None = None
    ) -> pl.DataFrame:
        """The rows of a kind that count: the first of each id, without those taken back.

        Args:
            kind: Name of the kind.
            at: A position from `position()`; the newest when not given.
            waves: Only rows of these waves.

        Returns:
            kind, id and schema_version, then the columns of the kind's table, in log order.

        Raises:
            LogDamageError: If a batch is gone or has changed.
        """
        of_kind, retractions = log_kind(kind), RETRACTIONS[log_kind(kind).log]
        heads = None if at is None else decode_position(at)[of_kind.log]
        until = None if heads is None else heads.get(of_kind.name, 0)
        rows = read_batches(of_kind, self._files(of_kind, until), waves=waves)
        taken = self._retracted(retractions, None if heads is None else heads.get("retractions", 0))
        mine = taken.filter(taken["of_kind"] == of_kind.name)["of_id"]
        return winners(rows, mine)

    def has_ids(self, kind: str, ids: Iterable[str]) -> list[str]:
        """Those of the ids that the log has rows of, taken back or not."""
        _, known = self._known_ids(log_kind(kind))
        return sorted(set(ids) & set(known))

    def history(self, kind: str) -> pl.DataFrame:
        """Every row that was ever committed, taken back or not: for who must find what to erase."""
        of_kind = log_kind(kind)
        rows = read_batches(of_kind, self._files(of_kind, None))
        return rows.unique("id", keep="first", maintain_order=True)

    def purge(self, kind: str, ids: Iterable[str]) -> int:
        """Write the batches that hold rows of these ids anew, with nothing but the ids left of them.

        The one case in which a batch is replaced: its claim then names the new bytes, mirrors see a
        mark among the claims and fetch all of the kind again, and a second run, also after a kill,
        gives the same bytes. Checkpoints that hold such rows go. Releases composed before can no
        longer be composed again from the log; their manifests stay. One purge at a time.

        Args:
            kind: A private kind; shared logs hold nothing that would have to go.
            ids: Ids that were taken back.

        Returns:
            Batches that were written anew.

        Raises:
            ValueError: If the kind is shared, or an id is not taken back.
        """
        of_kind, gone = log_kind(kind), set(ids)
        taken = self._retracted(RETRACTIONS[of_kind.log], None)
        standing = gone - set(taken.filter(taken["of_kind"] == of_kind.name)["of_id"])
        if of_kind.log != "private" or standing:
            raise ValueError(
                f"Cannot purge {sorted(standing)[:3] or kind}; expected a private kind and ids that are "
                "taken back. Call retract() before."
            )
        claimed = [claim.seq for claim in self.direct._mirror.claims(of_kind)]
        num_purged = sum(self._purge_batch(of_kind, seq, gone) for seq in claimed)
        self._sweep_purged(of_kind, claimed, gone)
        named = hashlib.sha256("\n".join(sorted(gone)).encode()).hexdigest()[:16]
        self.store.create(purge_key(of_kind.log, of_kind.name, named), b"purged")
        self._mirror.forget(of_kind)
        return num_purged

    def read_after(
        self, kind: str, seq: int, *, until: int | None = None
    ) -> tuple[pl.DataFrame, int]:
        """What came into the log behind a number: for who goes on from where it stopped.

        An id stands in one batch only, so these rows repeat none of the earlier ones. Of the
        kind's rows those that are taken back by now are left out; rows that were given earlier and
        were taken back since are found in the retractions behind their own number.

        Args:
            kind: Name of the kind, or `private/retractions`, `shared/retractions`.
            seq: The number up to which all is known; 0 reads from the beginning.
            until: The last number to read; the newest when not given.

        Returns:
            Log rows as `read` gives them, and the number up to which they reach: `seq` if there is
            nothing new.

        Raises:
            LogDamageError: If a batch is gone or has changed.
        """
        of_kind, mirror = batched_kind(kind), self._mirror
        new = [claim.seq for claim in mirror.claims(of_kind, after=seq)]
        new = [number for number in new if until is None or number <= until]
        mirror.fetch(of_kind, new)
        found = read_batches(of_kind, (mirror.batch(of_kind, number) for number in new))
        if not new or of_kind is RETRACTIONS[of_kind.log]:
            return found, max(new, default=seq)
        taken = self._retracted(RETRACTIONS[of_kind.log], None)
        mine = taken.filter(taken["of_kind"] == of_kind.name)["of_id"]
        return winners(found, mine), new[-1]

    def position(self) -> str:
        """Where both logs stand now, as text to keep and to read at."""
        heads: dict[LogName, dict[str, int]] = {"private": {}, "shared": {}}
        for name, head in self.heads().items():
            kind = batched_kind(name)
            heads[kind.log][kind.name] = head
        return encode_position(heads)

    def heads(self) -> dict[str, int]:
        """The newest committed number of each kind that has any batch, retractions included.

        A remote store is asked by one listing as long as that is cheaper than one a kind.
        """
        if not self._is_remote:
            return {name: head for name, k in BATCHED_KINDS.items() if (head := self._head(k))}
        known = self._mirror.known_heads()
        if sum(known.values()) * 2 < len(BATCHED_KINDS) * _KEYS_PER_PAGE:
            return _heads_of(self.store.scan(LOGS))
        return {name: head for name, k in BATCHED_KINDS.items() if (head := self._head(k))}

    def batch_hashes(self, kind: str, *, after: int = 0) -> list[Batch]:
        """The committed batches of a kind behind a number, oldest first.

        One listing if there is none; otherwise two, and one small read for each claim that the
        mirror does not know. A batch whose bytes are gone is named too, with size 0; numbers whose
        claims are gone are left out.
        """
        of_kind, mirror = batched_kind(kind), self._mirror
        claims = mirror.claims(of_kind, after=after, with_gaps=True)
        if not claims:
            return []
        folder = log_prefix(of_kind.log, of_kind.name)
        beyond = f"{folder}/{after:012d}."  # "." sorts behind the "-" of that number's own batch
        sizes = {found.key: found.size_bytes for found in self.store.scan(folder, after=beyond)}
        batches = [
            Batch(claim.seq, mirror.sha256(of_kind, claim.seq), 0, claim.claimed_at)
            for claim in claims
        ]
        return [batch._replace(size_bytes=sizes.get(batch.key(kind), 0)) for batch in batches]

    def claimed_at(self, kind: str, seq: int) -> datetime | None:
        """When a batch was committed, by the store's clock; None if there is none of that number."""
        claims = self._mirror.claims(batched_kind(kind), after=seq - 1, with_gaps=True)
        return next((claim.claimed_at for claim in claims if claim.seq == seq), None)

    def sync(self, kinds: Iterable[str] | None = None) -> int:
        """Fetch what the mirror lacks, so that others may read the files themselves.

        Args:
            kinds: Names of kinds; all of both logs when not given.

        Returns:
            Batches that are in the mirror now and were not before; 0 without a mirror.
        """
        if not self.mirror:
            return 0
        num_fetched = 0
        for kind in map(batched_kind, BATCHED_KINDS if kinds is None else kinds):
            claimed = [claim.seq for claim in self._mirror.claims(kind)]
            lacking = [seq for seq in claimed if not self._mirror.has_batch(kind, seq)]
            self._mirror.fetch(kind, lacking)
            for seq in lacking:
                self._mirror.batch(kind, seq)
            num_fetched += len(lacking)
        return num_fetched

    def local_files(self, kind: str) -> list[Path]:
        """Local parquet files with all committed batches of a kind, oldest first.

        They hold every row that was ever committed: who reads them must take the first row of an id
        and leave out those taken back. With a mirror call `sync` before.

        Raises:
            StoreError: If the store is remote and there is no mirror.
        """
        of_kind, mirror = batched_kind(kind), self._mirror
        seqs = [claim.seq for claim in mirror.claims(of_kind)]
        if self.mirror:
            return [path for seq in seqs if (path := mirror.batch_path(of_kind, seq))]
        keys = [
            batch_key(of_kind.log, of_kind.name, seq, mirror.sha256(of_kind, seq)) for seq in seqs
        ]
        return [self.store.local_path(key) for key in keys]

    @property
    def direct(self) -> "SiteLog":
        """The same log without its mirror: what the store itself has, for who looks for damage."""
        return self.model_copy(update={"mirror": ""})

    def num_batches(self, kind: str) -> int:
        """Committed batches of a kind."""
        return self._head(log_kind(kind))

    def unclaimed(self) -> list[str]:
        """Keys of batches that no claim names: left by killed writers, or about to be claimed.

        A number below the newest one whose claim is gone was committed: its batch is no leftover.
        """
        found = []
        for kind in BATCHED_KINDS.values():
            written = self._batch_keys(kind)
            seqs = [c.seq for c in (self._mirror.claims(kind, with_gaps=True) if written else ())]
            claimed = {
                batch_key(kind.log, kind.name, seq, self._mirror.sha256(kind, seq)) for seq in seqs
            }
            lost = set(range(1, max(seqs, default=0))) - set(seqs)
            found += [key for key in written if key not in claimed and _seq_of(key) not in lost]
        return found

    def _append(self, kind: Kind, rows: pl.DataFrame) -> int:
        fresh = log_rows(kind, rows)
        if fresh.is_empty():
            return 0
        while True:
            head, known = self._known_ids(kind)
            new = fresh.filter(~pl.col("id").is_in(known.implode()))
            if new.is_empty():
                return 0
            if self._commit(kind, head + 1, batch_bytes(kind, new)):
                self._checkpoint(kind, head + 1)
                return new.height

    def _commit(self, kind: Kind, seq: int, content: bytes) -> bool:
        """Write a batch and claim its number; False if somebody else has the number."""
        sha256 = hashlib.sha256(content).hexdigest()
        key = batch_key(kind.log, kind.name, seq, sha256)
        self.store.put(key, content)
        reached("log.batch_written")
        claim = claim_key(kind.log, kind.name, seq)
        if self.store.create(claim, sha256.encode()):
            reached("log.claimed")
            self._mirror.committed(kind, seq, content)
            return True
        if self.store.get(claim) != sha256.encode():  # equal rows of another writer share the file
            self.store.delete(key)
        return False

    def _purge_batch(self, kind: Kind, seq: int, gone: set[str]) -> bool:
        """Replace a batch by one without the payload of some ids; False if it has none of them."""
        mirror = self.direct._mirror
        before, rows = mirror.sha256(kind, seq), read_batch(kind, mirror.batch(kind, seq))
        blank = rows.filter(pl.col("id").is_in(list(gone)))
        if not blank.select(pl.any_horizontal(_payload_of(kind).is_not_null())).to_series().any():
            return False
        emptied = pl.when(~pl.col("id").is_in(list(gone))).then(_payload_of(kind))
        content = batch_bytes(kind, rows.with_columns(emptied))
        sha256 = hashlib.sha256(content).hexdigest()
        self.store.put(batch_key(kind.log, kind.name, seq, sha256), content)
        reached("log.batch_written")
        self.store.put(claim_key(kind.log, kind.name, seq), sha256.encode())
        reached("log.claimed")
        self.store.delete(batch_key(kind.log, kind.name, seq, before))
        return True

    def _sweep_purged(self, kind: Kind, claimed: list[int], gone: set[str]) -> None:
        """Remove checkpoints with these rows, and batches that a purge was killed before removing."""
        mirror = self.direct._mirror
        keys = {batch_key(kind.log, kind.name, n, mirror.sha256(kind, n)) for n in claimed}
        old = [checkpoint_key(kind.log, kind.name, n) for n in mirror.checkpoints(kind)]
        old += [key for key in self._batch_keys(kind) if key not in keys]
        for key in old:
            if gone & set(read_batch_ids(self.store.get(key))):
                self.store.delete(key)

    def _checkpoint(self, kind: Kind, head: int) -> None:
        """Gather all rows so far, if the last gathering is long ago."""
        mirror = self._mirror
        if head - max(mirror.kept_checkpoints(kind), default=0) < self.checkpoint_every:
            return
        newest = max((seq for seq in mirror.checkpoints(kind) if seq <= head), default=0)
        if head - newest < self.checkpoint_every:
            if self.mirror:
                mirror.checkpoint(kind, newest)  # so that the next append need not ask
            return
        content = batch_bytes(kind, read_batches(kind, self._files(kind, head)))
        self.store.create(checkpoint_key(kind.log, kind.name, head), content)
        if self.mirror:
            mirror.checkpoint(kind, head)

    def _known_ids(self, kind: Kind) -> tuple[int, pl.Series]:
        """The newest number and every id up to it; goes on from what this process has read before."""
        claims = self._mirror.claims(kind)
        place = (self.store.url, kind.log, kind.name)
        start, moment, ids = _remembered.get(place, _NOTHING)
        if start and moment != (claims[start - 1].claimed_at if start <= len(claims) else None):
            start, ids = 0, _NOTHING[2]  # another log, or a claim that was put back
        claimed = [claim.seq for claim in claims]
        files = self._files_behind(kind, claimed, start) if start else self._files_of(kind, claimed)
        ids = pl.concat([ids, *(read_batch_ids(content) for content in files)])
        if claims and ids.len() <= _MANY_IDS:
            _remembered[place] = (len(claims), claims[-1].claimed_at, ids)
        return len(claims), ids

    def _retracted(self, kind: Kind, until: int | None) -> pl.DataFrame:
        return read_batches(kind, self._files(kind, until))

    def _files(self, kind: Kind, until: int | None) -> Iterator[bytes]:
        """The files that hold all rows up to a number, oldest first: a checkpoint, then batches."""
        claimed = [claim.seq for claim in self._mirror.claims(kind)]
        yield from self._files_of(kind, [seq for seq in claimed if until is None or seq <= until])

    def _files_of(self, kind: Kind, claimed: list[int]) -> Iterator[bytes]:
        start = self._newest_checkpoint(kind, claimed)
        if start:
            yield self._mirror.checkpoint(kind, start)
        yield from self._files_behind(kind, claimed, start)

    def _files_behind(self, kind: Kind, claimed: list[int], start: int) -> Iterator[bytes]:
        behind = [seq for seq in claimed if seq > start]
        self._mirror.fetch(kind, behind)
        for seq in behind:
            yield self._mirror.batch(kind, seq)

    def _newest_checkpoint(self, kind: Kind, claimed: list[int]) -> int:
        """The newest checkpoint that covers nothing but these numbers; 0 if there is none."""
        mirror, last = self._mirror, max(claimed, default=0)
        kept = max((seq for seq in mirror.kept_checkpoints(kind) if seq <= last), default=0)
        if not last or (self.mirror and self._num_missing(kind, claimed, kept) <= _MANY_BATCHES):
            return kept
        return max((seq for seq in mirror.checkpoints(kind) if seq <= last), default=kept)

    def _num_missing(self, kind: Kind, claimed: list[int], after: int) -> int:
        """Batches behind a number that the mirror lacks."""
        return sum(seq > after and not self._mirror.has_batch(kind, seq) for seq in claimed)

    def _head(self, kind: Kind) -> int:
        claims = self._mirror.claims(kind, with_gaps=True)
        return claims[-1].seq if claims else 0

    def _batch_keys(self, kind: Kind) -> list[str]:
        folder = log_prefix(kind.log, kind.name)
        keys = (item.key for item in self.store.scan(folder))
        return [key for key in keys if key.count("/") == folder.count("/") + 1]

    @property
    def _is_remote(self) -> bool:
        return "://" in self.store.url

    @property
    def _mirror(self) -> LogMirror:
        return LogMirror(self.store, Path(self.mirror) if self.mirror else None)


def _payload_of(kind: Kind) -> pl.Expr:
    return pl.col([name for name in kind.format.columns if name not in LOG_COLUMNS])


def _heads_of(listed: Iterable[StoredObject]) -> dict[str, int]:
    """The newest number of each kind, from a listing of all objects of both logs."""
    heads: dict[tuple[str, str], int] = {}
    for found in listed:
        _, log, kind, *rest = found.key.split("/")
        if len(rest) == 2 and rest[0] == "claims" and rest[1].isdigit():
            heads[log, kind] = max(heads.get((log, kind), 0), int(rest[1]))
    found_of = {name: heads.get((k.log, k.name), 0) for name, k in BATCHED_KINDS.items()}
    return {name: head for name, head in found_of.items() if head}


def _seq_of(key: str) -> int:
    """The number of a batch, which its key begins with."""
    return int(key.rsplit("/", 1)[1].split("-", 1)[0])
