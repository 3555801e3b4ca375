"""Holes in the logs of a site, in every place that holds them: found by listing, proven by reading.

Places are home, the replicas at other sites, the backup, and what this machine has mirrored. A batch
that is missing in one is taken from any other; one that is in none is cut out of a checkpoint.
"""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from resources.log_replicas import list_log, read_if_there
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.survey import Survey
from worldloop import layout
from worldloop.errors import MalformedRecordError, StoreError, WorldloopError
from worldloop.layout import LogName
from worldloop.logs import (
    BATCHED_KINDS,
    Kind,
    batch_bytes,
    decode_position,
    decode_positions,
    read_batch,
    read_batch_ids,
)
from worldloop.reconciliation import (
    Finding,
    LogListing,
    Number,
    Seen,
    all_numbers,
    due_checkpoints,
    is_suspect,
    number_findings,
)

BACKUP = "backup"
_MIRROR = "mirror"
_AT_ONCE = 8  # batches that are read together
_LOST = (
    "No place has it: neither a replica, nor the backup, nor a checkpoint. Its rows are lost; run "
    "the assets of their waves again, which append what the log does not have"
)


@dataclass(frozen=True)
class Place:
    """Somewhere that a site's logs lie: at home, in its backup, or in another site's store."""

    name: str
    store: SiteStore  # seen from where `logs/` lies
    listing: LogListing
    logs: tuple[LogName, ...]
    must_hold: bool = True  # else it only bears witness: a local mirror holds what was read


