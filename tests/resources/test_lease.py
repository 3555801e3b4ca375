import multiprocessing
import os
import signal
import time

import pytest

from resources.lease import Lease
from resources.site_store import SiteStore
from worldloop.errors import LeaseHeldError

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path):
    return SiteStore(url=str(tmp_path / "site"))


def terms(store):
    return [key.rsplit("/", 1)[1] for key, _ in store.list("leases/lance")]


def hold(url, held):
    lease = Lease(SiteStore(url=url), "lance", "first", ttl_s=1.0)
    lease.acquire()
    held.set()
    time.sleep(60)


def age(store, seconds):
    """Make all terms older by the store's clock."""
    for key, _ in store.list("leases/lance"):
        path = store.local_path(key)
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_a_second_committer_is_refused_and_told_who_holds_it(store):
    with Lease(store, "lance", "first"), pytest.raises(LeaseHeldError, match="first holds"):
        Lease(store, "lance", "second").acquire()


def test_each_holder_has_a_larger_term_than_all_before(store):
    seen = []
    for name in ("a", "b", "c"):
        with Lease(store, "lance", name) as lease:
            seen.append(lease.term)
            assert lease.renew()
            seen.append(lease.confirm())

    assert seen == sorted(set(seen))
    assert len(terms(store)) == 1  # old terms are swept


def test_a_killed_holder_blocks_nobody_for_longer_than_its_time(store):
    held = SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(store.url, held))
    process.start()
    assert held.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(LeaseHeldError):
        Lease(store, "lance", "second").acquire()

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with Lease(store, "lance", "second") as lease:
                assert lease.still_held()
                return
        except LeaseHeldError as error:
            time.sleep(min(max(error.left_s, 0.05), 3))
    pytest.fail("the lease of a killed holder did not end")


def test_a_local_clock_that_is_days_wrong_takes_nothing_over(store, monkeypatch):
    with Lease(store, "lance", "first"):
        for wrong in (time.time() + 10 * 86_400, 0.0):
            monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
            with pytest.raises(LeaseHeldError):
                Lease(store, "lance", "second", ttl_s=0.1).acquire()


def test_a_store_whose_clock_is_days_behind_changes_nothing(store, monkeypatch):
    late = SiteStore.scan

    def scan(self, prefix="", *, after=None):
        from datetime import timedelta

        return [
            f._replace(modified_at=f.modified_at - timedelta(days=9)) for f in late(self, prefix)
        ]

    monkeypatch.setattr(SiteStore, "scan", scan)
    with Lease(store, "lance", "first") as lease:
        with pytest.raises(LeaseHeldError):
            Lease(store, "lance", "second").acquire()
        assert lease.still_held()


def test_a_holder_that_slept_past_its_time_finds_out_before_it_commits(store):
    slow = Lease(store, "lance", "slow", ttl_s=60)
    slow.acquire()
    age(store, 3600)
    with Lease(store, "lance", "quick") as quick:
        assert quick.term > slow.term
        assert not slow.still_held()
        with pytest.raises(LeaseHeldError):
            slow.confirm()
        slow.release()
        assert quick.still_held()  # giving back deletes nothing of others


def test_a_holder_that_slept_past_its_time_goes_on_if_nobody_came(store):
    lease = Lease(store, "lance", "slow", ttl_s=60)
    first = lease.acquire()
    lease._ends_at = time.monotonic() - 1

    assert lease.still_held()
    assert lease.term == first + 1
    lease.release()


def test_a_lease_renews_itself_while_its_holder_works(store):
    with Lease(store, "lance", "busy", ttl_s=0.3) as lease:
        first = lease.term
        time.sleep(0.5)
        assert lease.term > first
        assert lease.still_held()


def test_a_term_that_was_swept_cannot_be_taken_by_a_late_candidate(store):
    late = Lease(store, "lance", "late")
    with Lease(store, "lance", "holder") as lease:
        lease.renew()
        lease.renew()

        assert not late._take(1)  # it saw an empty lease long ago
        assert lease.still_held()
    assert "000000000001" not in terms(store)


def test_a_create_whose_answer_was_lost_still_counts(store, monkeypatch):
    create = SiteStore.create
    monkeypatch.setattr(SiteStore, "create", lambda *a: create(*a) and False)

    lease = Lease(store, "lance", "first")
    assert lease.acquire() == 1
    monkeypatch.undo()
    lease.release()
