"""Leases: one committer at a time, with create-if-absent as the only thing asked of the store.

A lease is a row of numbered terms. Whoever creates the next number holds it: to take it, to take it
over after it ended, and to renew it, so the number is a fencing token that only grows. An empty term
says that the lease is free. A term ends `ttl_s` after the store took it, and both moments come from
the store: a candidate writes a heartbeat and compares its time with the term's, so no local clock
counts, however wrong it is. The holder counts its own time with the monotonic clock, from before it
asked, and therefore gives up before anybody else may take over.

While it is held a thread renews it every third of its time. So a short time can be chosen, and a
killed holder blocks nobody for long, while one that is busy for minutes in Lance or pyarrow keeps it.
"""

import hashlib
import json
import os
import threading
import time
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from resources.site_store import SiteStore, StoredObject
from worldloop.errors import LeaseHeldError, StoreError
from worldloop.layout import heartbeat_key, lease_key, lease_prefix

_GRAIN_S = 2.0  # S3 tells times in whole seconds, so a difference of two is wrong by less than this
_FREE = b""
_OLD_HEARTBEAT = timedelta(days=1)


class Lease:
    """The right to be the one committer of something, for a time that renews itself.

    Args:
        store: Where the terms are; it must honour create-if-absent.
        name: What is held, e.g. `projection-lance`.
        holder: Who asks, for messages to others, e.g. a run's id.
        ttl_s: Seconds after which the lease of a killed holder ends.

    Example:
        >>> with Lease(store, "projection-lance", "run 7") as lease:  # doctest: +SKIP
        ...     prepare()
        ...     lease.confirm()  # right before what counts
        ...     commit()
    """

    def __init__(self, store: SiteStore, name: str, holder: str, *, ttl_s: float = 60.0):
        if ttl_s <= 0:
            raise ValueError(f"ttl_s is {ttl_s}; expected seconds above zero.")
        self.store, self.name, self.holder, self.ttl_s = store, name, holder, ttl_s
        unique = f"{holder}/{os.getpid()}/{id(self)}/{time.monotonic_ns()}"
        self._candidate = hashlib.sha256(unique.encode()).hexdigest()[:16]
        self.term = 0  # the fencing token; 0 while it is not held
        self._ends_at = 0.0  # by the monotonic clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> int:
        """Take the lease if it is free, or if its term has ended by the store's clock.

        Returns:
            The term: larger than that of every holder before.

        Raises:
            LeaseHeldError: If another one holds it.
            StoreError: If the store cannot be reached.
        """
        with self._lock:
            listed = self._terms()
            newest = max(listed, default=0)
            if newest and listed[newest].size_bytes:
                self._refuse_unless_ended(newest)
            if not self._take(newest + 1):
                self._refuse_unless_ended(max(self._terms(), default=newest + 1))
                raise LeaseHeldError(self.name, "another candidate", left_s=self.ttl_s)
        self._stopped.clear()
        self._renewer = threading.Thread(target=self._keep_renewing, daemon=True, name=self.name)
        self._renewer.start()
        return self.term

    def renew(self) -> bool:
        """Begin the next term.

        Returns:
            False if the lease is not held any more: another one took it over.
        """
        with self._lock:
            return bool(self.term) and self._take(self.term + 1)

    def still_held(self) -> bool:
        """Whether this is the holder, as the store says now; to be asked right before a commit.

        A holder that was asleep for longer than its term is not, unless it could begin another.
        """
        with self._lock:
            if not self.term:
                return False
            if time.monotonic() >= self._ends_at:
                return self._take(self.term + 1)
            if max(self._terms(), default=0) == self.term:
                return True
            self.term = 0
            return False

    def confirm(self) -> int:
        """Like `still_held`, for who cannot go on without it.

        Returns:
            The term.

        Raises:
            LeaseHeldError: If another one took it over.
        """
        if not self.still_held():
            raise LeaseHeldError(self.name, "another committer", left_s=self.ttl_s)
        return self.term

    def release(self) -> None:
        """Give the lease back; fine if it is not held. What others wrote stays."""
        self._stopped.set()
        if self._renewer is not None:
            self._renewer.join()
            self._renewer = None
        with self._lock:
            if self.term and self.store.create(self._key(self.term + 1), _FREE):
                self.store.delete(self._key(self.term))
            self.term = 0

    def _take(self, term: int) -> bool:
        """Create a term, see that no higher one stands, and sweep the ones below."""
        asked_at = time.monotonic()  # before the store can have counted from
        record = {"holder": self.holder, "ttl_s": self.ttl_s, "candidate": self._candidate}
        content, key = json.dumps(record).encode(), self._key(term)
        # A create whose answer was lost is tried again by the client, and then finds its own object.
        if not self.store.create(key, content) and self.store.get(key) != content:
            self.term = 0
            return False
        listed = self._terms()
        if max(listed, default=0) != term:  # asleep so long that higher terms came and went
            self.store.delete(key)
            self.term = 0
            return False
        self.term, self._ends_at = term, asked_at + self.ttl_s
        for old in listed:
            if old < term:
                self.store.delete(self._key(old))
        return True

    def _refuse_unless_ended(self, term: int) -> None:
        """Raise unless the term's time is over by the store's clock.

        Raises:
            LeaseHeldError: If it is not.
        """
        try:
            record = json.loads(self.store.get(self._key(term)))
        except StoreError:
            if term in self._terms():
                raise
            raise LeaseHeldError(self.name, "another candidate", left_s=self.ttl_s) from None
        except ValueError:  # empty: given back since it was listed
            return
        heartbeat = heartbeat_key(self.name, self._candidate)
        self.store.put(heartbeat, self.holder.encode())
        listed = {found.key: found for found in self.store.scan(lease_prefix(self.name))}
        now, standing = listed[heartbeat].modified_at, listed.get(self._key(term))
        self._sweep_heartbeats(listed, now - _OLD_HEARTBEAT)
        self.store.delete(heartbeat)
        age_s = (now - standing.modified_at).total_seconds() if standing else 0.0
        left_s = float(record["ttl_s"]) + _GRAIN_S - age_s
        if left_s > 0:
            raise LeaseHeldError(self.name, str(record["holder"]), left_s=left_s)

    def _sweep_heartbeats(self, listed: dict[str, StoredObject], before: datetime) -> None:
        """Remove what candidates that were killed left."""
        for key, found in listed.items():
            if "/heartbeats/" in key and found.modified_at < before:
                self.store.delete(key)

    def _keep_renewing(self) -> None:
        while not self._stopped.wait(self.ttl_s / 3):
            try:
                if not self.renew():
                    return
            except StoreError:  # unreachable for now; `still_held` tells when that was too long
                continue

    def _terms(self) -> dict[int, StoredObject]:
        prefix = lease_prefix(self.name)
        names = {found.key.removeprefix(f"{prefix}/"): found for found in self.store.scan(prefix)}
        return {int(name): found for name, found in names.items() if name.isdigit()}

    def _key(self, term: int) -> str:
        return lease_key(self.name, term)