@dataclass
class LogHoles:
    """Looks over the logs of one site.

    Attributes:
        survey: What was found goes there.
        places: Every place that answered, by name; home comes first.
    """

    survey: Survey
    places: dict[str, Place] = field(default_factory=dict)

    def visit(self, others: Mapping[str, SiteStore], backup: SiteStore | None) -> None:
        """List every place; home last, so that no copy seems to be ahead of it."""
        both: tuple[LogName, ...] = ("private", "shared")
        prefix = layout.replica_prefix(self.survey.origin)
        for name, store in others.items():
            self._list(name, store.within(prefix), ("shared",))
        if backup is not None:
            self._list(f"{self.survey.origin}/{BACKUP}", backup, both)
        home = Place(
            self.survey.origin, self.survey.view.store, list_log(self.survey.view.store, both), both
        )
        self.places = {self.survey.origin: home, **self.places, **_mirror_of(self.survey.view.log)}

    def check_logs(self, known: list[dict[LogName, dict[str, int]]]) -> None:
        """Every number in every place; then those that only the releases' positions reveal."""
        listings = {name: place.listing for name, place in self.places.items()}
        numbers = all_numbers(listings, known)
        self._check_numbers(numbers)
        revealed = set(all_numbers(listings, [*known, *self._released_at()])) - set(numbers)
        self._check_numbers(sorted(revealed))

    def check_checkpoints(self) -> None:
        """Checkpoints hold what the batches hold; home has each that the backup has."""
        if any(f.part == "batch" and not f.repaired for f in self.survey.findings):
            return  # without all batches nobody can say what a checkpoint should hold
        holders = [p for p in self.places.values() if "private" in p.logs and p.must_hold]
        home = self.places[self.survey.origin].listing
        due = due_checkpoints(home, every=self.survey.view.log.checkpoint_every)
        for number in sorted(due.union(*(place.listing.checkpoints for place in holders))):
            sizes = {place.listing.checkpoints.get(number) for place in holders}
            self.survey.expect(self.survey.origin, number.name, 1)
            turn = self.survey.is_due(number.checkpoint_key)
            if turn or number not in home.checkpoints or len(sizes - {None}) > 1:
                self._check_checkpoint(number, holders)

    def _list(self, name: str, store: SiteStore, logs: tuple[LogName, ...]) -> None:
        try:
            self.places[name] = Place(name, store, list_log(store, logs), logs)
        except StoreError as error:
            self.survey.unreachable[name] = str(error)

    def _check_numbers(self, numbers: Iterable[Number]) -> None:
        for number in numbers:
            places = [place for place in self.places.values() if number.log in place.logs]
            holders = [place for place in places if place.must_hold]
            for place in holders:
                self.survey.expect(place.name, number.name, 2)
            due = self.survey.is_due(number.claim_key)
            if due or is_suspect(number, [place.listing for place in holders]):
                self._check_number(number, places)

    def _check_number(self, number: Number, places: list[Place]) -> None:
        seen, contents = {}, {}
        for place in places:
            try:
                seen[place.name], good = _look(number, place)
            except StoreError as error:
                self._give_up(place, error)
                continue
            contents.update(good)
        for finding in number_findings(number, seen, origin=self.survey.origin):
            if self.places[finding.site].must_hold:
                self.survey.findings.append(self._mend_number(number, finding, contents))

    def _give_up(self, place: Place, error: StoreError) -> None:
        """Go on without a place that answers no more; without home there is no going on."""
        if place.name == self.survey.origin:
            raise error
        self.survey.unreachable[place.name] = str(error)
        self.places.pop(place.name, None)

    def _mend_number(self, number: Number, finding: Finding, contents: dict[str, bytes]) -> Finding:
        store, sha256 = self.places[finding.site].store, finding.expected
        if finding.what == "differs":
            return finding.unhealed(
                "Two writers were given one number, after a newest claim was lost. Nothing is "
                f"overwritten: compare {finding.key!r} there and at {self.survey.origin!r}, append the "
                "rows that are only there, then move that copy aside"
            )
        if finding.part == "claim":
            if sha256 not in contents:
                return finding.unhealed("The batch that it names is lost")
            return self.survey.put(finding, store, sha256.encode(), "from the batch that stands")
        content, how = contents.get(sha256), "from another place that has it"
        if content is None:
            content, how = self._from_checkpoint(number, sha256), "from a checkpoint's rows"
        if content is None:
            return finding.unhealed(_LOST, self._lost_ids(number))
        contents[sha256] = content
        return self.survey.put(finding, store, content, how)

    def _released_at(self) -> list[dict[LogName, dict[str, int]]]:
        """Positions of this site's log that releases, here or elsewhere, were frozen at."""
        found: set[str] = set()
        for log in self.survey.view.logs.values():
            try:
                rows = log.read("releases").select("site", "log_position").unique().rows()
                places = [decode_positions(text, coordinator=site) for site, text in rows]
            except WorldloopError:  # a hole that could not be repaired and stands in the findings
                continue
            found |= {place[self.survey.origin] for place in places if self.survey.origin in place}
        return [decode_position(position) for position in found]

    def _checkpoints_over(self, number: Number) -> list[tuple[int, bytes]]:
        """Checkpoints that hold the rows of a number, the shortest first."""
        found = {
            (n.seq, place.name): place.store
            for place in self.places.values()
            for n in place.listing.checkpoints
            if n[:2] == number[:2] and n.seq >= number.seq
        }
        return [
            (seq, store.get(layout.checkpoint_key(number.log, number.kind, seq)))
            for (seq, _), store in sorted(found.items(), key=lambda item: item[0])
        ]

    def _batch(self, number: Number) -> bytes | None:
        """The intact batch of a number, from any place."""
        for place in list(self.places.values()):
            try:
                seen, contents = _look(number, place)
            except StoreError as error:
                self._give_up(place, error)
                continue
            if seen.claimed in contents:
                return contents[seen.claimed]
            if len(contents) == 1:
                return min(contents.values())
        return None

    def _from_checkpoint(self, number: Number, sha256: str) -> bytes | None:
        """A lost batch, cut out of a checkpoint between its neighbours; only if its hash is right."""
        kind = _kind(number)
        if kind is None:
            return None
        for seq, checkpoint in self._checkpoints_over(number):
            try:
                rows = read_batch(kind, checkpoint)
            except MalformedRecordError:
                continue
            order = {row_id: at for at, row_id in enumerate(rows["id"])}
            start = self._edge(number._replace(seq=number.seq - 1), order, after=True)
            end = self._edge(number._replace(seq=number.seq + 1), order, after=False)
            end = rows.height if number.seq == seq else end
            if start is not None and end is not None:
                content = batch_bytes(kind, rows[start:end])
                if hashlib.sha256(content).hexdigest() == sha256:
                    return content
        return None

    def _edge(self, number: Number, order: Mapping[str, int], *, after: bool) -> int | None:
        """Where a batch begins or ends among a checkpoint's rows; None if it is lost itself."""
        if number.seq == 0:
            return 0
        if (content := self._batch(number)) is None:
            return None
        ids = read_batch_ids(content)
        at = order.get(ids[-1] if after else ids[0])
        return None if at is None else at + after

    def _lost_ids(self, number: Number) -> list[str]:
        """Ids that a checkpoint names and no batch up to it has."""
        for seq, checkpoint in self._checkpoints_over(number):
            try:
                lost = set(read_batch_ids(checkpoint))
            except MalformedRecordError:
                continue
            for other in range(1, seq + 1):
                content = self._batch(number._replace(seq=other))
                lost -= set(read_batch_ids(content)) if content else set()
            return sorted(lost)
        return []

    def _check_checkpoint(self, number: Number, holders: list[Place]) -> None:
        kind = _kind(number)
        if kind is None:
            return
        numbers = [number._replace(seq=seq) for seq in range(1, number.seq + 1)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            batches = [batch for batch in pool.map(self._batch, numbers) if batch]
        right = batch_bytes(kind, pl.concat([read_batch(kind, batch) for batch in batches]))
        for place in holders:
            if place.name != self.survey.origin and number not in place.listing.checkpoints:
                continue  # its turn comes with the next backup
            found = read_if_there(place.store, number.checkpoint_key)
            if found != right:
                self.survey.findings.append(
                    self.survey.put(
                        Finding(
                            place.name,
                            self.survey.origin,
                            number.name,
                            "checkpoint",
                            "missing" if found is None else "damaged",
                            number.checkpoint_key,
                            f"the rows of batches 1 to {number.seq}",
                            "nothing" if found is None else "other bytes",
                        ),
                        place.store,
                        right,
                        "from its batches",
                    )
                )


def _look(number: Number, place: Place) -> tuple[Seen, dict[str, bytes]]:
    """What a place has under a number, and the bytes of its intact batches by their hash."""
    claim = read_if_there(place.store, number.claim_key)
    named = set(place.listing.batches.get(number, {}))
    seen = Seen(claim, {})
    if seen.claimed:
        named.add(seen.claimed)  # claimed since the listing
    found = {sha256: read_if_there(place.store, number.batch_key(sha256)) for sha256 in named}
    contents = {sha256: c for sha256, c in found.items() if c is not None and _sha256(c) == sha256}
    standing = {sha256: sha256 in contents for sha256, c in found.items() if c is not None}
    return Seen(claim, standing), contents


def _kind(number: Number) -> Kind | None:
    """The kind of a number's rows; None if a newer release wrote it."""
    return BATCHED_KINDS.get(number.name)


def _mirror_of(log: SiteLog) -> dict[str, Place]:
    """What this machine has read of a remote log: it may hold what every store has lost."""
    if not log.mirror or not Path(log.mirror).is_dir():
        return {}
    store = SiteStore(url=log.mirror)
    both: tuple[LogName, ...] = ("private", "shared")
    return {_MIRROR: Place(_MIRROR, store, list_log(store, both), both, must_hold=False)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
