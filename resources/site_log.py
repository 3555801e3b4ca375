"""The truth of a site: append-only batches of log rows in its store, numbered without gaps.

A batch is written under `<seq>-<sha256>` and then committed by creating the claim of its number,
which only one writer can. A process killed between the two leaves a file that no claim names:
readers ignore it, the next append takes the number, and `worldloop gc` removes it. Because a number
is claimed only by a writer that has read all earlier ones, no row is written twice and none is lost.
"""

import hashlib
from collections.abc import Iterable, Iterator

import dagster as dg
import polars as pl
from pydantic import Field

from resources.site_store import SiteStore
from worldloop.layout import LogName, batch_key, checkpoint_key, claim_key, log_prefix
from worldloop.logs import (
    KINDS,
    RETRACTIONS,
    Kind,
    batch_bytes,
    decode_position,
    encode_position,
    log_kind,
    log_rows,
    read_batch,
    read_batch_ids,
    winners,
)


class SiteLog(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Both logs of a site; any number of processes may append and read at once.

    Attributes:
        store: Where the batches lie; it must honour create-if-absent (`SiteStore.probe`).
        checkpoint_every: Batches of a kind after which its rows are gathered into one file.
    """

    store: SiteStore
    checkpoint_every: int = Field(default=1000, gt=0)

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
        """
        of_kind, retractions = log_kind(kind), RETRACTIONS[log_kind(kind).log]
        heads = None if at is None else decode_position(at)[of_kind.log]
        wanted = None if waves is None else frozenset(waves)
        until = None if heads is None else heads.get(of_kind.name, 0)
        rows = [
            read_batch(of_kind, content, waves=wanted) for content in self._files(of_kind, until)
        ]
        taken = self._retracted(retractions, None if heads is None else heads.get("retractions", 0))
        mine = taken.filter(taken["of_kind"] == of_kind.name)["of_id"]
        return winners(pl.concat([of_kind.format.empty(), *rows]), mine)

    def position(self) -> str:
        """Where both logs stand now, as text to keep and to read at."""
        heads: dict[LogName, dict[str, int]] = {"private": {}, "shared": {}}
        for kind in (*KINDS.values(), *RETRACTIONS.values()):
            if head := self._head(kind):
                heads[kind.log][kind.name] = head
        return encode_position(heads)

    def num_batches(self, kind: str) -> int:
        """Committed batches of a kind."""
        return self._head(log_kind(kind))

    def unclaimed(self) -> list[str]:
        """Keys of batches that no claim names: left by killed writers, or about to be claimed."""
        found = []
        for kind in (*KINDS.values(), *RETRACTIONS.values()):
            claimed = {key for _, key in self._batches(kind, after=0)}
            found += [key for key in self._batch_keys(kind, after=0) if key not in claimed]
        return found

    def _append(self, kind: Kind, rows: pl.DataFrame) -> int:
        fresh = log_rows(kind, rows)
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
        claim = claim_key(kind.log, kind.name, seq)
        if self.store.create(claim, sha256.encode()):
            return True
        if self.store.get(claim) != sha256.encode():  # equal rows of another writer share the file
            self.store.delete(key)
        return False

    def _checkpoint(self, kind: Kind, head: int) -> None:
        """Gather all rows so far, if the last gathering is long ago."""
        if head - self._newest_checkpoint(kind, head) < self.checkpoint_every:
            return
        rows = pl.concat([read_batch(kind, content) for content in self._files(kind, head)])
        self.store.create(checkpoint_key(kind.log, kind.name, head), batch_bytes(kind, rows))

    def _known_ids(self, kind: Kind) -> tuple[int, pl.Series]:
        head = self._head(kind)
        ids = [read_batch_ids(content) for content in self._files(kind, head)]
        return head, pl.concat([pl.Series("id", [], pl.String), *ids])

    def _retracted(self, kind: Kind, until: int | None) -> pl.DataFrame:
        rows = [read_batch(kind, content) for content in self._files(kind, until)]
        return pl.concat([kind.format.empty(), *rows])

    def _files(self, kind: Kind, until: int | None) -> Iterator[bytes]:
        """The files that hold all rows up to a number, oldest first: a checkpoint, then batches."""
        start = self._newest_checkpoint(kind, until)
        if start:
            yield self.store.get(checkpoint_key(kind.log, kind.name, start))
        for seq, key in self._batches(kind, after=start):
            if until is None or seq <= until:
                yield self.store.get(key)

    def _newest_checkpoint(self, kind: Kind, until: int | None) -> int:
        names = self.store.list(f"{log_prefix(kind.log, kind.name)}/checkpoints")
        seqs = [int(key.rsplit("/", 1)[1].removesuffix(".parquet")) for key, _ in names]
        return max((seq for seq in seqs if until is None or seq <= until), default=0)

    def _head(self, kind: Kind) -> int:
        return max(self._claimed(kind, after=0), default=0)

    def _claimed(self, kind: Kind, *, after: int) -> list[int]:
        folder = f"{log_prefix(kind.log, kind.name)}/claims"
        found = self.store.scan(folder, after=claim_key(kind.log, kind.name, after))
        return [int(item.key.rsplit("/", 1)[1]) for item in found]

    def _batch_keys(self, kind: Kind, *, after: int) -> list[str]:
        folder = log_prefix(kind.log, kind.name)
        beyond = f"{folder}/{after:012d}."  # "." sorts behind the "-" of that number's own batch
        keys = (item.key for item in self.store.scan(folder, after=beyond))
        return [key for key in keys if key.count("/") == folder.count("/") + 1]

    def _batches(self, kind: Kind, *, after: int) -> list[tuple[int, str]]:
        """Number and key of the committed batches, oldest first."""
        claimed = self._claimed(kind, after=after)  # before the batches: theirs stand already
        candidates: dict[int, list[str]] = {}
        for key in self._batch_keys(kind, after=after):
            candidates.setdefault(int(key.rsplit("/", 1)[1].split("-")[0]), []).append(key)
        return [(seq, self._chosen(kind, seq, candidates.get(seq, []))) for seq in claimed]

    def _chosen(self, kind: Kind, seq: int, keys: list[str]) -> str:
        """The batch that the claim names; it alone needs no look, as a claimed batch stands."""
        if len(keys) == 1:
            return keys[0]
        sha256 = self.store.get(claim_key(kind.log, kind.name, seq)).decode()
        return batch_key(kind.log, kind.name, seq, sha256)
