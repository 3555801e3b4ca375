"""The ledger: what runs of one site may use today, reserved before they start, settled after."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from pydantic import Field

from worldloop.budgets import KINDS, BudgetLine, check_kinds, refusal
from worldloop.errors import BudgetExceededError

_SCHEMA = """
create table if not exists entries (
    day text not null,        -- ISO date, UTC, of the reservation
    key text not null,        -- what the run is for; one entry a kind
    kind text not null,
    reserved real not null,   -- 0 once settled
    settled real not null,
    primary key (key, kind)
) strict
"""


class Ledger(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Budgets of one site in a sqlite file; any number of processes and threads may use it.

    Attributes:
        path: The file.
        limits: Limit a day by kind; a kind that is not named has none.
        timeout_s: How long to wait for other writers.
    """

    path: str = Field(min_length=1)
    limits: dict[str, float] = Field(default_factory=dict)
    timeout_s: float = Field(default=30.0, gt=0)

    def reserve(
        self, key: str, estimate: Mapping[str, float], *, now: datetime | None = None
    ) -> bool:
        """Hold an amount of today's budget for a run.

        Args:
            key: What the run is for. A key that is in the ledger, held or settled, keeps its entry.
            estimate: Amount by kind.
            now: The moment; the clock's when not given.

        Returns:
            Whether this call made the reservation.

        Raises:
            BudgetExceededError: If it does not fit; nothing is held then.
        """
        check_kinds(estimate)
        day = _day(now)
        with self._transaction() as db:
            if db.execute("select 1 from entries where key = ?", (key,)).fetchone():
                return False
            reason = refusal({line.kind: line for line in self._lines(db, day)}, estimate)
            if reason is not None:
                raise BudgetExceededError(reason)
            db.executemany(
                "insert into entries values (?, ?, ?, ?, 0)",
                [(day, key, kind, float(amount)) for kind, amount in estimate.items()],
            )
        return True

    def settle(self, key: str, actual: Mapping[str, float], *, now: datetime | None = None) -> None:
        """Replace a reservation by what the run really used, on the day of its reservation.

        Settling again replaces the amounts. A run without a reservation is entered as of today.
        """
        check_kinds(actual)
        with self._transaction() as db:
            found = db.execute("select day from entries where key = ?", (key,)).fetchone()
            day = found[0] if found else _day(now)
            db.execute("delete from entries where key = ?", (key,))
            db.executemany(
                "insert into entries values (?, ?, ?, 0, ?)",
                [(day, key, kind, float(actual.get(kind, 0.0))) for kind in KINDS],
            )

    def release_reservation(self, key: str) -> None:
        """Give back what a run holds that will not happen; a settled entry stays."""
        with self._transaction() as db:
            db.execute(
                "delete from entries where key = ? "
                "and key not in (select key from entries where settled > 0)",
                (key,),
            )

    def today(self, *, now: datetime | None = None) -> list[BudgetLine]:
        """How every kind stands today."""
        with self._transaction() as db:
            return self._lines(db, _day(now))

    def settled_today(self, keys: str, *, now: datetime | None = None) -> dict[str, float]:
        """What runs whose key begins with `keys` really used today, by kind."""
        with self._transaction() as db:
            rows = db.execute(
                "select kind, sum(settled) from entries where day = ? and substr(key, 1, ?) = ? "
                "group by kind",
                (_day(now), len(keys), keys),
            )
            return dict(rows.fetchall())

    def _lines(self, db: sqlite3.Connection, day: str) -> list[BudgetLine]:
        sums = {
            kind: (reserved, settled)
            for kind, reserved, settled in db.execute(
                "select kind, sum(reserved), sum(settled) from entries where day = ? group by kind",
                (day,),
            )
        }
        return [
            BudgetLine(kind, *sums.get(kind, (0.0, 0.0)), self.limits.get(kind, float("inf")))
            for kind in KINDS
        ]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One connection for one transaction, which takes the write lock at once."""
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=self.timeout_s, isolation_level=None)
        try:
            db.execute("begin immediate")
            db.execute(_SCHEMA)
            yield db
            db.execute("commit")
        except BaseException:
            with contextlib.suppress(sqlite3.OperationalError):
                db.execute("rollback")
            raise
        finally:
            db.close()


def _day(now: datetime | None) -> str:
    return (now or datetime.now(UTC)).astimezone(UTC).date().isoformat()
