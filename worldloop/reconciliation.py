"""Holes in logs, copies of logs, packs and projections: how they are found and told, without reading.

A committed batch stands in several places under the same key: at home, in the replicas of the
other sites and in the backup. What all of them hold together is what should be; each is compared
with that. A hole is first suspected from listings (names and sizes), then confirmed from bytes.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple

import polars as pl

from worldloop import layout
from worldloop.layout import LogName
from worldloop.records import RECONCILIATIONS

Trouble = Literal["missing", "damaged", "differs"]
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOG_KEY = re.compile(
    r"logs/(private|shared)/([^/]+)/"
    r"(?:(\d{12})-([0-9a-f]{64})\.parquet|claims/(\d{12})|checkpoints/(\d{12})\.parquet)"
)
_CLAIM_BYTES = 64
_FEW_LETTERS = 8  # a shorter rest of a claim proves nothing
_ALIKE = 0.5  # of a damaged claim's letters stand unchanged; two hashes share a sixteenth
_TAR_BLOCK = 512


class Number(NamedTuple):
    """A place in one kind of a log; a claim gives it to one batch.

    Attributes:
        log: `private` or `shared`.
        kind: Of the rows.
        seq: Counts up from 1 without gaps.
    """

    log: LogName
    kind: str
    seq: int

    @property
    def name(self) -> str:
        """Of its kind; both logs have retractions, which are told apart: `shared/retractions`."""
        return f"{self.log}/{self.kind}" if self.kind == "retractions" else self.kind

    @property
    def claim_key(self) -> str:
        """Key of its claim."""
        return layout.claim_key(*self)

    @property
    def checkpoint_key(self) -> str:
        """Key of the checkpoint that ends here."""
        return layout.checkpoint_key(*self)

    def batch_key(self, sha256: str) -> str:
        """Key of a batch under this number."""
        return layout.batch_key(*self, sha256)


@dataclass(frozen=True)
class LogListing:
    """What a listing says of the logs in one place.

    Attributes:
        batches: Number to the named hash and size of every batch under it, claimed or not.
        claims: Claimed numbers, with the size of the claim.
        checkpoints: Last number of each checkpoint, with its size.
    """

    batches: Mapping[Number, Mapping[str, int]]
    claims: Mapping[Number, int]
    checkpoints: Mapping[Number, int]

    def is_whole(self, number: Number) -> bool:
        """Whether a number has its claim, of the right size, and a batch."""
        return self.claims.get(number) == _CLAIM_BYTES and number in self.batches

    def heads(self) -> dict[tuple[LogName, str], int]:
        """Newest claimed number of each kind."""
        heads: dict[tuple[LogName, str], int] = {}
        for log, kind, seq in self.claims:
            heads[log, kind] = max(seq, heads.get((log, kind), 0))
        return heads


@dataclass(frozen=True)
class Seen:
    """What one place has under one number, read.

    Attributes:
        claim: Content of the claim; None if there is none.
        batches: Named hash of each batch under the number, and whether its bytes have that hash.
    """

    claim: bytes | None
    batches: Mapping[str, bool]

    @property
    def claimed(self) -> str | None:
        """The hash that the claim names; None if it is missing or is no hash."""
        text = (self.claim or b"").decode(errors="replace")
        return text if is_sha256(text) else None


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        site: Where; a backup is `<site>/backup`.
        origin: Site whose log or footage it is.
        of_kind: Kind of log rows, `packs`, or the name of a projection.
        part: `claim`, `batch`, `checkpoint`, `pack`, `rows` or `file`.
        what: `missing`, `damaged`, or `differs`: two places have different batches of one number.
        key: Key of the object; of rows, the first ids.
        expected: What should be there.
        found: What is there.
        repair: What heals it, done or to be done.
        repaired: Whether it was healed and verified again.
        lost_ids: Ids of rows that are lost, as far as they are known.
        num_things: Objects or rows that it is about.
    """

    site: str
    origin: str
    of_kind: str
    part: str
    what: Trouble
    key: str
    expected: str
    found: str
    repair: str = ""
    repaired: bool = False
    lost_ids: tuple[str, ...] = ()
    num_things: int = 1

    def __str__(self) -> str:
        state = "repaired" if self.repaired else "NOT REPAIRED"
        lost = f" Lost rows: {', '.join(self.lost_ids[:8])}." if self.lost_ids else ""
        return (
            f"{self.site}: {self.part} {self.key!r} is {self.what}: found {self.found}, expected "
            f"{self.expected}. {state}: {self.repair}.{lost}"
        )

    def healed(self, how: str) -> "Finding":
        """The same finding, repaired."""
        return replace(self, repaired=True, repair=how)

    def unhealed(self, remedy: str, lost_ids: Iterable[str] = ()) -> "Finding":
        """The same finding, with what a person has to do."""
        return replace(self, repaired=False, repair=remedy, lost_ids=tuple(lost_ids))


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 in lower-case hex."""
    return _SHA256.fullmatch(text) is not None


def read_listing(listed: Iterable[tuple[str, int]]) -> LogListing:
    """What keys and sizes say of the logs; keys that no log has are left out.

    Example:
        >>> listing = read_listing([("logs/shared/lineage/claims/000000000002", 64)])
        >>> listing.heads()
        {('shared', 'lineage'): 2}
    """
    batches: dict[Number, dict[str, int]] = {}
    claims: dict[Number, int] = {}
    checkpoints: dict[Number, int] = {}
    for key, size_bytes in listed:
        if not (match := _LOG_KEY.fullmatch(key)):
            continue
        log, kind, batch, sha256, claim, checkpoint = match.groups()
        number = Number(
            "private" if log == "private" else "shared", kind, int(batch or claim or checkpoint)
        )
        if batch:
            batches.setdefault(number, {})[sha256] = size_bytes
        else:
            (claims if claim else checkpoints)[number] = size_bytes
    return LogListing(batches, claims, checkpoints)


def contradictions(origin: LogListing, copy: LogListing) -> dict[Number, str]:
    """Numbers of a copy that its origin does not have, or has with another batch; each with why."""
    found = {}
    for number in sorted(copy.claims):
        ours, theirs = origin.batches.get(number, {}), copy.batches.get(number, {})
        if number not in origin.claims:
            found[number] = f"the copy has {number.claim_key!r}, which the source has not"
        elif ours and theirs and not ours.keys() & theirs.keys():
            found[number] = (
                f"the copy has {number.batch_key(min(theirs))!r}, the source "
                f"{number.batch_key(min(ours))!r}"
            )
    return found


def all_numbers(
    places: Mapping[str, LogListing], known: Iterable[Mapping[LogName, Mapping[str, int]]] = ()
) -> list[Number]:
    """Every number that was ever given away, as far as any place or position tells.

    Args:
        places: Listing by place.
        known: Positions that somebody has seen: of releases, projections, backups. They reveal a
            newest number that was lost together with its claim.
    """
    heads: dict[tuple[LogName, str], int] = {}
    for listing in places.values():
        for at, head in listing.heads().items():
            heads[at] = max(head, heads.get(at, 0))
    for position in known:
        for log, kinds in position.items():
            for kind, head in kinds.items():
                heads[log, kind] = max(head, heads.get((log, kind), 0))
    return [
        Number(log, kind, seq)
        for (log, kind), head in sorted(heads.items())
        for seq in range(1, head + 1)
    ]


def due_checkpoints(listing: LogListing, *, every: int) -> set[Number]:
    """Checkpoints that the log's own rule asks for: no stretch of `every` numbers is without one."""
    due: set[Number] = set()
    for (log, kind), head in listing.heads().items():
        present = sorted(n.seq for n in listing.checkpoints if n[:2] == (log, kind))
        for start, end in zip([0, *present], [*present, head + 1], strict=True):
            due.update(Number(log, kind, seq) for seq in range(start + every, end, every))
    return due


