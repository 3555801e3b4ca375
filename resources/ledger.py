"""The ledger: what runs of one site may use today, reserved before they start, settled after.

An amount belongs to one day alone: the UTC day on which its run was opened. A run that goes on after
midnight is held, and settled, on that day, however late it ends; the next day begins with its whole budget.
What was reserved on an earlier day and never begun is reserved anew, and what a part of a run used
(`r0001/verdict` of `r0001`) counts on the run's day and is taken out of what the run holds.
"""

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
# what an entry holds: its reservation without what parts of it, whose keys go on with "/", have used
_HELD = """case when reserved = 0 then 0.0 else max(0.0, reserved - (
    select total(part.settled) from entries as part
    where part.kind = entries.kind
        and part.key > entries.key || '/' and part.key < entries.key || '0'
)) end"""


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
            key: What the run is for. A key that is held today, or settled, keeps its entry; one that is held
                on an earlier day was never begun, and its entry moves to today.
            estimate: Amount by kind.
            now: The moment; the clock's when not given.

        Returns:
            Whether this call made the reservation.

        Raises:
            BudgetExceededError: If it does not fit; nothing is held then, and what was held before stays.
        """
        check_kinds(estimate)
        day = _day(now)
        with self._transaction() as db:
            held_on, held = db.execute(
                "select min(day), max(reserved) from entries where key = ?", (key,)
            ).fetchone()
            if held_on is not None and (held_on >= day or not held):
                return False
            reason = refusal({line.kind: line for line in self._lines(db, day)}, estimate)
            if reason is not None:
                raise BudgetExceededError(reason)
            db.execute("delete from entries where key = ?", (key,))
            db.executemany(
                "insert into entries values (?, ?, ?, ?, 0)",
                [(day, key, kind, float(amount)) for kind, amount in estimate.items()],
            )
        return True

    def settle(
        self,
        key: str,
        actual: Mapping[str, float],
        *,
        now: datetime | None = None,
        once: bool = False,
    ) -> None:
        """Replace a reservation by what the run really used, on the day of its reservation.

        Settling again replaces the amounts, unless `once` is set. A run without a reservation is entered as
        of today, a part of a run (`<run>/...`) as of the run's day.

        Args:
            key: What the run is for.
            actual: Amount by kind.
            now: The moment; the clock's when not given.
            once: Whether amounts that were settled before stay.
        """
        check_kinds(actual)
        with self._transaction() as db:
            found = db.execute(
                "select day, max(reserved) from entries where key in (?, ?) group by key "
                "order by key = ? desc",
                (key, key.partition("/")[0], key),
            ).fetchone()
            own = db.execute("select max(reserved) from entries where key = ?", (key,)).fetchone()
            if once and own[0] == 0:
                return
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

    def held(self, key: str) -> dict[str, float]:
        """What a run still holds, by kind, less what its parts have used; nothing once it is settled."""
        with self._transaction() as db:
            rows = db.execute(
                f"select kind, {_HELD}, reserved from entries where key = ?", (key,)
            ).fetchall()
        return {kind: held for kind, held, _ in rows} if any(row[2] for row in rows) else {}

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
                f"select kind, sum({_HELD}), sum(settled) from entries where day = ? group by kind",
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
