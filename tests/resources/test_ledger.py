import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta, timezone

import pytest

from resources.ledger import Ledger
from worldloop.errors import BudgetExceededError

SPAWN = multiprocessing.get_context("spawn")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(
        path=str(tmp_path / "home" / "ledger.sqlite"), limits={"cpu_s": 100.0, "usd": 0.0}
    )


def cpu(ledger, now=NOON):
    return next(line for line in ledger.today(now=now) if line.kind == "cpu_s")


def test_a_reservation_counts_once_however_often_it_is_made(ledger):
    assert ledger.reserve("w0001", {"cpu_s": 60.0}, now=NOON)
    assert not ledger.reserve("w0001", {"cpu_s": 60.0}, now=NOON)
    assert (cpu(ledger).reserved, cpu(ledger).settled) == (60.0, 0.0)


def test_what_does_not_fit_is_refused_with_the_numbers_and_holds_nothing(ledger):
    ledger.reserve("w0001", {"cpu_s": 60.0}, now=NOON)

    with pytest.raises(BudgetExceededError, match=r"needs 41 cpu_s; today 60 are reserved.*of 100"):
        ledger.reserve("w0002", {"requests": 5.0, "cpu_s": 41.0}, now=NOON)
    assert cpu(ledger).reserved == 60.0
    assert ledger.reserve("w0003", {"cpu_s": 40.0}, now=NOON)


def test_a_kind_without_budget_is_refused_and_one_without_limit_is_not(ledger):
    with pytest.raises(BudgetExceededError, match="usd"):
        ledger.reserve("w0001", {"usd": 0.01}, now=NOON)
    assert ledger.reserve("w0002", {"requests": 1e9}, now=NOON)


def test_settling_replaces_the_reservation_by_what_was_used(ledger):
    ledger.reserve("w0001", {"cpu_s": 60.0}, now=NOON)
    ledger.settle("w0001", {"cpu_s": 25.0}, now=NOON)
    ledger.settle("w0001", {"cpu_s": 30.0}, now=NOON)

    assert (cpu(ledger).reserved, cpu(ledger).settled) == (0.0, 30.0)
    assert not ledger.reserve("w0001", {"cpu_s": 60.0}, now=NOON)


def test_a_run_that_never_reserved_is_settled_all_the_same(ledger):
    ledger.settle("by hand", {"cpu_s": 80.0}, now=NOON)

    with pytest.raises(BudgetExceededError, match="80 used of 100"):
        ledger.reserve("w0001", {"cpu_s": 21.0}, now=NOON)


def test_a_released_reservation_is_free_again_but_a_settled_one_is_not(ledger):
    ledger.reserve("w0001", {"cpu_s": 60.0}, now=NOON)
    ledger.release_reservation("w0001")
    ledger.settle("w0002", {"cpu_s": 10.0}, now=NOON)
    ledger.release_reservation("w0002")

    assert (cpu(ledger).reserved, cpu(ledger).settled) == (0.0, 10.0)


def test_a_new_day_begins_at_midnight_utc(ledger):
    late = datetime(2026, 5, 1, 23, 59, tzinfo=UTC)
    ledger.reserve("w0001", {"cpu_s": 100.0}, now=late)
    after = late + timedelta(minutes=1)

    assert ledger.reserve("w0002", {"cpu_s": 100.0}, now=after)
    ledger.settle("w0001", {"cpu_s": 50.0}, now=after)  # belongs to the day it was reserved on
    assert cpu(ledger, after).settled == 0.0
    assert cpu(ledger, late).settled == 50.0


def test_unknown_kinds_and_negative_amounts_are_refused(ledger):
    with pytest.raises(ValueError, match="is no amount"):
        ledger.reserve("w0001", {"cpu": 1.0})
    with pytest.raises(ValueError, match="is no amount"):
        ledger.settle("w0001", {"cpu_s": -1.0})


def test_a_killed_writer_leaves_no_half_entry(ledger):
    ledger.reserve("w0001", {"cpu_s": 1.0}, now=NOON)
    db = sqlite3.connect(ledger.path, isolation_level=None)
    db.execute("begin immediate")
    db.execute("insert into entries values ('2026-05-01', 'w0002', 'cpu_s', 99, 0)")
    db.close()  # without a commit

    assert cpu(ledger).reserved == 1.0


def reserve_many(path, barrier, own, won):
    ledger = Ledger(path=path, limits={"cpu_s": 20.0})
    barrier.wait(60)
    for i in range(10):
        for key in (f"shared {i}", f"{own} {i}"):
            try:
                won.put(ledger.reserve(key, {"cpu_s": 1.0}, now=NOON))
            except BudgetExceededError:
                won.put(False)