def is_suspect(number: Number, places: Iterable[LogListing]) -> bool:
    """Whether listings alone show that something may be wrong with a number somewhere."""
    shelves = [place.batches.get(number, {}) for place in places]
    names = {sha256 for shelf in shelves for sha256 in shelf}
    sizes = {size for shelf in shelves for size in shelf.values()}
    whole = all(place.is_whole(number) for place in places)
    return not (whole and len(names) == 1 and len(sizes) == 1)


def is_due(key: str, *, share: float, turn: int) -> bool:
    """Whether an object's bytes are read in this turn; after 1 / share turns each was read once.

    Args:
        key: Key of the object.
        share: 0 reads none, 1 reads all.
        turn: Counts up by one each run.
    """
    if share <= 0:
        return False
    num_turns = max(round(1 / share), 1)
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return bucket % num_turns == turn % num_turns


def rightful(seen: Mapping[str, Seen], *, home: str) -> str | None:
    """The hash of the batch that has a number, from all that is left of it; None if nothing tells.

    Valid claims that name a known batch decide, the one at home first; then the only intact batch,
    or the one that a damaged claim is most like; then a valid claim whose batch is nowhere.
    """
    known = {sha256 for place in seen.values() for sha256 in place.batches}
    intact = {sha256 for place in seen.values() for sha256, good in place.batches.items() if good}
    claimed = [place.claimed for place in (seen[home], *seen.values()) if place.claimed]
    for sha256 in claimed:
        if sha256 in known:
            return sha256
    for content in (place.claim for place in seen.values() if place.claim):
        nearest = max(sorted(known), key=lambda sha256: _likeness(content, sha256), default=None)
        if nearest and _likeness(content, nearest) >= _ALIKE:
            return nearest
    if claimed:
        return claimed[0]
    candidates = intact or known
    return min(candidates) if len(candidates) == 1 else None


