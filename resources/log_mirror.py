"""Reads the objects of a log, which never change, and keeps them in a local mirror once they were read.

The mirror has the same keys, so DuckDB and others read it like a store that is a folder. Only what a
claim names gets into it, whole and with the hash that its name says. A claim that was listed and
not yet read is an empty file there; its modification time is when the store took the claim, or zero
while that is not known.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from resources.site_store import SiteStore, StoredObject
from resources.store_refusals import MissingObjectError
from worldloop.errors import LogDamageError
from worldloop.layout import batch_key, checkpoint_key, claim_key, log_prefix
from worldloop.logs import BATCHED_KINDS, Kind

_UNKNOWN = 0  # nanoseconds since 1970: nobody asked the store yet
_PURGED = "purged-"


class Claim(NamedTuple):
    """A number that has a committed batch.

    Attributes:
        seq: The number.
        claimed_at: When, by the store's clock.
    """

    seq: int
    claimed_at: datetime


class LogMirror:
    """The objects of both logs of a store, from a local folder where they are there already.

    Args:
        store: Where the logs are.
        folder: The mirror; None reads the store each time, as is right when it is a folder itself.
    """

    def __init__(self, store: SiteStore, folder: Path | None):
        self.store, self.folder = store, folder

    def claims(self, kind: Kind, *, after: int = 0, with_gaps: bool = False) -> list[Claim]:
        """The claims of a kind behind a number, oldest first; one listing of what is new.

        Args:
            kind: Which kind.
            after: Only larger numbers.
            with_gaps: Numbers may be missing; else that is damage, as they are given without gaps.

        Raises:
            LogDamageError: If a number is missing, or the store lost a claim that the mirror knows.
        """
        if self.folder is None:
            listed, _ = _sorted_out(self._list_claims(kind, after))
            claims = [Claim(seq, moment) for seq, moment in sorted(listed.items())]
        else:
            known = self._refreshed(kind)
            claims = [Claim(seq, _moment(known[seq])) for seq in sorted(known) if seq > after]
        for seq, claim in enumerate(claims, after + 1):
            if claim.seq != seq and not with_gaps:
                raise self._damaged_claim(kind, seq)
        return claims

    def known_heads(self) -> dict[str, int]:
        """The newest number of each kind that the mirror knows, without asking the store."""
        if self.folder is None:
            return {}
        heads = {name: max(self._known(k)[0], default=0) for name, k in BATCHED_KINDS.items()}
        return {name: head for name, head in heads.items() if head}

    def sha256(self, kind: Kind, seq: int) -> str:
        """The hash of the batch that has a number.

        Raises:
            StoreError: If nobody claimed the number.
        """
        key = claim_key(kind.log, kind.name, seq)
        content = self._kept(key)
        if not content:
            content = self.store.get(key)
            self._keep(key, content)
        return content.decode()

    def batch(self, kind: Kind, seq: int) -> bytes:
        """The batch that has a number.

        Raises:
            LogDamageError: If it is gone, or its bytes are not those that were committed.
        """
        sha256 = self.sha256(kind, seq)
        key = batch_key(kind.log, kind.name, seq, sha256)
        content = self._kept(key)
        if content is not None:
            return content
        try:
            content = self.store.get(key)
        except MissingObjectError as error:
            if self.store.get(claim_key(kind.log, kind.name, seq)).decode() != sha256:
                self.forget(kind)  # purged between the two reads
                return self.batch(kind, seq)
            raise LogDamageError(key, self.store.url, is_gone=True) from error
        self._keep_whole(key, content, sha256)
        return content

    def fetch(self, kind: Kind, seqs: Iterable[int]) -> None:
        """Fetch the batches that the mirror lacks, several at once; nothing without a mirror.

        Raises:
            LogDamageError: If a batch has other bytes than were committed. One that is gone is left
                for `batch` to tell.
        """
        lacking = [seq for seq in seqs if self.folder and not self.has_batch(kind, seq)]
        if len(lacking) < 2:
            return
        claims = {claim_key(kind.log, kind.name, seq) for seq in lacking}
        with suppress(MissingObjectError):
            for key, content in self.store.get_many(k for k in sorted(claims) if not self._kept(k)):
                self._keep(key, content)
            named = {seq: self.sha256(kind, seq) for seq in lacking}
            keys = {batch_key(kind.log, kind.name, seq, sha): sha for seq, sha in named.items()}
            for key, content in self.store.get_many(keys):
                self._keep_whole(key, content, keys[key])

    def has_batch(self, kind: Kind, seq: int) -> bool:
        """Whether the mirror has a batch; False without a mirror."""
        return self.batch_path(kind, seq) is not None

    def batch_path(self, kind: Kind, seq: int) -> Path | None:
        """Where the mirror has a batch; None if it has not."""
        sha256 = self._kept(claim_key(kind.log, kind.name, seq))
        if self.folder is None or not sha256:
            return None
        path = self.folder / batch_key(kind.log, kind.name, seq, sha256.decode())
        return path if path.exists() else None

    def checkpoints(self, kind: Kind) -> list[int]:
        """Numbers of the checkpoints that the store has."""
        names = self.store.list(f"{log_prefix(kind.log, kind.name)}/checkpoints")
        return [_checkpoint_seq(key) for key, _ in names]

    def kept_checkpoints(self, kind: Kind) -> list[int]:
        """Numbers of the checkpoints that the mirror has."""
        if self.folder is None:
            return []
        folder = self.folder / log_prefix(kind.log, kind.name) / "checkpoints"
        return [_checkpoint_seq(path.name) for path in folder.glob("*.parquet")]

    def checkpoint(self, kind: Kind, seq: int) -> bytes:
        """All rows up to a number.

        Raises:
            StoreError: If there is no checkpoint of that number.
        """
        key = checkpoint_key(kind.log, kind.name, seq)
        content = self._kept(key)
        if content is None:
            content = self.store.get(key)
            self._keep(key, content)
        return content

    def committed(self, kind: Kind, seq: int, content: bytes) -> None:
        """Keep what this process itself has just committed."""
        sha256 = hashlib.sha256(content).hexdigest()
        self._keep(batch_key(kind.log, kind.name, seq, sha256), content)
        self._keep(claim_key(kind.log, kind.name, seq), sha256.encode())

    def forget(self, kind: Kind) -> None:
        """Throw away what the mirror has of a kind; it is read from the store again."""
        if self.folder is not None:
            shutil.rmtree(self.folder / log_prefix(kind.log, kind.name), ignore_errors=True)

    def _refreshed(self, kind: Kind) -> dict[int, int]:
        """When each number was claimed, in nanoseconds, after one listing of what is new."""
        known, marks = self._known(kind)
        newest = max(known, default=0)
        unsure = min((seq for seq, moment in known.items() if moment == _UNKNOWN), default=newest)
        start = max(unsure - 1, 0)  # with the newest known, to see that it still stands
        listed, marked = _sorted_out(self._list_claims(kind, start))
        if known and newest not in listed:
            raise self._damaged_claim(kind, newest)
        if marked - marks or (known and not self._is_same(kind, newest, known, listed)):
            self.forget(kind)
            if known:
                known, (listed, marked) = {}, _sorted_out(self._list_claims(kind, 0))
        for name in marked - marks:
            self._keep(f"{log_prefix(kind.log, kind.name)}/claims/{name}", b"purged")
        for seq, moment in listed.items():
            at = _nanoseconds(moment)
            if known.get(seq) != at:
                self._note_claim(kind, seq, at)
                known[seq] = at
        return known

    def _is_same(
        self, kind: Kind, seq: int, known: dict[int, int], listed: dict[int, datetime]
    ) -> bool:
        """Whether the store still has the claim that the mirror knows, or one of the same batch."""
        if known[seq] in (_UNKNOWN, _nanoseconds(listed[seq])):
            return True
        key = claim_key(kind.log, kind.name, seq)
        return self._kept(key) in (b"", self.store.get(key))

    def _damaged_claim(self, kind: Kind, seq: int) -> LogDamageError:
        return LogDamageError(claim_key(kind.log, kind.name, seq), self.store.url, is_gone=True)

    def _known(self, kind: Kind) -> tuple[dict[int, int], set[str]]:
        """Moment of each claim that the mirror knows, and the names of its purge marks."""
        assert self.folder is not None
        folder = self.folder / log_prefix(kind.log, kind.name) / "claims"
        known, marks = {}, set()
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.isdigit():
                    known[int(entry.name)] = entry.stat().st_mtime_ns
                elif entry.name.startswith(_PURGED):
                    marks.add(entry.name)
        return known, marks

    def _note_claim(self, kind: Kind, seq: int, moment_ns: int) -> None:
        key = claim_key(kind.log, kind.name, seq)
        self._keep(key, self._kept(key) or b"", moment_ns=moment_ns)

    def _list_claims(self, kind: Kind, after: int) -> list[StoredObject]:
        folder = f"{log_prefix(kind.log, kind.name)}/claims"
        return self.store.scan(folder, after=claim_key(kind.log, kind.name, after))

    def _kept(self, key: str) -> bytes | None:
        if self.folder is None:
            return None
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def _keep_whole(self, key: str, content: bytes, sha256: str) -> None:
        if hashlib.sha256(content).hexdigest() != sha256:
            raise LogDamageError(key, self.store.url, is_gone=False)
        self._keep(key, content)

    def _keep(self, key: str, content: bytes, *, moment_ns: int | None = None) -> None:
        """Write a file of the mirror beside its place and rename it; a claim keeps its moment."""
        if self.folder is None:
            return
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        if moment_ns is None and "/claims/" in key:
            moment_ns = path.stat().st_mtime_ns if path.exists() else _UNKNOWN
        try:
            partial.write_bytes(content)
            if moment_ns is not None:
                os.utime(partial, ns=(moment_ns, moment_ns))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _sorted_out(listed: Iterable[StoredObject]) -> tuple[dict[int, datetime], set[str]]:
    """Claims by number, and names of purge marks."""
    claims: dict[int, datetime] = {}
    marks = set()
    for found in listed:
        name = found.key.rsplit("/", 1)[1]
        if name.isdigit():
            claims[int(name)] = found.modified_at
        elif name.startswith(_PURGED):
            marks.add(name)
    return claims, marks


def _checkpoint_seq(name: str) -> int:
    return int(name.rsplit("/", 1)[-1].removesuffix(".parquet"))


def _nanoseconds(moment: datetime) -> int:
    """Exact to the microsecond, unlike a float of seconds."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).replace(
        microsecond=nanoseconds % 10**9 // 1000
    )