def test_processes_never_reserve_more_than_the_limit_together(ledger):
    barrier, won = SPAWN.Barrier(3), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=reserve_many, args=(ledger.path, barrier, own, won)) for own in "abc"
    ]
    for process in processes:
        process.start()
    answers = [won.get(timeout=120) for _ in range(60)]
    for process in processes:
        process.join(60)

    assert sum(answers) == 20
    assert cpu(ledger).reserved == 20.0


LATE = datetime(2026, 5, 1, 23, 50, tzinfo=UTC)
NEXT_DAY = datetime(2026, 5, 2, 0, 10, tzinfo=UTC)


def used(ledger, now):
    """What counts on a day, held and used."""
    line = cpu(ledger, now)
    return line.reserved + line.settled


def test_a_run_over_midnight_counts_once_on_the_day_on_which_it_was_opened(ledger):
    ledger.reserve("r0001", {"cpu_s": 60.0}, now=LATE)
    assert (used(ledger, LATE), used(ledger, NEXT_DAY)) == (60.0, 0.0)

    ledger.settle("r0001/verdict", {"cpu_s": 5.0}, now=NEXT_DAY)
    assert (used(ledger, LATE), used(ledger, NEXT_DAY)) == (60.0, 0.0)

    for _ in range(2):
        ledger.settle("r0001", {"cpu_s": 40.0}, now=NEXT_DAY)
    assert (used(ledger, LATE), used(ledger, NEXT_DAY)) == (45.0, 0.0)
    assert ledger.settled_today("r0001", now=LATE)["cpu_s"] == 45.0
    assert ledger.settled_today("r0001", now=NEXT_DAY) == {}


def test_midnight_is_that_of_utc_whatever_the_clock_says(ledger):
    tokyo = timezone(timedelta(hours=9))
    ledger.reserve("w0001", {"cpu_s": 60.0}, now=datetime(2026, 5, 2, 8, 59, tzinfo=tokyo))

    assert used(ledger, NOON) == 60.0
    assert used(ledger, datetime(2026, 5, 2, 9, tzinfo=tokyo)) == 0.0


def test_a_part_of_a_run_is_taken_out_of_what_the_run_holds(ledger):
    ledger.reserve("r0001", {"cpu_s": 60.0}, now=NOON)
    for _ in range(2):
        ledger.settle("r0001/verdict", {"cpu_s": 25.0}, now=NOON)

    assert (cpu(ledger).reserved, cpu(ledger).settled) == (35.0, 25.0)
    assert ledger.held("r0001")["cpu_s"] == 35.0
    ledger.settle("r00010/verdict", {"cpu_s": 5.0}, now=NOON)  # of another run
    assert ledger.held("r0001")["cpu_s"] == 35.0
    ledger.settle("r0001/verdict", {"cpu_s": 70.0}, now=NOON)
    assert (cpu(ledger).reserved, ledger.held("r0001")["cpu_s"]) == (0.0, 0.0)


def test_what_was_reserved_yesterday_and_never_begun_is_reserved_for_today(ledger):
    ledger.reserve("w0001", {"cpu_s": 60.0}, now=LATE)

    assert ledger.reserve("w0001", {"cpu_s": 50.0}, now=NEXT_DAY)
    assert (used(ledger, LATE), used(ledger, NEXT_DAY)) == (0.0, 50.0)
    assert not ledger.reserve("w0001", {"cpu_s": 50.0}, now=NEXT_DAY)

    ledger.reserve("w0002", {"cpu_s": 90.0}, now=LATE)
    with pytest.raises(BudgetExceededError, match="needs 90 cpu_s; today 50 are reserved"):
        ledger.reserve("w0002", {"cpu_s": 90.0}, now=NEXT_DAY)
    assert (used(ledger, LATE), used(ledger, NEXT_DAY)) == (90.0, 50.0)


def test_what_was_settled_yesterday_is_never_reserved_again(ledger):
    ledger.settle("w0001", {"cpu_s": 60.0}, now=LATE)

    assert not ledger.reserve("w0001", {"cpu_s": 60.0}, now=NEXT_DAY)
    assert (used(ledger, LATE), used(ledger, NEXT_DAY)) == (60.0, 0.0)


def test_what_is_settled_once_stays_as_it_was_first(ledger):
    ledger.reserve("r0001", {"cpu_s": 60.0}, now=NOON)
    for amount in (40.0, 90.0):
        ledger.settle("r0001", {"cpu_s": amount}, now=NOON, once=True)

    assert (cpu(ledger).reserved, cpu(ledger).settled) == (0.0, 40.0)
    assert ledger.held("r0001") == {}