def number_findings(number: Number, seen: Mapping[str, Seen], *, origin: str) -> list[Finding]:
    """What is wrong with one number in all places, in the order in which it must be repaired.

    Args:
        number: Which.
        seen: What each place has under it; the origin itself is one of them.
        origin: Site whose log it is.
    """
    sha256 = rightful(seen, home=origin)
    forks = {p.claimed for p in seen.values() if p.claimed in p.batches} - {sha256, None}
    findings = []
    for place in (origin, *(name for name in seen if name != origin)):
        for part, what, key, expected, found in _troubles(number, sha256, seen[place], forks):
            findings.append(Finding(place, origin, number.name, part, what, key, expected, found))
    return findings


def pack_findings(
    clips: pl.DataFrame, listed: Mapping[str, int], *, site: str, suspects: Collection[str] = ()
) -> list[Finding]:
    """Packs that rows name and the store lacks, or has in another size.

    Args:
        clips: `records.CLIPS`: where in its pack each member lies tells how long the pack is. Rows
            of `records.LINEAGE` may be among them, with null members.
        listed: Packs of the store with their sizes.
        site: Where they should be.
        suspects: Packs whose bytes were read and do not have the hash that they are named by.
    """
    findings = []
    for key, size in sorted(pack_sizes(clips).items()):
        found, expected = listed.get(key), f"{size} bytes" if size else "a pack"
        if found is None:
            findings.append(
                Finding(site, site, "packs", "pack", "missing", key, expected, "nothing")
            )
        elif key in suspects or (size and found != size):
            said = "other bytes" if key in suspects else f"{found} bytes"
            findings.append(Finding(site, site, "packs", "pack", "damaged", key, expected, said))
    return findings


def pack_sizes(clips: pl.DataFrame) -> dict[str, int]:
    """Every pack that rows name, with its exact size in bytes; 0 where no row tells.

    A pack is a tar file: whole blocks, and two empty ones at its end.
    """
    end = pl.element().struct.field("offset") + pl.element().struct.field("size_bytes")
    last = clips.group_by("pack_key").agg(
        pl.col("members").list.eval(end).list.max().max().alias("end")
    )
    return {
        key: -(-end // _TAR_BLOCK) * _TAR_BLOCK + 2 * _TAR_BLOCK if end else 0
        for key, end in last.select("pack_key", "end").iter_rows()
        if key
    }


def row_finding(
    ids: Collection[str], present: Collection[str], *, site: str, projection: str, of_kind: str
) -> Finding | None:
    """Rows of a log that a projection lacks; None if it has them all."""
    missing = sorted(set(ids) - set(present))
    if not missing:
        return None
    return Finding(
        site,
        site,
        projection,
        "rows",
        "missing",
        f"{of_kind}: {', '.join(missing[:3])}",
        f"{len(set(ids))} rows of {of_kind}",
        f"{len(set(ids)) - len(missing)} of them",
        num_things=len(missing),
    )


def reconciliation_rows(
    findings: Sequence[Finding],
    expected: Mapping[tuple[str, str, str], int],
    *,
    measured_at: datetime,
) -> pl.DataFrame:
    """Rows of `records.RECONCILIATIONS`, one for each place, origin and kind that was looked at.

    Args:
        findings: What was found, after the repair.
        expected: (site, origin, of_kind) to the objects or rows that should be there.
        measured_at: When.
    """
    missing: dict[tuple[str, str, str], int] = {}
    repaired: dict[tuple[str, str, str], int] = {}
    for finding in findings:
        at = (finding.site, finding.origin, finding.of_kind)
        missing[at] = missing.get(at, 0) + finding.num_things
        repaired[at] = repaired.get(at, 0) + finding.num_things * finding.repaired
    rows = [
        (*at, measured_at, expected.get(at, 0), missing.get(at, 0), repaired.get(at, 0))
        for at in sorted({*expected, *missing})
    ]
    return pl.DataFrame(rows, schema=dict(RECONCILIATIONS.columns), orient="row")


def _troubles(
    number: Number, sha256: str | None, seen: Seen, forks: Collection[str | None]
) -> Iterator[tuple[str, Trouble, str, str, str]]:
    """Part, trouble, key, expected and found; the batch before the claim."""
    if sha256 is None:
        yield "batch", "missing", number.claim_key, "a batch and its claim", "no sign of which"
        return
    if seen.claimed in forks:
        yield "claim", "differs", number.claim_key, sha256, str(seen.claimed)
        return
    if not seen.batches.get(sha256, False):
        gone = sha256 not in seen.batches
        trouble: Trouble = "missing" if gone else "damaged"
        yield (
            "batch",
            trouble,
            number.batch_key(sha256),
            sha256,
            "nothing" if gone else "other bytes",
        )
    if seen.claim != sha256.encode():
        trouble = "missing" if seen.claim is None else "damaged"
        yield "claim", trouble, number.claim_key, sha256, repr(seen.claim)[:80]


def _likeness(claim: bytes, sha256: str) -> float:
    """Share of a hash's letters that stand in a damaged claim where they should."""
    same = sum(a == b for a, b in zip(claim, sha256.encode(), strict=False))
    return same / max(len(claim), _FEW_LETTERS)
